"""The operations of an exported network that have a Ca-LIF counterpart, and what to say about the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from converters.errors import ConversionError

__all__ = [
    "ADD", "BATCH_NORM", "CAT", "CONV", "COUNT", "DROPOUT", "FLATTEN", "IDENTITY", "LINEAR", "POOLS", "RELUS", "SHAPES",
    "arguments", "check_nodes", "is_counter", "is_relu", "operation", "where",
]  # fmt: skip

_a = torch.ops.aten
CONV = {_a.conv2d.default, _a.conv2d.padding}
LINEAR = {_a.linear.default}
BATCH_NORM = {_a.batch_norm.default}
RELUS = {_a.relu.default, _a.hardtanh.default, _a.relu6.default}
POOLS = {_a.avg_pool2d.default, _a.adaptive_avg_pool2d.default, _a.mean.dim}
ADD = {_a.add.Tensor}
CAT = {_a.cat.default}
FLATTEN = {_a.flatten.using_ints, _a.view.default, _a.reshape.default}
DROPOUT = {_a.dropout.default, _a.feature_dropout.default, _a.alpha_dropout.default, _a.feature_alpha_dropout.default}
IDENTITY = DROPOUT | {_a.contiguous.default, _a.clone.default, _a.detach.default, _a.alias.default}
IDENTITY |= {_a.lift_fresh_copy.default}
SHAPES = FLATTEN | IDENTITY
_SIZES = {_a.sym_size.int}
COUNT = _a.add_.Tensor

_ADVICE = {
    "max_pool2d": "use average pooling (nn.AvgPool2d), which is linear",
    "max_pool2d_with_indices": "use average pooling (nn.AvgPool2d), which is linear",
    "adaptive_max_pool2d": "use average pooling, which is linear",
    "layer_norm": "use batch norm, which folds into the weights",
    "group_norm": "use batch norm, which folds into the weights",
    "instance_norm": "use batch norm, which folds into the weights",
    "mul": "scale the weights instead",
    "sub": "add, with the sign in the weights of a branch",
    "matmul": "use nn.Linear",
}
_ACTIVATIONS = "gelu silu sigmoid tanh leaky_relu elu softplus hardswish hardsigmoid mish prelu selu celu rrelu"
_ADVICE |= dict.fromkeys(
    _ACTIVATIONS.split(), "an activation must be ReLU or ReLU6, which a quantiser makes a spike count"
)
_ADVICE |= dict.fromkeys(("softmax", "log_softmax"), "leave it out: the arg max of the logits is the same")


def where(node: fx.Node) -> str:
    """Module path of a node, or its own name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return str(path or node.name)


def operation(node: fx.Node) -> str:
    """Name of a node's operation, as PyTorch's functions are called: ``relu``, ``max_pool2d``."""
    name = str(node.target)
    return name.removeprefix("aten.").split(".")[0] if hasattr(node.target, "_schema") else name.rpartition(".")[2]


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an operation by name, defaults included."""
    schema = node.target._schema.arguments
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def check_nodes(model: fx.GraphModule) -> None:
    """Raise a ConversionError for the first operation of a functional graph that has no Ca-LIF counterpart."""
    known = CONV | LINEAR | BATCH_NORM | RELUS | POOLS | ADD | CAT | SHAPES | _SIZES
    inputs = [n for n in model.graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        raise ConversionError("forward", f"{len(inputs)} inputs", "networks with one input tensor can be converted")
    for node in model.graph.nodes:
        if node.op == "call_function" and node.target not in known and not is_counter(node):
            name = operation(node)
            raise ConversionError(
                where(node),
                f"the operation {name}",
                _ADVICE.get(name.rstrip("_"), "Ca-LIF networks know convolution, linear, batch norm, ReLU, ReLU6, "
                "average pooling, addition, concatenation, flatten and dropout"),
            )  # fmt: skip
        if node.target is _a.hardtanh.default and not is_relu(node):
            raise ConversionError(where(node), f"hardtanh{tuple(node.args[1:])}", "only ReLU6, hardtanh(0, 6), is one")
        if node.target in BATCH_NORM and arguments(node)["running_mean"] is None:
            raise ConversionError(
                where(node),
                "a batch norm without running statistics, whose output depends on the batch",
                "build it with track_running_stats=True",
            )
        if node.op == "output" and len(_flat(node.args)) != 1:
            raise ConversionError("forward", f"{len(_flat(node.args))} outputs", "return one tensor")


def is_relu(node: fx.Node) -> bool:
    """Whether a node's output is never negative: ReLU, or a hardtanh from 0."""
    if node.target is _a.hardtanh.default:
        bounds = (*node.args[1:], *node.kwargs.values())
        return len(bounds) == 2 and float(bounds[0]) == 0.0 and float(bounds[1]) > 0
    return node.target in RELUS


def is_counter(node: fx.Node) -> bool:
    """Whether a node counts something in a buffer, as batch norm does its batches, and nobody reads the result."""
    if node.target is not COUNT or node.users or len(node.args) != 2:
        return False
    buffer, one = node.args
    plain = isinstance(one, bool | int) or (isinstance(one, fx.Node) and one.target == "training")
    return isinstance(buffer, fx.Node) and buffer.op == "get_attr" and plain


def _flat(value: Any) -> list[Any]:
    return [x for v in value for x in _flat(v)] if isinstance(value, tuple | list) else [value]
