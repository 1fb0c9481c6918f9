"""What the JSON of a quantised network's file must be: every entry by its type and bounds."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from converters.errors import FileFormatError

__all__ = ["Description", "InputEntry", "LayerEntry", "SynapseEntry", "described"]

_LARGEST_LEVEL = 2**31
_LARGEST_NETWORK = 2**28
"""Neurons of all layers."""
_MOST_OPERATIONS = 20_000

_Name = Annotated[str, Field(min_length=1, max_length=500)]
_Shape = Annotated[list[Annotated[int, Field(ge=1, le=_LARGEST_NETWORK)]], Field(min_length=1, max_length=8)]
_Low = Annotated[int, Field(ge=-_LARGEST_LEVEL, le=0)]
_High = Annotated[int, Field(ge=0, le=_LARGEST_LEVEL)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class InputEntry(_Entry):
    """See :class:`converters.quantised.InputSpec`."""

    shape: _Shape
    scale: float
    q_min: _Low
    q_max: _High
    name: _Name = "input"
    tokens: bool = False
    """Whether there is a table of theirs among the tensors."""


class SynapseEntry(_Entry):
    """Sources, and operations by name and fields (:mod:`converters.operations.building` knows them)."""

    source: _Name | Annotated[list[_Name], Field(min_length=1, max_length=1000)]
    ops: Annotated[list[dict[str, Any]], Field(max_length=1000)]


class LayerEntry(_Entry):
    """See :class:`converters.quantised.Layer`."""

    name: _Name
    y_min: _Low
    y_max: _High
    scale: float
    shape: _Shape
    tie: _Name
    spiking: bool
    synapses: Annotated[list[SynapseEntry], Field(max_length=10_000)]


class Description(_Entry):
    """All of it."""

    source: str
    input: InputEntry
    layers: Annotated[list[LayerEntry], Field(max_length=10_000)]
    notes: dict[str, Any]
    checked: dict[str, Any] | None = None
    more_inputs: Annotated[list[InputEntry], Field(max_length=1000)] = Field(default_factory=list)
    outputs: dict[str, Any] | None = None
    """As :func:`converters.ports.outputs.to_json` has it, which checks it itself; none: the last layer's."""

    @model_validator(mode="after")
    def _bounded(self) -> Description:
        neurons = sum(math.prod(layer.shape) for layer in self.layers)
        neurons += sum(math.prod(spec.shape) for spec in (self.input, *self.more_inputs))
        if neurons > _LARGEST_NETWORK:
            raise ValueError(f"{neurons:,} neurons; at most {_LARGEST_NETWORK:,} are read")
        operations = sum(len(synapse.ops) for layer in self.layers for synapse in layer.synapses)
        if operations > _MOST_OPERATIONS:
            raise ValueError(f"{operations:,} operations; at most {_MOST_OPERATIONS:,} are read")
        return self


def described(where: str, value: Any, todo: str) -> Description:
    """The description in a file's JSON.

    Raises
    ------
    FileFormatError
        That names the first entry that is not as it must be.

    >>> described("q.safetensors", {"source": 3}, "train again")
    Traceback (most recent call last):
    converters.errors.FileFormatError: q.safetensors: found an incomplete description (source: input should be a valid
    string, found 3); train again
    """
    try:
        return Description.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        reason = f"{message[:1].lower()}{message[1:]}"
        found = "" if first["type"] in ("missing", "value_error") else f", found {str(first['input'])[:80]}"
        where_in = f"{place}: " if place else ""
        raise FileFormatError(where, f"an incomplete description ({where_in}{reason}{found})", todo) from None
