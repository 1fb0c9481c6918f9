"""What happens between two layers: one file per operation, and in it all that is known of that operation.

The executor, every simulator, files, lowering, certificates and costs use the contract
(:class:`~converters.operations.contract.Operation`) and know no operation by name. A new one is a frozen dataclass
that fulfils the contract, and a line here.
"""

from __future__ import annotations

from converters.operations.contract import OPERATIONS, Operation, Shape, register
from converters.operations.convolution import Conv1d, Conv2d, Conv3d
from converters.operations.dense import Linear
from converters.operations.levels import Levels
from converters.operations.maximum import AdaptiveMaxPool, Maximum, MaxOver, MaxPool, Minimum
from converters.operations.mixing import Mix
from converters.operations.moving import Concatenate, Flatten, Move, Reshape
from converters.operations.normalising import LocalResponse, Normalise
from converters.operations.pooling import SumPool1d, SumPool2d, SumPool3d
from converters.operations.product import Add, MatMul, Product
from converters.operations.softmax import MaskedSoftmax, Softmax
from converters.operations.synapse import Synapse
from converters.operations.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from converters.operations.weighing import Scale, Weigh

__all__ = [
    "OPERATIONS",
    "AdaptiveMaxPool",
    "Add",
    "Concatenate",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Flatten",
    "Levels",
    "Linear",
    "LocalResponse",
    "MaskedSoftmax",
    "MatMul",
    "MaxOver",
    "MaxPool",
    "Maximum",
    "Minimum",
    "Mix",
    "Move",
    "Normalise",
    "Operation",
    "Product",
    "Reshape",
    "Scale",
    "Shape",
    "Softmax",
    "SumPool1d",
    "SumPool2d",
    "SumPool3d",
    "Synapse",
    "Weigh",
    "register",
]
