"""How networks and results show themselves at a prompt: in a line, and without their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from converters.console.printing import printable

__all__ = ["layer_line", "many", "named_shapes", "shown"]

_ALL = 8  # lines of a list of layers; of more the first and the last ones


def many(n: int, what: str) -> str:
    """A number and its noun.

    >>> many(1, "layer"), many(10_000, "image")
    ('1 layer', '10,000 images')
    """
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def named_shapes(shapes: Mapping[str, Iterable[int]]) -> str:
    """Names with their shapes.

    >>> named_shapes({"input": (1, 28, 28), "fc": (10,)})
    'input (1, 28, 28), fc (10,)'
    """
    return ", ".join(f"{name} {tuple(map(int, shape))}" for name, shape in shapes.items())


def layer_line(name: str, shape: Iterable[int], synapses: Iterable[Any], limits: str) -> str:
    """A layer: where its charges come from, and the range of its counts; ``limits`` is empty where it has none."""
    charges = " + ".join(map(str, synapses))
    return printable(f"{named_shapes({name: shape})}: {charges}; {f'counts {limits}' if limits else 'no spikes'}")


def shown(kind: Any, *facts: str, rows: Iterable[str] = ()) -> str:
    """``<Kind: facts>``, and rows below it, of which a long list shows the first and the last ones.

    >>> print(shown(dict, "2 layers", "T = 8", rows=["a", "b"]))
    <dict: 2 layers, T = 8
      a
      b>
    """
    lines = list(rows)
    if len(lines) > _ALL:
        half = _ALL // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} more", *lines[-half:]]
    first = f"<{kind.__name__}: {', '.join(fact for fact in facts if fact)}"
    return "\n  ".join(map(printable, [first, *lines])) + ">"  # names may be a stranger's
