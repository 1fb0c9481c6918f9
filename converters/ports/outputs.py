"""What a network returns: layers' outputs in the structure that the model returned them in, and functions behind them.

A structure is an :class:`Output`, or a tuple, list or dictionary of structures; ``None`` stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from converters.errors import ConversionError
from converters.ports.tails import Tail, apply, shape_behind

__all__ = [
    "Output",
    "as_outputs",
    "check_outputs",
    "described",
    "from_json",
    "leaves",
    "mapped",
    "placed",
    "places",
    "returned",
    "to_json",
]

Place = tuple[str | int, ...]

_MOST = 1000  # outputs, and parts of a structure
_DEEPEST = 16


@dataclass(frozen=True)
class Output:
    """A layer's output in real units, and the functions that run in float on it, in their order."""

    layer: str
    tail: tuple[Tail, ...] = ()

    def __str__(self) -> str:
        return " -> ".join([self.layer, *map(str, self.tail)])


def as_outputs(structure: Any) -> Any:
    """A structure with an :class:`Output` for each name of a layer; named tuples become tuples.

    Raises
    ------
    ConversionError
        For anything else in it, an unbounded one, or one without an output.

    >>> as_outputs({"out": "fc", "aux": ["a", None]})
    {'out': Output(layer='fc', tail=()), 'aux': [Output(layer='a', tail=()), None]}
    """
    count = 0

    def read(part: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > _MOST or depth > _DEEPEST:
            raise ConversionError("outputs", "a structure without end", f"at most {_MOST} parts, {_DEEPEST} deep")
        if part is None or type(part) is Output:
            return part
        if type(part) is str:
            return Output(part)
        if isinstance(part, tuple):
            return tuple(read(p, depth + 1) for p in part)
        if type(part) is list:
            return [read(p, depth + 1) for p in part]
        if isinstance(part, Mapping) and all(type(key) in (str, int) for key in part):
            return {key: read(p, depth + 1) for key, p in part.items()}
        raise ConversionError("outputs", f"a {type(part).__name__}", "give layers, in tuples, lists and dictionaries")

    found = read(structure, 0)
    if not any(True for _ in leaves(found)):
        raise ConversionError("outputs", "none", "a network returns at least one layer's output")
    return found


def check_outputs(structure: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise a ConversionError unless every output is one of the layers of ``shapes``, whose shape its tail takes."""
    for output in leaves(structure):
        if output.layer not in shapes:
            raise ConversionError("outputs", f"{output.layer!r}, which is no layer", "name layers of the network")
        shape_behind(output.layer, output.tail, shapes[output.layer])


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """The same structure of ``function``'s results.

    >>> mapped(len, {"a": "one", "b": ("seven", None)})
    {'a': 3, 'b': (5, None)}
    """
    return placed(lambda place, leaf: function(leaf), structure)


def placed(function: Callable[[Place, Any], Any], structure: Any, place: Place = ()) -> Any:
    """As :func:`mapped`, of a function that takes the keys and indices that lead to a leaf, too.

    >>> placed(lambda place, leaf: (*place, leaf), {"a": ["one", None]})
    {'a': [('a', 0, 'one'), None]}
    """
    if structure is None:
        return None
    if isinstance(structure, tuple):
        return tuple(placed(function, part, (*place, k)) for k, part in enumerate(structure))
    if isinstance(structure, list):
        return [placed(function, part, (*place, k)) for k, part in enumerate(structure)]
    if isinstance(structure, Mapping):
        return {key: placed(function, part, (*place, key)) for key, part in structure.items()}
    return function(place, structure)


def places(structure: Any) -> Iterator[tuple[Place, Any]]:
    """Every leaf, in order, with the keys and indices that lead to it.

    >>> [(place, leaf) for place, leaf in places({"a": "one", "b": ("two", None)})]
    [(('a',), 'one'), (('b', 0), 'two')]
    """
    found: list[tuple[Place, Any]] = []
    placed(lambda place, leaf: found.append((place, leaf)), structure)
    return iter(found)


def leaves(structure: Any) -> Iterator[Any]:
    """Every leaf, in order."""
    return (leaf for _, leaf in places(structure))


def returned(structure: Any, values: Mapping[str, Tensor]) -> Any:
    """The structure of results: of each :class:`Output` its functions, of its layer's float64 ``values``."""
    return mapped(lambda output: apply(output.tail, values[output.layer]), structure)


def described(structure: Any) -> list[str]:
    """One line for each output, for people.

    >>> described({"out": Output("fc", (Tail("softmax", {"dim": 1}),))}), described(Output("fc"))
    (['out: fc -> softmax(dim=1)'], ['fc'])
    """
    found = [(".".join(map(str, place)), str(leaf)) for place, leaf in places(structure)]
    return [f"{place}: {text}" if place else text for place, text in found]


def to_json(structure: Any) -> Any:
    """As JSON holds it: kinds of containers by name, keys in their order.

    >>> to_json({"out": Output("fc"), 3: (Output("b", (Tail("sigmoid"),)),)})
    {'dict': [['out', {'layer': 'fc', 'tail': []}],
              [3, {'tuple': [{'layer': 'b', 'tail': [['sigmoid', {}]]}]}]]}
    """
    if structure is None:
        return None
    if isinstance(structure, tuple):
        return {"tuple": [to_json(part) for part in structure]}
    if isinstance(structure, list):
        return {"list": [to_json(part) for part in structure]}
    if isinstance(structure, Mapping):
        return {"dict": [[key, to_json(part)] for key, part in structure.items()]}
    tail = [
        [t.function, {k: list(v) if type(v) is tuple else v for k, v in t.parameters.items()}] for t in structure.tail
    ]
    return {"layer": structure.layer, "tail": tail}


def from_json(value: Any) -> Any:
    """The structure that :func:`to_json` wrote.

    Raises
    ------
    ConversionError
        For anything else.
    """
    return as_outputs(_read(value, 0))


def _read(value: Any, depth: int) -> Any:
    if value is None:
        return None
    if depth > _DEEPEST or type(value) is not dict:
        raise ConversionError("outputs", f"{str(value)[:60]!r}", "structures are written as to_json does")
    if set(value) == {"layer", "tail"} and type(value["layer"]) is str:
        return Output(value["layer"], tuple(_tail(part) for part in _list(value["tail"])))
    if len(value) != 1:
        raise ConversionError("outputs", f"{sorted(map(str, value))[:5]}", "structures are written as to_json does")
    ((kind, parts),) = value.items()
    if kind == "dict":
        pairs = [_list(pair, 2) for pair in _list(parts)]
        if not all(type(key) in (str, int) for key, _ in pairs) or len({key for key, _ in pairs}) < len(pairs):
            raise ConversionError("outputs", "keys that are no names, or twice the same", "write the file again")
        return {key: _read(part, depth + 1) for key, part in pairs}
    found = [_read(part, depth + 1) for part in _list(parts)]
    if kind not in ("tuple", "list"):
        raise ConversionError("outputs", f"a {str(kind)[:60]!r}", "there are tuples, lists and dictionaries")
    return tuple(found) if kind == "tuple" else found


def _list(value: Any, length: int | None = None) -> list[Any]:
    if type(value) is not list or len(value) > _MOST or (length is not None and len(value) != length):
        raise ConversionError("outputs", f"{str(value)[:60]!r}", "structures are written as to_json does")
    return value


def _tail(value: Any) -> Tail:
    name, parameters = _list(value, 2)
    return Tail(name, parameters)
