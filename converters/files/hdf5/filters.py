"""What became of a chunk before it was stored (section IV.A.2.l): gzip, shuffle, both, or nothing.

No more than the declared bytes come out of a filter, and no less is accepted.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from converters.files.hdf5.source import Cursor, Refused, Source

__all__ = ["Filters", "filters"]

_GZIP, _SHUFFLE = 1, 2
_NAMES = {3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
_PIECE = 2**20  # bytes that are inflated at once


@dataclass(frozen=True)
class Filters:
    """Filters of a data set, in the order in which they were applied.

    Whether a chunk went through the k-th, bit k of its mask says: gzip is left out where it would not make it smaller.
    """

    kinds: tuple[int, ...] = ()
    width: int = 0  # of the elements that shuffle was made for; 0 where no chunk can have gone through it

    def decode(self, source: Source, at: int, stored: int, mask: int, out: np.ndarray) -> None:
        """Fill ``out``, the bytes of one chunk, from ``stored`` bytes of the file."""
        if mask >> len(self.kinds):
            raise Refused(f"a chunk that leaves out filters that are not there (mask {mask})")
        kinds = [kind for k, kind in enumerate(self.kinds) if not mask >> k & 1]
        if _GZIP in kinds:
            if stored > len(out) + len(out) // 16 + 64:  # nothing that gzip writes; input costs time, too
                raise Refused(f"a chunk of {len(out)} bytes that {stored} are stored for")
            _inflate(source.stream(at, stored), out)
        else:
            if stored != len(out):
                raise Refused(f"a chunk of {stored} bytes instead of {len(out)}")
            source.fill(at, out)
        if _SHUFFLE in kinds:
            if not self.width:
                raise Refused("a shuffle filter for elements of another size")
            out[:] = out.reshape(self.width, -1).T.reshape(-1)  # a copy: T is a view


def filters(body: bytes, width: int) -> Filters:
    """The filters of a data set whose elements have ``width`` bytes.

    >>> filters(bytes([2, 1, 3, 0, 0, 0, 0, 0]), 4)
    Traceback (most recent call last):
    converters.files.hdf5.source.Refused: the compression filters fletcher32; use gzip, shuffle before it, or none
    """
    message = Cursor(body)
    version, count = message.numbers(1, 2)
    if version not in (1, 2):
        raise Refused(f"filters of version {version}")
    message.raw(6 if version == 1 else 0)
    kinds: list[int] = []
    for _ in range(count):
        kind = message.number(2)
        length = message.number(2) if version == 1 or kind >= 256 else 0
        _, values = message.numbers(2, 2)
        message.raw(length)
        parameters = message.numbers(4, values)
        message.raw(4 if version == 1 and values % 2 else 0)
        kinds.append(kind)
        if kind == _SHUFFLE and parameters != (width,):  # the library leaves it out of chunks of references
            width = 0
    if tuple(kinds) not in ((), (_GZIP,), (_SHUFFLE,), (_SHUFFLE, _GZIP)):
        names = ", ".join({_GZIP: "gzip", _SHUFFLE: "shuffle", **_NAMES}.get(k, str(k)) for k in kinds[:8])
        raise Refused(f"the compression filters {names}", "use gzip, shuffle before it, or none")
    return Filters(tuple(kinds), width)


def _inflate(blocks: Iterator[bytes], out: np.ndarray) -> None:
    stream, done = zlib.decompressobj(), 0
    try:
        for block in blocks:
            if stream.eof:
                raise Refused("bytes behind the end of a compressed chunk")
            while True:
                piece = stream.decompress(block, min(_PIECE, len(out) - done + 1))
                if done + len(piece) > len(out):
                    raise Refused(f"a chunk that inflates to more than its {len(out)} bytes")
                out[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
                block = stream.unconsumed_tail
                if not piece and not block:
                    break
                if stream.eof:
                    break
    except zlib.error as error:
        raise Refused(f"a damaged chunk ({error})") from None
    if done != len(out) or not stream.eof or stream.unused_data:
        raise Refused(f"a chunk that inflates to {done} of {len(out)} bytes, or does not end there")
