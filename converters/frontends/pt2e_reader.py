"""Reads a prepared PT2E graph: ATen operations between trained fake quantisers.

What depends on weights alone (the folding of a batch norm into them, :mod:`~converters.frontends.pt2e_fuse`) is
computed by the graph's own operations, so that integers and scales are those that the model itself computes with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from converters.errors import ConversionError
from converters.frontends import aten
from converters.frontends.aten import arguments, is_counter, where
from converters.frontends.quantizer import LevelQuantiser
from converters.operations import Conv2d, Linear, Operation, SumPool2d
from converters.quantised import GraphBuilder, QuantGraph, Value

__all__ = ["read_prepared"]

_a = torch.ops.aten


@dataclass(frozen=True)
class _Weight:
    """Integer weights and their scale, per channel or one."""

    integers: Tensor
    scale: Tensor


@dataclass(frozen=True)
class _Sum:
    """A real-valued sum that no quantiser has seen yet: ``unit * sum_k op_k(n_k) / divisor + bias``, clamped.

    ``branches`` instead of ``inputs`` for an addition of quantised values.
    """

    name: str
    inputs: tuple[tuple[Value, Operation], ...] = ()
    unit: Tensor | float = 1.0
    bias: Tensor | float = 0.0
    branches: tuple[Value, ...] = ()
    low: float = -torch.inf
    high: float = torch.inf
    flat: bool = False
    """A pool that dropped its axes of size 1."""
    divisor: Tensor | None = None
    """Of a batch norm that has been folded into the weights; float, per channel."""


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
        self.builder = GraphBuilder("pt2e")
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
            return node
        if node.op == "get_attr":
            found = _attribute(self.model, str(node.target))
            return found.detach().cpu() if isinstance(found, Tensor) else found
        if node.op == "call_module":
            value = self._quantise(node, _attribute(self.model, str(node.target)))
            if isinstance(value, Value) and len(value.parts) == 1:
                self.shown[node] = value.parts[0][0]
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
        if isinstance(value, _Sum):
            if value.low > -torch.inf or value.high < torch.inf:
                raise ConversionError(
                    value.name, "a ReLU as unquantised output", "leave it out, or use quantise_output=True"
                )
            return self.layer(value, low=0, high=0, scale=None, spiking=False)
        if not isinstance(value, Value):
            raise ConversionError("output", "something that is not a quantised tensor", "return the logits")
        return value

    def value(self, node: Any, user: fx.Node) -> Value:
        """The quantised value of an input, or an error that says that nothing quantised it."""
        found = self.values.get(node)
        if isinstance(found, Value):
            return found
        if isinstance(found, _Sum):
            raise ConversionError(
                where(user),
                f"an unquantised activation, of {found.name}",
                "only the output may be one: use quantise_output=True, or a convolution or linear layer as the last",
            )
        raise ConversionError(where(user), "an input that is no activation", "compute it from the network's input")

    def layer(self, s: _Sum, *, low: int, high: int, scale: float | None, spiking: bool = True) -> Value:
        """The Ca-LIF layer of a sum and the quantiser behind it (equation 5)."""
        if s.branches:
            if scale is None:
                raise ConversionError(s.name, "an addition as unquantised output", "use quantise_output=True")
            value = self.builder.requantise(
                s.name, [(v, 1.0) for v in s.branches], y_min=low, y_max=high, scale=scale
            )  # fmt: skip
            threshold = _threshold(s.branches, scale, self.dtype)
            if threshold is not None:
                layers = self.builder.layers
                layers[-1] = replace(layers[-1], threshold=torch.tensor(threshold, dtype=torch.float64))
            return value
        if s.divisor is not None:
            s = _times(s, 1 / s.divisor.to(torch.float64))
        unit, bias = (torch.as_tensor(t, dtype=torch.float64) for t in (s.unit, s.bias))
        if scale is None:
            scale = float(unit.max())
        return self.builder.layer(
            s.name, list(s.inputs), threshold=scale / unit, bias=bias / unit, y_min=low, y_max=high, scale=scale,
            spiking=spiking,
        )  # fmt: skip

    def _quantise(self, node: fx.Node, fake: Any) -> Value | _Weight:
        if type(fake) is not LevelQuantiser:
            raise ConversionError(where(node), f"a module {type(fake).__name__}", "prepare the model with prepare_qat")
        source = node.args[0]
        found = self.values[source]
        if isinstance(found, Tensor):
            return self._weights(found, fake, node)
        scale = self._scale(fake)
        zero = 0 if self.dry else int(fake.zero_point[0])
        low, high = int(fake.quant_min) - zero, int(fake.quant_max) - zero
        if isinstance(found, fx.Node):
            shape = source.meta["shape"][1:]
            return self.builder.input(shape, scale=scale, q_min=low, q_max=high)
        if isinstance(found, Value):  # a quantiser behind a reshape repeats the one before it
            if found.scale == scale:
                return found
            return self.builder.requantise(where(source), [(found, 1.0)], y_min=low, y_max=high, scale=scale)
        if not isinstance(found, _Sum):
            raise ConversionError(
                where(source), "something that is no activation", "compute it from the network's input"
            )
        if found.low >= 0:
            low = max(low, 0)
        if found.high < torch.inf:  # the toolkit's own arithmetic, in float32
            high = min(high, int(torch.round(torch.tensor(found.high) * torch.tensor(1.0 / scale))))
        value = self.layer(found, low=low, high=high, scale=scale)
        return self.builder.flatten(value) if found.flat else value

    def _scale(self, fake: LevelQuantiser) -> float:
        if self.dry:  # every quantiser has one of its own: what must share one, must share its quantiser
            return self.made_up.setdefault(fake, 1.0 + len(self.made_up) / 1024)
        _has_seen_data(fake)
        return float(fake.scale[0])

    def _weights(self, weight: Tensor, fake: LevelQuantiser, node: fx.Node) -> _Weight:
        if self.dry:
            return _Weight(torch.ones_like(weight, dtype=torch.int8), torch.ones(1, dtype=torch.float64))
        _has_seen_data(fake)
        scale, zero = fake.scale.detach().cpu(), fake.zero_point.detach().cpu()
        if bool((zero != 0).any()) or (fake.is_per_channel and fake.ch_axis != 0):
            raise ConversionError(where(node), "weights that are not symmetric per row", "prepare it with prepare_qat")
        rows = scale.view(-1, *[1] * (weight.ndim - 1)) if fake.is_per_channel else scale
        levels = fake.quantised(weight.to(fake.scale.device)).cpu() / rows
        return _Weight(torch.round(levels).to(torch.int8), scale.to(torch.float64))


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


def _pair(value: Any) -> tuple[int, int]:
    values = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
    return (values[0], values[-1])


def _weighted(r: _Reader, node: fx.Node, make: Callable[[dict[str, Any], Tensor], Operation]) -> _Sum:
    a = arguments(node)
    weight = r.values[a["weight"]]
    if not isinstance(weight, _Weight):
        raise ConversionError(where(node), "weights that forward computes", "give the layer weights of its own")
    x = r.value(a["input"], node)
    bias = r.values[a["bias"]].detach().to(torch.float64) if a["bias"] is not None else 0.0
    return _Sum(where(node), ((x, make(a, weight.integers)),), weight.scale * x.scale, bias)


def _make_conv(a: dict[str, Any], weight: Tensor) -> Operation:
    stride, dilation = _pair(a["stride"]), _pair(a["dilation"])
    padding = a["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(n % 2 for n in reach):
            raise ConversionError("Conv2d", "padding 'same' with an even kernel", "pad the input evenly, in numbers")
        padding = [n // 2 for n in reach] if padding == "same" else [0, 0]
    return Conv2d(weight, stride, _pair(padding), dilation, int(a["groups"]))


def _times(s: _Sum, factor: Tensor) -> _Sum:
    """A sum times a float64 factor per channel, its bias left alone. A negative one turns the weight row round."""
    ((x, op),) = s.inputs
    if op.stored is None:
        raise ConversionError(s.name, "a batch norm that follows no convolution or linear layer", "move it there")
    sign = torch.sign(factor)  # 0 cuts the row off
    weight = op.stored * sign.to(op.stored.dtype).reshape(-1, *[1] * (op.stored.ndim - 1))
    unit = torch.where(sign == 0, 1.0, factor.abs()) * s.unit
    return replace(s, inputs=((x, replace(op, weight=weight)),), unit=unit, divisor=None)


def _divide(r: _Reader, node: fx.Node) -> _Sum:
    """What the folding of a batch norm, which is still to come, takes back."""
    s, by = (r.values[n] for n in node.args)
    if not isinstance(s, _Sum) or not isinstance(by, Tensor) or s.divisor is not None:
        raise ConversionError(where(node), "a division", "scale the weights instead")
    return replace(s, divisor=by.flatten())


def _batch_norm(r: _Reader, node: fx.Node) -> _Sum:
    """Batch norm behind a linear layer or a convolution: after the accumulator."""
    a = arguments(node)
    s = r.values[a["input"]]
    if not isinstance(s, _Sum) or len(s.inputs) != 1 or s.low > -torch.inf or s.high < torch.inf:
        raise ConversionError(where(node), "a batch norm that follows no convolution or linear layer", "move it there")
    mean, var = (r.values[a[k]] for k in ("running_mean", "running_var"))
    gamma, beta = (None if a[k] is None else r.values[a[k]] for k in ("weight", "bias"))
    short = (torch.ones_like(var) if gamma is None else gamma) / torch.sqrt(var + a["eps"])  # as it was folded
    factor = 1 / torch.sqrt(var.to(torch.float64) + float(a["eps"]))
    if gamma is not None:
        factor = factor * gamma.to(torch.float64)
    bias = (torch.as_tensor(s.bias) - mean.to(torch.float64)) * factor
    if beta is not None:
        bias = bias + beta.to(torch.float64)
    if s.divisor is not None:
        factor = torch.where(short == s.divisor, 1.0, factor / s.divisor.to(torch.float64))
    return replace(_times(s, factor), bias=bias)


def _relu(r: _Reader, node: fx.Node) -> _Sum:
    s = r.values[node.args[0]]
    if isinstance(s, Value):
        s = _Sum(where(node), branches=(s,))
    if not isinstance(s, _Sum):
        raise ConversionError(where(node), "a ReLU of something that is no activation", "leave it out")
    high = s.high
    if node.target is _a.hardtanh.default:
        high = min(high, float(arguments(node)["max_val"]))
    elif node.target is _a.relu6.default:
        high = min(high, 6.0)
    return replace(s, low=max(s.low, 0.0), high=high)


def _avg_pool(r: _Reader, node: fx.Node) -> _Sum:
    a = arguments(node)
    x = r.value(a["self"], node)
    kernel = _pair(a["kernel_size"])
    stride, padding = _pair(a["stride"] or kernel), _pair(a["padding"])
    if a["ceil_mode"] or (padding != (0, 0) and not a["count_include_pad"]):
        raise ConversionError(
            where(node), "a pool whose windows have different sizes", "use ceil_mode=False, count_include_pad=True"
        )
    divisor = a["divisor_override"] or kernel[0] * kernel[1]
    return _Sum(where(node), ((x, SumPool2d(kernel, stride, padding)),), x.scale / divisor)


def _adaptive_pool(r: _Reader, node: fx.Node) -> _Sum:
    x = r.value(node.args[0], node)
    out, size = _pair(node.args[1]), x.shape[1:]
    if any(s % o for s, o in zip(size, out, strict=True)):
        raise ConversionError(where(node), f"a pool from {size} to {out}", "the output size must divide the input's")
    kernel = (size[0] // out[0], size[1] // out[1])
    return _Sum(where(node), ((x, SumPool2d(kernel, kernel)),), x.scale / (kernel[0] * kernel[1]))


def _mean(r: _Reader, node: fx.Node) -> _Sum:
    a = arguments(node)
    x = r.value(a["self"], node)
    axes = sorted(int(d) % (len(x.shape) + 1) for d in a["dim"])
    if axes != [2, 3] or len(x.shape) != 3:
        raise ConversionError(
            where(node), f"a mean over axes {a['dim']}", "only the mean over height and width is a pool"
        )
    kernel = (x.shape[1], x.shape[2])
    pooled = SumPool2d(kernel, kernel)
    return _Sum(where(node), ((x, pooled),), x.scale / (kernel[0] * kernel[1]), flat=not a["keepdim"])


def _add(r: _Reader, node: fx.Node) -> _Sum:
    s, constant = (r.values[n] for n in node.args[:2])
    if isinstance(s, _Sum) and isinstance(constant, Tensor):  # the bias behind a folded batch norm
        return replace(s, bias=torch.as_tensor(s.bias) + constant.flatten().to(torch.float64))
    return _Sum(where(node), branches=tuple(r.value(n, node) for n in node.args[:2]))


def _cat(r: _Reader, node: fx.Node) -> Value:
    a = arguments(node)
    values = [r.value(n, node) for n in a["tensors"]]
    if int(a["dim"]) % (len(values[0].shape) + 1) != 1:
        raise ConversionError(
            where(node), f"a concatenation along axis {a['dim']}", "only channels can be concatenated"
        )
    return r.builder.concat(where(node), values)


def _flatten(r: _Reader, node: fx.Node) -> Value:
    x = r.value(node.args[0], node)
    ndim = len(node.meta["shape"])
    if ndim != 2:
        raise ConversionError(where(node), f"a reshape to {ndim} axes", "only flattening to (N, features) is known")
    return r.builder.flatten(x) if len(x.shape) > 1 else x


def _same(r: _Reader, node: fx.Node) -> Any:
    return r.values[node.args[0]]


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
    **dict.fromkeys(aten.CONV, lambda r, node: _weighted(r, node, _make_conv)),
    **dict.fromkeys(aten.LINEAR, lambda r, node: _weighted(r, node, lambda a, w: Linear(w))),
    **dict.fromkeys(aten.BATCH_NORM, _batch_norm),
    **dict.fromkeys(aten.RELUS, _relu),
    **dict.fromkeys(aten.ADD, _add),
    **dict.fromkeys(aten.FLATTEN, _flatten),
    **dict.fromkeys(aten.IDENTITY, _same),
}
