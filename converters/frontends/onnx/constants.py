"""Constants of a model: plain arrays, and integers with scales, which DequantizeLinear makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from converters.errors import ConversionError, first_line
from converters.frontends.onnx.graph import Graph, Node
from converters.frontends.onnx.tensors import LARGEST
from converters.frontends.pending import Weight

__all__ = ["Dequantised", "fold", "is_constant", "numbers_of", "real", "weight_of", "whole_numbers"]

_FOUND_BY_VALUES = ("NonZero", "Unique", "Compress")  # no more results than there are values


@dataclass(frozen=True, eq=False)
class Dequantised:
    """A constant ``integers * scale``, zero points taken off: int64, and float64 of a shape that broadcasts to it."""

    integers: Tensor
    scale: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.integers.shape)

    @property
    def real(self) -> Tensor:
        """float64."""
        return self.integers.double() * self.scale

    def moved(self, function: Callable[[Tensor], Tensor]) -> Dequantised:
        """Seen through a function that moves values."""
        return Dequantised(function(self.integers), function(self.scale.expand(self.integers.shape)))


def is_constant(x: Any) -> bool:
    return isinstance(x, np.ndarray | Dequantised)


def real(x: Any) -> Tensor:
    """A constant's values, float64."""
    if isinstance(x, Dequantised):
        return x.real
    return torch.from_numpy(np.asarray(x).astype(np.float64))


def whole_numbers(where: str, x: Any) -> list[int]:
    """A constant of axes, sizes or places."""
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        raise ConversionError(where, "sizes or axes that depend on the images", "export the model with fixed shapes")
    return [int(n) for n in x.reshape(-1)]


def weight_of(where: str, x: Any, axis: int) -> Weight:
    """Integer weights whose scales may differ along ``axis``.

    Raises
    ------
    ConversionError
        If they are computed, not quantised, or have scales that differ along an axis over which they are summed.
    """
    if not is_constant(x):
        raise ConversionError(where, "weights that the network computes", "give the layer weights of its own")
    if not isinstance(x, Dequantised):
        todo = "quantise the weights too: QuantizeLinear and DequantizeLinear in front of them"
        raise ConversionError(where, "unquantised weights", todo)
    scale = x.scale.expand(x.integers.shape).movedim(axis, 0).reshape(x.integers.shape[axis], -1)
    if not bool((scale == scale[:, :1]).all()):
        found = "weights whose scales differ along an axis that is summed over"
        raise ConversionError(where, found, f"quantise them per tensor, or along axis {axis}, of the output channels")
    rows = scale[:, 0]
    rows = rows[:1] if bool((rows == rows[0]).all()) else rows
    return Weight(narrowed(x.integers), rows.clone())


def narrowed(integers: Tensor) -> Tensor:
    """In 8 bits where that suffices."""
    fits = integers.numel() == 0 or int(integers.abs().max()) < 128
    return integers.to(torch.int8 if fits else torch.int32)


def numbers_of(graph: Graph) -> dict[str, np.ndarray]:
    """Initialisers, and constants that are nodes of their own."""
    spelt = {n.outputs[0]: n.attributes.get("value") for n in graph.nodes if n.op == "Constant"}
    return {**graph.constants, **{name: v for name, v in spelt.items() if isinstance(v, np.ndarray)}}


def fold(graph: Graph, node: Node, inputs: list[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """What a node makes of constants, by the standard's own reference.

    Raises
    ------
    ConversionError
        For an operation that the reference does not know, and for results of more than ``LARGEST`` values.
    """
    names = [f"x{k}" if x is not None else "" for k, x in enumerate(inputs)]
    assert node.proto is not None
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(f"y{k}" if n else "" for k, n in enumerate(node.outputs))
    given = {n: np.asarray(x) for n, x in zip(names, inputs, strict=True) if n}
    outputs = [n for n in proto.output if n]
    model = helper.make_model(
        helper.make_graph(
            [proto], "constant", [], [helper.make_empty_tensor_value_info(n) for n in outputs],
            [numpy_helper.from_array(x, n) for n, x in given.items()],
        ),
        opset_imports=[helper.make_opsetid(node.domain, node.version or graph.version)],
    )  # fmt: skip
    try:
        if node.op not in _FOUND_BY_VALUES:
            _check_sizes(node, model)
        results = iter(ReferenceEvaluator(model).run(None, {}))
    except ConversionError:
        raise
    except Exception as error:  # of whatever the reference runs
        reason = first_line(error)
        found = f"a constant {node.op} that cannot be computed ({reason[:120]})"
        raise ConversionError(node.name, found, "simplify the model, or leave it out") from None
    return tuple(np.asarray(next(results)) if n else np.zeros(0) for n in proto.output)


def _check_sizes(node: Node, model: onnx.ModelProto) -> None:
    """Sizes of the results are known, and bounded, before anything is computed."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    for info in inferred.graph.output:
        kind = info.type.tensor_type
        if not kind.HasField("shape") or any(d.WhichOneof("value") != "dim_value" for d in kind.shape.dim):
            found = f"a constant {node.op} whose size is not known before it is computed"
            raise ConversionError(node.name, found, "simplify the model, or leave it out")
        if math.prod(d.dim_value for d in kind.shape.dim) > LARGEST or kind.elem_type == TensorProto.STRING:
            raise ConversionError(node.name, f"a constant of more than {LARGEST:,} values", "make it smaller")
