"""Walks the nodes of a model, and builds a QuantGraph from what it meets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError, first_line
from converters.frontends.layouts import FIRST
from converters.frontends.models import NO_RECURRENCE
from converters.frontends.onnx import joining, moving, norms, pointwise, pooling, quantisers, resizing, weighted
from converters.frontends.onnx.call import Call, Handler
from converters.frontends.onnx.constants import Dequantised, fold, is_constant
from converters.frontends.onnx.graph import DOMAIN, MICROSOFT, QONNX, Graph, Node
from converters.frontends.onnx.images import Images
from converters.frontends.onnx.quantisers import Codes
from converters.frontends.onnx.tails import tails
from converters.frontends.onnx.tensors import LARGEST
from converters.frontends.verbs import Grid, Pending, Raw, Verbs
from converters.graph_builder import Returned, Value
from converters.ports.tails import Tail
from converters.quantised import QuantGraph

__all__ = ["GraphReader"]

_HANDLERS: dict[tuple[str, str], Handler] = {
    **quantisers.HANDLERS,
    **{
        (DOMAIN, op): handler
        for part in (weighted, pooling, joining, moving, resizing, pointwise, norms)
        for op, handler in part.HANDLERS.items()
    },
}
_CONTROL = ("If", "Loop", "Scan")
_RECURRENT = ("LSTM", "GRU", "RNN")
_MOVES = tuple(moving.HANDLERS)
_OF_CONSTANTS = ("QuantizeLinear", "DequantizeLinear", "Quant", "IntQuant")  # they make something else of constants


class GraphReader:
    """Reads one graph.

    Parameters
    ----------
    graph : Graph
    shapes : mapping of str to tuple of int
        Of the inputs, the batch included: as many images for each.
    any_batch : bool
        Whether the model takes any number of images.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]], any_batch: bool) -> None:
        self.graph, self.shapes = graph, shapes
        (self.batch,) = {shape[0] for shape in shapes.values()}
        self.images = Images(self.batch, any_batch)
        self.builder = Verbs(
            "onnx",
            activation="put QuantizeLinear and DequantizeLinear behind it, or let it be the network's output",
            unquantised_input="put QuantizeLinear and DequantizeLinear behind the network's input",
        )
        self.builder.reserved = tuple(shapes) if len(shapes) > 1 else ()
        self.values: dict[str, Any] = {"": None, **graph.constants}
        several = len(shapes) > 1
        for x in graph.inputs:
            shape = shapes[x.name][1:]
            self.values[x.name] = Raw(shape, name=x.name) if several else Raw(shape)
        self.quantised: dict[Any, Value] = {}
        self.kept: list[Any] = []
        self.shown: list[tuple[str, Value, int | None]] = []
        self.narrow: set[str] = set()
        self.integer_inputs: dict[str, tuple[float, int]] = {}
        self.places = {name: node.name for node in graph.nodes for name in node.outputs if name}
        self.behind = tails(graph)

    @torch.no_grad()
    def graph_of(self) -> QuantGraph:
        """The network; :attr:`shown` then says which of the model's tensors its layers are."""
        for node in self.graph.nodes:
            found = self._evaluated(node)
            results = found if type(found) is tuple else (found,)
            for name, value in zip(node.outputs, results, strict=False):
                self.values[name] = value
            if len(results) < sum(map(bool, node.outputs)):
                raise ConversionError(
                    node.name, f"{len(node.outputs)} outputs of a {node.op}", "use its first output alone"
                )
        outputs = {name: self._returned(name) for name in self.graph.outputs}
        whole = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return self.builder.build(self.builder.output(whole))

    def _returned(self, name: str) -> Any:
        value = self.values[name]
        if self.images.layout(name) != FIRST:
            raise ConversionError(name, "an output whose images are not along the first axis", "transpose it")
        if isinstance(value, Codes):
            value = quantisers.counts_of(self, value)
        if is_constant(value):
            raise ConversionError(name, "an output that does not depend on the input", "leave it out")
        inner = value.value if isinstance(value, Returned) else value
        if isinstance(inner, Pending) and not inner.inputs and not (inner.clamped or inner.function or inner.then):
            inner = self.builder.lifted(name, inner)
        tail = value.tail if isinstance(value, Returned) else ()
        if isinstance(inner, Value) and inner.plain:
            own = self.scales()[inner.parts[0].name]
            if own != inner.scale:  # counts that have been taken times a number
                return Returned(replace(inner, scale=own), (Tail("mul", {"other": inner.scale / own}), *tail))
        return Returned(inner, tail) if tail else inner

    def scales(self) -> dict[str, float]:
        """Of the inputs and of the layers so far, by name."""
        found = {spec.name: spec.scale for spec in self.builder.specs}
        return found | {layer.name: layer.scale for layer in self.builder.layers}

    # --- one node -----------------------------------------------------------------------------------

    def _evaluated(self, node: Node) -> Any:
        call = Call(node, tuple(self.values[name] for name in node.inputs))
        try:
            self.images.enter(node, tuple(map(_source, call.args)))
            found = self._read(call)
            self.images.leave(node)
        except ConversionError:
            raise
        except Exception as error:
            reason = first_line(error)
            raise ConversionError(
                node.name,
                f"a use of {node.op} that is not known ({type(error).__name__}: {reason[:100]})",
                "write it as the standard does",
            ) from error
        for x in found if type(found) is tuple else (found,):
            if isinstance(x, Value | Pending) and math.prod(x.shape) > LARGEST:
                raise ConversionError(node.name, f"values of shape {x.shape}", f"at most {LARGEST:,} are converted")
        return found

    def _read(self, c: Call) -> Any:
        node = c.node
        if node.outputs[0] in self.behind and not is_constant(c.arg(0)):
            if self.images.layout(node.inputs[0]) != FIRST:
                raise ConversionError(c.name, "images that are not along the first axis", "transpose the output")
            return self.builder.tail(c.name, self._plain(c.arg(0)), *self.behind[node.outputs[0]])
        handler = _HANDLERS.get((node.domain, node.op))
        given = [x for x in c.args if x is not None]
        if all(map(is_constant, given)) and node.op not in _OF_CONSTANTS:
            if handler is not None and node.op in _MOVES and isinstance(c.arg(0), Dequantised):
                return handler(self, c)
            return self._folded(c)
        if node.op in ("Shape", "Size") and node.domain == DOMAIN:
            return self._size(c)
        if handler is None:
            raise _unknown(node)
        return handler(self, c)

    def _plain(self, x: Any) -> Any:
        return quantisers.counts_of(self, x) if isinstance(x, Codes) else x

    def _folded(self, c: Call) -> tuple[np.ndarray, ...]:
        if c.node.domain != DOMAIN or c.node.op in _CONTROL or c.node.proto is None:
            raise _unknown(c.node)
        plain = [x.real.numpy().astype(np.float32) if isinstance(x, Dequantised) else x for x in c.args]
        return fold(self.graph, c.node, plain)

    def _size(self, c: Call) -> np.ndarray:
        shape = self.shape(c.arg(0))
        if c.node.op == "Size":
            return np.array(math.prod(shape), dtype=np.int64)
        start, end = c.attr("start", 0), c.node.attributes.get("end")
        return np.array(shape[start : len(shape) if end is None else int(end)], dtype=np.int64)

    # --- what handlers ask --------------------------------------------------------------------------

    def shape(self, x: Any) -> tuple[int, ...]:
        """Of a tensor, batch included."""
        if is_constant(x):
            return tuple(x.shape)
        if isinstance(x, Returned):
            raise ConversionError("model", "the shape of what runs in float", "export the model with fixed shapes")
        return self.images.shape(_source(x))

    def axis(self, x: Any, axis: int) -> int:
        """An axis of an activation as one of a batch with the images first."""
        return self.images.axis(_source(x), axis)

    def constant(self, c: Call, x: Tensor) -> Tensor:
        """A constant operand, as it is to a batch with the images first."""
        return self.images.constant(x, max(len(self.shape(y)) for y in c.args if y is not None))

    def move(self, c: Call, x: Any, function: Callable[[Tensor], Tensor]) -> Any:
        """``x`` seen through a function that takes each value from one place; constants and integers too."""
        before = self.shape(x)
        after = function(torch.empty(before, dtype=torch.float64, device="meta")).shape
        if math.prod(after) > LARGEST:
            raise ConversionError(c.name, f"values of shape {tuple(after)}", f"at most {LARGEST:,} are converted")
        if isinstance(x, Dequantised):
            return x.moved(function)
        if isinstance(x, np.ndarray):
            return function(torch.from_numpy(x)).numpy()
        if isinstance(x, Codes):
            value = quantisers.counts_of(self, x)
            inside = self.images.moved(c.name, value, function)
            return self.with_source(c, x, self.images.note(self.builder.move(c.name, value, inside, self.batch)))
        inside = self.images.moved(c.name, x, function)
        return self.images.note(self.builder.move(c.name, x, inside, self.batch))

    def with_source(self, c: Call, codes: Codes, value: Any) -> Codes:
        """Integers on the same scale, of other counts."""
        return replace(codes, source=value, tensor=c.node.outputs[0], place=c.name)

    def dequantised_input(self, c: Call, x: Any, scale: float, zero: int) -> Any:
        """An input that is integers already: it is given in real units."""
        kinds = {i.name: i.kind for i in self.graph.inputs}
        name = c.node.inputs[0]
        if not isinstance(x, Raw) or name not in kinds:
            raise ConversionError(c.name, "a DequantizeLinear of what is no integer", "put a QuantizeLinear first")
        low, high = quantisers.range_of(name, kinds[name])
        self.integer_inputs[name] = scale, zero
        return self.builder.quantise(c.name, x, Grid(scale, low - zero, high - zero), lambda b: round(b / scale))


def _source(x: Any) -> Any:
    """What integers are made from."""
    return x.source if isinstance(x, Codes) else x


def _unknown(node: Node) -> ConversionError:
    if node.op in _CONTROL:
        return ConversionError(
            node.name, f"the control flow {node.op}", "export the model so that it computes the same for every image"
        )
    if node.op in _RECURRENT:
        todo = NO_RECURRENCE
        return ConversionError(node.name, f"the operation {node.op}", todo)
    if node.domain not in (DOMAIN, MICROSOFT, QONNX):
        found = f"the operation {node.op[:60]} of the unknown domain {node.domain[:60]!r}"
        return ConversionError(node.name, found, "use operations of the ONNX standard")
    todo = "write it in operations that are: weights, pools, activations, sums, products, norms, moves"
    return ConversionError(node.name, f"the operation {node.op[:60]}, which is not converted", todo)
