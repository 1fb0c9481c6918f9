"""Reads a converted PT2E graph: pure ATen operations between ``quantized_decomposed`` ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends import aten
from converters.frontends.aten import where
from converters.quantised import GraphBuilder, QuantGraph, Value
from converters.synapses import Conv2d, Linear, Op, SumPool2d

__all__ = ["read_converted"]

_q = torch.ops.quantized_decomposed
_a = torch.ops.aten


@dataclass(frozen=True)
class _Weight:
    """Integer weights and their scale, per channel or one."""

    integers: Tensor
    scale: Tensor


@dataclass(frozen=True)
class _Sum:
    """A real-valued sum that no quantiser has seen yet: ``unit * sum_k op_k(n_k) + bias``, clamped.

    ``branches`` instead of ``inputs`` for an addition of quantised values.
    """

    name: str
    inputs: tuple[tuple[Value, Op], ...] = ()
    unit: Tensor | float = 1.0
    bias: Tensor | float = 0.0
    branches: tuple[Value, ...] = ()
    low: float = -torch.inf
    high: float = torch.inf
    flat: bool = False
    """A pool that dropped its axes of size 1."""


@dataclass(frozen=True)
class _Integers:
    """Between a quantise and its dequantise: a value, and the real size of its levels."""

    value: Value


def read_converted(model: fx.GraphModule) -> QuantGraph:
    """The QuantGraph of a model that ``convert_pt2e`` returned."""
    return _Reader(model).graph()


class _Reader:
    def __init__(self, model: fx.GraphModule) -> None:
        self.model = model
        self.builder = GraphBuilder("pt2e")
        self.values: dict[fx.Node, Any] = {}

    def graph(self) -> QuantGraph:
        for node in self.model.graph.nodes:
            if node.op == "get_attr":
                self.values[node] = _attribute(self.model, str(node.target))
            elif node.op == "placeholder":
                self.values[node] = node
            elif node.op == "output":
                return self.builder.build(self._output(node))
            elif node.op == "call_function":
                handler = _HANDLERS.get(node.target)
                if handler is None:
                    raise ConversionError(
                        where(node), f"the operation {node.target}", "prepare the model with prepare_qat"
                    )
                self.values[node] = handler(self, node)
        raise ConversionError("graph", "no output", "return the logits from forward")

    def _output(self, node: fx.Node) -> Value:
        (result,) = node.all_input_nodes
        value = self.values[result]
        if isinstance(value, _Sum):
            return self.layer(value, low=0, high=0, scale=None, spiking=False)
        if not isinstance(value, Value):
            raise ConversionError("output", "something that is not a quantised tensor", "return the logits")
        return value

    def value(self, node: Any, user: fx.Node) -> Value:
        """The quantised value of an input, or an error that says that nothing quantised it."""
        found = self.values.get(node)
        if isinstance(found, Value):
            return found
        what = "an unquantised activation" if isinstance(found, _Sum) else "an input that is no quantised tensor"
        raise ConversionError(where(user), what, "let prepare_qat place the quantisers")

    def layer(self, s: _Sum, *, low: int, high: int, scale: float | None, spiking: bool = True) -> Value:
        """The Ca-LIF layer of a sum and the quantiser behind it (equation 5)."""
        if s.branches:
            if scale is None:
                raise ConversionError(
                    s.name, "an addition as unquantised output", "let prepare_qat quantise the output"
                )
            return self.builder.requantise(
                s.name, [(v, 1.0) for v in s.branches], y_min=low, y_max=high, scale=scale
            )  # fmt: skip
        unit, bias = (torch.as_tensor(t, dtype=torch.float64) for t in (s.unit, s.bias))
        if scale is None:
            scale = float(unit.max())
        return self.builder.layer(
            s.name, list(s.inputs), threshold=scale / unit, bias=bias / unit, y_min=low, y_max=high, scale=scale,
            spiking=spiking,
        )  # fmt: skip


def _quantise(r: _Reader, node: fx.Node) -> _Integers | _Weight:
    source, scale, zero, q_min, q_max = node.args[:5]
    found = r.values[source]
    if isinstance(found, Tensor):  # a weight that the converter left unfolded
        raise ConversionError(where(node), "an unfolded weight", "convert with fold_quantize=True")
    scale, zero, q_min, q_max = float(scale), int(zero), int(q_min), int(q_max)
    if isinstance(found, fx.Node):
        shape = tuple(int(n) for n in found.meta["val"].shape[1:])
        return _Integers(r.builder.input(shape, scale=scale, q_min=q_min - zero, q_max=q_max - zero))
    low, high = q_min - zero, q_max - zero
    if isinstance(found, Value):  # a quantiser behind a reshape repeats the one before it
        if found.scale == scale:
            return _Integers(found)
        return _Integers(r.builder.requantise(node.name, [(found, 1.0)], y_min=low, y_max=high, scale=scale))
    if found.low >= 0:
        low = max(low, 0)
    if found.high < torch.inf:  # the toolkit's own arithmetic, in float32
        high = min(high, int(torch.round(torch.tensor(found.high) * torch.tensor(1.0 / scale))))
    value = r.layer(found, low=low, high=high, scale=scale)
    return _Integers(r.builder.flatten(value) if found.flat else value)


def _dequantise(r: _Reader, node: fx.Node) -> Value | _Weight:
    found = r.values[node.args[0]]
    if isinstance(found, _Integers):
        return found.value
    scale, zero = node.args[1], node.args[2]
    if int(zero) != 0:
        raise ConversionError(where(node), f"a weight zero point of {zero}", "use symmetric weights")
    return _Weight(found, torch.tensor([float(scale)], dtype=torch.float64))


def _dequantise_channels(r: _Reader, node: fx.Node) -> _Weight:
    found, scale, zero, axis = (r.values.get(a, a) if isinstance(a, fx.Node) else a for a in node.args[:4])
    if axis != 0 or bool((zero != 0).any()):
        raise ConversionError(where(node), f"weights quantised along axis {axis}", "use symmetric weights, axis 0")
    return _Weight(found, scale.to(torch.float64))


def _arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments by name, defaults included."""
    schema = node.target._schema.arguments
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def _pair(value: Any) -> tuple[int, int]:
    values = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
    return (values[0], values[-1])


