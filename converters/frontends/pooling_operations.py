"""PyTorch's pools, means, sums, maxima and interpolation, in the words of the verbs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from converters.frontends.handlers import of_module
from converters.frontends.pending import Pending, Raw
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker
from converters.graph_builder import Value

__all__ = ["FUNCTIONS", "METHODS", "MODULES"]


def _avg_pool(
    walker: Walker,
    node: fx.Node,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    return walker.builder.average_pool(
        where_is(node), input, kernel_size, stride, padding, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        divisor=divisor_override,
    )  # fmt: skip


def _adaptive_pool(walker: Walker, node: fx.Node, input: Any, output_size: Any) -> Any:
    return walker.builder.adaptive_pool(where_is(node), input, output_size)


def _mean(
    walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    axes = dim if dtype is None else None
    return walker.builder.mean(where_is(node), input, axes, keepdim=keepdim)


def _sum(
    walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    axes = dim if dtype is None else None
    return walker.builder.sum(where_is(node), input, axes, keepdim=keepdim)


def _max_pool(
    walker: Walker,
    node: fx.Node,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    pooled = walker.builder.max_pool(where_is(node), input, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
    return (pooled, None) if return_indices else pooled


def _adaptive_max_pool(
    walker: Walker, node: fx.Node, input: Any, output_size: Any, return_indices: bool = False
) -> Any:
    pooled = walker.builder.adaptive_max_pool(where_is(node), input, output_size)
    return (pooled, None) if return_indices else pooled


def _extremum(largest: bool) -> Handler:
    """``torch.max`` and ``torch.min``: of two tensors, or over an axis, with the places, which nothing here can use."""

    def handler(
        walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None
    ) -> Any:
        second = dim if type(dim) in (Value, Pending, Raw) else other
        if second is not None:
            return _of_two(largest)(walker, node, input, second)
        found = _over(largest)(walker, node, input, dim, keepdim)
        return found if dim is None else (found, None)

    return handler


def _over(largest: bool) -> Handler:
    """``torch.amax`` and ``torch.amin``."""

    def handler(walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
        verb = walker.builder.amax if largest else walker.builder.amin
        return verb(where_is(node), input, dim, keepdim=keepdim)

    return handler


def _of_two(largest: bool) -> Handler:
    """``torch.maximum`` and ``torch.minimum``."""

    def handler(walker: Walker, node: fx.Node, input: Any, other: Any) -> Any:
        verb = walker.builder.maximum if largest else walker.builder.minimum
        return verb(where_is(node), input, other)

    return handler


def _interpolate(
    walker: Walker,
    node: fx.Node,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    return walker.builder.interpolate(
        where_is(node), input, size, mode, align_corners, scale_factor=scale_factor,
        recompute_scale_factor=recompute_scale_factor, antialias=antialias,
    )  # fmt: skip


_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_UPSAMPLE = ("size", "scale_factor", "mode", "align_corners")

MODULES: dict[type, Handler] = {
    nn.AvgPool1d: of_module(_avg_pool, *_AVERAGE),
    **dict.fromkeys((nn.AvgPool2d, nn.AvgPool3d), of_module(_avg_pool, *_AVERAGE, "divisor_override")),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), of_module(_adaptive_pool, "output_size")
    ),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), of_module(_max_pool, *_MAX)),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        of_module(_adaptive_max_pool, "output_size", "return_indices"),
    ),
    nn.Upsample: of_module(_interpolate, *_UPSAMPLE, "recompute_scale_factor"),
    **dict.fromkeys((nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), of_module(_interpolate, *_UPSAMPLE)),
}

FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), _avg_pool),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), _adaptive_pool),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), _max_pool),
    **dict.fromkeys((torch.max_pool1d, torch.max_pool2d, torch.max_pool3d), _max_pool),
    **dict.fromkeys(
        (F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices),
        lambda walker, node, *args, **kwargs: _max_pool(walker, node, *args, **kwargs | {"return_indices": True}),
    ),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), _adaptive_max_pool),
    torch.mean: _mean,
    torch.sum: _sum,
    torch.max: _extremum(largest=True),
    torch.min: _extremum(largest=False),
    torch.amax: _over(largest=True),
    torch.amin: _over(largest=False),
    torch.maximum: _of_two(largest=True),
    torch.minimum: _of_two(largest=False),
    F.interpolate: _interpolate,
}

METHODS: dict[str, Handler] = {
    "mean": _mean,
    "sum": _sum,
    "max": _extremum(largest=True),
    "min": _extremum(largest=False),
    "amax": _over(largest=True),
    "amin": _over(largest=False),
    "maximum": _of_two(largest=True),
    "minimum": _of_two(largest=False),
}
