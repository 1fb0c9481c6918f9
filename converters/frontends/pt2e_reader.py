"""Reads a prepared PT2E graph: ATen operations between trained fake quantisers.

What depends on weights alone (the folding of a batch norm into them, :mod:`~converters.frontends.pt2e_fuse`) is
computed by the graph's own operations, so that integers and scales are those that the model itself computes with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from converters.errors import ConversionError
from converters.frontends import aten
from converters.frontends.aten import arguments, is_counter, where
from converters.frontends.quantizer import LevelQuantiser
from converters.frontends.verbs import Grid, Pending, Raw, Verbs, Weight, convolution
from converters.graph_builder import Value
from converters.operations import Linear
from converters.operations.weights import Weighted
from converters.quantised import QuantGraph

__all__ = ["read_prepared"]

_a = torch.ops.aten


def read_prepared(model: fx.GraphModule, *, dry: bool = False) -> tuple[QuantGraph, dict[fx.Node, str]]:
    """The QuantGraph of a prepared model, which is left as it is, and its layers' names by the nodes that quantise.

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
        self.made_up: dict[LevelQuantiser, float] = {}
        self.shown: dict[fx.Node, str] = {}
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
            return Raw(tuple(node.meta["shape"][1:]))
        if node.op == "get_attr":
            found = _attribute(self.model, str(node.target))
            return found.detach().cpu() if isinstance(found, Tensor) else found
        if node.op == "call_module":
            value = self._quantise(node, _attribute(self.model, str(node.target)))
            if isinstance(value, Value) and value.in_order:
                self.shown[node] = value.parts[0].name
            return value
        if is_counter(node):
            return None
        given = [self.values[n] for n in node.all_input_nodes]
        if node.op == "call_function" and given and all(isinstance(v, Tensor) for v in given):
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.values[n])
            return node.target(*args, **kwargs)
        handler = _HANDLERS.get(node.target)
        if handler is None:
            raise ConversionError(
                where(node), f"the operation {aten.operation(node)}", "prepare the model with prepare_qat"
            )
        return handler(self, node)

    def _output(self, node: fx.Node) -> Value:
        (result,) = node.all_input_nodes
        value = self.values[result]
        if isinstance(value, Pending) and (value.clamped or not value.inputs):
            what = "a ReLU" if value.clamped else "an addition"
            raise ConversionError(value.name, f"{what} as unquantised output", "use quantise_output=True")
        return self.builder.output(value)

    def _quantise(self, node: fx.Node, fake: Any) -> Value | Weight:
        if type(fake) is not LevelQuantiser:
            raise ConversionError(where(node), f"a module {type(fake).__name__}", "prepare the model with prepare_qat")
        (source,) = node.all_input_nodes
        found = self.values[source]
        if isinstance(found, Tensor):
            return self._weights(found, fake, node)
        if not isinstance(found, Raw | Value | Pending):
            raise ConversionError(
                where(source), "something that is no activation", "compute it from the network's input"
            )
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
        return float(fake.scale[0])

    def _weights(self, weight: Tensor, fake: LevelQuantiser, node: fx.Node) -> Weight:
        if self.dry:
            return Weight(torch.ones_like(weight, dtype=torch.int8), torch.ones(1, dtype=torch.float64))
        _has_seen_data(fake)
        scale, zero = fake.scale.detach().cpu(), fake.zero_point.detach().cpu()
        if bool((zero != 0).any()) or (fake.is_per_channel and fake.ch_axis != 0):
            raise ConversionError(where(node), "weights that are not symmetric per row", "prepare it with prepare_qat")
        rows = scale.view(-1, *[1] * (weight.ndim - 1)) if fake.is_per_channel else scale
        levels = fake.quantised(weight.to(fake.scale.device)).cpu() / rows
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


def _weighted(r: _Reader, node: fx.Node, make: Callable[[fx.Node, dict[str, Any], Tensor], Weighted]) -> Pending:
    a = arguments(node)
    weight = r.values[a["weight"]]
    if not isinstance(weight, Weight):
        raise ConversionError(where(node), "weights that forward computes", "give the layer weights of its own")
    bias = r.values[a["bias"]] if a["bias"] is not None else None
    return r.builder.weigh(where(node), r.values[a["input"]], make(node, a, weight.integers), weight.scale, bias)