def _weighted(r: _Reader, node: fx.Node, make: Callable[[dict[str, Any], Tensor], Op]) -> _Sum:
    a = _arguments(node)
    weight = r.values[a["weight"]]
    if not isinstance(weight, _Weight):
        raise ConversionError(where(node), "unquantised weights", "let prepare_qat place the quantisers")
    x = r.value(a["input"], node)
    bias = r.values[a["bias"]].detach().to(torch.float64) if a["bias"] is not None else 0.0
    return _Sum(_layer_name(node), ((x, make(a, weight.integers)),), weight.scale * x.scale, bias)


def _make_conv(a: dict[str, Any], weight: Tensor) -> Op:
    stride, dilation = _pair(a["stride"]), _pair(a["dilation"])
    padding = a["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(n % 2 for n in reach):
            raise ConversionError("Conv2d", "padding 'same' with an even kernel", "pad the input evenly, in numbers")
        padding = [n // 2 for n in reach] if padding == "same" else [0, 0]
    return Conv2d(weight, stride, _pair(padding), dilation, int(a["groups"]))


def _batch_norm(r: _Reader, node: fx.Node) -> _Sum:
    """Batch norm behind a linear layer, which torchao does not fold: after the accumulator."""
    a = _arguments(node)
    s = r.values[a["input"]]
    if not isinstance(s, _Sum) or len(s.inputs) != 1 or s.low > -torch.inf:
        raise ConversionError(where(node), "a batch norm that follows no convolution or linear layer", "move it there")
    mean, var = (r.values[a[k]].to(torch.float64) for k in ("running_mean", "running_var"))
    factor = 1 / torch.sqrt(var + float(a["eps"]))
    if a["weight"] is not None:
        factor = factor * r.values[a["weight"]].detach().to(torch.float64)
    bias = (torch.as_tensor(s.bias) - mean) * factor
    if a["bias"] is not None:
        bias = bias + r.values[a["bias"]].detach().to(torch.float64)
    ((x, op),) = s.inputs
    sign = torch.sign(factor)  # a negative gamma turns the weight row round; 0 cuts it off
    weight = op.weight * sign.to(op.weight.dtype).reshape(-1, *[1] * (op.weight.ndim - 1))
    unit = torch.where(sign == 0, 1.0, factor.abs()) * s.unit
    return replace(s, inputs=((x, replace(op, weight=weight)),), unit=unit, bias=bias)


def _relu(r: _Reader, node: fx.Node) -> _Sum:
    s = r.values[node.args[0]]
    if isinstance(s, Value):
        s = _Sum(_layer_name(node), branches=(s,))
    high = s.high
    if node.target in (_a.hardtanh.default, _a.hardtanh_.default):
        high = min(high, float(_arguments(node)["max_val"]))
    elif node.target is _a.relu6.default:
        high = min(high, 6.0)
    return replace(s, low=max(s.low, 0.0), high=high)


def _avg_pool(r: _Reader, node: fx.Node) -> _Sum:
    a = _arguments(node)
    x = r.value(a["self"], node)
    kernel = _pair(a["kernel_size"])
    stride, padding = _pair(a["stride"] or kernel), _pair(a["padding"])
    if a["ceil_mode"] or (padding != (0, 0) and not a["count_include_pad"]):
        raise ConversionError(
            where(node), "a pool whose windows have different sizes", "use ceil_mode=False, count_include_pad=True"
        )
    divisor = a["divisor_override"] or kernel[0] * kernel[1]
    return _Sum(_layer_name(node), ((x, SumPool2d(kernel, stride, padding)),), x.scale / divisor)


def _adaptive_pool(r: _Reader, node: fx.Node) -> _Sum:
    x = r.value(node.args[0], node)
    out, size = _pair(node.args[1]), x.shape[1:]
    if any(s % o for s, o in zip(size, out, strict=True)):
        raise ConversionError(where(node), f"a pool from {size} to {out}", "the output size must divide the input's")
    kernel = (size[0] // out[0], size[1] // out[1])
    return _Sum(_layer_name(node), ((x, SumPool2d(kernel, kernel)),), x.scale / (kernel[0] * kernel[1]))


def _mean(r: _Reader, node: fx.Node) -> _Sum:
    a = _arguments(node)
    x = r.value(a["self"], node)
    axes = sorted(int(d) % (len(x.shape) + 1) for d in a["dim"])
    if axes != [2, 3] or len(x.shape) != 3:
        raise ConversionError(
            where(node), f"a mean over axes {a['dim']}", "only the mean over height and width is a pool"
        )
    kernel = (x.shape[1], x.shape[2])
    pooled = SumPool2d(kernel, kernel)
    return _Sum(_layer_name(node), ((x, pooled),), x.scale / (kernel[0] * kernel[1]), flat=not a["keepdim"])


def _add(r: _Reader, node: fx.Node) -> _Sum | None:
    if node.args[0] in r.values and isinstance(r.values[node.args[0]], Tensor):
        return None  # batch norm's count of batches
    return _Sum(_layer_name(node), branches=tuple(r.value(n, node) for n in node.args[:2]))


def _cat(r: _Reader, node: fx.Node) -> Value:
    a = _arguments(node)
    values = [r.value(n, node) for n in a["tensors"]]
    if int(a["dim"]) % (len(values[0].shape) + 1) != 1:
        raise ConversionError(
            where(node), f"a concatenation along axis {a['dim']}", "only channels can be concatenated"
        )
    return r.builder.concat(where(node), values)


def _flatten(r: _Reader, node: fx.Node) -> Value:
    x = r.value(node.args[0], node)
    ndim = len(node.meta["val"].shape) if "val" in node.meta else 2
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


def _layer_name(node: fx.Node) -> str:
    """Module path; torchao's pattern matching loses it for a convolution before a batch norm."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack and stack[-1][0] and "torchao" not in str(stack[-1][1]):
        return str(stack[-1][0])
    return node.name


_HANDLERS: dict[Any, Callable[[_Reader, fx.Node], Any]] = {
    _q.quantize_per_tensor.default: _quantise,
    _q.dequantize_per_tensor.default: _dequantise,
    _q.dequantize_per_channel.default: _dequantise_channels,
    _a.avg_pool2d.default: _avg_pool,
    _a.adaptive_avg_pool2d.default: _adaptive_pool,
    _a.mean.dim: _mean,
    _a.cat.default: _cat,
    _a.sym_size.int: lambda r, node: None,
    **dict.fromkeys(aten.CONV, lambda r, node: _weighted(r, node, _make_conv)),
    **dict.fromkeys(aten.LINEAR, lambda r, node: _weighted(r, node, lambda a, w: Linear(w))),
    **dict.fromkeys(aten.BATCH_NORM, _batch_norm),
    **dict.fromkeys(aten.RELUS, _relu),
    **dict.fromkeys(aten.ADD, _add),
    **dict.fromkeys(aten.FLATTEN, _flatten),
    **dict.fromkeys(aten.IDENTITY, _same),
}
