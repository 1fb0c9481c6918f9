"""A network written as QDQ is read again by ``from_onnx``: the same layers, the same integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import converters
from converters import QuantGraph
from converters.testing import networks
from converters.zoo.named import load_checkpoint
from tests.gallery.networks import GALLERY
from tests.gallery.test_pt2e import converted, images

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

OF_A_KIND = (
    "conv 1d", "conv dilated 3d", "conv transposed 2d", "linear on tokens", "two bits", "batch norm 2d", "ReLU6",
    "GELU", "Hardswish", "PReLU per channel", "max pool padded", "max over the map", "adaptive max pool 2d",
    "average pool 2d", "residual of both signs", "layer scale", "product with the input", "squeeze and excite",
    "layer norm of tokens", "group norm", "RMS norm", "local response norm", "softmax over channels", "pixel shuffle",
    "pad reflected",
)  # fmt: skip

UNREAD = ("tokens",)


def _same(q: QuantGraph, back: QuantGraph, x: Tensor) -> int:
    """That both return the same, and how many layers of one name and shape have the same integers."""
    ours, theirs = q.execute(x), back.execute(x)
    torch.testing.assert_close(back.returned(theirs), q.returned(ours), rtol=1e-6, atol=1e-7)
    both = [layer.name for layer in back.layers if layer.name in ours and ours[layer.name].shape[1:] == layer.shape]
    spiking = {layer.name for layer in q.layers if layer.spiking}
    assert all(torch.equal(ours[name], theirs[name]) for name in both if name in spiking)
    return len(both)


@pytest.mark.parametrize("name", OF_A_KIND)
def test_trained_networks(name: str) -> None:
    """Scales of float32, as toolkits have them, come back bit for bit: no near-tie turns."""
    q, x = converted(name), images(GALLERY[name], 8, 1)
    assert _same(q, converters.from_onnx(converters.to_onnx(q), x), x)


@pytest.mark.parametrize("name", ["lenet5-mnist-127", "lenet5-mnist-8"])
def test_checkpoints(name: str) -> None:
    q, _ = load_checkpoint(name)
    x = torch.rand(20, *q.input.shape, generator=torch.Generator().manual_seed(0))
    back = converters.from_onnx(converters.to_onnx(q))
    assert [layer.name for layer in back.layers] == [layer.name for layer in q.layers]
    assert _same(q, back, x) == len(q.layers)


READ = [name for name in networks.NETWORKS if name not in ("counting", "membrane", *UNREAD)]


@pytest.mark.parametrize("name", READ)
def test_networks_of_any_numbers(name: str) -> None:
    """Thresholds of float64 are rounded to scales of float32, once: written again, all stays as it is."""
    q = networks.NETWORKS[name]()
    x = networks.images(q, 20)
    once = converters.from_onnx(converters.to_onnx(q), x)
    twice = converters.from_onnx(converters.to_onnx(once), x)
    for a, b in zip(once.layers, twice.layers, strict=True):
        torch.testing.assert_close(a.threshold, b.threshold, rtol=1e-7, atol=0)
        torch.testing.assert_close(a.bias, b.bias, rtol=1e-6, atol=1e-7)
    own = {layer.name: layer for layer in q.layers}
    for layer in once.layers:
        bits = any(op.degree(1) == 0 for s in layer.synapses for op in s.ops[:1] if len(s.sources) == 1)
        if layer.name in own and layer.shape == own[layer.name].shape and layer.spiking and not bits:
            torch.testing.assert_close(layer.threshold, own[layer.name].threshold, rtol=1e-6, atol=0)
