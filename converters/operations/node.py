"""The NIR node of an operation that NIR has no node for: its name, its settings and its arrays. Data only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import nir
import numpy as np
import torch

from converters.errors import ConversionError
from converters.operations.building import build_operation, tensor_fields
from converters.operations.contract import OPERATIONS, Operation, Shape
from converters.reading import parse_json

__all__ = ["CaLIFOperation", "known_nodes", "operations_by_node", "settings_of"]


def settings_of(op: Operation) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """An operation's fields: plain values, and tensors. With its class, they are the whole operation."""
    plain: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    for f in fields(op):  # type: ignore[arg-type]  # every operation is a dataclass
        value = getattr(op, f.name)
        (tensors if isinstance(value, torch.Tensor) else plain)[f.name] = value
    return plain, tensors


def operations_by_node() -> dict[type[nir.NIRNode], Callable[[str, Any], tuple[Operation, np.ndarray | None]]]:
    """What reads each type of node that stands for an operation: name and node, to the operation and a bias or None."""
    stock = {node: op.from_node for op in OPERATIONS.values() for node in op.node_types}
    return {**stock, CaLIFOperation: lambda name, node: (node.build(name), None)}


def known_nodes() -> list[str]:
    """Names of the nodes that a Ca-LIF network may have."""
    return ["CaLIF", "SpikeEncoder", *(node.__name__ for node in operations_by_node())]


@dataclass(eq=False)
class CaLIFOperation(nir.NIRNode):
    """An operation between Ca-LIF layers that no stock node stands for (see :mod:`converters.operations`).

    Parameters
    ----------
    operation : str
        Its name in :data:`converters.operations.OPERATIONS`.
    settings : str
        Its plain fields, as JSON.
    arrays : dict of int arrays
        Its tensors, by field.
    sources : str
        Names of the nodes that feed it, in order, as a JSON list; empty where there is just one. NIR's edges have no
        order, and not every operation is symmetric.
    """

    operation: str
    settings: str = "{}"
    arrays: dict[str, Any] = field(default_factory=dict)
    sources: str = ""

    def __post_init__(self) -> None:
        self.input_type = {"input": None}
        self.output_type = {"output": None}

    @classmethod
    def of(cls, op: Operation, shapes: Sequence[Shape]) -> CaLIFOperation:
        """The node of an operation; who writes a graph sets ``sources`` where there are several ``shapes``."""
        plain, tensors = settings_of(op)
        return cls(type(op).__name__, json.dumps(plain), {k: v.cpu().numpy() for k, v in tensors.items()})

    def build(self, where: str) -> Operation:
        """The operation itself.

        Raises
        ------
        ConversionError
            For an operation that is not registered here, or fields that it does not take.
        """
        tensor_fields(where, self.operation)  # that it is known, before its fields are looked at
        arrays = {k: np.asarray(v) for k, v in self.arrays.items()}
        for name, array in arrays.items():
            if array.dtype.kind not in "iu" or (np.abs(array.astype(np.float64)) >= 2**53).any():
                raise ConversionError(f"{where}.{name}", f"values of type {array.dtype}", "give integers below 2**53")
        plain = parse_json(where, self.settings, "write it again")
        if not isinstance(plain, dict):
            raise ConversionError(where, f"settings that {self.operation} refuses (no object)", "write it again")
        signed = {k: v.astype(np.int64) if v.dtype.kind == "u" else v for k, v in arrays.items()}
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in signed.items()}
        return build_operation(where, self.operation, plain, tensors)

    @property
    def order(self) -> tuple[str, ...]:
        """Names of the nodes that feed it, where that is more than one.

        Raises
        ------
        ConversionError
            If ``sources`` is no such list: files of strangers say anything.
        """
        if not self.sources:
            return ()
        where, todo = f"{self.operation}.sources", "give a JSON list of names, or write the file again"
        names = parse_json(where, self.sources, todo)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ConversionError(where, f"{self.sources[:80]!r}, which is no list of names", todo)
        return tuple(names)
