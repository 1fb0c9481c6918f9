"""Names that readers of graphs take, one for each name that comes in."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Names"]

_LENGTH = 160  # files take 200; the rest is for what is appended


class Names:
    """Makes names safe, and never two of them alike.

    A name may have letters, digits, ``_`` and ``.``, and begins with a letter or ``_``. Whatever else there is becomes
    ``_``; a name that is taken gets another ``_`` at its end.

    Parameters
    ----------
    taken : iterable of str
        Names that are not to be given out.

    >>> names = Names(["image"])
    >>> [names.take(n) for n in ("fc.1", "fc-1", "fc_1", "1", "_1", "image")]
    ['fc.1', 'fc_1', 'fc_1_', '_1', '_1_', 'image_']
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)

    def take(self, wanted: str) -> str:
        """``wanted``, or the next name to it that is safe and free."""
        name = re.sub(r"[^A-Za-z0-9_.]", "_", wanted[:_LENGTH])
        if not re.match(r"[A-Za-z_]", name):
            name = f"_{name}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name
