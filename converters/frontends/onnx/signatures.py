"""What the standard says that an operation takes and gives, before anybody counts on it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

from onnx import AttributeProto, defs

from converters.errors import FileFormatError
from converters.frontends.onnx.graph import DOMAIN, Graph, Node

__all__ = ["check_signatures"]

_TYPES = {n: getattr(defs.OpSchema.AttrType, name, None) for name, n in AttributeProto.AttributeType.items()}
_TODO = "export the model again"
_OPTIONAL, _VARIADIC = defs.OpSchema.FormalParameterOption.Optional, defs.OpSchema.FormalParameterOption.Variadic


def check_signatures(graph: Graph) -> Graph:
    """The same graph.

    Raises
    ------
    FileFormatError
        For a node of the standard with more or fewer operands, results or attributes than its operation has in that
        version, one that may not be left out, or an attribute of another type.
    """
    for node in graph.nodes:
        found = _wrong(node) if node.domain == DOMAIN and defs.has(node.op) else None
        if found is not None:
            raise FileFormatError(node.name, f"{node.op} with {found}", _TODO)
    return graph


def _wrong(node: Node) -> str | None:
    try:
        schema = defs.get_schema(node.op, node.version, DOMAIN)
    except defs.SchemaError:  # of a later version of the standard: the reader does not know it either
        return None
    for what, names, least, most in (
        ("operands", node.inputs, schema.min_input, schema.max_input),
        ("results", node.outputs, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            return f"{len(names)} {what}, and not {_numbers(least, most)}"
    for name, formal in zip(node.inputs, _formal(schema), strict=False):
        if not name and formal.option != _OPTIONAL:
            return f"the operand {formal.name} left out"
    return _wrong_attribute(node, schema)


def _numbers(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}" if most < (1 << 31) - 1 else f"{least} or more"


def _formal(schema: defs.OpSchema) -> Iterator[defs.OpSchema.FormalParameter]:
    """The operands, the last one for as long as there are more where it stands for any number."""
    yield from schema.inputs
    if schema.inputs and schema.inputs[-1].option == _VARIADIC:
        yield from repeat(schema.inputs[-1])


def _wrong_attribute(node: Node, schema: defs.OpSchema) -> str | None:
    given = {} if node.proto is None else {a.name: a.type for a in node.proto.attribute}
    for name, formal in schema.attributes.items():
        if formal.required and name not in given:
            return f"no attribute {name}"
        if name in given and formal.type != _TYPES.get(given[name]):
            return f"the attribute {name} of another type"
    return None
