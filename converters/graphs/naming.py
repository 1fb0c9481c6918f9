"""Names that are given out once each, and that readers of graphs take, wherever something is named anew."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["LONGEST", "Names", "safe"]

LONGEST = 200
"""Characters of a name at the most, in a ``.nir`` file."""
_KEPT = 120  # of a layer's name: what is put behind it fits, too


class Names:
    """Hands out names, and never the same one twice.

    Parameters
    ----------
    taken : iterable of str
        Names that are not to be given out.

    Examples
    --------
    >>> names = Names(["image"])
    >>> [names.take(n) for n in ("fc.1", "fc-1", "fc_1", "1", "_1", "image")]
    ['fc.1', 'fc_1', 'fc_1_2', '_1', '_1_2', 'image_2']
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self._next: dict[str, int] = {}  # what to try first: many equal wishes take no longer than different ones

    def take(self, wanted: str) -> str:
        """``wanted``, or the next name to it that is safe (see :func:`safe`) and free."""
        return self.new(safe(wanted))

    def new(self, wanted: str) -> str:
        """``wanted`` as it is, or ``wanted_2``, ``wanted_3`` and so on; taken from now on."""
        name, k = wanted, self._next.get(wanted, 2)
        while name in self.taken:
            name, k = f"{wanted}_{k}", k + 1
        self._next[wanted] = k
        self.taken.add(name)
        return name


def safe(name: str) -> str:
    """A name in the characters that files and code generators take; different names can become equal.

    It has letters, digits, ``_`` and ``.``, and begins with a letter or ``_``; whatever else there is becomes ``_``.

    >>> safe("block.0/conv 1"), safe("0"), safe("")
    ('block.0_conv_1', '_0', 'layer')
    """
    name = re.sub(r"[^A-Za-z0-9_.]", "_", name[:_KEPT]) or "layer"
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"
