"""Operations from files: their fields are checked against the types that the operation declares, before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from converters.errors import ConversionError, first_line
from converters.operations.contract import OPERATIONS, Operation

__all__ = ["LARGEST_WEIGHT", "build_operation", "tensor_fields"]

LARGEST_WEIGHT = 2**24
"""Limit of a stored weight's size: what float32 holds exactly."""
_LARGEST_NUMBER = 2**31  # of a plain field; ratios of scales are integers of 30 bits
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def tensor_fields(where: str, name: str) -> tuple[str, ...]:
    """The fields of an operation that are tensors.

    Raises
    ------
    ConversionError
        If there is no such operation here.

    >>> tensor_fields("fc", "Linear")
    ('weight',)
    """
    if type(name) is not str or name not in OPERATIONS:
        known = ", ".join(sorted(OPERATIONS))
        raise ConversionError(where, f"the unknown operation {str(name)[:80]!r}", f"known here are {known}")
    return _types(OPERATIONS[name])[1]


def build_operation(where: str, name: str, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Operation:
    """An operation of a file.

    Parameters
    ----------
    where : str
        For messages.
    name : str
        In :data:`converters.operations.OPERATIONS`.
    plain : mapping
        Its fields that are no tensors, as JSON has them: lists stand for tuples.
    tensors : mapping of integer tensors

    Raises
    ------
    ConversionError
        If there is no such operation, or it does not take such fields; if weights are no integers, or beyond
        :data:`LARGEST_WEIGHT` (or the operation's own :attr:`~converters.operations.Operation.limits`).

    >>> build_operation("both", "Concatenate", {"axis": 1}, {})
    Concatenate(flat=False, axis=1)
    """
    known = tensor_fields(where, name)
    cls = OPERATIONS[name]
    types = _types(cls)[0]
    values: dict[str, Any] = {}
    for key, value in plain.items():
        if key not in types:
            raise ConversionError(where, f"{name} with a field {str(key)[:80]!r}", "it has none of this name")
        try:
            values[key] = types[key].validate_python(_tuples(value))
        except ValidationError as error:
            found = f"{name}.{key} = {str(value)[:80]}"
            raise ConversionError(where, found, _reason(error)) from None
        most = cls.limits.get(key, _LARGEST_NUMBER)
        if any(abs(x) > most for x in _numbers(values[key])):
            raise ConversionError(where, f"{name}.{key} = {str(value)[:80]}", f"at most {most:,}")
    for key, tensor in tensors.items():
        if key not in known:
            raise ConversionError(where, f"{name} with a tensor {key[:80]!r}", "it has none of this name")
        if tensor.dtype not in _INTEGERS:
            raise ConversionError(where, f"{name}.{key} of type {tensor.dtype}", "give integers")
        limit = cls.limits.get(key, LARGEST_WEIGHT)
        if tensor.numel() and max(abs(int(x)) for x in tensor.aminmax()) > limit:
            raise ConversionError(where, f"{name}.{key} beyond {limit:,}", "use smaller weights")
    missing = [n for n in _types(cls)[2] if n not in values and n not in tensors]
    if missing:
        raise ConversionError(where, f"{name} without its {missing[0]}", "write it again")
    try:
        return cls(**values, **tensors)
    except ConversionError as error:
        raise ConversionError(where, error.found, error.todo) from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        found = first_line(error)[:100]
        raise ConversionError(where, f"settings that {name} refuses ({found})", "write it again") from None


@cache
def _types(cls: type[Operation]) -> tuple[dict[str, TypeAdapter[Any]], tuple[str, ...], tuple[str, ...]]:
    """What checks each plain field, the names of the tensors, and of all fields that have to be there."""
    hints = get_type_hints(cls)
    own = [f for f in fields(cls) if f.init]  # type: ignore[arg-type]  # every operation is a dataclass
    plain = {f.name: TypeAdapter(hints[f.name], config=_STRICT) for f in own if hints[f.name] is not Tensor}
    needed = tuple(f.name for f in own if f.default is MISSING and f.default_factory is MISSING)
    return plain, tuple(f.name for f in own if hints[f.name] is Tensor), needed


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _numbers(value: Any) -> list[float]:
    if isinstance(value, tuple):
        return [x for v in value for x in _numbers(v)]
    return [value] if isinstance(value, int | float) else []


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return first["msg"][:1].lower() + first["msg"][1:]
