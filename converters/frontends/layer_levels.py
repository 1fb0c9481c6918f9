"""How many levels each layer has: one number for all, or numbers by module path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from numbers import Real
from typing import Any

from converters.errors import ConversionError
from converters.graphs.naming import safe

__all__ = ["LARGEST", "LayerLevels", "LevelNumbers", "check_level"]

LevelNumbers = int | Mapping[str, int]
LARGEST = 32767
_DEFAULT = 127
_SHOWN = 12  # names in a message
_LONGEST = 80  # characters of a name


@dataclass(frozen=True)
class LayerLevels:
    """Numbers of levels by module path; the longest path that a layer lies in decides.

    A layer lies in its own path and in those of the modules around it. ``""`` is the whole network: the number of all
    layers that lie in no other path, 127 by default. A path may also be written as the converted network has it, where
    ``0`` is ``_0``.

    Attributes
    ----------
    rest : int
        Of the path ``""``.
    by_path : dict of int
        Of all others.
    """

    rest: int = _DEFAULT
    by_path: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, levels: LevelNumbers) -> LayerLevels:
        """From what a user gives.

        Raises
        ------
        ConversionError
            For a number that is not whole or not from 1 to 32767, and for a path that is no text, or is there twice.

        >>> asked = LayerLevels.of({"": 15, "features": 31, "features.0": 127})
        >>> [asked.at(path) for path in ("features.0", "features.0.conv", "features.01", "head")]
        [127, 127, 31, 15]
        """
        if not isinstance(levels, Mapping):
            return cls(check_level("levels", levels))
        found: dict[str, int] = {}
        written: dict[str, str] = {}
        for path, number in levels.items():
            if not isinstance(path, str):
                raise ConversionError("levels", f"the path {path!r}", 'give module paths, such as "features.0"')
            if path and safe(path) in written:
                todo = "give one number for it"
                raise ConversionError("levels", f"{written[safe(path)]!r} and {path!r}, which are one path", todo)
            written[safe(path)] = path
            found[path] = check_level(f"levels of {path!r}" if path else "levels", number)
        return cls(found.pop("", _DEFAULT), found)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> LayerLevels:
        """From words of a command line: ``15``, ``features.0=127``.

        >>> LayerLevels.parse(["15", "features.0=127"])
        LayerLevels(rest=15, by_path={'features.0': 127})
        """
        found: dict[str, int] = {}
        for text in texts:
            path, _, number = text.rpartition("=")
            if path in found:
                raise ConversionError("--levels", f"two numbers for {path or 'all layers'}", "give one")
            if not number.strip().isdecimal():
                raise ConversionError("--levels", f"{text!r}", "give a number, or PATH=NUMBER for the layers in a path")
            found[path] = check_level(f"--levels {text}", int(number))
        return cls.of(found)

    @property
    def plain(self) -> int | dict[str, int]:
        """As a user would give it: one number where it is one for all."""
        return {"": self.rest, **self.by_path} if self.by_path else self.rest

    @property
    def largest(self) -> int:
        return max([self.rest, *self.by_path.values()])

    @property
    def notes(self) -> dict[str, Any]:
        """What a file's notes say: ``levels``, the largest, and ``levels_by_layer`` where there are several."""
        return {"levels": self.largest} | ({"levels_by_layer": self.plain} if self.by_path else {})

    @property
    def name(self) -> str:
        """Short and without a hyphen, for the names of files; of many paths a digest.

        >>> LayerLevels.of(8).name, LayerLevels.of({"": 15, "features.0": 127}).name
        ('8', '15+features.0=127')
        """
        if not self.by_path:
            return str(self.rest)
        text = "+".join(sorted(f"{safe(path)}={number}" for path, number in self.by_path.items()))
        short = text if len(text) <= _LONGEST else sha256(text.encode()).hexdigest()[:12]
        return f"{self.rest}+{short}"

    @property
    def words(self) -> list[str]:
        """What :meth:`parse` takes."""
        return [str(self.rest), *(f"{path}={number}" for path, number in self.by_path.items())]

    def at(self, path: str) -> int:
        """The number of the layer at a module path."""
        around = [known for known in self.by_path if _lies_in(path, known)]
        return self.by_path[max(around, key=len)] if around else self.rest

    def check_paths(self, layers: Collection[str]) -> None:
        """Raise a ConversionError for a path in which none of the layers, given by their own, lies."""
        for path in self.by_path:
            if not any(_lies_in(layer, path) for layer in layers):
                names = list(dict.fromkeys(layers))
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                found = "a path in which no layer with levels lies"
                todo = f"layers are {', '.join(names[:_SHOWN])}{more}"
                raise ConversionError(f"levels of {path!r}", found, todo)


def _lies_in(layer: str, path: str) -> bool:
    own, around = safe(layer), safe(path)
    return own == around or own.startswith(f"{around}.")


def check_level(name: str, value: object) -> int:
    """A number of levels; a ConversionError unless it is a whole number from 1 to 32767."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 1 <= value <= LARGEST or value != int(value):
        raise ConversionError(name, f"{value!r}", f"use a whole number from 1 to {LARGEST}")
    return int(value)
