"""From a quantised ONNX model to a QuantGraph: the public function."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from converters.errors import MissingExtraError
from converters.ports.inputs import Batches
from converters.quantised import QuantGraph

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["from_onnx"]


def from_onnx(
    model: str | os.PathLike | ModelProto, example: Batches | None = None, *, check: bool | Batches = True
) -> QuantGraph:
    """Integers, scales and topology of a quantised ONNX model, whoever wrote it.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Opset 13 or later. Quantisers are QuantizeLinear and DequantizeLinear with any zero point, of 2 to 16 bits,
        weights per tensor or per channel; with a Clip between them (QCDQ); QONNX's Quant; or the integer operators
        QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger, and onnxruntime's QLinearAdd and its kin.
    example : float tensor ``(N, ...)``, optional
        A batch in the range of the images, of several inputs one for each, in order or by name. It fixes sizes that
        the model leaves open. Without it such sizes are refused (but the batch's), and noise in the range of the
        input's quantiser takes its place in the comparison. An input of integers is given in real units.
    check : bool or like ``example``
        The result is compared with the model itself, layer by layer, on the example, random and extreme images of its
        range; on images of your own instead; with False on none. It is run by onnxruntime with graph optimisations off,
        or by ``onnx.reference`` where onnxruntime is not installed; ``checked`` of the result says by which.

    Returns
    -------
    QuantGraph
        Layers bear the names of the model's nodes. An output without a quantiser is read from the membrane. Several
        outputs are a dictionary by their names.

    Raises
    ------
    MissingExtraError
        If onnx is not installed.
    FileFormatError
        For a file that is none, or whose tensors are not what it declares. Nothing is read outside of its folder.
    ConversionError
        For what is not converted, naming the node and the way out; and for a difference from the model that is no
        near-tie of its float sums, naming the first layer that has one.

    Examples
    --------
    >>> from onnx import TensorProto, helper
    >>> import numpy as np
    >>> def array(name, values, kind): return helper.make_tensor(name, kind, np.shape(values), np.ravel(values))
    >>> nodes = [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "d"),
    ...     ("DequantizeLinear", "w s", "v"), ("MatMul", "d v", "y")]
    >>> graph = helper.make_graph([helper.make_node(op, a.split(), [b], name=b) for op, a, b in nodes], "net",
    ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
    ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    ...     [array("s", 0.5, TensorProto.FLOAT), array("z", 3, TensorProto.UINT8),
    ...      array("w", [[1, 2, 3], [4, 5, 6]], TensorProto.INT8)])
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    >>> q = from_onnx(model)
    >>> [(layer.name, layer.shape) for layer in q.layers], (q.input.q_min, q.input.q_max)
    ([('y', (3,))], (-3, 252))
    """
    toolkit()
    from converters.frontends.onnx.converting import converted

    return converted(model, example, check)


def toolkit() -> Any:
    """The onnx package, or the error that says how to install it."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", str(error)) from None
    return onnx
