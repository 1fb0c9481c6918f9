"""A model is loaded, read and compared with itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.checking import Shown, check_conversion
from converters.frontends.examples import Given
from converters.frontends.onnx.curves import named
from converters.frontends.onnx.expanding import expanded
from converters.frontends.onnx.graph import Graph, Input, graph_of
from converters.frontends.onnx.loading import load
from converters.frontends.onnx.oracle import Oracle, runtime, tensors
from converters.frontends.onnx.reader import GraphReader
from converters.frontends.onnx.signatures import check_signatures
from converters.frontends.onnx.spelt_norms import joined_norms
from converters.frontends.onnx.tensors import count_of
from converters.frontends.probes import noise
from converters.frontends.watching import shown_by
from converters.ports.inputs import Batches, batches
from converters.quantised import QuantGraph

__all__ = ["Forward", "Read", "converted", "read"]

_IMAGES = 2  # in shapes of a model that takes any number: what mixes images is found
_NOISE = 4
_FLOATS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Read:
    """A model as it was read, before it is compared: a network, its forward pass, noise or the example, a precision."""

    q: QuantGraph
    forward: Forward
    images: Given
    dtype: torch.dtype


def read(source: Any, example: Batches | None) -> Read:
    """A path or a model, read; nothing is run yet."""
    model = load(source)
    graph = joined_norms(named(expanded(check_signatures(graph_of(model)))))
    given = None if example is None else _given(graph, example)
    shapes = _shapes(graph, given)
    reader = GraphReader(graph, shapes, any_batch=not any(isinstance(x.dims[0], int) for x in graph.inputs))
    q = reader.graph_of()
    kinds = [_FLOATS.get(x.kind.name, torch.float32) for x in graph.inputs]
    images = given if given is not None else noise(q, _NOISE)
    return Read(q, Forward(model, graph, reader), images, max(kinds, key=lambda k: torch.finfo(k).eps))


def converted(source: Any, example: Batches | None, check: bool | Batches) -> QuantGraph:
    """What :func:`~converters.frontends.onnx.model.from_onnx` does."""
    found = read(source, example)
    if check is False:
        return found.q
    q = check_conversion(found.q, found.forward.show, found.images, check, dtype=found.dtype)
    return q if q.checked is None else replace(q, checked=replace(q.checked, model=runtime()))


def _given(graph: Graph, example: Batches) -> Given:
    """A batch for each input, as many of each."""
    by_name = batches([x.name for x in graph.inputs], example, "example")
    for name, x in by_name.items():
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not bool(torch.isfinite(x).all()):
            raise ConversionError(f"example of {name}", "no float batch of finite values", "give one, (N, ...)")
    if len({len(x) for x in by_name.values()}) > 1:
        raise ConversionError("example", "as many images of one input as not of another", "give as many of each")
    return next(iter(by_name.values())) if len(by_name) == 1 else by_name


def _shapes(graph: Graph, given: Given | None) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs, batch included: open sizes are those of the example."""
    first = [x.dims[0] if x.dims else 0 for x in graph.inputs]
    fixed = {n for n in first if isinstance(n, int)}
    if len(fixed) > 1 or 0 in fixed:
        found = f"inputs of {sorted(fixed)} images" if len(fixed) > 1 else "an input without images"
        raise ConversionError("model", found, "export it with the batch as the first axis of every input")
    batch = next(iter(fixed)) if fixed else _IMAGES
    by_name = given if isinstance(given, Mapping) else {graph.inputs[0].name: given}
    shapes = {x.name: (batch, *_inner(x, by_name.get(x.name))) for x in graph.inputs}
    for name, shape in shapes.items():
        count_of(name, shape)
        if len(shape) < 2 or min(shape) < 1:
            raise ConversionError(name, f"an input of shape {shape}", "give it a batch and at least one more axis")
    return shapes


def _inner(x: Input, example: Tensor | None) -> tuple[int, ...]:
    if example is not None:
        there = tuple(example.shape[1:])
        if len(there) != len(x.dims) - 1 or any(
            isinstance(d, int) and d != n for d, n in zip(x.dims[1:], there, strict=True)
        ):
            raise ConversionError(x.name, f"an example of shape {tuple(example.shape)}", f"the model takes {x.dims}")
        return there
    for d in x.dims[1:]:
        if not isinstance(d, int):
            raise ConversionError(x.name, f"the open size {d!r} of {x.dims}", "give an example: it fixes them")
    return tuple(int(d) for d in x.dims[1:])


class Forward:
    """Runs the model on images, and says what its layers gave; with onnxruntime's optimisations where they are asked
    for."""

    def __init__(self, model: ModelProto, graph: Graph, reader: GraphReader, optimised: bool = False) -> None:
        self.model, self.graph, self.reader, self._optimised = model, graph, reader, optimised
        self.scales = reader.scales()

    def optimised(self) -> Forward:
        """The same model, as onnxruntime runs it by default."""
        return Forward(self.model, self.graph, self.reader, True)

    @cached_property
    def oracle(self) -> Oracle:
        """The model, loaded when it is first run."""
        fixed = any(isinstance(x.dims[0], int) for x in self.graph.inputs)
        shown = [name for name, _, _ in self.reader.shown]
        batch = self.reader.batch if fixed else None
        return Oracle(self.model, shown, batch, narrow=self.reader.narrow, optimised=self._optimised)

    def show(self, images: Given) -> Shown:
        by_name = images if isinstance(images, Mapping) else {self.graph.inputs[0].name: images}
        found = tensors(self.oracle({x.name: self._feed(x, by_name[x.name]) for x in self.graph.inputs}))
        seen = []
        for name, value, zero in self.reader.shown:
            counts = found[name].double() / value.scale if zero is None else found[name].double() - zero
            seen.append((self.reader.images.layout(name).first(counts, _count(by_name)), value))
        outputs = {name: self._output(name, found[name]) for name in self.graph.outputs}
        shown = shown_by(seen, next(iter(outputs.values())) if len(outputs) == 1 else outputs)
        values = [(name, own * self.scales[name]) for name, own in shown.values]
        return Shown(values, shown.output, [(name, own * self.scales[name], m) for name, own, m in shown.partial])

    def _feed(self, x: Input, images: Tensor) -> np.ndarray:
        real = images.detach().cpu()
        if x.name in self.reader.integer_inputs:
            scale, zero = self.reader.integer_inputs[x.name]
            info = np.iinfo(x.kind)
            return np.clip(np.rint(real.double().numpy() / scale) + zero, info.min, info.max).astype(x.kind)
        return real.numpy().astype(x.kind)

    def _output(self, name: str, found: Tensor) -> Tensor:
        codes = self.reader.values[name]
        return (found.double() - codes.zero) * codes.scale if type(codes).__name__ == "Codes" else found


def _count(given: Mapping[str, Tensor]) -> int:
    return len(next(iter(given.values())))
