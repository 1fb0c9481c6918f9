"""MACs against PyTorch's own counter of floating-point operations, and `calif inspect` against both."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from converters.cli import main
from converters.experiments.energy_metrics import dense_macs
from converters.zoo.counting import count
from converters.zoo.named import load_checkpoint
from converters.zoo.networks import NETWORKS, build
from tests.command_line import Calif


@pytest.mark.parametrize(("size", "classes"), [(32, 10), (64, 200)])
@pytest.mark.parametrize("name", NETWORKS)
def test_against_pytorchs_flop_counter(name: str, size: int, classes: int) -> None:
    model = build(name, 3, classes, size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    layers = count(model, (3, size, size))
    products = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0)  # of activations, in no layer
    assert 2 * sum(layer.macs for layer in layers) == counter.get_total_flops() - products
    norms = (torch.nn.BatchNorm2d, torch.nn.LayerNorm, torch.nn.PReLU)
    others = [model, *(m for m in model.modules() if isinstance(m, norms))]  # a network's own are tokens and positions
    rest = sum(p.numel() for m in others for p in m.parameters(recurse=False))
    assert sum(layer.parameters for layer in layers) + rest == sum(p.numel() for p in model.parameters())


def test_published_figures() -> None:
    """VGG-9 of Lee et al. 2020 and VGG-16 on CIFAR-10, in millions."""
    assert sum(x.macs for x in count(build("vgg9", 3), (3, 32, 32))) == pytest.approx(190e6, rel=0.03)
    convolutions = [x for x in count(build("vgg16", 3), (3, 32, 32)) if x.kind == "Conv2d"]
    assert sum(x.macs for x in convolutions) == pytest.approx(313e6, rel=0.01)


@pytest.fixture
def calif(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_inspect_networks(calif: Calif) -> None:
    code, out, _ = calif("inspect", "networks", "--shape", "3x64x64", "--classes", "200", "--json")
    assert code == 0
    result = json.loads(out)
    assert [n["network"] for n in result["networks"]] == list(NETWORKS)
    for n in result["networks"]:
        assert n["parameters"] == sum(p.numel() for p in build(n["network"], 3, 200, 64).parameters())
        assert n["macs"] == sum(x["macs"] for x in n["layers"])
    code, out, _ = calif("inspect", "lenet5", "--shape", "1x32x32")
    assert code == 0
    assert "parameters 61,706 (batch norms included), MACs 416,520" in out
    assert "features.3" in out
    code, out, _ = calif("inspect", "networks")
    assert code == 0
    assert all(name in out for name in NETWORKS)


def test_inspect_a_checkpoint(calif: Calif) -> None:
    code, out, _ = calif("inspect", "resnet11h-cifar10-127", "--json")
    assert code == 0
    about = json.loads(out)
    q, _ = load_checkpoint("resnet11h-cifar10-127")
    assert about["macs"] == dense_macs(q) > 0
    assert [r["name"] for r in about["layers"] if not r["macs"]] == [
        *(layer.name for layer in q.layers if not any(hasattr(op, "gain") and hasattr(op, "weight") and
          not isinstance(op.weight, int) for s in layer.synapses for op in s.ops))
    ]  # fmt: skip


def test_networks_that_need_larger_images(calif: Calif) -> None:
    """The least sides are those of PyTorch's own layers, whose errors they are."""
    code, out, err = calif("inspect", "networks", "--shape", "1x28x28", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert [n["network"] for n in result["networks"]] == [n for n in NETWORKS if n != "vgg16"]
    assert result["too_small"] == ["vgg16"]
    code, out, _ = calif("inspect", "networks", "--shape", "1x28x28")
    assert code == 0
    assert "vgg16: needs larger images" in out
    for name, least in (("lenet5", 16), ("vgg9", 8), ("resnet11h", 2), ("vgg16", 32)):
        assert calif("inspect", name, "--shape", f"1x{least}x{least}")[0] == 0
        small = f"1x{least - 1}x{least - 1}"
        code, out, err = calif("inspect", name, "--shape", small)
        assert (code, out) == (2, "")
        assert err == f"calif: --shape: found '{small}', too small for {name}; give larger images, such as 3x32x32\n"


def test_large_images_take_no_memory(calif: Calif) -> None:
    code, out, _ = calif("inspect", "vgg16", "--shape", "3x4096x4096", "--json")
    assert code == 0
    (found,) = json.loads(out)["networks"]
    assert found["layers"][0]["macs"] == 64 * 27 * 4096**2


@pytest.mark.parametrize("shape", ["3x32", "axbxc", "3x32x16", "0x8x8", "²x3x3", "3x99999999x99999999", "9999x8x8"])
def test_bad_shape(calif: Calif, shape: str) -> None:
    code, _, err = calif("inspect", "vgg9", "--shape", shape)
    assert code == 2
    assert (
        err
        == f"calif: --shape: found '{shape}'; give channels x height x width of a square image, up to 4096: 3x32x32\n"
    )
