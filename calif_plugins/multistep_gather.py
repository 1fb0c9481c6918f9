"""Charges neuron by neuron, for kernels: what each place hears of a step's spikes. Imported with Numba only.

:mod:`calif_plugins.multistep_events` goes from a spike to all neurons that hear it, and loads and stores a sum for each
weight. This goes from a place of neurons to the spikes within its kernel, and keeps its sums in registers: for layers
of many channels two to three times as fast, and for few spikes at many places of few channels slower.

``list_spikes(x, begin, channels, q0, q1, width, step, size, spikes, first)`` lists an image's spikes of a step. Its
spikes + 1 are the bytes of ``x`` from ``begin`` on, ``channels`` for each place, places in lines of ``width``. Of
places ``q0`` to ``q1`` it writes, to the int32 array ``spikes``, ``c * step + k * size`` for a spike of channel ``c``
in column ``k``: spikes upwards from the beginning on, spikes downwards from the middle on. Those upwards of place ``q``
are the ones from ``first[q]`` to ``first[q + 1]``; for those downwards the other half of ``first`` says so.

``gather_row(r, charge, field, lines, most, spikes, first)`` writes row ``r`` of the charges, int32, channels last, with
room for 31 more, and returns whether there is a spike in the lines that it hears; if not, ``charge`` is as it was.
``field = (height, width, kh, kw, sh, sw, ph, pw, out_width, targets, step, size)``: the image of the spikes; kernel,
stride and padding; how many places and channels the row has. ``lines`` are the weights, flat ``(kh, C, kw, size)``,
``size`` being ``targets`` filled up with zeros to a multiple of 32, and ``step = kw * size``. Of any ``most`` spikes 16
bits hold the sum, where weights are not of 32.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from calif_plugins.multistep_events import bits_of
from calif_plugins.multistep_vectors import LANES, first_bit, vector, widened

__all__ = ["gather_row", "list_spikes"]


@numba.njit(inline="always")
def _append(mask, start, step, spikes, n):
    while mask:
        spikes[n] = np.int32(start + first_bit(mask) * step)
        mask &= mask - np.uint64(1)
        n += 1
    return n


@numba.njit
def list_spikes(x, begin, channels, q0, q1, width, step, size, spikes, first):
    up, down, half = 0, spikes.shape[0] // 2, first.shape[0] // 2
    column = q0 % width
    for q in range(q0, q1):
        first[q], first[half + q] = up, down
        at = begin + q * channels
        for k in range(0, channels, 64):
            start = k * step + column * size
            up = _append(bits_of(x, at + k, at + channels, np.uint8(2), False), start, step, spikes, up)
            down = _append(bits_of(x, at + k, at + channels, np.uint8(0), False), start, step, spikes, down)
        column = 0 if column + 1 == width else column + 1
    first[q1], first[half + q1] = up, down


def _sums(vectors: int, wide: bool) -> Any:
    """An intrinsic for ``vectors`` times 32 sums of a place, of 32 bits if ``wide``; ``more`` adds to others."""

    @intrinsic
    def run(
        typing: Any, charge: Any, at: Any, more: Any, lines: Any, hears: Any, spikes: Any, first: Any, half: Any
    ) -> Any:  # fmt: skip
        index = types.intp
        signature = types.void(charge, index, types.boolean, lines, hears, spikes, first, index)
        return signature, lambda *given: _generate(vectors, wide, *given)

    return run


def _generate(vectors: int, wide: bool, context: Any, b: Any, signature: Any, args: Any) -> Any:
    kinds, (charge, at, more, lines, hears, spikes, first, half) = signature.args, args
    line, apart, place, width, rows, span = (b.extract_value(hears, k) for k in range(6))
    bits = 32 if wide else max(16, kinds[3].dtype.bitwidth)
    kind, index = ir.VectorType(ir.IntType(bits), LANES), at.type
    totals = [cgutils.alloca_once_value(b, ir.Constant(kind, [0] * LANES)) for _ in range(vectors)]

    def number(k: int, array: Any, at: Any) -> Any:
        return b.sext(b.load(b.gep(context.make_array(kinds[k])(context, b, array).data, [at])), index)

    def add(name: str, q: Any, here: Any) -> None:
        begin, end = number(6, first, q), number(6, first, b.add(q, span))
        with cgutils.for_range_slice(b, begin, end, ir.Constant(index, 1), index) as (e, _):
            weights = b.add(here, number(5, spikes, e))
            for k, total in enumerate(totals):
                of = vector(context, b, kinds[3], lines, b.add(weights, ir.Constant(index, LANES * k)), LANES)
                b.store(getattr(b, name)(b.load(total), widened(b, of, kind)), total)

    with cgutils.for_range(b, rows, intp=index) as loop:
        q, here = b.add(place, b.mul(loop.index, width)), b.add(line, b.mul(loop.index, apart))
        add("add", q, here)
        add("sub", b.add(half, q), here)
    for k, total in enumerate(totals):
        to, size = vector(context, b, kinds[0], charge, b.add(at, ir.Constant(index, LANES * k)), LANES)
        given = b.load(total)
        final = cgutils.alloca_once_value(b, given if bits == 32 else b.sext(given, to.type.pointee))
        with b.if_then(more):
            b.store(b.add(b.load(final), b.load(to, align=size)), final)
        b.store(b.load(final), to, align=size)
    return context.get_dummy_value()


@numba.njit(inline="always")
def _heard(first, half, q, span):
    return first[q + span] - first[q] + first[half + q + span] - first[half + q]


def _adder(vectors: int) -> Any:
    short, wide = _sums(vectors, wide=False), _sums(vectors, wide=True)

    @numba.njit(inline="always")
    def add(many, most, charge, at, lines, hears, done, spikes, first, half):
        line, apart, place, width, rows, span = hears
        if not many:
            short(charge, at + done, False, lines, (line + done, apart, place, width, rows, span), spikes, first, half)
            return done + LANES * vectors
        for i in range(rows):  # sums of 16 bits for one line of the kernel, where they hold that
            q = place + i * width
            here = (line + done + i * apart, apart, q, width, np.intp(1), span)
            if _heard(first, half, q, span) > most:
                wide(charge, at + done, i > 0, lines, here, spikes, first, half)
            else:
                short(charge, at + done, i > 0, lines, here, spikes, first, half)
        return done + LANES * vectors

    return add


_add_256, _add_128, _add_64, _add_32 = (_adder(k) for k in (8, 4, 2, 1))


@numba.njit
def gather_row(r, charge, field, lines, most, spikes, first):
    height, width, kh, kw, sh, sw, ph, pw, out_width, targets, _step, size = field
    half, top = first.shape[0] // 2, r * sh - ph
    i0, i1 = max(top, 0), min(top + kh, height)
    if i1 <= i0:
        return False
    begin, rows, apart = i0 * width, i1 - i0, lines.shape[0] // kh
    if not _heard(first, half, begin, rows * width):
        return False
    for o in range(out_width):
        left = o * sw - pw
        j0, j1 = min(max(left, 0), width), max(min(left + kw, width), 0)
        place, span = begin + j0, max(j1 - j0, 0)
        heard = 0
        for i in range(rows):
            heard += _heard(first, half, place + i * width, span)
        many, at, done = heard > most, o * targets, 0
        hears = ((i0 - top) * apart - left * size, apart, place, width, rows, span)
        while size - done >= 256:
            done = _add_256(many, most, charge, at, lines, hears, done, spikes, first, half)
        if size - done >= 128:
            done = _add_128(many, most, charge, at, lines, hears, done, spikes, first, half)
        if size - done >= 64:
            done = _add_64(many, most, charge, at, lines, hears, done, spikes, first, half)
        if size - done >= 32:
            _add_32(many, most, charge, at, lines, hears, done, spikes, first, half)
    return True
