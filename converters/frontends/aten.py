"""The operations of an exported network that have a Ca-LIF counterpart, by kind, and what to say about the others."""

from __future__ import annotations

import operator
from collections.abc import Collection
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.models import NO_RECURRENCE
from converters.frontends.pooling_verbs import POOLS

__all__ = [
    "BATCH_NORM",
    "CONV",
    "COUNT",
    "DROPOUT",
    "FAR",
    "IDENTITY",
    "POOLING",
    "TRANSPOSED",
    "Kind",
    "arguments",
    "bounds",
    "check_nodes",
    "constants",
    "data_users",
    "drop_images",
    "is_counter",
    "is_masked",
    "is_random",
    "is_relu",
    "kind_of",
    "only_softmax_behind",
    "operation",
    "repeated",
    "tokens",
    "where",
]  # fmt: skip

_a = torch.ops.aten


def drop_images(x: Tensor, p: float, training: bool, together: bool = False) -> Tensor:
    """Stochastic depth: in training, each image of ``(N, ...)`` is 0 with chance ``p``, or else ``1 / (1 - p)`` times.

    With ``together`` all images are, or none. Outside of training, ``x`` itself.
    """
    lead = (1, 1) if together else (len(x), 1)  # of a feature dropout, which draws one number for each
    return torch.feature_dropout(x.reshape(*lead, *x.shape[1 - together :]), p, training).reshape(x.shape)


class Kind(Enum):
    """What an operation does to quantised values, and so where quantisers stand around it."""

    WEIGHTED = "a convolution or linear layer"
    BATCH_NORM = "a batch norm"
    RECTIFIER = "ReLU, ReLU6: a range"
    ACTIVATION = "a pointwise function"
    MOVE = "a change of place or shape"
    PARTS = "several of these, as a list"
    IDENTITY = "nothing"
    MAX = "a maximum or minimum: one of the counts"
    JOIN = "a concatenation"
    ADD = "a sum of two, or a constant added"
    MULTIPLY = "a product of two, or with a constant"
    MATMUL = "a matrix product of two"
    POOL = "a mean or sum"
    INTERPOLATE = "a change of resolution"
    NORM = "a norm of the present values"
    SOFTMAX = "a softmax"
    EMBEDDING = "rows of a table, by the input's whole numbers"
    MASK = "positions left out of a softmax"
    SIZE = "a number, known from the shapes"
    IGNORED = "a statement without a value"


def _overloads(names: str) -> set[Any]:
    """All overloads of some of ATen's operations that give new values."""
    found: set[Any] = set()
    for name in names.split():
        packet = getattr(_a, name, None)
        if packet is not None:  # some are younger than the oldest PyTorch that will do
            found |= {getattr(packet, o) for o in packet.overloads() if not o.endswith("out")}
    return found


_TABLE: dict[Kind, set[Any]] = {
    Kind.WEIGHTED: _overloads("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear"),
    Kind.BATCH_NORM: _overloads("batch_norm"),
    Kind.RECTIFIER: _overloads("relu relu6"),
    Kind.ACTIVATION: {F.softsign}
    | _overloads(
        "leaky_relu prelu rrelu elu selu celu silu gelu hardswish mish sigmoid hardsigmoid tanh softplus log_sigmoid "
        "hardtanh clamp clamp_min clamp_max clip hardshrink softshrink threshold abs square exp expm1 sin cos erf atan "
        "sqrt log1p"
    ),
    Kind.MOVE: _overloads(
        "view reshape _unsafe_view permute transpose flatten unflatten squeeze unsqueeze slice select narrow expand "
        "repeat tile flip roll rot90 pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle im2col unfold "
        "movedim moveaxis swapaxes swapdims mT t index index_select tril triu diagonal ravel native_channel_shuffle "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d"
    )
    | {_a.repeat_interleave.self_int},
    Kind.PARTS: _overloads("chunk split split_with_sizes unbind tensor_split unsafe_chunk unsafe_split hsplit vsplit"),
    Kind.IDENTITY: _overloads(
        "dropout feature_dropout alpha_dropout feature_alpha_dropout contiguous clone detach alias lift_fresh_copy "
        "lift_fresh to"
    )
    | {drop_images},
    Kind.MAX: _overloads(
        "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax amin maximum minimum"
    )
    | {_a.max.dim, _a.min.dim, _a.max.other, _a.min.other},
    Kind.JOIN: _overloads("cat concat concatenate stack hstack vstack"),
    Kind.ADD: {_a.add.Tensor, _a.sub.Tensor},
    Kind.MULTIPLY: {_a.mul.Tensor, _a.div.Tensor},
    Kind.MATMUL: _overloads("matmul bmm"),
    Kind.POOL: _overloads(" ".join(POOLS)) | {_a.mean.dim, _a.sum.dim_IntList},
    Kind.INTERPOLATE: _overloads(
        "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa"
    ),
    Kind.NORM: _overloads("layer_norm group_norm instance_norm rms_norm") | {F.local_response_norm, F.normalize},
    Kind.SOFTMAX: _overloads("softmax _softmax"),
    Kind.EMBEDDING: {_a.embedding.default},
    Kind.SIZE: _overloads("sym_size") | {operator.mul, operator.add, operator.sub, operator.floordiv},
    Kind.IGNORED: _overloads("_assert_tensor_metadata _assert_scalar sym_constrain_range_for_size"),
}
_KINDS = {target: kind for kind, targets in _TABLE.items() for target in targets}
POOLING = _TABLE[Kind.POOL]

