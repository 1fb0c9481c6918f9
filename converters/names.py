"""Names that are given out once each, wherever nodes, layers or modules are named anew."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["LONGEST", "Names", "plain"]

LONGEST = 200
"""Characters of a name at the most, in a ``.nir`` file."""
_KEPT = 120  # of a layer's name: what is put behind it fits, too


class Names:
    """Hands out names that nothing else has, as near to what is wished for as can be.

    Examples
    --------
    >>> names = Names(["fc"])
    >>> [names.new("fc"), names.new("fc"), names.new("out")]
    ['fc_2', 'fc_3', 'out']
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}  # what to try first: many equal wishes take no longer than different ones

    def new(self, wish: str) -> str:
        """``wish``, or ``wish_2``, ``wish_3`` and so on; taken from now on."""
        name, k = wish, self._next.get(wish, 2)
        while name in self._taken:
            name, k = f"{wish}_{k}", k + 1
        self._next[wish] = k
        self._taken.add(name)
        return name


def plain(name: str) -> str:
    """The name in the characters that files and code generators take; different names can become equal.

    >>> plain("block.0/conv 1"), plain("0"), plain("")
    ('block.0_conv_1', '_0', 'layer')
    """
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name[:_KEPT]) or "layer"
    return name if name[0].isalpha() or name[0] == "_" else f"_{name}"
