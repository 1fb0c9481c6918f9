"""PyTorch's own modules, functions and methods between a toolkit's layers: equal to the toolkit's own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.errors import ConversionError
from tests.converters.frontends.test_fx_frontends import Layers, convert, equal_to_the_toolkit, pixels, prepared

SHAPE = (2, 4, 4)
pytestmark = pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")


def moved(net: Any, x: Tensor) -> Tensor:
    """Between two quantisers, and none of its own: everything here only moves values."""
    x = net.q(net.conv(net.pad(x)))
    a, b = x.chunk(2, dim=1)
    x = torch.stack([F.pad(a, (1, 0, 0, 1)), torch.roll(F.pad(b, (0, 1, 1, 0)), 1, 2)], 2).flatten(1, 2)
    x = net.shuffle(x[:, :, 1:].permute(0, 1, 3, 2).flip(3))
    return net.fc(F.interpolate(x, scale_factor=2).transpose(2, 3).narrow(2, 1, 4)[..., ::3].unsqueeze(1).flatten(1))


def averaged(net: Any, x: Tensor) -> Tensor:
    x = net.q(net.pool(net.q(net.up(net.q(net.conv(x))))))
    x = net.q(F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False))
    x = net.q(F.adaptive_avg_pool2d(x, (3, 1)))
    x = net.q(x.sum(-1) * net.scale - 0.25)
    return net.fc(net.q(x.unsqueeze(1).mean(dim=1, keepdim=True)).flatten(1))


def parts(layers: Layers) -> dict[str, Any]:
    return {
        "pad": nn.ReflectionPad2d(1),
        "conv": layers.conv(2, 4),
        "q": layers.quantise(),
        "shuffle": nn.ChannelShuffle(2),
        "up": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        "pool": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        "scale": nn.Parameter(torch.tensor([[[0.5], [-1.5], [0.25], [1.0]]])),
    }


@pytest.mark.parametrize("kind", ["brevitas", "eager"])
def test_what_only_moves_values(kind: str) -> None:
    q = equal_to_the_toolkit(kind, prepared(kind, lambda b: parts(b) | {"fc": b.linear(80, 3)}, moved))
    assert {layer.name for layer in q.layers} <= {"conv", "q", "fc"}


def test_averages_and_constants() -> None:
    """One quantiser for all of them, so that ties are common: each layer is compared on the model's own integers."""
    model = prepared("brevitas", lambda b: parts(b) | {"fc": b.linear(12, 3)}, averaged)
    x = pixels(60, SHAPE, signed=True, seed=2)
    q = convert("brevitas", model, x[:4], check=x)
    assert len(q.layers) > 5
    assert q.checked is not None
    assert q.checked.layers == len(q.layers) + 1
    assert q.checked.near_ties < q.checked.integers * 0.05  # sixteenths of a shared scale


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda net, x: net.fc((1 / net.q(net.conv(x))).flatten(1)), "a division by an activation"),
        (lambda net, x: net.fc(F.pad(net.q(net.conv(x)), (1, 0), value=2.0).flatten(1)), "another value than 0"),
        (lambda net, x: net.fc(net.q(net.conv(x)).flip(0).flatten(1)), "more than to move values of each image"),
        (lambda net, x: net.fc(F.avg_pool2d(net.q(net.conv(x)) * 2, 2).flatten(1)), "an unquantised activation"),
    ],
)
def test_one_line_each(forward: Callable[[Any, Tensor], Tensor], found: str) -> None:
    model = prepared("brevitas", lambda b: {"conv": b.conv(2, 2), "q": b.quantise(), "fc": Lazy()}, forward)
    with pytest.raises(ConversionError, match=found):
        convert("brevitas", model, pixels(4, SHAPE, signed=True))


class Lazy(nn.Module):
    """Sums of everything: no layer is needed behind what is refused."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (x.shape[1], 1)).flatten(1)