CONV = {_a.conv2d.default, _a.conv2d.padding}
TRANSPOSED = _overloads("conv_transpose1d conv_transpose2d conv_transpose3d")
BATCH_NORM = _TABLE[Kind.BATCH_NORM]
DROPOUT = {_a.dropout.default, _a.feature_dropout.default, _a.alpha_dropout.default, _a.feature_alpha_dropout.default}
IDENTITY = _TABLE[Kind.IDENTITY]
COUNT = _a.add_.Tensor
FAR = -99.0
"""Added to a score, what is this far below 0 leaves it no weight: networks write -100, -1e4, -1e9 or minus infinity."""
_BOUNDED = {_a.hardtanh.default, _a.clamp.default, _a.clamp_min.default, _a.clip.default}

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
_ADVICE = {
    **dict.fromkeys(_RECURRENT, NO_RECURRENCE),
    **dict.fromkeys(
        ("gt", "lt", "ge", "le", "eq", "ne", "where", "masked_fill"), "use a pointwise function or a maximum"
    ),
    **dict.fromkeys(
        ("sort", "topk", "argsort", "argmax", "argmin", "kthvalue", "median"), "take it from the network's output"
    ),
    **dict.fromkeys(
        ("bernoulli", "rand", "randn", "rand_like", "randn_like", "multinomial", "normal", "empty", "randperm"),
        "leave random numbers to nn.Dropout and torchvision.ops.StochasticDepth, which are off in evaluation",
    ),
    **dict.fromkeys(("log_softmax", "argmax"), "leave it out: the arg max of the logits is the same"),
    "div": "divide by a constant; where the divisor is an activation, use a norm or a sigmoid gate",
    "einsum": "write it as permute and matmul, or as nn.Linear",
    "scaled_dot_product_attention": "write it as matmul, softmax and matmul",
    "mean": "average over the axes of an image, not over the batch: dim=(1, 2, 3)",
    "sum": "add up over the axes of an image, not over the batch: dim=(1, 2, 3)",
    "var": "use a norm: nn.LayerNorm, nn.GroupNorm",
    "std": "use a norm: nn.LayerNorm, nn.GroupNorm",
    "linalg_vector_norm": "use nn.RMSNorm, which divides by the root of the mean square",
    "cumsum": "use nn.Linear with a triangle of ones",
}
_OF_TOKENS = {
    "embedding_bag": "write it as nn.Embedding and a mean",
    "one_hot": "use nn.Embedding, whose table is the layer behind it",
}
_ANY = "write it with convolutions, linear layers, norms, pools, pointwise functions, sums, products and moves"


def where(node: fx.Node) -> str:
    """Module path of a node, or its own name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return str(path or node.name)


def operation(node: fx.Node) -> str:
    """Name of a node's operation, as PyTorch's functions are called: ``relu``, ``max_pool2d``."""
    if hasattr(node.target, "_schema"):
        return str(node.target).removeprefix("aten.").split(".")[0]
    return str(getattr(node.target, "__name__", node.target)).rpartition(".")[2]


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an operation by name, defaults included."""
    schema = node.target._schema.arguments
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def kind_of(node: fx.Node) -> Kind | None:
    """What a node does to quantised values; None for what has no counterpart, and for all but operations."""
    if node.op != "call_function":
        return None
    if node.target is operator.getitem:  # of a list of parts, or of values and their indices
        of = kind_of(node.args[0])
        first = of is Kind.MAX and node.args[1] == 0
        return Kind.MOVE if of is Kind.PARTS else Kind.IDENTITY if first else None
    if is_masked(node):
        return Kind.MASK
    return Kind.RECTIFIER if is_relu(node) else _KINDS.get(node.target)


