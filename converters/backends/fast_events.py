"""Layers that the fast simulator runs without products: the tables of its kernels, and when that is less work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.backends.integer_kernels import int8_kernels, reordered
from converters.network import Network, Stage
from converters.operations import Conv2d, Linear, Operation, Shape
from converters.operations.contract import Window

__all__ = ["Events", "Gathered", "PoolEvents"]

POOL_SHARE = 0.25
GATHER_SHARE: float | None = None  # of inputs that spike, below which neurons gather; None: where it is less work
_SOME = 64  # spikes between two additions of all sums of 16 bits to those of 32, which cost as much as some spikes


@dataclass
class PoolEvents:
    """A pool whose windows do not overlap, spike by spike: ``target`` of ``pool_event_scan``."""

    arguments: tuple[Any, ...]
    share: float

    @classmethod
    def of(cls, window: Window, shape: Shape, out: Shape) -> PoolEvents | None:
        kernel, stride, padding = window
        if any(s < k for s, k in zip(stride, kernel, strict=True)):
            return None
        h, w = (k.reshape(-1) for k in np.indices(shape[1:]))
        (y, below), (x, right) = (np.divmod(k + p, s) for k, p, s in zip((h, w), padding, stride, strict=True))
        inside = (y < out[1]) & (x < out[2]) & (below < kernel[0]) & (right < kernel[1])
        place = np.where(inside, (y * out[2] + x) * out[0], -1)[:, None]
        target = np.where(place < 0, -1, place + np.arange(shape[0])).astype(np.int32).reshape(-1)
        return cls((target,), POOL_SHARE)


@dataclass
class Gathered:
    """A convolution or dense layer whose neurons gather the spikes that they hear.

    The tables of :func:`calif_plugins.multistep_kernels.gather_scan`.
    """

    arguments: tuple[Any, ...]
    share: float
    """Below this share of inputs that spike it is less work than all products."""

    @classmethod
    def of(cls, stage: Stage, network: Network) -> Gathered | None:
        op = _weights(stage, network)
        if op is None:
            return None
        shape = network.shapes[stage.synapses[0].source]
        if type(op) is Conv2d:
            weight, geometry = op.weight, (*op.stride, *op.padding)
            height, width, places = *shape[1:], stage.shape[2]
        else:
            weight, geometry = reordered(op.weight, shape)[:, :, None, None], (1, 1, 0, 0)
            height = width = places = 1
        targets, channels, kh, kw = weight.shape
        size = _filled(targets)
        step = kw * size
        if kh * channels * step + width * size >= 2**31:
            return None
        lines = torch.zeros(kh, channels, kw, size, dtype=_dtype(weight))
        lines[..., :targets] = weight.permute(2, 1, 3, 0)
        most = 2**31 - 1 if network.changes[stage.name] < 2**15 else _at_a_time(weight)
        field = (height, width, kh, kw, *geometry, places, targets, step, size)
        share = GATHER_SHARE
        if share is None:
            share = _break_even(weight, size, math.prod(shape), stage.size // targets, most)
        return cls((channels, field, lines.reshape(-1).numpy(), most), share)


def _break_even(weight: Tensor, size: int, inputs: int, places: int, most: int) -> float:
    """The share of inputs that spike at which gathering takes as long as all products.

    In ns of an AVX-512 core: a product of int8 or float32 takes 1/140 or 1/40; a charge that is written and read again
    0.6; a line of a kernel 16 at each place, and a spike that it hears 0.2 and 0.3 for 32 sums of 16 bits, for each
    256 channels; to list a spike 2.5.
    """
    fan_in, parts = weight[0].numel(), -(-size // 256)
    products = places * weight.numel() / (140 if int8_kernels() and weight.dtype == torch.int8 else 40)
    saved = products + 0.6 * places * len(weight) - 16 * places * weight.shape[2] * parts

    def share(vector: float) -> float:
        return max(0.0, saved / (2.5 * inputs + places * fan_in * (0.2 * parts + vector * size / 32)))

    short, wide = (share(0.3), share(0.6)) if _dtype(weight) is not torch.int32 else (share(0.6),) * 2
    return short if short * fan_in < most else max(wide, min(short, most / fan_in))


def _weights(stage: Stage, network: Network) -> Conv2d | Linear | None:
    """The operation of a layer that is a convolution or a dense layer, and nothing else."""
    if len(stage.synapses) != 1 or not stage.linear or network.changes[stage.name] >= 2**31:
        return None
    ops = stage.synapses[0].ops
    op: Operation | None = ops[-1] if ops else None
    if type(op) is Conv2d and len(ops) == 1 and op.groups == 1 and op.dilation == (1, 1):
        return op
    if type(op) is Linear and (len(ops) == 1 or (len(ops) == 2 and ops[0].rewires)):
        return op
    return None


@dataclass
class Events:
    """A convolution or dense layer, from each spike to the neurons that hear it, for small networks.

    The tables of :func:`calif_plugins.multistep_events.add_events`. Sums are of 16 bits where these hold at least
    those of some spikes, since an instruction adds twice as many of these as of 32.
    """

    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, stage: Stage, network: Network) -> Events | None:
        op = _weights(stage, network)
        if op is None:
            return None
        shape = network.shapes[stage.synapses[0].source]
        sums, most = _sums(op.weight, network.changes[stage.name])
        if type(op) is Conv2d:
            return cls(_convolution(op, shape, stage.shape, sums, most))
        weight = _lines(reordered(op.weight, shape).T.numpy().astype(_narrowest(op.weight, sums)))
        features, size = weight.shape
        start = np.zeros(1, dtype=np.int32)
        tables = (start, start.astype(np.int64), weight.reshape(-1), sums, most)
        return cls((features, *tables, 1, size, 1, size, 0, 0))


def _sums(weight: Tensor, gain: int) -> tuple[np.ndarray, int]:
    """``sums``, an empty array of their type, and ``most`` of ``add_events``."""
    short: np.ndarray = np.empty(0, dtype=np.int16)
    if gain < 2**15:
        return short, 0
    most = _at_a_time(weight)
    return (short, most) if most >= _SOME else (np.empty(0, dtype=np.int32), 0)


def _at_a_time(weight: Tensor) -> int:
    """Of how many spikes, each of which meets another weight of a neuron, 16 bits hold any sum."""
    sizes = weight.flatten(1).to(torch.int64).abs().sort(descending=True).values.cumsum(1)
    return int((sizes < 2**15).sum(1).min())


def _dtype(weight: Tensor) -> torch.dtype:
    """The narrowest that holds the weights."""
    if weight.dtype == torch.int8:
        return torch.int8
    return torch.int16 if int(weight.abs().max()) < 2**15 else torch.int32


def _convolution(op: Conv2d, shape: Shape, out: Shape, sums: np.ndarray, most: int) -> tuple[Any, ...]:
    """Arguments of ``add_events``, and where its image of charges, which has margins, has the neurons.

    A spike's weights are some lines of that image.

    Steps of a stride divide the sources into as many phases: each meets its own part of the kernel, every so many lines
    and columns of it. All have as many as the largest, of zeros where there are fewer.
    """
    channels, height, width = shape
    targets, phases = len(op.weight), [(a, b) for a in range(op.stride[0]) for b in range(op.stride[1])]
    kh, kw = (-(-k // s) for k, s in zip(op.weight.shape[2:], op.stride, strict=True))
    kind = _narrowest(op.weight, sums)
    weight: np.ndarray = np.zeros((len(phases), targets, channels, kh, kw), dtype=kind)
    for part, (a, b) in zip(weight, phases, strict=True):
        own = op.weight[:, :, a :: op.stride[0], b :: op.stride[1]].numpy()
        part[:, :, : own.shape[2], : own.shape[3]] = own
    # from bottom to top, in each the columns from right to left: a source at (y, x) of a phase reaches (y - i, x - j)
    lines = weight.transpose(0, 2, 3, 4, 1)[:, :, :, ::-1].reshape(len(phases) * channels * kh, kw * targets)
    lines = _lines(lines)
    size = lines.shape[1]
    y, x = (k.reshape(-1) for k in np.indices((height, width)))
    (y, a), (x, b) = (np.divmod(k + p, s) for k, p, s in zip((y, x), op.padding, op.stride, strict=True))
    top, side = kh - 1, kw - 1  # of the neurons within the image of charges
    tall, wide = max(int(y.max()) + kh, top + out[1]), max(int(x.max()) + kw, side + out[2]) * targets
    place = ((y + kh - 1) * wide + x * targets).astype(np.int32)
    line = (a * op.stride[1] + b).astype(np.int64) * (channels * kh * size)
    line[(a >= op.weight.shape[2]) | (b >= op.weight.shape[3])] = -1  # between the kernel's places
    return (channels, place, line, lines.reshape(-1), sums, most, kh, size, tall, wide, top, side * targets)


def _narrowest(weight: Tensor, sums: np.ndarray) -> Any:
    """Of weights of 8 bits twice as many fit into the cache, and they are widened as they are added."""
    return np.int8 if weight.dtype == torch.int8 else sums.dtype


def _lines(weight: np.ndarray) -> np.ndarray:
    """Lines filled up with zeros to a multiple of 32."""
    return np.ascontiguousarray(np.pad(weight, ((0, 0), (0, _filled(weight.shape[1]) - weight.shape[1]))))


def _filled(width: int) -> int:
    """The next multiple of 32."""
    return -(-width // 32) * 32
