"""Vector operations that Numba's loop vectoriser does not find by itself, as LLVM vector instructions.

Short rows at addresses known only at run time stay scalar there (40 ns for a spike's weights where these
take 6). LLVM makes whatever the processor has out of them: AVX-512, AVX2, NEON or single words.

``add_lanes(target, at, source, k)`` and ``subtract_lanes``: 32 elements of the flat integer array ``source`` from
``k`` on, added to those of ``target`` from ``at`` on. ``fired64(x, at)``: bit ``k`` says that byte ``at + k`` of
the flat uint8 array is not 1, a spike. ``first_bit(mask)``: the number of the lowest 1. Nothing is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "add_lanes", "fired64", "first_bit", "narrow_row", "pointer", "subtract_lanes"]

LANES = 32


def _vector(context: Any, builder: Any, kind: Any, array: Any, at: Any, lanes: int) -> tuple[Any, int]:
    """Pointer to ``lanes`` elements of an array from ``at`` on, and their size in bytes."""
    element = context.get_data_type(kind.dtype)
    data = context.make_array(kind)(context, builder, array).data
    pointer = builder.bitcast(builder.gep(data, [at]), ir.VectorType(element, lanes).as_pointer())
    return pointer, kind.dtype.bitwidth // 8


def _accumulate(name: str) -> Any:
    @intrinsic
    def lanes(typing: Any, target: Any, at: Any, source: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, size = _vector(context, builder, signature.args[0], args[0], args[1], LANES)
            of, _ = _vector(context, builder, signature.args[2], args[2], args[3], LANES)
            total = getattr(builder, name)(builder.load(to, align=size), builder.load(of, align=size))
            builder.store(total, to, align=size)
            return context.get_dummy_value()

        return types.void(target, types.intp, source, types.intp), generate

    return lanes


add_lanes = _accumulate("add")
subtract_lanes = _accumulate("sub")


@intrinsic
def fired64(typing: Any, x: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = _vector(context, builder, signature.args[0], args[0], args[1], 64)
        ones = ir.Constant(ir.VectorType(ir.IntType(8), 64), [1] * 64)
        return builder.bitcast(builder.icmp_unsigned("!=", builder.load(pointer, align=1), ones), ir.IntType(64))

    return types.uint64(x, types.intp), generate


@intrinsic
def first_bit(typing: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(types.uint64), generate


@intrinsic
def narrow_row(
    typing: Any, charge: Any, at: Any, width: Any, state: Any, here: Any, parameters: Any, out: Any, o: Any
) -> Any:
    """The rule for ``width`` neurons in int32 (see ``multistep_rows``): how many fired, plus 2**24 if one was close.

    Sixteen at a time, then what is left by halves.
    """
    signature = types.int32(charge, types.intp, types.intp, state, types.intp, parameters, out, types.intp)

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        kinds, (charge, at, width, state, here, parameters, out, o) = signature.args, args
        word, index = ir.IntType(32), at.type
        total = cgutils.alloca_once_value(b, ir.Constant(word, 0))
        close = cgutils.alloca_once_value(b, ir.Constant(word, 0))

        def part(values: Any, k: int) -> Any:
            return b.extract_value(values, k)

        def group(lanes: int, c: Any) -> None:
            def words(address: Any, offset: Any) -> tuple[Any, int]:
                place = b.gep(b.inttoptr(address, word.as_pointer()), [b.add(offset, c)])
                return b.bitcast(place, ir.VectorType(word, lanes).as_pointer()), 4

            zero = ir.Constant(index, 0)
            places = {
                "charge": _vector(context, b, kinds[0], charge, b.add(at, c), lanes),
                "v": words(part(state, 0), here),
                "count": words(part(state, 1), here),
                "threshold": words(part(parameters, 0), zero),
                "leak": words(part(parameters, 1), zero),
                "out": _vector(context, b, kinds[6], out, b.add(o, c), lanes),
            }
            limits = [b.trunc(part(parameters, k), word) for k in (2, 3, 5, 6)]
            fired, near = _narrow(b, lanes, kinds[0].dtype, places, *limits)
            b.store(b.add(b.load(total), fired), total)
            b.store(b.or_(b.load(close), near), close)

        whole = b.and_(width, ir.Constant(index, -16))
        with cgutils.for_range_slice(b, ir.Constant(index, 0), whole, ir.Constant(index, 16), index) as (c, _):
            group(16, c)
        for lanes in (8, 4, 2, 1):
            left = b.and_(width, ir.Constant(index, lanes))
            with b.if_then(b.icmp_unsigned("!=", left, ir.Constant(index, 0))):
                group(lanes, b.and_(width, ir.Constant(index, -2 * lanes)))
        return b.add(b.load(total), b.shl(b.load(close), ir.Constant(word, 24)))

    return signature, generate


def _narrow(
    b: Any, lanes: int, kind: Any, places: dict[str, tuple[Any, int]], y_min: Any, y_max: Any, shift: Any, close: Any
) -> tuple[Any, Any]:
    """Instructions for ``lanes`` neurons: (how many fired, 1 if one was close to its threshold)."""
    word, bits = ir.IntType(32), ir.IntType(lanes)
    vector = ir.VectorType(word, lanes)

    def all_of(scalar: Any) -> Any:
        one = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(word, 0))
        return b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(vector, [0] * lanes))

    def constant(value: int, of: Any = vector) -> Any:
        return ir.Constant(of, [value] * lanes)

    def load(name: str) -> Any:
        return b.load(places[name][0], align=places[name][1])

    def store(value: Any, name: str) -> None:
        b.store(value, places[name][0], align=places[name][1])

    arriving = load("charge")
    if kind == types.int16:
        arriving = b.sext(arriving, vector)
    elif kind != types.int32:
        arriving = b.fptosi(arriving, vector)
    threshold, before = load("threshold"), load("count")
    now = b.sub(b.add(load("v"), b.shl(arriving, all_of(shift))), load("leak"))
    net = b.shl(before, constant(16))  # the lower half of the word
    up = b.and_(b.icmp_signed(">=", now, threshold), b.icmp_signed("<", net, all_of(y_max)))
    down = b.and_(b.icmp_signed("<=", now, b.neg(threshold)), b.icmp_signed(">", net, all_of(y_min)))
    store(b.select(down, b.add(now, threshold), b.select(up, b.sub(now, threshold), now)), "v")
    counted = b.select(down, b.add(before, constant(65535)), before)
    store(b.select(up, b.add(before, constant(65537)), counted), "count")
    byte = ir.VectorType(ir.IntType(8), lanes)
    store(b.select(up, constant(2, byte), b.select(down, constant(0, byte), constant(1, byte))), "out")
    size = b.select(b.icmp_signed("<", now, constant(0)), b.neg(now), now)
    distance = b.add(b.sub(size, threshold), all_of(close))
    near = b.icmp_unsigned("<", distance, all_of(b.add(close, close)))
    fired = b.ctpop(b.zext(b.bitcast(b.or_(up, down), bits), word))
    return fired, b.zext(b.icmp_unsigned("!=", b.bitcast(near, bits), ir.Constant(bits, 0)), word)


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """An address as ``numba.carray`` takes it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), generate
