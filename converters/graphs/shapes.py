"""Shapes of what flows through a NIR graph, worked out from its Input on, and held against what the graph declares.

NIR's own inference takes a kernel's height for its width and knows neither groups nor padding by name; and a file says
what it likes. Nothing is built here: sizes are Python's integers, so a file that would fill a memory is seen before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import nir
import numpy as np

from converters.errors import ConversionError
from converters.nodes import CaLIF, SpikeEncoder
from converters.operations.node import CaLIFOperation
from converters.operations.node_fields import whole_pair

__all__ = ["LARGEST_WINDOW", "MOST_VALUES", "check_size", "infer_shapes", "whole_pair"]

Shape: TypeAlias = tuple[int, ...]

MOST_VALUES = 2**27
"""Values that one image may have in all nodes together: 1 GiB in float64."""
LARGEST_WINDOW = 2**20
"""Steps that a file's window may have."""


def infer_shapes(graph: nir.NIRGraph) -> dict[str, Shape]:
    """Shape of what each node sends, without batch, by name; nodes that no Input reaches are left out.

    Raises
    ------
    ConversionError
        Naming the node that cannot take what arrives, or that declares another shape than that.

    Examples
    --------
    >>> one = np.ones(4)
    >>> g = nir.NIRGraph.from_list(nir.Linear(weight=np.ones((4, 3))), nir.IF(r=one, v_threshold=one))
    >>> infer_shapes(g)
    {'input': (3,), 'linear': (4,), 'if': (4,), 'output': (4,)}
    """
    after: dict[str, list[str]] = {name: [] for name in graph.nodes}
    starts = dict.fromkeys(graph.nodes, 0)
    for a, b in graph.edges:
        for end in (a, b):
            if end not in after:
                raise ConversionError(f"edge {a} -> {b}", f"no node {end!r}", "edges must join existing nodes")
        after[a].append(b)
        starts[b] += 1
    ready = deque(name for name, node in graph.nodes.items() if type(node) is nir.Input and not starts[name])
    arrived: dict[str, Shape] = {name: _ints(graph.nodes[name].input_type["input"]) for name in ready}
    sent: dict[str, Shape] = {}
    while ready:
        name = ready.popleft()
        node = graph.nodes[name]
        if type(node) is CaLIFOperation:
            sent[name] = _operation(name, node, [sent[a] for a in node.order] or [arrived[name]])
        else:
            sent[name] = _sent(name, node, arrived[name])
        for b in after[name]:
            target = graph.nodes[b]
            if type(target) is CaLIFOperation and target.order:  # its sources come in an order, and may differ
                starts[b] -= 1
                if not starts[b] and all(a in sent for a in target.order):
                    ready.append(b)
            elif b not in arrived:
                arrived[b] = sent[name]
                ready.append(b)
            elif arrived[b] != sent[name]:
                found = f"inputs of shapes {arrived[b]} and {sent[name]}"
                raise ConversionError(b, found, "what arrives at one node must agree")
    return sent


def check_size(graph: nir.NIRGraph, *, most: int = MOST_VALUES, window: int = LARGEST_WINDOW) -> None:
    """Refuse a graph that would take more memory or steps than anybody means, before any of it is built.

    Raises
    ------
    ConversionError
        With the size, the limit and the way past it.
    """
    total = 0
    way = "split the network, or give allow_large=True (--allow-large) if you trust the file"
    for name, shape in infer_shapes(graph).items():
        node: Any = graph.nodes[name]
        size = math.prod(shape)
        if type(node) is CaLIFOperation:
            size += node.build(name).held
        elif hasattr(node, "kernel_size"):
            size += math.prod(whole_pair(name, node.kernel_size, 1))
        total += size
        if total > most:
            found = f"{total:,} values for each image up to here, {size:,} of them its own"
            raise ConversionError(name, found, f"the limit is {most:,}; {way}")
        if type(node) in (CaLIF, SpikeEncoder) and node.window > window:
            raise ConversionError(name, f"a window of {node.window:,} steps", f"the limit is {window:,}; {way}")


def _operation(name: str, node: CaLIFOperation, shapes: list[Shape]) -> Shape:
    try:
        return node.build(name).output_shape(*shapes)
    except ConversionError as error:
        raise ConversionError(name, error.found, error.todo) from None


def _ints(value: Any) -> Shape:
    return tuple(int(n) for n in np.asarray(value).reshape(-1))


def _sent(name: str, node: Any, shape: Shape) -> Shape:
    known = _SENT.get(type(node), _pool if hasattr(node, "kernel_size") else None)
    if known is None:
        raise ConversionError(name, f"a {type(node).__name__} node", "its shape is not known: replace it")
    result = known(name, node, shape)
    if not result or min(result) < 1:
        raise ConversionError(
            name, f"an input of shape {shape}", "nothing of it is left: it is smaller than the kernel"
        )
    return result


def _declared(name: str, declared: Any, shape: Shape) -> Shape:
    if _ints(declared) != shape:
        raise ConversionError(name, f"an input of shape {shape}", f"it declares {_ints(declared)}: correct one of them")
    return shape


