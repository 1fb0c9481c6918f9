"""Attention as Brevitas has it, ``QuantMultiheadAttention`` and ``QuantScaledDotProductAttention``, in verbs.

Both are read as one module each, in its own order of operations: queries are scaled and then quantised, keys are
quantised as they are, a mask is added to the product in front of the quantiser of the softmax, where there is one.
Without that quantiser the softmax looks the product's integers up as they are.

Inside, Brevitas has heads and images on one axis, and tokens in front of images; a value is compared with what a
quantiser shows with the images first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.aten import FAR
from converters.frontends.brevitas_quantisers import BrevitasWalker, bias_of, grid_of, weight_of
from converters.frontends.pending import Pending, chain_of
from converters.frontends.tracing import where_is
from converters.frontends.verbs import Grid, Weight
from converters.frontends.watching import Place
from converters.graph_builder import Value
from converters.operations import Linear

__all__ = ["multi_head_attention", "scaled_dot_product_attention"]

Turn = Callable[[Tensor], Tensor]
_OPERANDS = ("query", "key", "value")


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _second(x: Tensor) -> Tensor:
    """Images first, of ``(L, N, E)``."""
    return x.transpose(0, 1)


def multi_head_attention(
    walker: BrevitasWalker, node: fx.Node, module: Any, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
    need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True,
) -> tuple[Any, Any]:  # fmt: skip
    """What ``QuantMultiheadAttention`` returns: its output, and the weights or None."""
    where = where_is(node)
    images = walker.shape(node.all_input_nodes[0])
    if not module.batch_first or len(images) != 3:
        found = f"an attention whose images are not the first axis of three (batch_first={module.batch_first})"
        raise ConversionError(where, found, "build it with batch_first=True, and give it tokens (N, L, E)")
    if key_padding_mask is not None:
        raise ConversionError(where, "a mask of each image's own keys", "give an attn_mask, the same for all images")
    core = _Attention(walker, node, module, lambda t: t.unflatten(0, (-1, module.num_heads)))
    q, k, v = core.projected(query, key, value)
    mask = attn_mask
    if mask is not None and mask.dtype in (torch.uint8, torch.bool):
        mask = _of_booleans(mask.bool())
    if module.bias_k is not None:
        mask = None if mask is None else F.pad(mask, (0, 1))
    q, k, v = (core.heads(x) for x in (q, k, v))
    if module.add_zero_attn:
        k, v = (core.move(x, lambda t: F.pad(t, (0, 0, 0, 1))) for x in (k, v))
        mask = None if mask is None else F.pad(mask, (0, 1))
    y, weights = core.of(q, k, v, mask, 1 / math.sqrt(module.head_dim))
    out = core.out(core.move(y, lambda t: t.transpose(1, 2).flatten(2)))
    if not need_weights:
        return out, None
    return out, walker.builder.mean(where, weights, 1, keepdim=False) if average_attn_weights else weights


def scaled_dot_product_attention(
    walker: BrevitasWalker, node: fx.Node, module: Any, query: Any, key: Any, value: Any, attn_mask: Any = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """What ``QuantScaledDotProductAttention`` returns."""
    from brevitas.function import identity

    where = where_is(node)
    if dropout_p:
        raise ConversionError(where, "a dropout that stays on in eval mode", "give it dropout_p=0 there")
    if {module.pre_process_q, module.pre_process_k, module.pre_process_v} != {identity}:
        raise ConversionError(where, "an attention that changes its operands first", "do so in front of it")
    core = _Attention(walker, node, module, _as_it_is)
    q, k, v = query, key, value
    of_query, of_key = (walker.traced.shapes[core.operand(n)] for n in _OPERANDS[:2])
    if enable_gqa:
        times = of_query[-3] // of_key[-3]
        k, v = (core.move(x, lambda t: t.repeat_interleave(times, -3)) for x in (k, v))
    mask = attn_mask
    if mask is not None and mask.dtype is torch.bool:
        mask = _of_booleans(~mask)
    if is_causal:
        mask = _of_booleans(torch.ones(of_query[-2], of_key[-2], dtype=torch.bool).triu(1))
    y, _ = core.of(q, k, v, mask, 1 / math.sqrt(of_query[-1]) if scale is None else float(scale))
    quantiser = module.sdpa_output_quant
    return core.quantised("sdpa_output_quant", y) if quantiser.act_quant.is_quant_enabled else y


def _of_booleans(dropped: Tensor) -> Tensor:
    return torch.zeros(dropped.shape).masked_fill(dropped, -math.inf)


@dataclass
class _Attention:
    """One call of an attention, and how its inner values, which have heads and images on one axis, are turned."""

    walker: BrevitasWalker
    node: fx.Node
    module: Any
    turn: Turn

    @property
    def where(self) -> str:
        return where_is(self.node)

    def move(self, x: Any, function: Turn) -> Any:
        return self.walker.builder.move(self.where, x, function)

    def heads(self, x: Any) -> Any:
        """``(L, E)`` as ``(heads, L, E / heads)``."""
        return self.move(x, lambda t: t.unflatten(-1, (self.module.num_heads, -1)).transpose(1, 2))

    def quantised(self, inner: str, x: Any, name: str | None = None, turn: Turn | None = None) -> Value:
        """What the quantiser in the submodule ``inner`` makes of ``x``."""
        quantiser = self.module.get_submodule(inner)
        proxy = getattr(quantiser, "act_quant", quantiser)
        path = f"{self.where}.{inner}"
        if not proxy.is_quant_enabled:
            raise ConversionError(self.where, f"an attention without {inner}", f"give it a quantiser for {inner}")
        y = self.walker.quantise_by(self.node, proxy, x, name or path)
        self.show(inner, y, turn or self.turn)
        return y

    def show(self, inner: str, value: Value, turn: Turn) -> None:
        place = Place(str(self.node.target), self.walker.traced.calls[self.node], inner, turn=turn)
        self.walker.shown.append((place, value))

    # --- layers with weights ------------------------------------------------------------------------

    def projected(self, *given: Any) -> list[Any]:
        """Queries, keys and values ``(L, E)`` of what the attention is given, the bias tokens behind them."""
        module = self.module
        tokens = (None, module.bias_k, module.bias_v)
        if module.in_proj is None:
            named = zip(_OPERANDS, given, tokens, strict=True)
            return [self._layer(f"{n[0]}_proj", x, token, of=n) for n, x, token in named]
        if module.in_proj.output_quant.is_quant_enabled:
            whole = self._layer("in_proj", given[0])
            parts = [self.move(whole, partial(_third_of, part=k)) for k in range(3)]
            return [self._with(n, x, token) for n, x, token in zip(_OPERANDS, parts, tokens, strict=True)]
        x = self._input("in_proj", given[0])
        return [self._weighed("in_proj", x, token, part=k) for k, token in enumerate(tokens)]

    def out(self, x: Any) -> Any:
        if not self.module.out_proj.input_quant.is_quant_enabled:
            found, todo = "an attention without out_proj.input_quant", "give it an out_proj_input_quant"
            raise ConversionError(self.where, found, todo)
        return self._layer("out_proj", x)

    def _layer(self, inner: str, x: Any, token: Tensor | None = None, of: str = "query") -> Any:
        """A ``QuantLinear`` with its quantisers."""
        x = self._input(inner, x)
        if not self.module.get_submodule(inner).output_quant.is_quant_enabled:
            return self._weighed(inner, x, token, of=of)
        y = self.quantised(f"{inner}.output_quant", self._weighed(inner, x, of=of), f"{self.where}.{inner}", _second)
        return self._with(of, y, token)

    def _input(self, inner: str, x: Any) -> Value:
        if self.module.get_submodule(inner).input_quant.is_quant_enabled:
            return self.quantised(f"{inner}.input_quant", x, turn=_second)
        return self.walker.builder.value(self.where, x)

    def _weighed(
        self, inner: str, x: Value, token: Tensor | None = None, part: int | None = None, of: str = "query"
    ) -> Any:
        """A layer's weights and bias, or those of one of three parts that are in one layer; and ``token`` behind it."""
        layer, name, b = self.module.get_submodule(inner), f"{self.where}.{inner}", self.walker.builder
        w = weight_of(name, layer)
        bias = bias_of(layer, self.walker.traced.results[self.operand(of)], w.scale, x)
        if part is not None:
            w, bias = _third(w, bias, part)
            name = f"{name}.{_OPERANDS[part]}"
        if token is not None:  # of a token of zeros, and a bias of its own there
            x = self.move(x, lambda t: F.pad(t, (0, 0, 0, 1)))
        y = b.weigh(name, x, Linear(w.integers), w.scale, bias)
        if token is None:
            return y
        more = torch.zeros(y.shape, dtype=torch.float64)
        more[-1] = token.detach().double().cpu().flatten() - (0.0 if bias is None else bias)
        return b.shift(name, y, more)

    def _with(self, operand: str, x: Value, token: Tensor | None) -> Any:
        """Tokens on a grid, and one more behind them."""
        return x if token is None else self.walker.builder.concatenate(f"{self.where}.{operand}", [x, token], 1, 3)

    def operand(self, name: str) -> fx.Node:
        """The node that gives the attention its query, key or value."""
        nodes: dict[str, Any] = dict(zip(_OPERANDS, self.node.args, strict=False)) | dict(self.node.kwargs)
        found = nodes[name]
        assert isinstance(found, fx.Node)
        return found

    # --- the attention itself -----------------------------------------------------------------------

    def of(self, q: Any, k: Any, v: Any, mask: Tensor | None, factor: float) -> tuple[Any, Value]:
        """The product of weights and values, which no quantiser has seen, and the weights."""
        b = self.walker.builder
        q = self.quantised("q_scaled_quant", b.scale(self.where, q, factor), self._name(q, "q_scaled_quant"))
        k = self.move(k, lambda t: t.transpose(-2, -1))
        k = self.quantised("k_transposed_quant", k, self._name(k, "k_transposed_quant"))
        scores = self._masked(b.matmul(f"{self.where}.scores", q, k), mask)
        weights = self.quantised("attn_output_weights_quant", b.softmax(f"{self.where}.weights", scores, -1))
        v = self.quantised("v_quant", v, self._name(v, "v_quant"))
        return b.matmul(f"{self.where}.attended", weights, v), weights

    def _name(self, x: Any, inner: str) -> str:
        return f"{self.where}.{inner}" if type(x) is Value else str(x.name)

    def _masked(self, scores: Any, mask: Tensor | None) -> Any:
        """Scores with a mask of numbers that are added, the same for all images, and quantised where they are."""
        b = self.walker.builder
        if mask is not None and mask.ndim == len(scores.shape) and self.turn is not _as_it_is:
            raise ConversionError(self.where, "a mask for each image and head", "give one (L, S) for all images")
        mask = None if mask is None else mask.detach().double().cpu()
        proxy = self.module.softmax_input_quant.act_quant
        if proxy.is_quant_enabled:
            if mask is not None:
                end = self._end(scores, grid_of(f"{self.where}.softmax_input_quant", proxy))
                scores = b.shift(self.where, scores, mask.clamp(-end, end))
            return self.quantised("softmax_input_quant", scores)
        if mask is None:
            return scores
        dropped = mask <= FAR
        if bool(mask.masked_fill(dropped, 0.0).any()):
            raise ConversionError(
                self.where, "a mask of numbers in front of a softmax without quantiser", "give a softmax_input_quant"
            )
        return b.mask(self.where, scores, dropped)

    def _end(self, scores: Pending, grid: Grid) -> float:
        """Added to any of the scores, this is as good as infinity: the quantiser behind it gives its last level."""
        values, ops = scores.inputs[0]
        largest = (max(map(abs, self.walker.builder.range_of(x))) for x in values)
        reach = chain_of(ops)[0].reach(*largest) * float(scores.unit)
        return reach + grid.scale * (1 + max(abs(grid.y_min), abs(grid.y_max)))


def _third_of(x: Tensor, part: int) -> Tensor:
    return x.chunk(3, -1)[part]


def _third(w: Weight, bias: Tensor | None, part: int) -> tuple[Weight, Tensor | None]:
    """Weights and bias of queries, keys or values, of a layer that has them all."""
    rows = w.integers.chunk(3)[part]
    scale = w.scale if w.scale.numel() == 1 else w.scale.chunk(3)[part]
    return Weight(rows, scale), None if bias is None else bias.chunk(3)[part]
