"""Vector operations that Numba's loop vectoriser does not find by itself, as LLVM vector instructions.

Short rows at addresses known only at run time stay scalar there (40 ns for a spike's weights where these
take 6). LLVM makes whatever the processor has out of them: AVX-512, AVX2, NEON or single words.

``add_lanes(target, at, source, k)`` and ``subtract_lanes``: 32 elements of the flat integer array ``source`` from
``k`` on, added to those of ``target``, of as many bits or more, from ``at`` on. ``equal64(x, at, byte)``: bit ``k``
says that byte ``at + k`` of the flat uint8 array is ``byte``. ``first_bit(mask)``: the number of the lowest 1.
``fold_lanes(target, at, source, k, count, apart, silence)`` puts the sums of ``count`` groups of 32 elements, ``apart``
elements from one to the next, less ``silence``, to where ``add_lanes`` adds.
``all_zero(x, at, width)``: whether so many elements of the flat array are. Nothing is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "LANES",
    "add_lanes",
    "all_zero",
    "equal64",
    "first_bit",
    "fold_lanes",
    "groups",
    "splat",
    "subtract_lanes",
    "vector",
    "widened",
]

LANES = 32


def vector(context: Any, builder: Any, kind: Any, array: Any, at: Any, lanes: int) -> tuple[Any, int]:
    """Pointer to ``lanes`` elements of an array from ``at`` on, and their size in bytes."""
    element = context.get_data_type(kind.dtype)
    data = context.make_array(kind)(context, builder, array).data
    pointer = builder.bitcast(builder.gep(data, [at]), ir.VectorType(element, lanes).as_pointer())
    return pointer, kind.dtype.bitwidth // 8


def widened(builder: Any, of: tuple[Any, int], kind: Any) -> Any:
    """The integers that :func:`vector` points to, as a vector of a type that is as wide or wider."""
    given = builder.load(of[0], align=of[1])
    return given if given.type == kind else builder.sext(given, kind)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of so many times the value."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, undefined, zeros)


def groups(builder: Any, width: Any, largest: int, body: Callable[[int, Any], None]) -> None:
    """``body(lanes, first)`` for all of ``width`` elements: so many at a time, then what is left by halves."""
    index = width.type
    whole = builder.and_(width, ir.Constant(index, -largest))
    zero, step = ir.Constant(index, 0), ir.Constant(index, largest)
    with cgutils.for_range_slice(builder, zero, whole, step, index) as (first, _):
        body(largest, first)
    lanes = largest // 2
    while lanes:
        left = builder.and_(width, ir.Constant(index, lanes))
        with builder.if_then(builder.icmp_unsigned("!=", left, zero)):
            body(lanes, builder.and_(width, ir.Constant(index, -2 * lanes)))
        lanes //= 2


def _accumulate(name: str) -> Any:
    @intrinsic
    def lanes(typing: Any, target: Any, at: Any, source: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, size = vector(context, builder, signature.args[0], args[0], args[1], LANES)
            of = vector(context, builder, signature.args[2], args[2], args[3], LANES)
            total = getattr(builder, name)(builder.load(to, align=size), widened(builder, of, to.type.pointee))
            builder.store(total, to, align=size)
            return context.get_dummy_value()

        return types.void(target, types.intp, source, types.intp), generate

    return lanes


add_lanes = _accumulate("add")
subtract_lanes = _accumulate("sub")


@intrinsic
def fold_lanes(
    typing: Any, target: Any, at: Any, source: Any, k: Any, count: Any, apart: Any, silence: Any
) -> Any:  # fmt: skip
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, at, x, k, count, apart, silence = args
        of_kind = signature.args[2]
        to, size = vector(context, builder, signature.args[0], target, at, LANES)
        wide = to.type.pointee
        start = splat(builder, builder.trunc(builder.neg(silence), wide.element), LANES)
        total = cgutils.alloca_once(builder, wide)
        builder.store(start, total)
        with cgutils.for_range(builder, count, intp=count.type) as loop:
            of = vector(context, builder, of_kind, x, builder.add(k, builder.mul(loop.index, apart)), LANES)
            builder.store(builder.add(builder.load(total), widened(builder, of, wide)), total)
        builder.store(builder.load(total), to, align=size)
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, source, index, index, index, index), generate


@intrinsic
def equal64(typing: Any, x: Any, at: Any, byte: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = vector(context, builder, signature.args[0], args[0], args[1], 64)
        alike = splat(builder, args[2], 64)
        return builder.bitcast(builder.icmp_unsigned("==", builder.load(pointer, align=1), alike), ir.IntType(64))

    return types.uint64(x, types.intp, types.uint8), generate


@intrinsic
def first_bit(typing: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(types.uint64), generate


@intrinsic
def all_zero(typing: Any, x: Any, at: Any, width: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, begin, size = args
        some = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(LANES), 0))

        def look(lanes: int, first: Any) -> None:
            place, bytes = vector(context, builder, signature.args[0], array, builder.add(begin, first), lanes)
            given = builder.load(place, align=bytes)
            differ = (
                builder.icmp_signed if isinstance(signature.args[0].dtype, types.Integer) else builder.fcmp_unordered
            )
            mask = builder.bitcast(differ("!=", given, ir.Constant(given.type, [0] * lanes)), ir.IntType(lanes))
            wide = mask if lanes == LANES else builder.zext(mask, ir.IntType(LANES))
            builder.store(builder.or_(builder.load(some), wide), some)

        groups(builder, size, LANES, look)
        return builder.icmp_unsigned("==", builder.load(some), ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(x, types.intp, types.intp), generate
