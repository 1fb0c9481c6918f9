"""Random quantised networks, and two oracles for them that share no code with the engine: matrices and rationals.

Any layer may be fed by the input and by any earlier layers, several times over, through any chain of operations:
skips, concatenations, shared sources, layers that nobody reads, layers without spikes, one neuron.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from calif_plugins import reference
from calif_plugins.encoding import direct_charge, isi_encode
from calif_plugins.parameters import PHASES
from converters.network import Network
from converters.operations import Conv2d, Flatten, Linear, Operation, Scale, Shape, SumPool2d, Synapse
from converters.quantised import InputSpec, Layer, QuantGraph

WINDOWS = (*range(1, 13), 31, 32, 33, 40, 65)  # the fast simulator goes in blocks of 32 steps
LEVELS = (1, 2, 7, 15, 40, 300)
_WEIGHTS = ((1, torch.int8), (7, torch.int8), (127, torch.int8), (3000, torch.int16), (90_000, torch.int32))


@dataclass(frozen=True)
class Case:
    """A network, and how to run it."""

    q: QuantGraph
    window: int
    coding: str
    phase: str
    settle_from: int | None
    integers: torch.Tensor
    batch: int


@st.composite
def cases(draw: DrawFn, small: bool = False, phases: tuple[str, ...] = PHASES) -> Case:
    q = draw(graphs(small))
    window = draw(st.sampled_from(WINDOWS[:4] if small else WINDOWS))
    coding = draw(st.sampled_from(["isi", "direct"]))
    phase = draw(st.sampled_from(phases))
    settle_from = draw(st.none() | st.integers(0, window)) if phase == "settle" else None
    n = draw(st.integers(1 if small else 0, 3))
    spec = q.at_window(window, coding).input
    seed = draw(st.integers(0, 2**16))
    integers = np.random.default_rng(seed).integers(spec.q_min, spec.q_max + 1, (n, *spec.shape))
    if draw(st.booleans()):
        integers[integers % 3 == 0] = 0
    batch = draw(st.integers(1, 4))
    return Case(q, window, coding, phase, settle_from, torch.from_numpy(integers), batch)


@st.composite
def graphs(draw: DrawFn, small: bool = False) -> QuantGraph:
    side = st.integers(1, 3 if small else 5)
    channels = st.integers(1, 2 if small else 3)
    shape = draw(st.one_of(st.tuples(channels, side, side), st.tuples(st.integers(1, 6)), st.tuples(channels, side)))
    top = draw(st.sampled_from(LEVELS))
    spec = InputSpec(shape, 1.0, -top if draw(st.booleans()) else 0, top)
    values: dict[str, Shape] = {spec.name: shape}
    layers: list[Layer] = []
    count = draw(st.integers(1, 3 if small else 5))
    for k in range(count):
        silent = draw(st.integers(0, 5)) == 0
        layer = draw(_layers(f"layer{k}", values, silent, small))
        layers.append(layer)
        if layer.spiking:
            values[layer.name] = layer.shape
    names = st.sampled_from([layer.name for layer in layers])
    some = st.lists(names, min_size=1, max_size=3)
    outputs = draw(
        st.none() | names | some | some.map(tuple) | st.dictionaries(st.sampled_from("abc"), some, min_size=1)
    )
    return QuantGraph(spec, tuple(layers), outputs=outputs)


@st.composite
def _layers(draw: DrawFn, name: str, values: dict[str, Shape], silent: bool, small: bool) -> Layer:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    source = draw(st.sampled_from(list(values)))
    ops = draw(_chains(values[source], rng, small))
    synapses = [Synapse((source,), ops)]
    shape = synapses[0].output_shape(values[source])
    for _ in range(draw(st.integers(0, 2))):
        source = draw(st.sampled_from(list(values)))
        others = _bridges(values[source], shape, rng)
        if others:
            synapses.append(Synapse((source,), draw(st.sampled_from(others))))
    gain = max(1, sum(s.gain for s in synapses))
    size = gain * draw(st.sampled_from([0.02, 0.2, 0.6, 1.0]))
    threshold = 0.3 * size + size * rng.random(shape[0])
    bias = 3 * size * (rng.random(shape[0]) - 0.4)
    grid = draw(st.sampled_from([0, 1, 2, 3]))  # halves and whole numbers make ties
    if grid:
        threshold = np.maximum(np.round(threshold * grid), 1) / grid
        bias = np.round(bias * grid) / grid
    if draw(st.booleans()):
        threshold, bias = np.full_like(threshold, threshold[0]), 0 * bias
    high = draw(st.sampled_from((*LEVELS, 40_000)))
    low = draw(st.sampled_from([0, -high, -1]))
    return Layer(
        name,
        tuple(synapses),
        torch.from_numpy(threshold),
        torch.from_numpy(bias),
        0 if silent else low,
        0 if silent else high,
        1.0,
        shape,
        draw(st.sampled_from(["even", "up"])),
        not silent,
    )


def _weights(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    largest, dtype = _WEIGHTS[rng.choice(len(_WEIGHTS), p=(0.2, 0.4, 0.3, 0.05, 0.05))]
    w = rng.integers(-largest, largest + 1, shape)
    return torch.from_numpy(w * (rng.random(shape) < 0.8)).to(dtype)


@st.composite
def _chains(draw: DrawFn, shape: Shape, rng: np.random.Generator, small: bool) -> tuple[Operation, ...]:
    """One, sometimes two operations that take ``shape``."""
    ops: tuple[Operation, ...] = ()
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        kinds = ["scale", "none", "dense"] + (["conv", "conv", "pool"] if len(shape) == 3 else [])
        kind = draw(st.sampled_from(kinds))
        new: tuple[Operation, ...] = ()
        if kind == "scale":
            new = (Scale(int(rng.choice([-2, -1, 1, 3, 1000]))),)
        elif kind == "dense":
            flat = () if len(shape) == 1 else (Flatten(),)
            new = (*flat, Linear(_weights(rng, draw(st.integers(1, 4 if small else 8)), math.prod(shape))))
        elif kind == "conv":
            fitting = _convolutions(shape, None)
            if fitting:
                groups = draw(st.sampled_from([g for g in (1, shape[0]) if shape[0] % g == 0]))
                kernel, stride, padding, dilation = draw(st.sampled_from(fitting))
                out = groups * draw(st.integers(1, 3))
                weight = _weights(rng, out, shape[0] // groups, *kernel)
                new = (Conv2d(weight, stride, padding, dilation, groups),)
        elif kind == "pool":
            kernel = draw(st.tuples(*(st.integers(1, min(3, s)) for s in shape[1:])))
            stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
            padding = draw(st.tuples(*(st.integers(0, k // 2) for k in kernel)))
            new = (SumPool2d(kernel, stride, padding),)
        for op in new:
            shape = op.output_shape(shape)
        ops += new
    return ops


def _axis(size: int, wanted: int | None) -> list[tuple[int, int, int, int]]:
    """Kernels, strides, paddings and dilations that turn ``size`` into ``wanted``, or into anything."""
    found = []
    for k, s, p, d in itertools.product((1, 2, 3), (1, 2), (0, 1, 2), (1, 2)):
        out = (size + 2 * p - d * (k - 1) - 1) // s + 1
        if size + 2 * p >= d * (k - 1) + 1 and (out == wanted or wanted is None):
            found.append((k, s, p, d))
    return found


def _convolutions(shape: Shape, wanted: Shape | None) -> list[tuple[tuple[int, int], ...]]:
    """``(kernel, stride, padding, dilation)``, a few of those that fit."""
    a, b = (_axis(shape[1 + k], None if wanted is None else wanted[1 + k]) for k in (0, 1))
    pairs = list(itertools.product(a, b))
    return [tuple(zip(*pair, strict=True)) for pair in pairs[:: max(1, len(pairs) // 40)]]


def _bridges(shape: Shape, wanted: Shape, rng: np.random.Generator) -> list[tuple[Operation, ...]]:
    """Operations from one shape to another."""
    found: list[tuple[Operation, ...]] = [(), (Scale(-3),)] if shape == wanted else []
    if len(wanted) == 1:
        flat = () if len(shape) == 1 else (Flatten(),)
        found.append((*flat, Linear(_weights(rng, wanted[0], math.prod(shape)))))
        if flat and math.prod(shape) == wanted[0]:
            found.append(flat)
    elif len(wanted) == len(shape) == 3:
        for kernel, stride, padding, dilation in _convolutions(shape, wanted)[:4]:
            found.append((Conv2d(_weights(rng, wanted[0], shape[0], *kernel), stride, padding, dilation),))
    return found


# --- oracles --------------------------------------------------------------------------------------


@lru_cache(maxsize=64)  # synapses are hashed by identity
def matrix(synapse: Synapse, shape: Shape) -> np.ndarray:
    """A synapse as a dense int64 matrix ``(targets, sources)``, entry by entry from the definitions."""
    total = np.eye(math.prod(shape), dtype=np.int64)
    for op in synapse.ops:
        out = op.output_shape(shape)
        part = np.zeros((math.prod(out), math.prod(shape)), dtype=np.int64)
        if isinstance(op, Linear):
            part = op.weight.numpy().astype(np.int64)
        elif isinstance(op, Scale):
            part = op.weight * np.eye(math.prod(shape), dtype=np.int64)
        elif isinstance(op, Flatten):
            part = np.eye(math.prod(shape), dtype=np.int64)
        else:
            assert isinstance(op, Conv2d | SumPool2d)
            _place(op, shape, out, part)
        total, shape = part @ total, out
    return total


def _place(op: Conv2d | SumPool2d, shape: Shape, out: Shape, part: np.ndarray) -> None:
    kernel = op.kernel if isinstance(op, SumPool2d) else tuple(op.weight.shape[2:])
    dilation = op.dilation if isinstance(op, Conv2d) else (1, 1)
    for o, y, x, i, j in itertools.product(*map(range, out), *map(range, kernel)):
        row = y * op.stride[0] - op.padding[0] + i * dilation[0]
        column = x * op.stride[1] - op.padding[1] + j * dilation[1]
        if not (0 <= row < shape[1] and 0 <= column < shape[2]):
            continue
        target = np.ravel_multi_index((o, y, x), out)
        if isinstance(op, SumPool2d):
            part[target, np.ravel_multi_index((o, row, column), shape)] += 1
            continue
        per_group = op.weight.shape[1]
        first = o // (out[0] // op.groups) * per_group
        for c in range(per_group):
            part[target, np.ravel_multi_index((first + c, row, column), shape)] += int(op.weight[o, c, i, j])


def integers_of(q: QuantGraph, image: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's integers for one image, in rationals (equation 4); accumulators of layers without spikes."""
    values = {q.input.name: image.reshape(-1).astype(object)}
    for layer in q.layers:
        acc = sum(matrix(s, q.shapes[s.source]).astype(object) @ values[s.source] for s in layer.synapses)
        flat = []
        for k, a in enumerate(np.asarray(acc, dtype=object).reshape(-1)):
            c = k // (math.prod(layer.shape) // layer.shape[0])
            ratio = (int(a) + Fraction(float(layer.bias[c]))) / Fraction(float(layer.threshold[c]))
            whole = math.floor(ratio)
            rest = ratio - whole
            up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and (layer.tie == "up" or whole % 2 == 1))
            flat.append(min(max(whole + up, layer.y_min), layer.y_max) if layer.spiking else int(a))
        values[layer.name] = np.array(flat, dtype=object)
    return {name: v.astype(np.int64).reshape(q.shapes[name]) for name, v in values.items()}


