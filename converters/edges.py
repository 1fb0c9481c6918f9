"""Synapses as explicit lists of connections, built vectorised: what simulators without convolutions need."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from converters.synapses import Conv2d, Flatten, Linear, Scale, Shape, SumPool2d, Synapse

__all__ = ["count", "matrix", "rows"]


def matrix(synapse: Synapse, shape: Shape) -> sparse.csr_array:
    """A synapse from a source of ``shape`` as an int64 matrix ``(targets, sources)``, without zeros.

    >>> from converters.synapses import Conv2d
    >>> matrix(Synapse("in", (Conv2d(torch.tensor([[[[1, 2]]]])),)), (1, 1, 3)).toarray()
    array([[1, 2, 0],
           [0, 1, 2]])
    """
    total: Any = None
    for op in synapse.ops:
        part = _MATRIX[type(op)](op, shape)
        total = part if total is None else part @ total
        shape = op.output_shape(shape)
    if total is None:
        total = sparse.eye_array(int(np.prod(shape)), dtype=np.int64, format="csr")
    total = sparse.csr_array(total)
    total.eliminate_zeros()
    return total


def count(synapse: Synapse, shape: Shape) -> int:
    """How many synapses there are at the most, without building them (zero weights count too)."""
    return int(synapse.fan_out(shape).sum())


def rows(synapse: Synapse, shape: Shape, targets: Tensor) -> Tensor:
    """Weights onto some neurons only: int64 ``(len(targets), *shape)``; for networks too large to spell out.

    ``targets`` are flat indices of the target layer. One pull-back through the operations, in float64,
    where integers are exact.
    """
    with torch.enable_grad():
        x = torch.zeros(len(targets), *shape, dtype=torch.float64, requires_grad=True)
        picked = synapse(x).flatten(1).gather(1, targets.reshape(-1, 1)).sum()
        (grad,) = torch.autograd.grad(picked, x)
    return grad.to(torch.int64)


def _linear(op: Linear, shape: Shape) -> sparse.csr_array:
    return sparse.csr_array(op.weight.cpu().numpy().astype(np.int64))


def _conv(op: Conv2d, shape: Shape) -> sparse.csr_array:
    weight = op.weight.cpu().numpy().astype(np.int64)
    out_channels, per_group, kh, kw = weight.shape
    _, h, w = shape
    _, oh, ow = op.output_shape(shape)
    y, x = (a.ravel() for a in np.mgrid[:oh, :ow])
    out_pixel = y * ow + x
    o = np.arange(out_channels)
    first = (o // (out_channels // op.groups)) * per_group  # first input channel of each output channel's group
    channel = first[:, None] + np.arange(per_group)[None]
    data, row, column = [], [], []
    for a, b in product(range(kh), range(kw)):
        iy = y * op.stride[0] - op.padding[0] + a * op.dilation[0]
        ix = x * op.stride[1] - op.padding[1] + b * op.dilation[1]
        inside = (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w)
        pixel, source = out_pixel[inside], (iy * w + ix)[inside]
        full = (out_channels, per_group, len(pixel))
        data.append(np.broadcast_to(weight[:, :, a, b, None], full).ravel())
        row.append(np.broadcast_to(o[:, None, None] * (oh * ow) + pixel, full).ravel())
        column.append(np.broadcast_to(channel[:, :, None] * (h * w) + source, full).ravel())
    size = (out_channels * oh * ow, int(np.prod(shape)))
    entries = (np.concatenate(data), (np.concatenate(row), np.concatenate(column)))
    return sparse.csr_array(sparse.coo_array(entries, shape=size))


def _pool(op: SumPool2d, shape: Shape) -> sparse.csr_array:
    ones = torch.ones(shape[0], 1, *op.kernel, dtype=torch.int64)
    return _conv(Conv2d(ones, op.stride, op.padding, (1, 1), shape[0]), shape)


def _same(op: Flatten, shape: Shape) -> sparse.csr_array:
    return sparse.csr_array(sparse.eye_array(int(np.prod(shape)), dtype=np.int64))


def _scale(op: Scale, shape: Shape) -> sparse.csr_array:
    return sparse.csr_array(op.weight * sparse.eye_array(int(np.prod(shape)), dtype=np.int64))


_MATRIX: dict[type, Callable[[Any, Shape], sparse.csr_array]] = {
    Conv2d: _conv,
    Linear: _linear,
    SumPool2d: _pool,
    Flatten: _same,
    Scale: _scale,
}