def _convolution(node: fx.Node, a: dict[str, Any], weight: Tensor) -> Weighted:
    return convolution(where(node), weight, a["stride"], a["padding"], a["dilation"], int(a["groups"]))


def _divide(r: _Reader, node: fx.Node) -> Pending:
    """What the folding of a batch norm, which is still to come, takes back."""
    x, by = (r.values[n] for n in node.args)
    return r.builder.divide(where(node), x, by)


def _batch_norm(r: _Reader, node: fx.Node) -> Pending:
    a = arguments(node)
    mean, variance, gamma, beta = (
        None if a[k] is None else r.values[a[k]] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return r.builder.batch_norm(where(node), r.values[a["input"]], mean, variance, float(a["eps"]), gamma, beta)


def _relu(r: _Reader, node: fx.Node) -> Value | Pending:
    high = torch.inf
    if node.target is _a.hardtanh.default:
        high = float(arguments(node)["max_val"])
    elif node.target is _a.relu6.default:
        high = 6.0
    return r.builder.rectify(where(node), r.values[node.all_input_nodes[0]], high)


def _avg_pool(r: _Reader, node: fx.Node) -> Pending:
    a = arguments(node)
    return r.builder.average_pool(
        where(node), r.values[a["self"]], a["kernel_size"], a["stride"], a["padding"], ceil_mode=a["ceil_mode"],
        count_include_pad=a["count_include_pad"], divisor=a["divisor_override"],
    )  # fmt: skip


def _adaptive_pool(r: _Reader, node: fx.Node) -> Pending:
    return r.builder.adaptive_pool(where(node), r.values[node.all_input_nodes[0]], node.args[1])


def _mean(r: _Reader, node: fx.Node) -> Pending:
    a = arguments(node)
    return r.builder.mean(where(node), r.values[a["self"]], a["dim"], keepdim=bool(a["keepdim"]))


def _add(r: _Reader, node: fx.Node) -> Pending:
    x, other = (r.values[n] for n in node.args[:2])
    if isinstance(other, Tensor):  # the bias behind a folded batch norm
        return r.builder.shift(where(node), x, other)
    return r.builder.add(where(node), (x, 1.0), (other, 1.0))


def _cat(r: _Reader, node: fx.Node) -> Value | Pending:
    a = arguments(node)
    rank = len(node.meta["shape"])
    return r.builder.concatenate(where(node), [r.values[n] for n in a["tensors"]], int(a["dim"]), rank)


def _reshape(r: _Reader, node: fx.Node) -> Any:
    source = node.all_input_nodes[0]
    x, after = r.values[source], tuple(node.meta["shape"])
    # a quantiser keeps the shape of what it quantises, and has none of its own
    before = (after[0], *x.shape) if isinstance(x, Value) else tuple(source.meta["shape"])
    return r.builder.reshape(where(node), x, before, after)


def _same(r: _Reader, node: fx.Node) -> Any:
    return r.values[node.all_input_nodes[0]]


def _attribute(model: fx.GraphModule, path: str) -> Any:
    found: Any = model
    for part in path.split("."):
        found = getattr(found, part)
    return found


_HANDLERS: dict[Any, Callable[[_Reader, fx.Node], Any]] = {
    _a.avg_pool2d.default: _avg_pool,
    _a.adaptive_avg_pool2d.default: _adaptive_pool,
    _a.mean.dim: _mean,
    _a.cat.default: _cat,
    _a.sym_size.int: lambda r, node: None,
    _a.div.Tensor: _divide,
    **dict.fromkeys(aten.CONV, lambda r, node: _weighted(r, node, _convolution)),
    **dict.fromkeys(aten.LINEAR, lambda r, node: _weighted(r, node, lambda node, a, w: Linear(w))),
    **dict.fromkeys(aten.BATCH_NORM, _batch_norm),
    **dict.fromkeys(aten.RELUS, _relu),
    **dict.fromkeys(aten.ADD, _add),
    **dict.fromkeys(aten.FLATTEN, _reshape),
    **dict.fromkeys(aten.IDENTITY, _same),
}
