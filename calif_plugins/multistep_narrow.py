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

from calif_plugins.multistep_vectors import groups, splat, vector

__all__ = ["AGAIN", "half_row", "narrow_row", "settling_row"]

AGAIN = 2**30


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


def _row(half: bool, again: bool = False) -> Any:
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
        return signature, lambda *given: _generate(half, again, *given)

    return run


narrow_row = _row(half=False)
"""``narrow_row(charge, at, width, state, here, parameters, leaks, leaking, tie, out, o)``: the rule for ``width``
neurons in int32 (see the module), how many fired. ``leaks``: how often the leak has acted, this step included;
``leaking``: how often it acts now. Other arguments as in ``multistep_rows``."""
half_row = _row(half=True)
"""The same at half thresholds; ``tie`` is 1 for ``up``, 2 for ``even``."""
settling_row = _row(half=True, again=True)
"""The same, with :data:`AGAIN` added if one may fire in the next step too, though nothing arrives. Where there is no
leak any more only those that have just fired can; they are looked at, with others beside them. (In doubt, close to a
threshold, one may.)"""


def _generate(half: bool, again: bool, context: Any, b: Any, signature: Any, args: Any) -> Any:
    kinds, (charge, at, width, state, here, parameters, leaks, leaking, tie, out, o) = signature.args, args
    word, index = ir.IntType(32), at.type
    none = ir.Constant(word, 0)
    total = cgutils.alloca_once_value(b, none)
    more = cgutils.alloca_once_value(b, none)
    redo = types.int32(types.intp, types.intp, types.intp, *(kinds[k] for k in (3, 5, 6, 8, 9)), types.intp)

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
        lane = _Lanes(b, lanes, places, *numbers, tie if half else None)
        fired, near = lane.step(kinds[0].dtype, leaking)
        b.store(b.add(b.load(total), b.ctpop(b.zext(fired, word))), total)
        if again:
            with b.if_then(b.icmp_unsigned("!=", fired, ir.Constant(fired.type, 0))):
                b.store(b.or_(b.load(more), b.select(lane.may_fire(), ir.Constant(word, AGAIN), none)), more)
        with b.if_then(near, likely=False):
            few = ir.Constant(index, lanes)
            which = (b.add(here, c), few, c, state, parameters, leaks, tie, out, b.add(o, c))
            b.store(b.add(b.load(total), context.compile_internal(b, _decide, redo, which)), total)
            if again:
                b.store(ir.Constant(word, AGAIN), more)

    groups(b, width, 16, group)
    return b.add(b.load(total), b.load(more)) if again else b.load(total)


class _Lanes:
    """Instructions for ``lanes`` neurons at ``places``, of which each is ``(address, alignment)``."""

    def __init__(
        self, b: Any, lanes: int, places: dict[str, tuple[Any, int]], y_min: Any, y_max: Any, shift: Any, close: Any,
        tie: Any,
    ) -> None:  # fmt: skip
        self.b, self.lanes, self.places, self.tie = b, lanes, places, tie
        self.words = ir.VectorType(ir.IntType(32), lanes)
        self.y_min, self.y_max, self.shift = (self.all_of(x) for x in (y_min, y_max, shift))
        # from the half thresholds on twice the membrane is compared, and twice the distance
        self.close = self.all_of(close if tie is None else b.shl(close, ir.Constant(close.type, 1)))

    def all_of(self, scalar: Any) -> Any:
        return splat(self.b, scalar, self.lanes)

    def constant(self, value: int, of: Any = None) -> Any:
        return ir.Constant(of or self.words, [value] * self.lanes)

    def load(self, name: str) -> Any:
        return self.b.load(self.places[name][0], align=self.places[name][1])

    def store(self, value: Any, name: str) -> None:
        self.b.store(value, self.places[name][0], align=self.places[name][1])

    def twice(self, x: Any) -> Any:
        return x if self.tie is None else self.b.shl(x, self.constant(1))

    def fires(self, compared: Any, bound: Any, count: Any) -> tuple[Any, Any]:
        """Who fires upwards, and downwards, where ``bound`` is the threshold that ``compared`` has to meet."""
        b = self.b
        net = b.shl(count, self.constant(16))  # the lower half of the word
        opposite = b.neg(compared)
        if self.tie is None:
            up, down = b.icmp_signed(">=", compared, bound), b.icmp_signed(">=", opposite, bound)
        else:  # whole numbers: one more decides a tie. Both ways where the count is odd, or always upwards
            even = b.icmp_unsigned("==", self.tie, ir.Constant(self.tie.type, 2))
            odd = b.and_(count, self.all_of(b.zext(even, self.tie.type)))
            upwards = b.or_(odd, self.all_of(b.zext(b.not_(even), self.tie.type)))
            up = b.icmp_signed(">", b.add(compared, upwards), bound)
            down = b.icmp_signed(">", b.add(opposite, odd), bound)
        up = b.and_(up, b.icmp_signed("<", net, self.y_max))
        return up, b.and_(down, b.icmp_signed(">", net, self.y_min))

    def step(self, kind: Any, leaking: Any) -> tuple[Any, Any]:
        """A step of the rule: (who fired, as bits; whether one was close to its threshold)."""
        b = self.b
        arriving = self.load("charge")
        if kind == types.int16:
            arriving = b.sext(arriving, self.words)
        elif kind != types.int32:
            arriving = b.fptosi(arriving, self.words)
        self.threshold, before = self.load("threshold"), self.load("count")
        leak = b.mul(self.load("leak"), self.all_of(leaking))
        now = b.sub(b.add(self.load("v"), b.shl(arriving, self.shift)), leak)
        compared = self.twice(now)
        up, down = self.fires(compared, self.threshold, before)
        self.v = b.select(down, b.add(now, self.threshold), b.select(up, b.sub(now, self.threshold), now))
        counted = b.select(down, b.add(before, self.constant(65535)), before)
        self.count = b.select(up, b.add(before, self.constant(65537)), counted)
        self.store(self.v, "v")
        self.store(self.count, "count")
        byte = ir.VectorType(ir.IntType(8), self.lanes)
        none = b.select(down, self.constant(0, byte), self.constant(1, byte))
        self.store(b.select(up, self.constant(2, byte), none), "out")
        size = b.select(b.icmp_signed("<", compared, self.constant(0)), b.neg(compared), compared)
        distance = b.add(b.sub(size, self.threshold), self.close)
        near = b.icmp_unsigned("<", distance, b.add(self.close, self.close))
        return self.bits(b.or_(up, down)), self.some(near)

    def may_fire(self) -> Any:
        """Whether one may in the next step, if nothing arrives and nothing leaks; after :meth:`step`."""
        bound = self.b.sub(self.threshold, self.close)
        return self.some(self.b.or_(*self.fires(self.twice(self.v), bound, self.count)))

    def bits(self, which: Any) -> Any:
        return self.b.bitcast(which, ir.IntType(self.lanes))

    def some(self, which: Any) -> Any:
        bits = self.bits(which)
        return self.b.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))
