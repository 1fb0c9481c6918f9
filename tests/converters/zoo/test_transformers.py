"""The zoo's vision transformers, small: trained a little, converted, and run by every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.quantised import QuantGraph
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint
from converters.zoo.networks import NETWORKS
from converters.zoo.recipes import Recipe
from converters.zoo.training import accuracy, train
from converters.zoo.transformers import ViT6, ViT6W
from tests.command_line import Calif


class Small(ViT6):
    width, heads, hidden, depth = 8, 2, 12, 2


class SmallW(ViT6W):
    width, heads, hidden, depth = 8, 2, 12, 2
    stem = (3, 5)


@pytest.fixture(scope="module", params=[Small, SmallW])
def converted(request: pytest.FixtureRequest) -> tuple[nn.Module, QuantGraph, Tensor]:
    torch.manual_seed(0)
    model: Any = request.param(1, 4, 8)
    nn.init.normal_(model.cls_token)
    x, labels = torch.rand(16, 1, 8, 8), torch.randint(0, 4, (16,))
    prepared = converters.prepare_qat(model, x, levels=15, quantise_output=False)
    optimiser = torch.optim.SGD(prepared.parameters(), 0.05)
    for _ in range(4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(prepared(x), labels).backward()
        optimiser.step()
    return prepared.eval(), converters.from_pt2e(prepared), x


def test_integers_are_the_trained_network_s(converted: tuple[nn.Module, QuantGraph, Tensor]) -> None:
    prepared, q, x = converted
    assert q.checked is not None
    real = prepared(x)
    assert torch.allclose(q.logits(q.execute(x)).float(), real, atol=1e-5)
    names = {type(op).__name__ for layer in q.layers for s in layer.synapses for op in s.ops}
    assert {"MatMul", "Softmax", "Normalise"} <= names


@pytest.mark.parametrize("backend", ["closed_form", "fast", "snntorch", "brian2"])
def test_every_count_of_every_backend(converted: tuple[nn.Module, QuantGraph, Tensor], backend: str) -> None:
    _, q, x = converted
    few = x[:1] if backend == "brian2" else x[:4]
    wanted = q.execute(few)
    r = converters.run(converters.to_nir(q, T=15), few, backend=backend)
    spiking = [layer.name for layer in q.layers if layer.spiking]
    assert {name: int((r.counts[name].long() != wanted[name]).sum()) for name in spiking} == dict.fromkeys(spiking, 0)
    assert torch.allclose(r.outputs, q.returned(wanted))


def test_accuracy_is_taken_in_evaluation(converted: tuple[nn.Module, QuantGraph, Tensor]) -> None:
    from converters.zoo.images import Images

    prepared, q, x = converted
    labels = q.predict(x)
    assert accuracy(prepared, Images(x, labels, 4)) == 1.0


def scales_of_norms(q: QuantGraph, checkpoint: str) -> list[int]:
    """How many scales each norm has: its thresholds are those, but for one factor, over the norm's weights."""
    saved = torch.load(checkpoint, weights_only=True)["model"]
    found = []
    for layer in q.layers:
        if layer.name.endswith(("norm1", "norm2")):
            scales = layer.threshold * saved[f"{layer.name}.weight"].double().abs()
            found.append(len(torch.unique((scales / scales[0] * 1e5).round())))
    return found


@pytest.mark.parametrize("asked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_scale_for_each_channel_of_norms_on_the_command_line(
    calif: Calif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """Of ``calif train``, and of ``calif quantise`` on what that has trained."""
    monkeypatch.setitem(NETWORKS, "small", SmallW)
    monkeypatch.chdir(tmp_path)
    digits = load("digits", "train").first(32)
    monkeypatch.setattr("converters.zoo.datasets.load", lambda *args, **own: digits)
    option = ["--per-channel-norms"] if asked else []
    assert calif("train", "--network", "small", "--epochs", 1, "--qat-epochs", 1, "--levels", 40, *option)[0] == 0
    trained, notes = load_checkpoint("runs/small-digits-40.safetensors")
    assert ("--per-channel-norms" in notes["command"]) == asked
    few = ("--levels", 40, "--calibration-images", 8)
    assert calif("quantise", "runs/small-digits.float.pt", *few, *option)[0] == 0
    quantised, notes = load_checkpoint("small-digits-40.safetensors")
    assert notes.get("per_channel_norms", False) == asked
    several = SmallW.width if asked else 1
    for q, kind in ((trained, "small-digits-40.qat"), (quantised, "small-digits.float")):
        assert scales_of_norms(q, f"runs/{kind}.pt") == [several] * 2 * SmallW.depth


def test_brevitas_has_no_scale_for_each_channel_of_norms(tmp_path: Path) -> None:
    digits = load("digits", "train").first(4)
    with pytest.raises(ConversionError, match="--per-channel-norms: found a network of brevitas; use --toolkit pt2e"):
        train("vit6", digits, digits, folder=tmp_path, name="vit6-digits-7", recipe=Recipe(), toolkit="brevitas",
              per_channel_norms=True)  # fmt: skip