def _own(name: str, node: Any, shape: Shape) -> Shape:
    return _declared(name, node.shape, shape)


def _input(name: str, node: Any, shape: Shape) -> Shape:
    return _declared(name, node.input_type["input"], shape)


def _output(name: str, node: Any, shape: Shape) -> Shape:
    return _declared(name, node.output_type["output"], shape)


def _elementwise(field: str) -> Callable[[str, Any, Shape], Shape]:
    def sent(name: str, node: Any, shape: Shape) -> Shape:
        own = np.shape(getattr(node, field))
        fits = len(own) <= len(shape) and all(n in (1, m) for n, m in zip(own[::-1], shape[::-1], strict=False))
        if not fits:
            raise ConversionError(name, f"an input of shape {shape}", f"its parameters have shape {tuple(own)}")
        return shape

    return sent


def _dense(name: str, node: Any, shape: Shape) -> Shape:
    weight = np.shape(node.weight)
    if len(weight) != 2:
        raise ConversionError(name, f"weights of shape {weight}", "give a matrix")
    if shape[-1:] != weight[1:]:
        raise ConversionError(name, f"an input of shape {shape}", f"its weights take {weight[1]} features")
    if type(node) is nir.Affine:
        _bias(name, node, weight[0])
    return (*shape[:-1], int(weight[0]))


def _bias(name: str, node: Any, channels: int) -> None:
    if np.size(node.bias) not in (1, channels):
        raise ConversionError(name, f"a bias of {np.size(node.bias)} values", f"the layer has {channels} channels")


def _numbers(name: str, value: Any, axes: int, least: int) -> list[int]:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.size not in (1, axes) or (array < least).any() or (array > 2**20).any():
        found = " ".join(str(value)[:60].split())
        raise ConversionError(name, f"a geometry of {found}", f"give {axes} whole numbers of at least {least}")
    return [int(n) for n in np.broadcast_to(array.reshape(-1), (axes,))]


def _conv(axes: int) -> Callable[[str, Any, Shape], Shape]:
    def sent(name: str, node: Any, shape: Shape) -> Shape:
        weight = np.shape(node.weight)
        (groups,) = _numbers(name, node.groups, 1, 1)
        if len(weight) != axes + 2 or weight[0] % groups:
            found = f"weights of shape {weight} in {groups} groups"
            raise ConversionError(name, found, f"give {axes + 2} axes, the first of which the groups divide")
        if len(shape) != axes + 1 or shape[0] != weight[1] * groups:
            channels = weight[1] * groups
            raise ConversionError(
                name, f"an input of shape {shape}", f"it takes {channels} channels and {axes} more axes"
            )
        if node.input_shape is not None:
            _declared(name, node.input_shape, shape[1:])
        _bias(name, node, weight[0])
        stride, dilation = _numbers(name, node.stride, axes, 1), _numbers(name, node.dilation, axes, 1)
        if isinstance(node.padding, str) and node.padding == "same":
            if max(stride) > 1:
                raise ConversionError(name, "padding 'same' with a stride", "give the padding in numbers")
            return (int(weight[0]), *shape[1:])
        padding = [0] * axes if isinstance(node.padding, str) else _numbers(name, node.padding, axes, 0)
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(shape[1:], padding, dilation, weight[2:], stride, strict=True)
        ]
        return (int(weight[0]), *size)

    return sent


def _pool(name: str, node: Any, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ConversionError(name, f"an input of shape {shape}", "a pool takes channels, height and width")
    kernel, stride = whole_pair(name, node.kernel_size, 1), whole_pair(name, node.stride, 1)
    padding = whole_pair(name, node.padding)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ConversionError(name, f"padding {padding} of a window {kernel}", "at most half of the window")
    size = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape[1:], padding, kernel, stride, strict=True)]
    return (shape[0], *size)


def _flatten(name: str, node: Any, shape: Shape) -> Shape:
    if node.input_type["input"] is not None:
        _declared(name, node.input_type["input"], shape)
    start, end = (int(d) + len(shape) if int(d) < 0 else int(d) for d in (node.start_dim, node.end_dim))
    if not 0 <= start <= end < len(shape):
        found = f"axes {node.start_dim} to {node.end_dim} of an input of shape {shape}"
        raise ConversionError(name, found, "NIR counts axes without the batch, from 0")
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


_SENT: dict[type, Callable[[str, Any, Shape], Shape]] = {
    nir.Affine: _dense,
    nir.Conv1d: _conv(1),
    nir.Conv2d: _conv(2),
    nir.CubaLI: _elementwise("v_leak"),
    nir.CubaLIF: _elementwise("v_threshold"),
    nir.Delay: _elementwise("delay"),
    nir.Flatten: _flatten,
    nir.I: _elementwise("r"),
    nir.IF: _elementwise("v_threshold"),
    nir.Input: _input,
    nir.LI: _elementwise("r"),
    nir.LIF: _elementwise("v_threshold"),
    nir.Linear: _dense,
    nir.Output: _output,
    nir.Scale: _elementwise("scale"),
    nir.Threshold: _elementwise("threshold"),
    CaLIF: _own,
    SpikeEncoder: _own,
}
