"""Former name of :mod:`converters.operations`."""

from converters.operations import OPERATIONS as OPS
from converters.operations import Conv2d, Flatten, Linear, Scale, Shape, SumPool2d, Synapse
from converters.operations import Operation as Op

__all__ = ["OPS", "Conv2d", "Flatten", "Linear", "Op", "Scale", "Shape", "SumPool2d", "Synapse"]
