"""Reads a prepared PT2E graph: ATen operations between trained fake quantisers.

What depends on weights alone (the folding of a batch norm into them, :mod:`~converters.frontends.pt2e_fuse`) is
computed by the graph's own operations, so that integers and scales are those that the model itself computes with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_unflatten

from converters.errors import ConversionError
from converters.frontends import aten
from converters.frontends.aten import Kind, constants, is_counter, kind_of, repeated, where
from converters.frontends.layouts import FIRST, Layout
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.pt2e_channel_scales import relative
from converters.frontends.pt2e_handlers import BY_TARGET, HANDLERS, IMAGES, Batch, Several
from converters.frontends.pt2e_tails import tails
from converters.frontends.verbs import Embedded, Grid, Masked, Pending, Raw, Verbs, Weight
from converters.graph_builder import Returned, Value
from converters.ports.outputs import mapped
from converters.quantised import QuantGraph

__all__ = ["Seen", "read_prepared"]

_ACTIVATIONS = (Value, Pending, Masked, Raw, Embedded, Several)


def read_prepared(model: fx.GraphModule, *, dry: bool = False) -> tuple[QuantGraph, dict[fx.Node, Seen]]:
    """The QuantGraph of a prepared model, which is left as it is, and its layers by the nodes that quantise.

    Parameters
    ----------
    model : GraphModule
        From :func:`~converters.frontends.pt2e.prepare_qat`.
    dry : bool
        For a model whose quantisers have seen no data: topology and shapes are its own, integers and scales are made
        up. Whatever is refused, is refused here as well.

    Raises
    ------
    ConversionError
        For what has no Ca-LIF counterpart; for a quantiser that has seen no data, unless ``dry``.
    """
    reader = _Reader(model, dry)
    return reader.graph(), reader.shown


class Seen(NamedTuple):
    """What a node of a prepared model gives: layers, as they are seen, and where the images are."""

    value: Value
    layout: Layout
    relative: Tensor | None = None
    """Where channels have scales of their own: these over the largest, which is the layer's, with the node's axes."""

    @property
    def name(self) -> str:
        """Of the first of its layers."""
        return self.value.parts[0].name


class _Reader:
    def __init__(self, model: fx.GraphModule, dry: bool) -> None:
        self.model, self.dry = model, dry
        self.builder = Verbs(
            "pt2e",
            activation="only the output may be one: use quantise_output=True, or a convolution or linear layer as the "
            "last",
            unquantised_input="prepare the model with prepare_qat",
        )
        self.values: dict[fx.Node, Any] = {}
        """With the images first; :attr:`layouts` has where the model has them, if somewhere else."""
        self.layouts: dict[fx.Node, Layout] = {}
        self.made_up: dict[LevelQuantiser, float] = {}
        self.shown: dict[fx.Node, Seen] = {}
        given = tuple(node.name for node in model.graph.nodes if node.op == "placeholder")
        self.several = len(given) > 1
        if self.several:
            self.builder.reserved = given  # tokens are declared where their rows are quantised
        self.fixed = constants(model.graph)
        self.repeated = dict.fromkeys(repeated(model.graph, self.fixed))
        self.behind = tails(model.graph)
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    @torch.no_grad()
    def graph(self) -> QuantGraph:
        for node in self.model.graph.nodes:
            if node.op == "output":
                return self.builder.build(self._output(node))
            try:
                self.values[node] = self._read(node)
            except ConversionError:
                raise
            except Exception as error:
                reason = next(iter(str(error).splitlines()), "")
                raise ConversionError(
                    where(node),
                    f"a use of {aten.operation(node)} that is not known ({type(error).__name__}: {reason[:100]})",
                    "write it as a module of torch.nn does",
                ) from error
        raise ConversionError("graph", "no output", "return the logits from forward")

    def _read(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            shape = tuple(node.meta["shape"][1:])
            return Raw(shape, name=node.name) if self.several else Raw(shape)
        if node.op == "get_attr":
            found = _attribute(self.model, str(node.target))
            return found.detach().cpu() if isinstance(found, Tensor) else found
        if node.op == "call_module":
            fake = _attribute(self.model, str(node.target))
            value = self._quantise(node, fake)
            self.layouts[node] = self.layout(node.args[0])
            if isinstance(value, Value):
                self.shown[node] = Seen(value, self.layout(node), self._relative(node, fake))
            return value
        if is_counter(node):
            return None
        if node in self.behind:
            return self.builder.tail(where(node), self.values[node.args[0]], *self.behind[node])
        if node in self.fixed:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.values[n])
            return node.target(*args, **kwargs)
        if node in self.repeated:
            return self._of_one_image(node)
        kind = kind_of(node)
        handler = BY_TARGET.get(node.target) or (None if kind is None else HANDLERS[kind])
        if handler is None:
            raise ConversionError(
                where(node), f"the operation {aten.operation(node)}", "prepare the model with prepare_qat"
            )
        if kind is not Kind.SIZE:
            self.layouts[node] = self._common_layout(node)
        return handler(self, node)

    # --- where the images are -----------------------------------------------------------------------

    def layout(self, node: Any) -> Layout:
        """Where the model has the images in a node's result."""
        return self.layouts.get(node, FIRST)

    def rank(self, node: fx.Node) -> int:
        """How many axes a node's result has in the model."""
        (source,) = node.all_input_nodes if node.op == "call_module" else (node,)  # a quantiser keeps the shape
        return len(source.meta["shape"])

    def axis(self, node: fx.Node, dim: int) -> int:
        """An axis of a node's result, where the images come first."""
        return self.layout(node).dim(dim, self.rank(node))

    def constant(self, node: fx.Node, x: fx.Node, constant: Any) -> Any:
        """A constant that ``node`` adds to ``x`` or multiplies it by, where the images come first."""
        if not isinstance(constant, Tensor) or self.layout(x) == FIRST:
            return constant
        return self.layout(x).constant(constant, self.rank(x))

    def _common_layout(self, node: fx.Node) -> Layout:
        """That of all operands of an operation; moves and reductions then say where they put the images."""
        data = [n for n in node.all_input_nodes if isinstance(self.values.get(n), _ACTIVATIONS)]
        if not data:
            return FIRST
        known = [self.layout(d) for d in data]
        if set(known) != {FIRST} and len(data) > 1:
            from_behind = {replace(n, axis=n.axis - self.rank(d)) for n, d in zip(known, data, strict=True)}
            if len(from_behind) > 1:
                todo = "let all have them along the same axis"
                raise ConversionError(where(node), "operands that have the images along different axes", todo)
        return known[0]

    def _of_one_image(self, node: fx.Node) -> Tensor:
        """What each image gets of a constant that is there for each, with 1 on the axis of the images."""

        def sized(n: fx.Node) -> Any:
            if n in self.repeated:
                return self.repeated[n]
            value = self.values[n]
            return value.times * IMAGES if isinstance(value, Batch) else value

        args, kwargs = map_arg((node.args, node.kwargs), sized)
        every = node.target(*args, **kwargs)
        self.repeated[node] = every
        shape = node.meta["shape"]
        axes = [k for k, n in enumerate(shape) if n is None]
        if len(axes) != 1 or every.shape[axes[0]] != IMAGES:
            raise ConversionError(where(node), "a constant for each image of the batch", "let it be a parameter")
        return every.narrow(axes[0], 0, 1)

    def _output(self, node: fx.Node) -> Any:
        """What is returned, in the structure that the model has it in."""
        results: Any = node.args[0]
        for result in node.all_input_nodes:
            value = self.values[result]
            value = value.value if isinstance(value, Returned) else value
            if isinstance(value, Pending) and not value.inputs:
                raise ConversionError(value.name, "an addition as unquantised output", "use quantise_output=True")
        info = getattr(self.model.graph._codegen, "pytree_info", None)
        if info is not None and info.out_spec is not None:
            results = tree_unflatten(list(results), info.out_spec)
        return self.builder.output(mapped(self._returned, results))

    def _returned(self, leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node):
            raise ConversionError("forward", f"{str(leaf)[:60]!r} among its outputs", "return tensors that it computes")
        if self.layout(leaf) != FIRST:
            found = f"an output of shape {tuple(leaf.meta['shape'])} that has the images elsewhere than first"
            raise ConversionError("forward", found.replace("None", "N"), "return it transposed")
        return self.values[leaf]

    def _quantise(self, node: fx.Node, fake: Any) -> Value | Weight:
        if type(fake) is not LevelQuantiser:
            raise ConversionError(where(node), f"a module {type(fake).__name__}", "prepare the model with prepare_qat")
        (source,) = node.all_input_nodes
        found = self.values[source]
        if isinstance(found, Tensor):
            return self._weights(found, fake, node)
        if isinstance(found, Embedded):
            return self._rows(found, fake)
        if not isinstance(found, Raw | Value | Pending):
            raise ConversionError(
                where(source), "something that is no activation", "compute it from the network's input"
            )
        by = self._relative(node, fake)
        if by is not None:
            found = self.builder.scale(where(source), found, self.constant(node, source, 1 / by))
        scale = self._scale(fake)
        zero = 0 if self.dry else int(fake.zero_point[0])
        grid = Grid(scale, int(fake.quant_min) - zero, int(fake.quant_max) - zero)

        def levels(bound: float) -> int:  # the toolkit's own arithmetic, in float32
            return int(torch.round(torch.tensor(bound) * torch.tensor(1.0 / scale)))

        value = self.builder.quantise(where(source), found, grid, levels)
        if isinstance(found, Pending) and found.terms:
            threshold = _threshold(tuple(v for v, _ in found.terms), scale, self.dtype)
            if threshold is not None:
                layers = self.builder.layers
                layers[-1] = replace(layers[-1], threshold=torch.tensor(threshold, dtype=torch.float64))
        return value

    def _scale(self, fake: LevelQuantiser) -> float:
        if self.dry:  # every quantiser has one of its own: what must share one, must share its quantiser
            return self.made_up.setdefault(fake, 1.0 + len(self.made_up) / 1024)
        _has_seen_data(fake)
        return float(fake.scale.max())

    def _relative(self, node: fx.Node, fake: LevelQuantiser) -> Tensor | None:
        """The scales of a node's channels over the largest, with its axes; None where it has one for all."""
        if not fake.is_per_channel or self.dry:
            return None
        _has_seen_data(fake)
        return relative(fake).cpu().view([-1 if k == fake.ch_axis else 1 for k in range(self.rank(node))])

    def _rows(self, found: Embedded, fake: LevelQuantiser) -> Value:
        """An input of tokens: the levels that the model's own quantiser makes of the rows of its embedding."""
        scale = self._scale(fake)
        rows = torch.zeros_like(found.rows) if self.dry else fake.quantised(found.rows.to(fake.scale.device)).cpu()
        grid = Grid(scale, int(fake.quant_min), int(fake.quant_max))
        return self.builder.look_up(found, torch.round(rows.double() / scale).to(torch.int64), grid)

    def _weights(self, weight: Tensor, fake: LevelQuantiser, node: fx.Node) -> Weight:
        axis = fake.ch_axis if fake.is_per_channel else 0
        if self.dry:
            return Weight(torch.ones_like(weight, dtype=torch.int8), torch.ones(1, dtype=torch.float64))
        _has_seen_data(fake)
        scale, zero = fake.scale.detach().cpu(), fake.zero_point.detach().cpu()
        if bool((zero != 0).any()):
            raise ConversionError(where(node), "weights that are not symmetric per row", "prepare it with prepare_qat")
        rows = scale.view([-1 if k == axis else 1 for k in range(weight.ndim)]) if fake.is_per_channel else scale
        levels = fake.rounded(fake.rescaled(weight.to(fake.scale.device))).cpu() / rows
        return Weight(torch.round(levels).to(torch.int8), scale.to(torch.float64))


