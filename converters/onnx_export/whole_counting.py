"""Tables, softmax and norms in whole numbers: by looking up, by integer division, and as IEEE rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto

from converters.onnx_export.whole_operations import WHOLE, Whole
from converters.onnx_export.writer import Writer
from converters.operations import Levels, LocalResponse, MaskedSoftmax, Normalise, Softmax

__all__: list[str] = []

I = TensorProto.INT64  # noqa: E741
D = TensorProto.DOUBLE


@WHOLE.says(Levels)
def _levels(w: Writer, op: Levels, x: Whole) -> str:
    """The value whose number is that of the breakpoints up to ``z``, found by halving: as many steps as it has bits."""
    breakpoints, values = op.breakpoints.numpy(), op.values.numpy()
    rows = max(len(breakpoints), len(values))
    breakpoints, values = (np.broadcast_to(t, (rows, t.shape[1])) for t in (breakpoints, values))
    bits = breakpoints.shape[1].bit_length()
    # behind the last breakpoint come others that nothing reaches; all rows one after another, as one table
    size = 2**bits
    padded = np.full((rows, size), op.limit + 1, dtype=np.int64)
    padded[:, : breakpoints.shape[1]] = breakpoints
    held = np.pad(values, ((0, 0), (0, size - values.shape[1])), mode="edge")
    view = (1, rows, *[1] * (len(x.shape) - 1))
    first = w.constant((np.arange(rows, dtype=np.int64) * size).reshape(view), "rows")
    z = w.cast(x.name, I)
    places, found = w.constant(padded.reshape(-1), "breakpoints"), first
    for bit in reversed(range(bits)):  # found: as many breakpoints as are known to be up to z, behind the row's first
        last = w.node("Add", found, w.constant(np.int64(2**bit - 1)))
        reached = w.cast(w.node("GreaterOrEqual", z, w.node("Gather", places, last, axis=0)), I)
        found = w.node("Add", found, w.node("Mul", reached, w.constant(np.int64(2**bit))))
    if not bits:  # one value for every integer: an index of the shape that it is to have
        found = w.node("Add", first, w.node("Mul", z, w.constant(np.int64(0))))
    return w.node("Gather", w.constant(held.reshape(-1).astype(np.float64), "levels"), found, axis=0)


@WHOLE.says(Softmax)
def _softmax(w: Writer, op: Softmax, x: Whole) -> str:
    return _of_exponentials(w, op, w.cast(x.name, I), None)


@WHOLE.says(MaskedSoftmax)
def _masked_softmax(w: Writer, op: MaskedSoftmax, x: Whole) -> str:
    return _of_exponentials(w, op, w.cast(x.name, I), w.constant(op.kept[None].numpy() != 0, "kept"))


def _of_exponentials(w: Writer, op: Softmax, n: str, kept: str | None) -> str:
    axes = w.places([op.axis + 1])
    among = n if kept is None else w.node("Where", kept, n, w.constant(np.int64(-(2**53))))
    below = w.node("Sub", w.node("ReduceMax", among, axes, keepdims=1), n)
    entry = w.node("Max", below, w.constant(np.int64(0)))  # what is left out may be larger than all others
    entry = w.node("Min", entry, w.constant(np.int64(len(op.table) - 1)))
    e = w.node("Gather", w.constant(op.table.numpy(), "exponentials"), entry, axis=0)
    if kept is not None:
        e = w.node("Where", kept, e, w.constant(np.int64(0)))
    total = w.node("ReduceSum", e, axes, keepdims=1)
    above = w.node("Add", w.node("Mul", e, w.constant(np.int64(2 << op.bits))), total)
    return w.cast(w.node("Div", above, w.node("Mul", total, w.constant(np.int64(2)))), D)


@WHOLE.says(Normalise)
def _normalise(w: Writer, op: Normalise, x: Whole) -> str:
    """The float64 arithmetic of the operation, in its order: IEEE rounds it alike everywhere."""

    def act(y: str, axes: Sequence[int]) -> str:
        m, over = w.constant(np.float64(op.size)), w.places(axes)
        total, squares = (w.node("ReduceSum", t, over, keepdims=1) for t in (y, w.node("Mul", y, y)))
        above, below = w.node("Mul", m, y), w.node("Mul", m, squares)
        if op.centred:
            above = w.node("Sub", above, total)
            below = w.node("Sub", below, w.node("Mul", total, total))
        size = float(op.size)
        below = w.node("Add", below, w.constant(np.float64(size * size * op.eps)))
        zero = w.constant(np.float64(0))
        some = w.node("Greater", below, zero)
        root = w.node("Sqrt", w.node("Where", some, below, w.constant(np.float64(1))))
        return w.node("Where", some, _rounded(w, w.node("Div", above, root), op.bits), zero)

    return _over_groups(w, x, op.axes, op.groups, act)


def _rounded(w: Writer, x: str, bits: int) -> str:
    return w.node("Round", w.node("Mul", x, w.constant(np.float64(2.0**bits))))


def _over_groups(
    w: Writer, x: Whole, axes: Sequence[int], groups: int, act: Callable[[str, Sequence[int]], str]
) -> str:
    if groups == 1:
        return act(x.name, [a + 1 for a in axes])
    split = w.reshaped(x.name, [groups, x.shape[0] // groups, *x.shape[1:]])
    return w.reshaped(act(split, [a + 2 for a in axes]), x.shape)


@WHOLE.says(LocalResponse)
def _local_response(w: Writer, op: LocalResponse, x: Whole) -> str:
    squares, n = w.node("Mul", x.name, x.name), len(x.shape)
    before, after = [0, op.size // 2, *[0] * (n - 1)], [0, (op.size - 1) // 2, *[0] * (n - 1)]
    padded = w.node("Pad", squares, w.places([*before, *after]), w.constant(np.float64(0)))
    total = ""
    for k in range(op.size):
        part = w.node("Slice", padded, w.places([k]), w.places([k + x.shape[0]]), w.places([1]))
        total = part if k == 0 else w.node("Add", total, part)
    share = w.node("Div", w.node("Mul", w.constant(np.float64(op.alpha)), total), w.constant(np.float64(op.size)))
    base = w.node("Add", w.constant(np.float64(op.k)), share)
    quarter = w.node("Sqrt", w.node("Sqrt", base))
    power = w.constant(np.float64(1))
    for _ in range(round(4 * op.beta)):
        power = w.node("Mul", power, quarter)
    return _rounded(w, w.node("Div", x.name, power), op.bits)
