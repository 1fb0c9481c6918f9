"""Where quantisers stand in a network: as few as exactness needs.

Every node of a functional graph is either *on a grid*, its values those of one quantiser, or *open*: a real-valued
expression that one reader takes into its own layer. One walk in graph order decides which.

* A layer's sum stays open for the batch norm, the constants and the activation behind it, and for a batch norm or
  constants behind that: one quantiser for all.
* Moves, maxima and concatenations keep the grid of what they move: no quantiser stands behind them. Operands of a
  maximum, a concatenation or an addition share one, so that synapses have weight 1.
* A product, a norm, a pool, a change of resolution, a lone activation take what is on a grid, and have a quantiser
  behind them. A matrix product stays open for constants: the scale and the bias of attention's scores.
* A concatenation with constants, such as a class token, is open too, and they are its bias.

A norm that only layers with weights read may have a scale for each channel, where that is asked for.

A quantiser has the levels of the path of the expression's first operation, which is the layer's name; one that several
share has the largest number of any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import fx
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    SharedQuantizationSpec,
)

from converters.errors import ConversionError
from converters.frontends.aten import (
    TRANSPOSED,
    Kind,
    arguments,
    bounds,
    constants,
    data_users,
    kind_of,
    repeated,
    tokens,
    where,
)
from converters.frontends.layer_levels import LayerLevels
from converters.frontends.pt2e_channels import channel_axis

__all__ = ["Placement", "Specs", "refer_backwards"]

_a = torch.ops.aten
_NEVER_NEGATIVE = {
    _a.sigmoid.default, _a.hardsigmoid.default, _a.softplus.default, _a.abs.default, _a.square.default, _a.exp.default,
    _a.sqrt.default,
}  # fmt: skip
_KEEPS_SIGN = {
    _a.tanh.default, _a.leaky_relu.default, _a.prelu.default, _a.elu.default, _a.selu.default, _a.celu.default,
    _a.silu.default, _a.gelu.default, _a.hardswish.default, _a.mish.default, _a.hardshrink.default,
    _a.softshrink.default, _a.erf.default, _a.atan.default, _a.expm1.default, _a.log1p.default, _a.clamp_max.default,
    F.softsign,
}  # fmt: skip
"""Functions that are not negative where their argument is not."""
_MOVED = (Kind.MOVE, Kind.PARTS, Kind.IDENTITY, Kind.MASK, Kind.MAX, Kind.JOIN)
_WEIGHTED, _LINEAR, _FUNCTION, _SUM, _CLOSED = "weighted", "linear", "function", "sum", "closed"
_TAKES: dict[str, tuple[Kind, ...]] = {
    _WEIGHTED: (Kind.BATCH_NORM, Kind.RECTIFIER, Kind.ACTIVATION, Kind.ADD, Kind.MULTIPLY),
    _LINEAR: (Kind.BATCH_NORM, Kind.RECTIFIER, Kind.ADD, Kind.MULTIPLY),
    _FUNCTION: (Kind.BATCH_NORM, Kind.ADD, Kind.MULTIPLY),
    _SUM: (Kind.RECTIFIER,),
    _CLOSED: (),
}
"""What may stand behind an open expression before its quantiser does."""


class Specs(Protocol):
    """What quantisers are like."""

    levels: LayerLevels
    inputs: Sequence[QuantizationSpec]
    """Of each input."""
    embedded: QuantizationSpec
    """Of the rows of an embedding."""
    quantise_output: bool
    per_channel_norms: bool

    def activation(self, levels: int, signed: bool) -> QuantizationSpec: ...

    def channels(self, levels: int, axis: int) -> QuantizationSpec: ...

    def weight(self, axis: int) -> QuantizationSpec: ...


@dataclass(frozen=True)
class _Open:
    """A real-valued expression without a quantiser: what may still be taken into it, and whether it can be negative."""

    kind: str
    signed: bool
    path: str
    """Of its first operation."""
    layer: bool = False
    """Whether it is a layer with weights, and what has been taken into it: as an output it may stay open."""


class Placement:
    """One walk over a functional graph, which annotates its nodes for torchao."""

    def __init__(self, graph: fx.Graph, specs: Specs, behind: Collection[fx.Node] = ()) -> None:
        """``behind`` are the nodes that run in float behind the network."""
        self.graph, self.specs, self.behind = graph, specs, behind
        self.fixed, self.tokens = constants(graph), tokens(graph)
        self.fixed |= repeated(graph, self.fixed)
        self.order = {node: k for k, node in enumerate(graph.nodes)}
        self.open: dict[fx.Node, _Open] = {}
        self.grid: dict[fx.Node, fx.Node] = {}
        self.sign: dict[fx.Node, bool] = {}
        self.levels: dict[fx.Node, int] = {}
        self.paths: list[str] = []
        """Of all layers that have levels of their own, in graph order."""

    def run(self) -> None:
        ends = [node for node in self.graph.nodes if node.op == "output" or node in self.behind]
        last = {source for node in ends for source in node.all_input_nodes}
        inputs: Iterator[Any] = iter(self.specs.inputs)
        for node in self.graph.nodes:
            if node.op == "placeholder" and node in self.tokens:
                next(inputs)  # what is quantised are the rows that an embedding makes of them
            elif node.op == "placeholder":
                spec = next(inputs)
                self._close(node, spec.quant_min < 0, self.specs.levels.rest)
                _annotation(node).output_qspec = spec
            elif node.op == "call_function" and node not in self.fixed and node not in self.behind:
                kind = kind_of(node)
                if kind is not None and kind not in (Kind.SIZE, Kind.IGNORED):
                    self._place(node, kind, last)

    def _place(self, node: fx.Node, kind: Kind, last: set[fx.Node]) -> None:
        sources = [n for n in node.all_input_nodes if n not in self.fixed and kind_of(n) is not Kind.SIZE]
        if not sources:
            raise ConversionError(
                where(node), "a constant for each image of the batch", "let it be a parameter, and add it: x + p"
            )
        if kind is Kind.EMBEDDING:
            self._close(node, True, self.specs.levels.rest)
            _annotation(node).output_qspec = self.specs.embedded
            return
        beside = kind is Kind.JOIN and any(n in self.fixed for n in node.all_input_nodes)
        if kind in _MOVED and not beside:
            for other in sources[1:]:
                self._share(sources[0], other)
            self.grid[node] = self.grid[sources[0]]
            return
        found = self._expression(node, kind, sources)
        if self._is_taken(node, found):
            _annotation(node)
            self.open[node] = found
        elif found.layer and not self.specs.quantise_output and self._is_last(node, last):
            self.grid[node] = node
            self.sign[node] = found.signed
        else:
            self.paths.append(found.path)
            levels = self.specs.levels.at(found.path)
            self._close(node, found.signed, levels)
            axis = channel_axis(node, self.fixed) if self.specs.per_channel_norms else None
            if axis is not None:
                _annotation(node).output_qspec = self.specs.channels(levels, axis)

    def _is_taken(self, node: fx.Node, found: _Open) -> bool:
        """Whether the only reader of an open expression takes it into its layer."""
        users = data_users(node)
        if len(users) != 1 or users[0].op != "call_function":
            return False
        (user,) = users
        kind = None if user in self.behind else kind_of(user)
        if user.target is _a.prelu.default and user.args[1].meta["val"].numel() > 1 and self._per_place(node):
            return False
        if kind in (Kind.ADD, Kind.MULTIPLY) and not self._with_constant(user):
            return False
        if kind in (Kind.ADD, Kind.MULTIPLY) and found.kind == _FUNCTION and not self._of_channels(user):
            return False
        return kind in _TAKES[found.kind]

    def _per_place(self, node: fx.Node) -> bool:
        """Whether an open expression has numbers along another axis than the channels': a layer of the last axis, or
        constants of each place."""
        while node.target is not _a.linear.default:
            if kind_of(node) in (Kind.ADD, Kind.MULTIPLY) and not self._of_channels(node):
                return True
            before = [n for n in node.all_input_nodes if n in self.open]
            if not before:
                return False
            node = before[0]
        return int(node.meta["val"].ndim) > 2

    def _of_channels(self, node: fx.Node) -> bool:
        """Whether the constants that a node adds or multiplies by are one for all, or one for each channel."""
        rank = int(node.meta["val"].ndim)
        shapes = [tuple(x.meta["val"].shape) for x in node.args[:2] if isinstance(x, fx.Node) and x in self.fixed]
        return all(n == 1 for s in shapes for k, n in enumerate(s, rank - len(s)) if k != 1)

    def _is_last(self, node: fx.Node, last: set[fx.Node]) -> bool:
        """Whether nothing but moves stands between a node and the output."""
        while True:
            users = data_users(node)
            if node in last:
                return all(n.op == "output" or n in self.behind for n in users)
            if len(users) != 1 or kind_of(users[0]) not in (Kind.MOVE, Kind.IDENTITY):
                return False
            (node,) = users
        return True

    def _with_constant(self, node: fx.Node) -> bool:
        return any(not isinstance(x, fx.Node) or x in self.fixed for x in node.args[:2])

    # --- what an operation makes of its operands -------------------------------------------------------

    def _expression(self, node: fx.Node, kind: Kind, sources: list[fx.Node]) -> _Open:
        source = sources[0]
        before = self.open.get(source, _Open(_LINEAR, False, where(node)))
        behind, path, layer = before.kind, before.path, before.layer
        if kind is Kind.WEIGHTED:
            self._weights(node)
            return _Open(_WEIGHTED, True, path, layer=True)
        if kind is Kind.BATCH_NORM:
            return _Open(behind, True, path, layer and behind != _FUNCTION)
        if kind in (Kind.RECTIFIER, Kind.ACTIVATION):
            signed = kind is Kind.ACTIVATION and self._is_signed_function(node, source)
            per_channel = behind == _WEIGHTED and not self._per_place(source)
            return _Open(_FUNCTION if per_channel else _CLOSED, signed, path, layer)
        if kind in (Kind.ADD, Kind.MULTIPLY):
            if self._with_constant(node):
                signed = self._signed(source) or not self._is_positive(node)
                return _Open(behind, signed, path, layer and behind != _FUNCTION)
            if kind is Kind.ADD:
                self._share(sources[0], sources[-1])
                difference = node.target is _a.sub.Tensor or arguments(node)["alpha"] < 0
                return _Open(_SUM, difference or any(self._signed(n) for n in sources), path)
        if kind is Kind.JOIN:  # beside constants, which are its bias
            for other in sources[1:]:
                self._share(source, other)
            return _Open(_LINEAR, True, path)
        if kind is Kind.MATMUL:
            return _Open(_LINEAR, any(self._signed(n) for n in sources), path)
        if kind is Kind.SOFTMAX:
            return _Open(_CLOSED, False, path)
        signed = kind is Kind.NORM or any(self._signed(n) for n in sources)
        signed |= "bicubic" in str(node.target)  # whose weights are of both signs
        return _Open(_CLOSED if kind is Kind.POOL else _SUM, signed, path)

    def _is_signed_function(self, node: fx.Node, source: fx.Node) -> bool:
        if node.target in _NEVER_NEGATIVE:
            return False
        if node.target in _KEEPS_SIGN:
            return self._signed(source)
        if node.target in (_a.hardtanh.default, _a.clamp.default, _a.clamp_min.default, _a.clip.default):
            return bounds(node)[0] < 0 and self._signed(source)
        return True

    def _is_positive(self, node: fx.Node) -> bool:
        """Whether what a node adds or multiplies by is a number that is not negative."""
        other = [x for x in node.args[:2] if not isinstance(x, fx.Node)]
        return len(other) == 1 and float(other[0]) >= 0

    def _signed(self, node: fx.Node) -> bool:
        found = self.open.get(node)
        return self.sign[_root(self.grid[node])] if found is None else found.signed

    # --- annotations -----------------------------------------------------------------------------------

    def _weights(self, node: fx.Node) -> None:
        """The weights' quantiser; those that stand in several layers have one for all."""
        x, weight = node.args[:2]
        if weight not in self.fixed:
            raise ConversionError(where(node), "weights that forward computes", "give the layer weights of its own")
        spec: QuantizationSpecBase = self.specs.weight(1 if node.target in TRANSPOSED else 0)
        annotation = _annotation(node)
        annotation.input_qspec_map = {x: None, weight: spec}

    def _close(self, node: fx.Node, signed: bool, levels: int) -> None:
        """Put a quantiser behind a node."""
        self.grid[node] = node
        self.sign[node], self.levels[node] = signed, levels
        _annotation(node).output_qspec = self.specs.activation(levels, signed)

    def _share(self, a: fx.Node, b: fx.Node) -> None:
        """Give both the same quantiser. It is signed if one is, and has the larger number of levels.

        An input that takes part has the levels of a layer then: the neurons of the others would get its own.
        """
        first, other = _root(self.grid[a]), _root(self.grid[b])
        if first is other:
            return
        if self.order[other] < self.order[first]:  # prepare wants references to earlier nodes
            first, other = other, first
        self._close(first, self.sign[first] or self.sign[other], max(self.levels[first], self.levels[other]))
        _annotation(other).output_qspec = SharedQuantizationSpec(first)
        self.sign[other], self.levels[other] = self.sign[first], self.levels[first]


def _root(node: fx.Node) -> fx.Node:
    """The node whose quantiser a node on a grid shares; itself where it has its own."""
    spec = _annotation(node).output_qspec
    return _root(spec.edge_or_node) if isinstance(spec, SharedQuantizationSpec) else node


def refer_backwards(graph: fx.Graph) -> None:
    """Let the first node of those that share a quantiser have it: torchao wants references to earlier nodes.

    For a graph whose nodes have been moved since they were annotated.
    """
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if "quantization_annotation" in node.meta and _annotation(node).output_qspec is not None:
            groups.setdefault(_root(node), []).append(node)
    for first, members in groups.items():
        spec = _annotation(first).output_qspec
        for node in members:
            shared = SharedQuantizationSpec(members[0])
            _annotation(node).output_qspec = spec if node is members[0] else shared


def _annotation(node: fx.Node) -> Any:
    """What torchao is told of a node, which is to be changed."""
    if "quantization_annotation" not in node.meta:
        node.meta["quantization_annotation"] = QuantizationAnnotation(_annotated=True)
    return node.meta["quantization_annotation"]
