"""A model as the reader walks it: nodes in order, constants, inputs and outputs, all looked at before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, defs

from converters.errors import ConversionError, FileFormatError
from converters.frontends.onnx.tensors import array_of, count_of, kind_of

__all__ = ["DOMAIN", "MICROSOFT", "QONNX", "Graph", "Input", "Node", "graph_of", "needed"]

DOMAIN = ""
MICROSOFT = "com.microsoft"
QONNX = "qonnx.custom_op.general"
_QONNX = (QONNX, "onnx.brevitas", "finn.custom_op.general")  # what it has been called
_OLDEST = 13
_TODO = "export the model again"


@dataclass(frozen=True)
class Input:
    """An input of the network: sizes, which are names where they are not fixed, and type of its values."""

    name: str
    dims: tuple[int | str, ...]
    kind: np.dtype


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: names of the tensors that it takes ("" for one that is left out) and gives."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = DOMAIN
    label: str = ""
    version: int = 0
    proto: NodeProto | None = None

    @property
    def name(self) -> str:
        """Where it stands, for layers and errors: ``/features/0/Conv`` is ``features.0.Conv``."""
        return (self.label or next(filter(None, self.outputs), self.op)).strip("/").replace("/", ".") or self.op

    def with_op(self, op: str, **changes: Any) -> Node:
        """Another operation of the standard in its place."""
        return replace(self, op=op, domain=DOMAIN, proto=None, **changes)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which each stands behind what it takes."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    nodes: tuple[Node, ...]
    version: int
    """Of the standard's operations."""


def graph_of(model: ModelProto) -> Graph:
    """The graph of a model whose functions are inlined, and whose values are all in it.

    Raises
    ------
    FileFormatError
        For a graph that is none: names that nothing gives or that are given twice, tensors that are not as declared.
    ConversionError
        For a version of the standard that is not read.
    """
    versions = _versions(model)
    graph = model.graph
    if graph.sparse_initializer:
        raise ConversionError("model", "sparse initialisers", "store them as dense tensors")
    constants = {t.name: array_of(t.name or "an initialiser", t) for t in graph.initializer}
    inputs = tuple(_input(info) for info in graph.input if info.name not in constants)
    if not inputs:
        raise FileFormatError("model", "no input", _TODO)
    outputs = tuple(info.name for info in graph.output)
    if not outputs or len(set(outputs)) < len(outputs):
        raise FileFormatError("model", f"{len(outputs)} outputs, or some of one name", _TODO)
    known = {*constants, *(x.name for x in inputs)}
    if len(known) < len(constants) + len(inputs) or "" in known:
        raise FileFormatError("model", "inputs or initialisers that share a name, or have none", _TODO)
    nodes = needed(tuple(_node(node, versions) for node in _checked(graph, known)), outputs)
    return Graph(inputs, outputs, constants, nodes, versions[DOMAIN])


def needed(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[Node, ...]:
    """The nodes on which outputs depend, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(filter(None, node.inputs))
            kept.append(node)
    return tuple(reversed(kept))


def _versions(model: ModelProto) -> dict[str, int]:
    found = {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in model.opset_import}
    newest = defs.onnx_opset_version()
    version = found.setdefault(DOMAIN, 1)
    if version < _OLDEST:
        raise ConversionError("model", f"opset {version}", f"export it with opset {_OLDEST} or a later one")
    if version > newest:
        raise ConversionError("model", f"opset {version}", f"the installed onnx knows {newest}: install a newer one")
    return found


def _input(info: ValueInfoProto) -> Input:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ConversionError(info.name, f"an input of kind {kind}", "give tensors")
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        raise ConversionError(info.name, "an input without a shape", "export the model with one")
    dims = tuple(
        int(d.dim_value) if d.WhichOneof("value") == "dim_value" else d.dim_param or f"axis {k}"
        for k, d in enumerate(tensor.shape.dim)
    )
    count_of(info.name, tuple(d for d in dims if isinstance(d, int)))
    return Input(info.name, dims, kind_of(info.name, tensor.elem_type))


def _checked(graph: GraphProto, known: set[str]) -> Iterator[NodeProto]:
    """All nodes, each behind what it takes."""
    known = set(known)
    for node in graph.node:
        where = node.name or node.op_type
        for name in node.input:
            if name and name not in known:
                found = f"the input {name[:80]!r}, which nothing in front of it gives"
                raise FileFormatError(where, found, "put the nodes in order, without a cycle, and keep initialisers")
        for name in filter(None, node.output):
            if name in known:
                raise FileFormatError(where, f"the output {name[:80]!r}, which something else gives as well", _TODO)
            known.add(name)
        yield node
    for info in graph.output:
        if info.name not in known:
            raise FileFormatError("model", f"the output {info.name[:80]!r}, which nothing gives", _TODO)


def _node(node: NodeProto, versions: Mapping[str, int]) -> Node:
    domain = {"ai.onnx": DOMAIN, **dict.fromkeys(_QONNX, QONNX)}.get(node.domain, node.domain)
    where = node.name or next(iter(node.output), node.op_type)
    attributes = {a.name: _attribute(f"{where}.{a.name}", a) for a in node.attribute}
    version = versions.get(domain, versions.get(node.domain, 1))
    return Node(node.op_type, tuple(node.input), tuple(node.output), attributes, domain, node.name, version, node)


def _attribute(where: str, a: AttributeProto) -> Any:
    if a.ref_attr_name:
        raise FileFormatError(where, "a reference to a function's attribute, outside of one", _TODO)
    if a.type == AttributeProto.TENSOR:
        return array_of(where, a.t)
    if a.type == AttributeProto.STRING:
        return a.s.decode("utf-8", "replace")
    if a.type == AttributeProto.STRINGS:
        return [s.decode("utf-8", "replace") for s in a.strings]
    plain = {AttributeProto.INT: "i", AttributeProto.FLOAT: "f"}
    if a.type in plain:
        return getattr(a, plain[a.type])
    several = {AttributeProto.INTS: "ints", AttributeProto.FLOATS: "floats"}
    if a.type in several:
        return list(getattr(a, several[a.type]))
    return a  # a graph, a type...: no operation that is converted has one
