"""The recipe for large networks (Muon, channels-last, bfloat16), in small: the same bits after a stop, exact spikes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters.errors import ConversionError
from converters.experiments.kept import of_network
from converters.zoo.averaging import WeightMean, measure_batch_norms
from converters.zoo.datasets import load
from converters.zoo.networks import build
from converters.zoo.recipes import RECIPES, Recipe
from converters.zoo.teachers import Teachers
from converters.zoo.training import _augment, _mixed, _Run, accuracy, train

TINY = Recipe(epochs=2, qat_epochs=1, batch=16, lr=0.05, shift=1, optimiser="muon", fast=True, evaluate_every=2)


@contextmanager
def averaged_weights() -> Iterator[Any]:
    """The weights that a run's means are of, in the order in which they are added."""
    seen = []

    class Watch(WeightMean):
        def step(self) -> None:
            super().step()
            if self.steps % 10 == 0:
                seen.append([p.detach().clone() for p in self.model.parameters()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("converters.zoo.training.WeightMean", Watch)
        yield seen


class StopError(Exception):
    """The user's Ctrl-C."""


def test_exact_spikes_and_the_same_bits_after_a_stop(tmp_path: Path) -> None:
    data, test = load("digits", "train").first(48), load("digits", "test").first(12)
    options: dict[str, Any] = {"name": "lenet5-digits-127", "recipe": TINY}
    through = train("lenet5", data, test, folder=tmp_path / "a", **options)

    def stop(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("float", 5):
            raise StopError

    with pytest.raises(StopError):
        train("lenet5", data, test, folder=tmp_path / "b", progress=stop, **options)
    rows = (tmp_path / "b" / "lenet5-digits.float.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1]
    resumed = train("lenet5", data, test, folder=tmp_path / "b", **options)
    assert [sorted(row) for row in resumed.log[:2]] == [
        ["epoch", "loss", "phase"],
        ["accuracy", "epoch", "loss", "phase"],
    ]
    assert resumed.log == through.log
    images = test.pixels[:2]
    integers = through.graph.execute(images)
    for name, value in resumed.graph.execute(images).items():
        assert torch.equal(value, integers[name]), name
    result = converters.run(converters.to_nir(through.graph, T=127), images)
    assert all(torch.equal(counts.long(), integers[name]) for name, counts in result.counts.items())


def test_large_networks_take_it() -> None:
    assert RECIPES["cifar10"].fast
    assert RECIPES["cifar10"].optimiser == "muon"


def test_cutout() -> None:
    """A square of zeros, cut off at the border: its place anywhere, its centre inside of the image."""
    torch.manual_seed(0)
    seen = set()
    for image in _augment(torch.ones(500, 3, 9, 7), Recipe(cutout=4)):
        assert torch.equal(image[0], image[1])
        rows, columns = (image[0] == 0).nonzero().unbind(1)
        top, bottom, left, right = (int(v) for v in (rows.min(), rows.max(), columns.min(), columns.max()))
        assert len(rows) == (bottom - top + 1) * (right - left + 1)  # a full rectangle
        assert bottom - top == 3 or top == 0 or bottom == 8
        assert right - left == 3 or left == 0 or right == 6
        seen.add((top, left))
    assert {(0, 0), (5, 3)} <= seen


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.1, 0.5, 1.0, 8.0]), count=st.integers(1, 40))
def test_mixup_mixes_labels_as_it_mixes_images(seed: int, alpha: float, count: int) -> None:
    """Each image has its class's own value in every pixel, a power of 2: what it is mixed of can be read off."""
    torch.manual_seed(seed)
    labels = torch.randint(0, 6, (count,))
    values = 2.0 ** torch.arange(6)
    x, target = _mixed(values[labels].view(-1, 1, 1, 1).expand(-1, 3, 4, 5), labels, 6, alpha)
    assert torch.allclose(target.sum(1), torch.ones(count))
    assert bool((target >= 0).all())
    assert int((target > 0).sum(1).max()) <= 2
    assert torch.allclose(target @ values, x[:, 0, 0, 0], rtol=1e-5)
    assert torch.equal(x, x[:, :1, :1, :1].expand_as(x))


def test_mixup_shares_are_those_of_the_beta_distribution() -> None:
    torch.manual_seed(0)
    for alpha in (0.01, 0.5, 1.0, 4.0):
        _, target = _mixed(torch.zeros(4000, 1, 1, 1), torch.arange(4000), 4000, alpha)
        own = target.diagonal()
        assert abs(float(own.mean()) - 0.5) < 0.02
        assert float(own.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_a_run_with_mixup(tmp_path: Path) -> None:
    """It says so, its loss is another one, and a teacher sees mixed images; without a word nothing is mixed."""
    data, test = load("digits", "train").first(48), load("digits", "test").first(12)
    options: dict[str, Any] = {"name": "lenet5-digits-127", "levels": 127}
    plain = train("lenet5", data, test, folder=tmp_path / "a", recipe=TINY, **options)
    mixed = train("lenet5", data, test, folder=tmp_path / "b", recipe=replace(TINY, mixup=0.5), **options)
    assert all(math.isfinite(row["loss"]) for row in mixed.log)
    assert plain.log[0]["loss"] != mixed.log[0]["loss"]
    path = tmp_path / "a" / "lenet5-digits.float.pt"
    about = json.loads(torch.load(path, weights_only=True)["about"])
    assert "mixup" not in about
    about = json.loads(torch.load(tmp_path / "b" / path.name, weights_only=True)["about"])
    assert about["mixup"] == 0.5
    run = _Run("float", tmp_path / "x.float.pt", {}, replace(TINY, mixup=0.5), data, test, 0, None)
    for x, labels in run._batches():
        assert x.shape == (16, 1, 32, 32)
        assert labels.shape == (16, 10)
        assert bool((labels.max(1).values < 1).any())
    taught = train(
        "lenet5", data, test, folder=tmp_path / "c", recipe=replace(TINY, mixup=0.5), teachers=[path], **options
    )
    assert taught.log[0]["loss"] != mixed.log[0]["loss"]


def test_a_run_that_starts_from_another(tmp_path: Path) -> None:
    data, test = load("digits", "train").first(48), load("digits", "test").first(12)
    options: dict[str, Any] = {"name": "lenet5-digits-127", "recipe": TINY}
    first = train("lenet5", data, test, folder=tmp_path / "a", **options)
    path = tmp_path / "a" / "lenet5-digits.float.pt"
    still = Recipe(epochs=1, qat_epochs=1, batch=16, lr=0.0, qat_lr=0.0, weight_decay=0.0)  # nothing moves
    second = train("lenet5", data, test, folder=tmp_path / "b", name="lenet5-digits-127", recipe=still, start=path)
    assert second.log[:2] == first.log[:2]
    assert second.log[2]["accuracy"] == first.float_accuracy
    weights, theirs = (torch.load(tmp_path / k / path.name, weights_only=True)["model"] for k in "ab")
    assert all(torch.equal(weights[k], theirs[k]) for k in weights)
    with pytest.raises(ConversionError, match="a checkpoint with network lenet5 instead of resnet11h"):
        train("resnet11h", data, test, folder=tmp_path / "c", name="x-y-7", recipe=TINY, start=path)
    with pytest.raises(ConversionError, match="use another --out"):  # what was begun from elsewhere
        train("lenet5", data, test, folder=tmp_path / "b", name="lenet5-digits-127", recipe=still)
    quantised = tmp_path / "a" / "lenet5-digits-127.qat.pt"
    with pytest.raises(ConversionError, match="a quantised run, before a float phase; use --epochs 0"):
        train("lenet5", data, test, folder=tmp_path / "d", name="x-y-7", recipe=TINY, start=quantised)
    with pytest.raises(ConversionError, match=r"other layers or quantisers; give the \.float\.pt"):
        train("lenet5", data, test, folder=tmp_path / "d", name="x-y-7", recipe=TINY, teachers=[quantised])


def test_a_quantised_phase_that_starts_from_another(tmp_path: Path) -> None:
    data, test = load("digits", "train").first(48), load("digits", "test").first(12)
    first = train("lenet5", data, test, folder=tmp_path / "a", name="lenet5-digits-7", recipe=TINY, levels=7)
    path = tmp_path / "a" / "lenet5-digits-7.qat.pt"
    still = Recipe(epochs=0, qat_epochs=1, batch=16, qat_lr=0.0, weight_decay=0.0)  # weights do not move
    options: dict[str, Any] = {"recipe": still, "start": path}
    second = train("lenet5", data, test, folder=tmp_path / "b", name="lenet5-digits-7", levels=7, **options)
    assert second.log[:3] == first.log
    assert second.float_accuracy == first.float_accuracy
    weights, theirs = (torch.load(tmp_path / k / path.name, weights_only=True)["model"] for k in "ab")
    assert {"features.0.weight", "features.0.bias"} <= set(weights)
    assert all(torch.equal(weights[k], theirs[k]) for k in weights if k.endswith((".weight", ".bias")))
    fewer = train("lenet5", data, test, folder=tmp_path / "c", name="lenet5-digits-3", levels=3, **options)
    assert {layer.y_max for layer in fewer.graph.layers[:-1]} == {3}  # quantised as asked for, not as before
    x = test.pixels[:4]
    integers = fewer.graph.execute(x)
    assert all(int(integers[layer.name].max()) == 3 for layer in fewer.graph.layers[:-1])  # and over the whole range
    onward = train("lenet5", data, test, folder=tmp_path / "d", name="x-y-3", levels=3, recipe=still,
                   start=tmp_path / "c" / "lenet5-digits-3.qat.pt")  # fmt: skip
    assert len(onward.log) == 5


def test_teachers(tmp_path: Path) -> None:
    """Their mean prediction is the target, in both phases, and a run says who they were."""
    data, test = load("digits", "train").first(48), load("digits", "test").first(12)
    train("lenet5", data, test, folder=tmp_path / "a", name="lenet5-digits-127", recipe=TINY)
    path = tmp_path / "a" / "lenet5-digits.float.pt"
    about = {"shape": list(data.shape), "classes": 10}
    x = data.pixels[:8]
    teachers = Teachers([path, path], about, weight=1.0)
    alone = build("lenet5").eval()
    alone.load_state_dict(torch.load(path, weights_only=True)["model"])
    with torch.no_grad():
        torch.testing.assert_close(teachers(x), alone(x).softmax(1))
        hard = torch.zeros(8)
        entropy = -(alone(x).softmax(1) * alone(x).log_softmax(1)).sum(1)
        torch.testing.assert_close(teachers.loss(alone(x), x, hard), entropy)
    taught = train("lenet5", data, test, folder=tmp_path / "b", name="lenet5-digits-127", recipe=TINY, teachers=[path])
    plain = train("lenet5", data, test, folder=tmp_path / "a", name="lenet5-digits-127", recipe=TINY)
    assert [row["phase"] for row in taught.log] == ["float", "float", "qat"]
    assert all(t["loss"] != p["loss"] for t, p in zip(taught.log, plain.log, strict=True))
    with pytest.raises(ConversionError, match="teachers"):  # another run than the one that was begun
        train("lenet5", data, test, folder=tmp_path / "a", name="lenet5-digits-127", recipe=TINY, teachers=[path])
    with pytest.raises(ConversionError, match="a teacher with shape"):
        Teachers([path], {"shape": [3, 32, 32], "classes": 10})


def test_no_float_epochs_keep_the_start(tmp_path: Path) -> None:
    data, test = load("digits", "train").first(48), load("digits", "test").first(12)
    first = train("lenet5", data, test, folder=tmp_path / "a", name="lenet5-digits-127", recipe=TINY)
    path = tmp_path / "a" / "lenet5-digits.float.pt"
    none = replace(TINY, epochs=0)
    second = train("lenet5", data, test, folder=tmp_path / "b", name="lenet5-digits-127", recipe=none, start=path)
    assert second.log == first.log
    assert second.float_accuracy == first.float_accuracy
    assert of_network(second.graph) == of_network(first.graph)  # every integer and threshold


@pytest.mark.slow
def test_averaged_weights(tmp_path: Path) -> None:
    """The mean of every tenth step's weights, the same bits after a stop; the quantised phase goes on from there."""
    data, test = load("digits", "train").first(160), load("digits", "test").first(12)
    recipe = replace(TINY, epochs=1, average=3)
    options: dict[str, Any] = {"name": "vgg9-digits-127", "recipe": recipe}
    with averaged_weights() as seen:
        through = train("vgg9", data, test, folder=tmp_path / "a", **options)
    assert [(row["phase"], row["epoch"]) for row in through.log] == [
        ("float", 1),
        ("average", 1),
        ("average", 2),
        ("average", 3),
        ("qat", 1),
    ]
    path = tmp_path / "a" / "vgg9-digits.average.pt"
    state = torch.load(path, weights_only=True)["model"]
    net = build("vgg9", 1, 10, 32)
    net.load_state_dict(state)
    for p, *values in zip(net.parameters(), *seen[:3], strict=True):
        torch.testing.assert_close(p.detach(), torch.stack(values).double().mean(0).float())
    assert len(seen) == 4  # and one of the quantised phase, which ends on a mean too
    assert through.log[3]["accuracy"] == accuracy(net, test)
    integers = through.graph.execute(test.pixels[:2])
    result = converters.run(converters.to_nir(through.graph, T=127), test.pixels[:2])
    assert all(torch.equal(counts.long(), integers[name]) for name, counts in result.counts.items())

    def stop(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("average", 15):
            raise StopError

    with pytest.raises(StopError):
        train("vgg9", data, test, folder=tmp_path / "b", progress=stop, **options)
    resumed = train("vgg9", data, test, folder=tmp_path / "b", **options)
    assert resumed.log == through.log
    onward = train(
        "vgg9", data, test, folder=tmp_path / "c", name="x-y-7", recipe=replace(TINY, epochs=0), start=path, levels=7
    )
    assert onward.log[:4] == through.log[:4]
    assert onward.float_accuracy == through.float_accuracy == through.log[3]["accuracy"]


def test_the_quantised_phase_alone_is_averaged(tmp_path: Path) -> None:
    """Its weights end as the mean of those after steps 10 and 20."""
    data, test = load("digits", "train").first(160), load("digits", "test").first(12)
    recipe = replace(TINY, epochs=0, qat_epochs=2, qat_average=True)
    with averaged_weights() as seen:
        train("vgg9", data, test, folder=tmp_path, name="vgg9-digits-7", recipe=recipe, levels=7)
    state = torch.load(tmp_path / "vgg9-digits-7.qat.pt", weights_only=True)
    assert json.loads(state["about"])["qat_average"] is True
    left = [state["model"][name] for name in state["model"] if state["model"][name].dtype == torch.float32]
    assert len(seen) == 2
    for values in zip(*seen, strict=True):
        mean = torch.stack(values).double().mean(0).float()
        assert any(t.shape == mean.shape and torch.allclose(t, mean) for t in left)


def test_batch_norms_are_measured_anew() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    x = torch.rand(4, 6, 1, 3, 3)
    with torch.no_grad():
        maps = [net[0](part) for part in x]
    measure_batch_norms(net, (net(part) for part in x))
    expected = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(net[1].running_mean, expected)
    torch.testing.assert_close(net[1].running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert net[1].momentum == 0.1
