"""Ca-LIF neurons in int32, sixteen at a time, exactly as in float64.

Twice as many neurons per instruction. ``state = (v, count)``, int32 ``(P, R)``: the membrane in units of
``2**-shift``, and ``65536 * fired + y``. Threshold, leak and initial membrane are rounded to that unit, so the
membrane is off by less than ``close`` units, which counts all roundings of a window. A comparison that clears the
threshold by that much is therefore the exact one. The few others are decided in float64 from the exact membrane, which
the state determines: ``v`` is ``charge * 2**shift`` less whole numbers of rounded leaks and thresholds, and these
numbers, ``t`` and ``y``, are known.

From the half thresholds on it is twice the membrane that is compared, and twice that distance; exact ties are among
the few.

``parameters = (threshold,
leak, y_min, y_max, v_init, shift, close, threshold, leak, v_init)``: int32 ``(R,)`` in units, but ``y_min`` and
``y_max`` times 65536, and numbers as all up to ``close``; then float64 ``(R,)``, exact.
Arrays go by their addresses:
compiled Python counts references to every array of a tuple for every row, which costs more than the neurons.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from calif_plugins.multistep_vectors import vector

__all__ = ["half_row", "narrow_row"]


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """An address as ``numba.carray`` takes it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), generate


def _decide(at, width, first, state, parameters, leaks, tie, out, o):
    """Redo what was close to its threshold among a few neurons, exactly. Returns how many fire more.

    ``tie``: 0 at whole thresholds; at half of them 1 for ``up``, 2 for ``even``.
    """
    _, _, y_min, y_max, _, shift, close, _, _, _ = parameters
    v = numba.carray(pointer(state[0] + 4 * at), (width,), np.int32)
    count = numba.carray(pointer(state[1] + 4 * at), (width,), np.int32)
    threshold = numba.carray(pointer(parameters[0] + 4 * first), (width,), np.int32)
    leak = numba.carray(pointer(parameters[1] + 4 * first), (width,), np.int32)
    v_init = numba.carray(pointer(parameters[4] + 4 * first), (width,), np.int32)
    exact_threshold = numba.carray(pointer(parameters[7] + 8 * first), (width,), np.float64)
    exact_leak = numba.carray(pointer(parameters[8] + 8 * first), (width,), np.float64)
    exact_init = numba.carray(pointer(parameters[9] + 8 * first), (width,), np.float64)
    spikes = out.reshape(-1)[o : o + width]
    more = np.int32(0)
    for c in range(width):
        s = np.int32(spikes[c]) - np.int32(1)
        now = np.int64(v[c]) + s * np.int64(threshold[c])
        times = np.int64(2) if tie else np.int64(1)
        if not -times * close <= abs(times * now) - threshold[c] < times * close:
            continue
        before = count[c] - np.int32(s * (1 + 65536 * s))  # 65537 for a spike up, 65535 down
        y = np.int64(np.int32(np.int32(before << np.int32(16)) >> np.int32(16)))
        units = now - v_init[c] + leaks * np.int64(leak[c]) + y * np.int64(threshold[c])
        exact = np.float64(units >> shift) + exact_init[c] - leaks * exact_leak[c] - y * exact_threshold[c]
        odd = y % 2 == 1
        if tie:
            exact = 2 * exact
            up = exact > exact_threshold[c] or (exact == exact_threshold[c] and (odd or tie == 1))
            down = exact < -exact_threshold[c] or (exact == -exact_threshold[c] and odd and tie == 2)
        else:
            up, down = exact >= exact_threshold[c], exact <= -exact_threshold[c]
        up, down = up and y < y_max >> 16, down and y > y_min >> 16
        new = np.int32(up) - np.int32(down)
        v[c] = np.int32(now - new * np.int64(threshold[c]))
        count[c] = before + np.int32(new * (1 + 65536 * new))
        spikes[c] = np.uint8(new + 1)
        more += abs(new) - abs(s)
    return more


def _row(half: bool) -> Any:
    """An intrinsic for ``width`` neurons: sixteen at a time, then what is left by halves."""

    @intrinsic
    def run(
        typing: Any,
        charge: Any,
        at: Any,
        width: Any,
        state: Any,
        here: Any,
        parameters: Any,
        leaks: Any,
        leaking: Any,
        tie: Any,
        out: Any,
        o: Any,
    ) -> Any:
        word_type, index_type = types.int32, types.intp
        signature = word_type(
            charge, index_type, index_type, state, index_type, parameters, index_type, word_type, word_type, out,
            index_type,
        )  # fmt: skip
        return signature, lambda *given: _generate(half, *given)

    return run


narrow_row = _row(half=False)
"""``narrow_row(charge, at, width, state, here, parameters, leaks, leaking, tie, out, o)``: the rule for ``width``
neurons in int32 (see the module), how many fired. ``leaks``: how often the leak has acted, this step included;
``leaking``: -1 where it acts, else 0. Other arguments as in ``multistep_rows``."""
half_row = _row(half=True)
"""The same at half thresholds; ``tie`` is 1 for ``up``, 2 for ``even``."""


