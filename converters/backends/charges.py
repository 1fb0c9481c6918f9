"""What arrives at a layer in a step, exactly, in the arithmetic that a device is good at.

Spikes are -1, 0 or 1 and weights whole numbers, so a charge is a whole number of at most ``gain``, and so are all its
partial sums. A floating type that holds whole numbers of that size adds them without rounding, in any order; int8
products are summed in int32. A layer whose sums are too large for the type that was asked for takes a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.exact.sums import add_up, whole_dtype
from converters.network import Network, Stage
from converters.operations import Conv2d, Linear, Operation, Synapse

__all__ = ["DTYPES", "Charges", "Memory", "arithmetic_of", "exact_dtype", "on_bytes", "takes_bytes"]

DTYPES = ("int8", "bfloat16", "float16", "float32", "float64")
# whole numbers up to this are all there; each type's successor holds more
_LIMITS = {torch.bfloat16: 2**8, torch.float16: 2**11, torch.float32: 2**24, torch.float64: 2**53}


def exact_dtype(gain: int, wanted: torch.dtype = torch.float32) -> torch.dtype:
    """``wanted`` if it holds every whole number up to ``gain``, else the smallest of float32 and float64 that does.

    >>> [exact_dtype(g, torch.float16) for g in (2048, 2049, 2**24 + 1)]
    [torch.float16, torch.float32, torch.float64]

    Raises
    ------
    ConversionError
        Where float64 does not hold them either.
    """
    for dtype in (wanted, torch.float32, torch.float64):
        if gain <= _LIMITS[dtype]:
            return dtype
    raise ConversionError("weights", f"sums of up to {gain}", "float64 holds whole numbers up to 2**53")


class Charges:
    """A layer's charges, float64, from the spikes of its sources, step by step.

    A linear operation acts on the spikes themselves. A chain with one that counts remembers what its sources have sent,
    and brings the change of its result (:class:`Memory`); so an object serves one run, and its steps must come in
    order. ``arithmetic`` has for every synapse the type that it is computed in.

    Parameters
    ----------
    network : Network
    stage : Stage
        One of the network's.
    wanted : one of :data:`DTYPES`
    device : torch.device
    """

    def __init__(self, network: Network, stage: Stage, wanted: str, device: torch.device) -> None:
        self.stage = stage
        self.device = device
        self.arithmetic = [arithmetic_of(network, s, wanted, device) for s in stage.synapses]
        self._memories = [None if s.linear else Memory(s) for s in stage.synapses]

    def __call__(self, spikes: Mapping[str, Tensor]) -> Tensor:
        return add_up((self._part(k, spikes) for k in range(len(self.arithmetic))), self.stage.name)

    def _part(self, k: int, spikes: Mapping[str, Tensor]) -> Tensor:
        synapse, memory = self.stage.synapses[k], self._memories[k]
        given = [spikes[name] for name in synapse.sources]
        if memory is None:
            return self._linear(synapse, given, self.arithmetic[k])
        if memory.lead is not None:
            given = [self._linear(memory.lead, given, self.arithmetic[k])]
        return memory(*given)

    def _linear(self, synapse: Synapse, given: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        if dtype is torch.int8:
            part = on_bytes(synapse, given[0].to(dtype))
        else:
            part = synapse(*(x.to(dtype) for x in given))
        if self.device.type != "cpu" and dtype.is_floating_point:
            part = part.round()
        return part.to(torch.float64)


class Memory:
    """What a synapse that counts has received so far, and what it brings in the next step: the change of its result.

    Spikes go through its linear beginning, ``lead``, as spikes, and only that one's sums are remembered; the change of
    the operations that count goes through its linear end. It serves one run.
    """

    def __init__(self, synapse: Synapse) -> None:
        first, self.core, self.rest = synapse.parts
        self.lead = Synapse(synapse.sources, first) if first else None
        self._sums: list[Tensor] | None = None
        self._before: Tensor | None = None

    def __call__(self, *received: Tensor) -> Tensor:
        """The charge of a step, float64, from what ``lead`` brings of its spikes; without a lead, from the spikes."""
        new = [x.to(torch.float64) for x in received]
        before = self._sums or [torch.zeros_like(x) for x in new]
        self._sums = [a + b for a, b in zip(before, new, strict=True)]
        now = self._sums
        for op in self.core:
            now = [op(*now).to(torch.float64)]
        change = [now[0] if self._before is None else now[0] - self._before]
        self._before = now[0]
        for op in self.rest:
            change = [op(*change)]
        return change[0]


def arithmetic_of(network: Network, synapse: Synapse, wanted: str, device: torch.device) -> torch.dtype:
    """The type that a synapse's charges are computed in: the one of :data:`DTYPES` that is wanted, or a larger one.

    It holds every partial sum that the counts of ``network`` can bring in a step, and ``device`` rounds none of them.
    Of a chain with an operation that counts it is the type of the linear ones in front of that; the others are in
    float64.
    """
    reach = [network.reach[name] for name in synapse.sources]
    if not synapse.linear:
        exact_dtype(2 * synapse.reach(*reach), torch.float64)
        first = synapse.parts[0]
        if not first or len(synapse.sources) > 1:
            return torch.float64
        synapse = Synapse(synapse.sources, first)
    gain = synapse.change(*reach)
    if wanted == "int8":
        if gain < 2**31 and takes_bytes(synapse):
            return torch.int8
        wanted = "float32"
    dtype = exact_dtype(gain, getattr(torch, wanted))
    if dtype is torch.float32:
        dtype = whole_dtype(gain, device, factor=synapse.largest_factor(*(1 for _ in synapse.sources)))
    return dtype


def takes_bytes(synapse: Synapse) -> bool:
    """Whether :func:`on_bytes` can compute it: one convolution or dense layer of int8 weights, and moves."""
    weighted = [op for op in synapse.ops if not op.rewires]
    takes, _ = _ON_BYTES.get(type(weighted[0]), (None, None)) if len(weighted) == 1 else (None, None)
    return synapse.linear and takes is not None and takes(weighted[0])


def on_bytes(synapse: Synapse, x: Tensor) -> Tensor:
    """One convolution or dense layer of int8 weights on int8 spikes, by a matrix product with int32 sums."""
    for op in synapse.ops:
        x = _ON_BYTES[type(op)][1](op, x) if type(op) in _ON_BYTES else op(x)
    return x


def _dense(op: Linear, x: Tensor) -> Tensor:
    return _product(x, op.weight_as(x))


def _convolution(op: Conv2d, x: Tensor) -> Tensor:
    (kh, kw), (sh, sw), (dh, dw) = op.weight.shape[2:], op.stride, op.dilation
    _, height, width = op.output_shape(tuple(x.shape[1:]))
    x = F.pad(x, (op.padding[1], op.padding[1], op.padding[0], op.padding[0]))
    n, channels = x.shape[:2]
    a, b, c, d = x.stride()
    windows = x.as_strided((n, height, width, channels, kh, kw), (a, c * sh, d * sw, b, c * dh, d * dw))
    weight = op.weight_as(x).flatten(1)
    y = _product(windows.reshape(n * height * width, channels * kh * kw), weight)
    return y.reshape(n, height, width, len(weight)).permute(0, 3, 1, 2)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` in int32; sides filled up to what GPUs ask for: more than 16 rows, multiples of 8."""
    rows, (out, features) = len(x), weight.shape
    x = F.pad(x, (0, -features % 8, 0, max(0, 24 - rows)))
    weight = F.pad(weight, (0, -features % 8, 0, -out % 8))
    return torch._int_mm(x, weight.t())[:rows, :out]


# kernels on bytes, and which operations they take; all others go the way of floats
_ON_BYTES: dict[type[Operation], tuple[Callable[[Any], bool], Callable[[Any, Tensor], Tensor]]] = {
    Linear: (lambda op: op.weight.dtype == torch.int8, _dense),
    Conv2d: (lambda op: op.weight.dtype == torch.int8 and op.groups == 1, _convolution),
}