def traces(case: Case, network: Network, image: np.ndarray) -> dict[str, reference.LayerTrace]:
    """What every layer does for one image, by the NumPy reference."""
    window, names = case.window, [network.encoder_name, *(s.name for s in network.stages)]
    flat = image.reshape(-1).astype(np.int64)
    silence = np.zeros_like(flat)
    direct = case.coding == "direct"
    train = None if direct else isi_encode(counts=flat, window=window)
    matrices = {
        stage.name: [(s.source, matrix(s, network.shapes[s.source])) for s in stage.synapses]
        for stage in network.stages
    }

    def charge_of(name: str, shape: Shape) -> Any:
        def at(t: int, spikes: list[np.ndarray]) -> np.ndarray:
            first = train[t] if train is not None and t < window else silence
            now = dict(zip(names, [first, *(s.reshape(-1) for s in spikes)], strict=False))
            total = np.zeros(math.prod(shape), dtype=np.int64)
            for source, m in matrices[name]:
                if not direct or source != network.encoder_name:
                    total += m @ now[source]
            charged = [m for source, m in matrices[name] if direct and source == network.encoder_name]
            if charged and t < window:
                total += direct_charge(sum(charged) @ flat, t, window)
            return total.reshape(shape).astype(np.float64)

        return at

    found = reference.run_network(
        [charge_of(s.name, s.shape) for s in network.stages],
        [s.parameters for s in network.stages],
        [s.shape for s in network.stages],
        window,
        phase=case.phase,  # type: ignore[arg-type]
        settle_from=case.settle_from,
    )
    return dict(zip(names[1:], found, strict=True))
