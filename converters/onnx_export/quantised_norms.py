"""Softmax and norms between dequantiser and quantiser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converters.errors import ConversionError
from converters.onnx_export.quantised_operations import QUANTISED, Real, Unit, in_unit, uniform
from converters.onnx_export.writer import Writer
from converters.operations import LocalResponse, MaskedSoftmax, Normalise, Softmax

__all__: list[str] = []

_RMS = 23  # the opset that has it


@QUANTISED.says(Softmax)
def _softmax(w: Writer, op: Softmax, goal: Unit | None, x: Real) -> Real:
    x = in_unit(w, x, np.asarray(op.scale))
    return Real(w.node("Softmax", x.name, axis=op.axis + 1), x.shape, np.asarray(2.0**-op.bits))


@QUANTISED.says(MaskedSoftmax)
def _masked_softmax(w: Writer, op: MaskedSoftmax, goal: Unit | None, x: Real) -> Real:
    x = in_unit(w, x, np.asarray(op.scale))
    kept = w.constant(op.kept[None].numpy() != 0, "kept")
    among = w.node("Where", kept, x.name, w.constant(np.float32(-np.inf)))
    return Real(w.node("Softmax", among, axis=op.axis + 1), x.shape, np.asarray(2.0**-op.bits))


@QUANTISED.says(Normalise)
def _normalise(w: Writer, op: Normalise, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    eps = op.eps * float(x.unit) ** 2
    whole = set(op.axes) == set(range(len(x.shape)))
    if not op.centred and op.groups > 1:
        name = _by_root_mean_square(w, op, x, eps)
    elif op.groups == 1 and not (whole and op.centred and len(x.shape) > 1):
        name = _over_last(w, op, x, eps)
    elif whole and op.groups == x.shape[0]:
        name = w.node("InstanceNormalization", x.name, *_neutral(w, x.shape[0]), epsilon=eps)
    elif whole:
        name = w.node("GroupNormalization", x.name, *_neutral(w, x.shape[0]), epsilon=eps, num_groups=op.groups)
    else:
        raise ConversionError("Normalise", f"axes {op.axes} in {op.groups} groups", "use exact=True")
    return Real(name, x.shape, np.asarray(2.0**-op.bits))


def _neutral(w: Writer, *shape: int) -> list[str]:
    """A gain of 1 and a bias of 0: those of the layer are behind it."""
    return [w.constant(np.full(shape, k, dtype=np.float32)) for k in (1, 0)]


def _over_last(w: Writer, op: Normalise, x: Real, eps: float) -> str:
    """A layer norm, or an RMS norm: of the last axes."""
    order = _axes_last(op.axes, len(x.shape))
    gain, bias = _neutral(w, *(x.shape[k - 1] for k in order[-len(op.axes) :]))
    kind = "LayerNormalization" if op.centred else "RMSNormalization"
    w.opset = w.opset if op.centred else max(w.opset, _RMS)
    given = (gain, bias) if op.centred else (gain,)
    normed = w.node(kind, w.transposed(x.name, order), *given, axis=-len(op.axes), epsilon=eps)
    return w.transposed(normed, [int(k) for k in np.argsort(order)])


def _axes_last(axes: Sequence[int], rank: int) -> list[int]:
    """An order of a batch's axes with some of an image's at the end."""
    last = sorted(a + 1 for a in axes)
    return [k for k in range(rank + 1) if k not in last] + last


def _by_root_mean_square(w: Writer, op: Normalise, x: Real, eps: float) -> str:
    """An RMS norm of groups of channels, for which there is no node."""
    split = w.reshaped(x.name, [op.groups, x.shape[0] // op.groups, *x.shape[1:]])
    mean = w.node("ReduceMean", w.node("Mul", split, split), w.places([a + 2 for a in op.axes]), keepdims=1)
    root = w.node("Sqrt", w.node("Add", mean, w.constant(np.float32(eps))))
    return w.reshaped(w.node("Div", split, root), x.shape)


@QUANTISED.says(LocalResponse)
def _local_response(w: Writer, op: LocalResponse, goal: Unit | None, x: Real) -> Real:
    if op.size % 2 == 0:  # whose extra channel ONNX has on the other side
        raise ConversionError("LocalResponse", f"a window of {op.size} channels", "use an odd one, or exact=True")
    x = uniform(w, x)
    alpha = op.alpha / float(x.unit) ** 2
    name = w.node("LRN", x.name, size=op.size, alpha=alpha, beta=op.beta, bias=op.k)
    return Real(name, x.shape, x.unit * 2.0**-op.bits)
