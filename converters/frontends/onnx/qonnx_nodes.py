"""QONNX's quantisers in operations of the standard, so that any runtime executes a model that has them."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["in_standard_operations"]

_NAMES = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


def in_standard_operations(model: ModelProto, domain: str) -> None:
    """Replace every ``Quant`` by what it is defined to be, in place: divide, add, clip, round, subtract, multiply."""
    constants = {t.name: t for t in model.graph.initializer}
    constants.update(
        {n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")}
    )
    nodes: list[NodeProto] = []
    for k, node in enumerate(model.graph.node):
        if node.domain in _NAMES and node.op_type in ("Quant", "IntQuant") and node.input[3] in constants:
            nodes += _spelt_out(model, node, int(numpy_helper.to_array(constants[node.input[3]]).reshape(-1)[0]), k)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _spelt_out(model: ModelProto, node: NodeProto, bits: int, number: int) -> list[NodeProto]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    x, scale, zero = node.input[:3]
    names = [f"{node.output[0]}.quant{number}.{part}" for part in ("low", "high", "a", "b", "c", "d", "e")]
    for name, value in zip(names, (low, high), strict=False):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [float(value)]))
    low_name, high_name, a, b, c, d, e = names
    return [
        helper.make_node("Div", [x, scale], [a]),
        helper.make_node("Add", [a, zero], [b]),
        helper.make_node("Clip", [b, low_name, high_name], [c]),
        helper.make_node("Round", [c], [d]),
        helper.make_node("Sub", [d, zero], [e]),
        helper.make_node("Mul", [e, scale], [node.output[0]]),
    ]