def constants(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values depend on nothing but parameters, buffers and numbers."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            found.add(node)
        elif node.op == "call_function" and kind_of(node) is not Kind.SIZE and not is_random(node):
            written = getattr(getattr(node.target, "_schema", None), "is_mutable", False)
            if not written and all(n in found for n in node.all_input_nodes):
                found.add(node)
    return found


def repeated(graph: fx.Graph, fixed: set[fx.Node]) -> set[fx.Node]:
    """The nodes that are a constant for each image of a batch: they depend on constants and on the batch's size."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and node not in fixed and kind_of(node) is not Kind.SIZE:
            inputs, target = node.all_input_nodes, node.target
            written = getattr(getattr(target, "_schema", None), "is_mutable", False)
            known = all(n in fixed or n in found or kind_of(n) is Kind.SIZE for n in inputs)
            if inputs and known and not written and not is_random(node):
                found.add(node)
    return found


def is_masked(node: fx.Node) -> bool:
    """Whether a node takes positions out of a softmax."""
    return node.target is _a.masked_fill.Scalar and float(node.args[2]) == -torch.inf and only_softmax_behind(node)


def only_softmax_behind(node: fx.Node) -> bool:
    """Whether softmax is all that reads a node's values, perhaps moved or masked again."""
    found = [(kind_of(n), n) for n in node.users]
    through = (Kind.MOVE, Kind.IDENTITY, Kind.MASK)
    return bool(found) and all(k is Kind.SOFTMAX or (k in through and only_softmax_behind(n)) for k, n in found)


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers, or makes a tensor for them."""
    name = operation(node)
    return name.startswith("empty") or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def data_users(node: fx.Node) -> list[fx.Node]:
    """Those of a node's readers that look at its values, and not at its shape alone."""
    return [n for n in node.users if kind_of(n) not in (Kind.SIZE, Kind.IGNORED)]


def check_nodes(model: fx.GraphModule, behind: Collection[fx.Node] = ()) -> None:
    """Raise a ConversionError for the first operation of a functional graph that has no Ca-LIF counterpart.

    Those of ``behind`` need none: they run in float on what the network returns.
    """
    _check_inputs(model.graph)
    _check_tokens(model.graph)
    fixed = constants(model.graph)
    fixed |= repeated(model.graph, fixed) | set(behind)
    unknown = [
        n
        for n in model.graph.nodes
        if n.op == "call_function" and n not in fixed and kind_of(n) is None and not is_counter(n)
    ]
    for node in sorted(unknown, key=lambda n: operation(n) not in _RECURRENT):  # not the zeros that it begins with
        name = operation(node)
        if node.target is operator.getitem:
            raise ConversionError(where(node), "the indices of a maximum", "use its values alone")
        raise ConversionError(where(node), f"the operation {name}", _ADVICE.get(name.rstrip("_"), _ANY))
    for node in model.graph.nodes:
        if node.target in BATCH_NORM and arguments(node)["running_mean"] is None:
            raise ConversionError(
                where(node),
                "a batch norm without running statistics, whose output depends on the batch",
                "build it with track_running_stats=True",
            )


def _check_inputs(graph: fx.Graph) -> None:
    """Raise a ConversionError for an input whose values no output depends on."""
    used: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or (node in used and kind_of(node) is not Kind.SIZE):
            used.update(node.all_input_nodes)
    for node in graph.nodes:
        if node.op == "placeholder" and node not in used:
            todo = "leave it out of forward and of the example"
            raise ConversionError("forward", f"that no output depends on the values of its input {node.name}", todo)


def tokens(graph: fx.Graph) -> set[fx.Node]:
    """The inputs that are whole numbers."""
    found = set()
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, Tensor) and not value.is_floating_point():
            found.add(node)
    return found


def _check_tokens(graph: fx.Graph) -> None:
    """Raise a ConversionError for whole numbers that anything but one embedding reads, and for one of anything else."""
    given, fixed = tokens(graph), constants(graph)
    for node in graph.nodes:
        name = operation(node) if node.op == "call_function" else ""
        if name in _OF_TOKENS and node not in fixed:
            raise ConversionError(where(node), f"the operation {name}", _OF_TOKENS[name])
    for node in given:
        readers = [n for n in data_users(node) if not operation(n).startswith("sym_")]
        other = [n for n in readers if kind_of(n) is not Kind.EMBEDDING]
        if other:
            found = f"the operation {operation(other[0])} on the tokens {node.name}"
            raise ConversionError(where(other[0]), found, "only an nn.Embedding reads them: do it to its rows")
        if len(readers) > 1:
            found = f"two tables for the tokens {node.name}"
            raise ConversionError(where(readers[1]), found, "use one, with rows as long as both, and slice them")
    for node in graph.nodes:
        if kind_of(node) is Kind.EMBEDDING and node not in fixed and node.args[1] not in given:
            raise ConversionError(where(node), "an embedding of computed numbers", "embed an input as it is")


def is_relu(node: fx.Node) -> bool:
    """Whether a node is a ReLU: of any upper bound, from 0."""
    if node.target in _BOUNDED:
        low, high = bounds(node)
        return low == 0.0 and high > 0
    return node.target in _TABLE[Kind.RECTIFIER]


def bounds(node: fx.Node) -> tuple[float, float]:
    """Between what a node clamps its values: a ReLU, hardtanh or clamp."""
    if node.target in _TABLE[Kind.RECTIFIER]:
        return 0.0, 6.0 if node.target is _a.relu6.default else torch.inf
    a = arguments(node)
    low, high = a.get("min_val", a.get("min")), a.get("max_val", a.get("max"))
    return -torch.inf if low is None else float(low), torch.inf if high is None else float(high)


def is_counter(node: fx.Node) -> bool:
    """Whether a node counts something in a buffer, as batch norm does its batches, and nobody reads the result."""
    if node.target is not COUNT or node.users or len(node.args) != 2:
        return False
    buffer, one = node.args
    plain = isinstance(one, bool | int) or (isinstance(one, fx.Node) and one.target == "training")
    return isinstance(buffer, fx.Node) and buffer.op == "get_attr" and plain
