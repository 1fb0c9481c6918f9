"""What arrives at a layer in a step, exactly, in the arithmetic that a device is good at.

Spikes are -1, 0 or 1 and weights whole numbers, so a charge is a whole number of at most ``gain``, and so are all its
partial sums. A floating type that holds whole numbers of that size adds them without rounding, in any order; int8
products are summed in int32. A layer whose sums are too large for the type that was asked for takes a larger one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.network import Stage
from converters.synapses import Conv2d, Flatten, Linear, Synapse

__all__ = ["DTYPES", "Charges", "exact_dtype"]

DTYPES = ("int8", "bfloat16", "float16", "float32", "float64")
# whole numbers up to this are all there; each type's successor holds more
_LIMITS = {torch.bfloat16: 2**8, torch.float16: 2**11, torch.float32: 2**24, torch.float64: 2**53}
# elsewhere than on a CPU: kernels may round products (TF32) or transform (Winograd); below this, to far less than 1/2
_ELSEWHERE = 2**18
_TF32 = 2**10


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
    """A layer's charges, float64, from the spikes of its sources.

    ``arithmetic`` has for every synapse the type that it is computed in.

    Parameters
    ----------
    stage : Stage
    wanted : one of :data:`DTYPES`
    device : torch.device
    """

    def __init__(self, stage: Stage, wanted: str, device: torch.device) -> None:
        self.stage = stage
        self.elsewhere = device.type != "cpu"
        self.arithmetic = [self._arithmetic(s, wanted) for s in stage.synapses]

    def _arithmetic(self, synapse: Synapse, wanted: str) -> torch.dtype:
        if wanted == "int8":
            weighted = [op for op in synapse.ops if type(op) is not Flatten]
            op = weighted[0] if len(weighted) == 1 else None
            plain = type(op) is Linear or (type(op) is Conv2d and op.groups == 1)
            if plain and op.weight.dtype == torch.int8 and synapse.gain < 2**31:  # type: ignore[union-attr]
                return torch.int8
            wanted = "float32"
        dtype = exact_dtype(synapse.gain, getattr(torch, wanted))
        if self.elsewhere and dtype is torch.float32:
            largest = max((int(op.weight.abs().max()) for op in synapse.ops if type(op) in (Conv2d, Linear)), default=0)  # type: ignore[union-attr]
            if synapse.gain > _ELSEWHERE or largest > _TF32:
                return torch.float64
        return dtype

    def __call__(self, spikes: Mapping[str, Tensor]) -> Tensor:
        total: Tensor | None = None
        for synapse, dtype in zip(self.stage.synapses, self.arithmetic, strict=True):
            x = spikes[synapse.source].to(dtype)
            part = _on_bytes(synapse, x) if dtype is torch.int8 else synapse(x)
            if self.elsewhere and dtype.is_floating_point:
                part = part.round()
            part = part.to(torch.float64)
            total = part if total is None else total + part
        if total is None:
            raise ConversionError(self.stage.name, "no synapses", "every layer needs an input")
        return total


def _on_bytes(synapse: Synapse, x: Tensor) -> Tensor:
    """One convolution or dense layer of int8 weights on int8 spikes, by a matrix product with int32 sums."""
    for op in synapse.ops:
        if type(op) is Linear:
            x = _product(x, op.weight_as(x))
        elif type(op) is Conv2d:
            x = _convolution(op, x)
        else:
            x = op(x)
    return x


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