def _threshold(branches: tuple[Value, ...], scale: float, dtype: torch.dtype) -> float | None:
    """The threshold of an addition where the exact one would break ties the other way; in units of its branches.

    Where one scale is a multiple of the other, many sums are exact ties. The toolkit multiplies by the inverse of the
    scale, a float32 that is a little too large or too small, and so rounds them all away from zero, or towards it.
    """
    unit = branches[0].scale
    if any(v.scale != unit for v in branches):
        return None
    levels = torch.cat([torch.arange(-1024, 0), torch.arange(1, 1025)]).to(torch.float64)
    exact = levels * (unit / scale)
    tied = exact - exact.floor() == 0.5
    inverse = 1.0 / torch.tensor(scale, dtype=torch.float32)
    theirs = torch.round(levels.to(dtype) * torch.tensor(unit, dtype=dtype) * inverse.to(dtype))
    shifted = unit * float(inverse)
    wrong = [int((torch.round(x) != theirs)[tied].sum()) for x in (exact, levels * shifted)]
    return 1 / shifted if wrong[1] < wrong[0] else None


def _has_seen_data(fake: LevelQuantiser) -> None:
    if not fake.has_seen_data():
        raise ConversionError(
            fake.path, "a quantiser that has seen no data", "train the model, or run images through it in training mode"
        )


def _attribute(model: fx.GraphModule, path: str) -> Any:
    found: Any = model
    for part in path.split("."):
        found = getattr(found, part)
    return found
