"""Vector operations that Numba's loop vectoriser does not find by itself, as LLVM vector instructions.

Short rows at addresses known only at run time stay scalar there (40 ns for a spike's weights where these
take 6). LLVM makes whatever the processor has out of them: AVX-512, AVX2, NEON or single words.

``add_lanes(target, at, source, k)`` and ``subtract_lanes``: 32 elements of the flat integer array ``source`` from
``k`` on, added to those of ``target``, of as many bits or more, from ``at`` on. ``fired64(x, at)``: bit ``k`` says
that byte ``at + k`` of the flat uint8 array is not 1, a spike. ``first_bit(mask)``: the number of the lowest 1.
Nothing is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["LANES", "add_lanes", "fired64", "first_bit", "subtract_lanes", "vector"]

LANES = 32


def vector(context: Any, builder: Any, kind: Any, array: Any, at: Any, lanes: int) -> tuple[Any, int]:
    """Pointer to ``lanes`` elements of an array from ``at`` on, and their size in bytes."""
    element = context.get_data_type(kind.dtype)
    data = context.make_array(kind)(context, builder, array).data
    pointer = builder.bitcast(builder.gep(data, [at]), ir.VectorType(element, lanes).as_pointer())
    return pointer, kind.dtype.bitwidth // 8


def _accumulate(name: str) -> Any:
    @intrinsic
    def lanes(typing: Any, target: Any, at: Any, source: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, size = vector(context, builder, signature.args[0], args[0], args[1], LANES)
            of, narrow = vector(context, builder, signature.args[2], args[2], args[3], LANES)
            given = builder.load(of, align=narrow)
            if narrow < size:
                given = builder.sext(given, to.type.pointee)
            total = getattr(builder, name)(builder.load(to, align=size), given)
            builder.store(total, to, align=size)
            return context.get_dummy_value()

        return types.void(target, types.intp, source, types.intp), generate

    return lanes


add_lanes = _accumulate("add")
subtract_lanes = _accumulate("sub")


@intrinsic
def fired64(typing: Any, x: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = vector(context, builder, signature.args[0], args[0], args[1], 64)
        ones = ir.Constant(ir.VectorType(ir.IntType(8), 64), [1] * 64)
        return builder.bitcast(builder.icmp_unsigned("!=", builder.load(pointer, align=1), ones), ir.IntType(64))

    return types.uint64(x, types.intp), generate


@intrinsic
def first_bit(typing: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(types.uint64), generate