def _generate(half: bool, context: Any, b: Any, signature: Any, args: Any) -> Any:
    kinds, (charge, at, width, state, here, parameters, leaks, leaking, tie, out, o) = signature.args, args
    word, index = ir.IntType(32), at.type
    total = cgutils.alloca_once_value(b, ir.Constant(word, 0))
    again = types.int32(types.intp, types.intp, types.intp, *(kinds[k] for k in (3, 5, 6, 8, 9)), types.intp)

    def part(values: Any, k: int) -> Any:
        return b.extract_value(values, k)

    def group(lanes: int, c: Any) -> None:
        def words(address: Any, offset: Any) -> tuple[Any, int]:
            place = b.gep(b.inttoptr(address, word.as_pointer()), [b.add(offset, c)])
            return b.bitcast(place, ir.VectorType(word, lanes).as_pointer()), 4

        zero = ir.Constant(index, 0)
        places = {
            "charge": vector(context, b, kinds[0], charge, b.add(at, c), lanes),
            "v": words(part(state, 0), here),
            "count": words(part(state, 1), here),
            "threshold": words(part(parameters, 0), zero),
            "leak": words(part(parameters, 1), zero),
            "out": vector(context, b, kinds[9], out, b.add(o, c), lanes),
        }
        numbers = [b.trunc(part(parameters, k), word) for k in (2, 3, 5, 6)]
        fired, near = _narrow(b, lanes, kinds[0].dtype, places, *numbers, leaking, tie if half else None)
        b.store(b.add(b.load(total), fired), total)
        with b.if_then(near, likely=False):
            few = ir.Constant(index, lanes)
            which = (b.add(here, c), few, c, state, parameters, leaks, tie, out, b.add(o, c))
            b.store(b.add(b.load(total), context.compile_internal(b, _decide, again, which)), total)

    whole = b.and_(width, ir.Constant(index, -16))
    with cgutils.for_range_slice(b, ir.Constant(index, 0), whole, ir.Constant(index, 16), index) as (c, _):
        group(16, c)
    for lanes in (8, 4, 2, 1):
        left = b.and_(width, ir.Constant(index, lanes))
        with b.if_then(b.icmp_unsigned("!=", left, ir.Constant(index, 0))):
            group(lanes, b.and_(width, ir.Constant(index, -2 * lanes)))
    return b.load(total)


def _narrow(
    b: Any, lanes: int, kind: Any, places: dict[str, tuple[Any, int]], y_min: Any, y_max: Any, shift: Any, close: Any,
    leaking: Any, tie: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """Instructions for ``lanes`` neurons: (how many fired, whether one was close to its threshold)."""
    word, bits = ir.IntType(32), ir.IntType(lanes)
    words = ir.VectorType(word, lanes)

    def all_of(scalar: Any) -> Any:
        one = b.insert_element(ir.Constant(words, ir.Undefined), scalar, ir.Constant(word, 0))
        return b.shuffle_vector(one, ir.Constant(words, ir.Undefined), ir.Constant(words, [0] * lanes))

    def constant(value: int, of: Any = words) -> Any:
        return ir.Constant(of, [value] * lanes)

    def load(name: str) -> Any:
        return b.load(places[name][0], align=places[name][1])

    def store(value: Any, name: str) -> None:
        b.store(value, places[name][0], align=places[name][1])

    arriving = load("charge")
    if kind == types.int16:
        arriving = b.sext(arriving, words)
    elif kind != types.int32:
        arriving = b.fptosi(arriving, words)
    threshold, before = load("threshold"), load("count")
    leak = b.and_(load("leak"), all_of(leaking))
    now = b.sub(b.add(load("v"), b.shl(arriving, all_of(shift))), leak)
    net = b.shl(before, constant(16))  # the lower half of the word
    compared, wide = now, close
    if tie is None:
        up, down = b.icmp_signed(">=", now, threshold), b.icmp_signed("<=", now, b.neg(threshold))
    else:
        compared, wide = b.shl(now, constant(1)), b.shl(close, ir.Constant(word, 1))
        odd = b.trunc(before, ir.VectorType(ir.IntType(1), lanes))
        even = b.icmp_unsigned("==", all_of(tie), constant(2))
        at_top, at_bottom = (b.icmp_signed("==", compared, x) for x in (threshold, b.neg(threshold)))
        up = b.or_(b.icmp_signed(">", compared, threshold), b.and_(at_top, b.or_(odd, b.not_(even))))
        down = b.or_(b.icmp_signed("<", compared, b.neg(threshold)), b.and_(at_bottom, b.and_(odd, even)))
    up = b.and_(up, b.icmp_signed("<", net, all_of(y_max)))
    down = b.and_(down, b.icmp_signed(">", net, all_of(y_min)))
    store(b.select(down, b.add(now, threshold), b.select(up, b.sub(now, threshold), now)), "v")
    counted = b.select(down, b.add(before, constant(65535)), before)
    store(b.select(up, b.add(before, constant(65537)), counted), "count")
    byte = ir.VectorType(ir.IntType(8), lanes)
    store(b.select(up, constant(2, byte), b.select(down, constant(0, byte), constant(1, byte))), "out")
    size = b.select(b.icmp_signed("<", compared, constant(0)), b.neg(compared), compared)
    distance = b.add(b.sub(size, threshold), all_of(wide))
    near = b.icmp_unsigned("<", distance, all_of(b.add(wide, wide)))
    fired = b.ctpop(b.zext(b.bitcast(b.or_(up, down), bits), word))
    return fired, b.icmp_unsigned("!=", b.bitcast(near, bits), ir.Constant(bits, 0))
