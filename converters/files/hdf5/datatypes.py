"""What the elements of a data set are, and how many (sections IV.A.2.b and IV.A.2.d)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from converters.files.hdf5.source import Cursor, Refused

__all__ = ["Datatype", "datatype", "shape"]

_NUMBERS, _FLOATS, _TEXT, _COMPOUND, _ENUM, _VARIABLE, _COMPLEX = 0, 1, 3, 6, 8, 9, 11
_NAMES = {2: "time", 4: "bits", 5: "opaque", _COMPOUND: "compound or complex", 7: "reference", _ENUM: "enumeration",
          _VARIABLE: "sequence", 10: "array", _COMPLEX: "complex"}  # fmt: skip
# exponent's place, its bits, mantissa's bits, bias of IEEE numbers, by size
_IEEE = {2: (10, 5, 10, 15), 4: (23, 8, 23, 127), 8: (52, 11, 52, 1023)}
_MAX_AXES = 8
_MAX_EMPTY = 2**31  # product of the other axes of an array without elements


@dataclass(frozen=True)
class Datatype:
    """``stored``: elements in the file, ``V16`` for references to text; ``text`` and ``truth``: what they mean."""

    stored: np.dtype
    text: bool = False
    truth: bool = False


def datatype(body: bytes) -> Datatype:
    """Integers, IEEE floats, h5py's booleans and text; anything else is refused."""
    message = Cursor(body)
    kind = message.number(1) & 15
    bits, size = message.number(3), message.number(4)
    if kind in (_NUMBERS, _FLOATS):
        return Datatype(_number(kind, bits, size, message))
    if kind == _TEXT:
        if not 0 < size < 2**31:
            raise Refused(f"text of {size} bytes", "write it again")
        return Datatype(np.dtype(("S", size)), text=True)
    if kind == _VARIABLE and bits & 15 == 1 and size == 16:
        return Datatype(np.dtype("V16"), text=True)
    if kind == _ENUM and bits & 0xFFFF == 2 and size == 1 and message.number(1) & 15 == _NUMBERS:
        message.raw(11)  # of a number of one byte; then names, padded with zeros in earlier versions, and values
        if message.rest().replace(b"\0", b"") == b"FALSETRUE\x01":
            return Datatype(np.dtype(np.int8), truth=True)
    raise Refused(f"data of type {_NAMES.get(kind, kind)}", "NIR fields are numbers or text")


def _number(kind: int, bits: int, size: int, message: Cursor) -> np.dtype:
    order = ">" if bits & 1 else "<"
    if kind == _FLOATS and size not in _IEEE:
        raise Refused(f"floats of {size} bytes", "use float64 at most")
    offset, precision = message.numbers(2, 2)
    if offset or precision != 8 * size:
        raise Refused(f"numbers of {precision} bits at bit {offset} of {size} bytes", "use whole bytes")
    if kind == _NUMBERS:
        if size not in (1, 2, 4, 8):
            raise Refused(f"integers of {size} bytes", "use 8 at most")
        return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
    place, exponent, low, mantissa = message.numbers(1, 4)
    found = (place, exponent, mantissa, message.number(4))
    normal = bits & 0x40 == 0 and bits >> 4 & 3 == 2 and bits >> 8 & 255 == precision - 1 and low == 0
    if found != _IEEE[size] or not normal:
        raise Refused(f"floats of {size} bytes that are not IEEE's", "write it again")
    return np.dtype(f"{order}f{size}")


def shape(body: bytes) -> tuple[int, ...]:
    """Axes of a data set; an empty tuple for a scalar."""
    message = Cursor(body)
    version, axes = message.numbers(1, 2)
    if version not in (1, 2):
        raise Refused(f"a data space of version {version}")
    message.raw(1)
    kind = message.number(1)
    if version == 1:
        message.raw(4)
    elif kind == 2:
        axes = _MAX_AXES + 1  # without a shape
    if axes > _MAX_AXES:
        raise Refused(f"a data set without shape or with more than {_MAX_AXES} axes", "write it again")
    found = message.numbers(8, axes)
    if 0 in found and math.prod(n for n in found if n) > _MAX_EMPTY:
        raise Refused(f"an empty data set of shape {found}", "write it again")
    return found
