"""A quantised network in floating point again: its weights, its batch norms, and training that starts from it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import converters
from converters.errors import ConversionError
from converters.files.quantised_file import save_quantised
from converters.operations.weights import Weighted
from converters.quantised import QuantGraph
from converters.zoo.datasets import load
from converters.zoo.named import find_checkpoint
from converters.zoo.networks import build
from converters.zoo.norms import fold_batch_norms, restate_batch_norms
from converters.zoo.recipes import Recipe
from converters.zoo.restored import load_integers, names_quantised, restored
from converters.zoo.teachers import Teachers
from converters.zoo.training import train
from tests.command_line import Calif

TINY = Recipe(epochs=2, qat_epochs=1, batch=16, lr=0.01, qat_lr=0.001)
STILL = Recipe(epochs=0, qat_epochs=1, batch=16, qat_lr=0.0, weight_decay=0.0)


def shaken(name: str, seed: int = 0, classes: int = 10) -> nn.Module:
    """Of random weights, with batch norms that are no identities."""
    torch.manual_seed(seed)
    model = build(name, 1, classes, 32)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None and m.running_var is not None  # noqa: PT018
            nn.init.normal_(m.running_mean, std=0.3)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
            nn.init.uniform_(m.weight, 0.5, 2.0)
            nn.init.normal_(m.bias, std=0.3)
    return model


def quantised(model: nn.Module, levels: int = 127) -> tuple[QuantGraph, dict[str, torch.Tensor]]:
    """Its integers after one batch, and the float weights and statistics that it had by then."""
    x = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    restate_batch_norms(model, x)  # the batch moves nothing then, and with it no weight out of its range
    qat = converters.prepare_qat(model, x, levels=levels, check=False)
    qat(x)
    qat.eval()
    return converters.from_pt2e(qat), {k: v.clone() for k, v in qat.state_dict().items()}


@pytest.mark.parametrize("name", ["lenet5", "vgg9", "resnet11h", "mobilenet20"])
def test_weights_are_the_float_ones_to_half_a_step(name: str) -> None:
    """Batch norms folded here by their own formula."""
    q, had = quantised(shaken(name))
    model = build(name, 1, 10, 32)
    load_integers(model, q, "here")
    scales = {q.input.name: q.input.scale} | {layer.name: layer.scale for layer in q.layers}
    modules = dict(model.named_modules())
    compared = 0
    for layer in q.layers:
        for synapse in layer.synapses:
            if not any(isinstance(op, Weighted) for op in synapse.ops):
                continue
            module = modules[layer.name]
            assert isinstance(module, nn.Conv2d | nn.Linear)
            base, _, last = layer.name.rpartition(".")
            norm = f"{base}.{int(last) + 1}" if last.isdigit() else "none"
            weight = had[f"{layer.name}.weight"].double()
            if f"{norm}.running_var" in had:
                gain = had[f"{norm}.weight"] / (had[f"{norm}.running_var"] + 1e-5).sqrt()
                weight = weight * gain.view(-1, 1, 1, 1)
                bias = had[f"{norm}.bias"] - gain * had[f"{norm}.running_mean"]
                got = modules[norm].bias
            else:
                bias, got = had[f"{layer.name}.bias"], module.bias
            assert isinstance(got, torch.Tensor)
            step = layer.scale / layer.threshold / scales[synapse.sources[0]]
            off = (module.weight.detach().double() - weight).abs().flatten(1).amax(1)
            assert 0.3 < float((off / step).median()) <= 0.501  # and no float weights
            # of few places the batch has moved the statistics a little, and the largest weights out of their range
            assert bool((off <= 2 * step).all())
            assert torch.allclose(got.double(), bias.double(), rtol=1e-4, atol=1e-4 * float(bias.abs().max()))
            compared += 1
    assert compared == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in modules.values())


@pytest.mark.parametrize("name", ["lenet5", "resnet11h"])
def test_what_it_computes_is_what_the_integers_do(name: str) -> None:
    q, _ = quantised(shaken(name))
    model = build(name, 1, 10, 32)
    load_integers(model, q, "here")
    x = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        real = model.eval()(x)
        wrong = build(name, 1, 10, 32).eval()(x)
    integers = q.logits(q.execute(x))
    spread = integers.std()
    assert float((real - integers).abs().max()) < 0.1 * float(spread)  # 127 levels in eleven layers
    assert float((wrong - integers).abs().max()) > float(spread)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["block", "resnet11h"]), training=st.booleans())
def test_restated_norms_keep_the_function_and_have_the_statistics(seed: int, name: str, training: bool) -> None:
    torch.manual_seed(seed)
    if name == "block":
        layers = [nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3), nn.BatchNorm2d(3)]
        model: nn.Module = nn.Sequential(*layers)
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.weight)  # of both signs
                nn.init.normal_(m.bias)
        x = torch.rand(12, 1, 8, 8)
    else:
        model, x = shaken(name, seed), torch.rand(4, 1, 32, 32)
    model.train(training)
    model.double()
    x = x.double()
    with torch.no_grad():
        before = model.eval()(x)
        model.train(training)
        restate_batch_norms(model, x)
        assert model.training == training
        after = model.eval()(x)
        assert torch.allclose(after, before, rtol=1e-6, atol=1e-6 * float(before.abs().max()))
        # training mode takes the statistics of its batch, which are these
        assert torch.allclose(model.train()(x), before, rtol=1e-6, atol=1e-6 * float(before.abs().max()))


@pytest.mark.parametrize("name", ["lenet5", "vgg9", "resnet11h", "mobilenet20"])
def test_folded_norms_keep_the_function(name: str) -> None:
    model = shaken(name).double()
    x = torch.rand(4, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = model.eval()(x)
        fold_batch_norms(model, x[:1])
        assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        assert torch.allclose(model(x), before, rtol=1e-9, atol=1e-9 * float(before.abs().max()))


def a_run(folder: Path, **options: Any) -> tuple[Path, Any]:
    data, test = load("digits", "train").first(64), load("digits", "test").first(24)
    result = train("lenet5", data, test, folder=folder, name="lenet5-digits-127", recipe=TINY, **options)
    path = folder / "lenet5-digits-127.safetensors"
    notes = {"network": "lenet5", "dataset": "digits", "log": result.log}
    save_quantised(path, result.graph, notes=notes)
    return path, result


def test_training_starts_from_one(tmp_path: Path) -> None:
    """Whose weights have not moved: the same integers again, after a phase without learning."""
    data, test = load("digits", "train").first(64), load("digits", "test").first(24)
    path, first = a_run(tmp_path / "a")
    options: dict[str, Any] = {"folder": tmp_path / "b", "name": "lenet5-digits-127", "recipe": STILL}
    second = train("lenet5", data, test, **options, start=path)
    assert second.log[:3] == first.log
    assert [row["phase"] for row in second.log] == ["float", "float", "qat", "qat"]
    assert second.float_accuracy == first.float_accuracy
    for one, other in zip(first.graph.layers, second.graph.layers, strict=True):
        for a, b in zip(one.synapses, other.synapses, strict=True):
            for mine, theirs in zip(a.ops, b.ops, strict=True):
                if isinstance(mine, Weighted) and isinstance(theirs, Weighted):
                    assert torch.equal(mine.weight, theirs.weight)
    with pytest.raises(ConversionError, match="use another --out"):  # what was begun from elsewhere
        train("lenet5", data, test, **options)
    again = train("lenet5", data, test, **options, start=path)  # and goes on where it ended
    assert again.log == second.log
    float_phase = replace(STILL, epochs=1, lr=0.0)
    options |= {"folder": tmp_path / "c", "recipe": float_phase}
    third = train("lenet5", data, test, **options, start=path)
    assert [row["phase"] for row in third.log] == ["float", "float", "qat", "float", "qat"]


def test_batch_norms_start_with_the_statistics_of_the_data(tmp_path: Path) -> None:
    """So that an epoch without learning changes no prediction of the float network's."""
    data, test = load("digits", "train").first(64), load("digits", "test").first(24)
    data, test = (replace(x, stored=nn.functional.interpolate(x.pixels, size=32)) for x in (data, test))
    path = tmp_path / "resnet11h-digits-127.safetensors"
    save_quantised(path, quantised(shaken("resnet11h"))[0], notes={"network": "resnet11h", "log": "none"})
    recipe = replace(STILL, epochs=1, lr=0.0, evaluate_every=1)
    train("resnet11h", data, test, folder=tmp_path, name="resnet11h-digits-127", recipe=recipe, start=path)
    checkpoint = torch.load(tmp_path / "resnet11h-digits.float.pt", weights_only=True)["model"]
    with torch.no_grad():
        first = nn.functional.conv2d(data.pixels, checkpoint["features.0.0.weight"], padding=1)
    mean = checkpoint["features.0.1.running_mean"]  # after four batches, each a tenth of it
    assert torch.allclose(mean, first.mean((0, 2, 3)), rtol=0.05, atol=0.01)


def test_a_teacher(tmp_path: Path) -> None:
    """The same network, from either of its files: predictions as near as 8 bits of weights are."""
    path, result = a_run(tmp_path)
    about = {"shape": list(load("digits", "train").shape), "classes": 10}
    whole = Teachers([tmp_path / "lenet5-digits.float.pt"], about)
    rounded = Teachers([path], about)
    (said,) = rounded.names
    assert re.fullmatch(r"lenet5-digits-127\.safetensors after 3 epochs, [0-9a-f]{16}", said)
    x = load("digits", "test").first(24).pixels
    assert not torch.equal(whole(x), rounded(x))
    assert torch.allclose(whole(x), rounded(x), atol=0.02)
    assert torch.equal(rounded(x).argmax(1), result.graph.predict(x))


def test_another_file_of_the_same_name_is_another_start(tmp_path: Path) -> None:
    """Of as many epochs: a run that began with one is not taken for one of the other, nor what one taught."""
    path, result = a_run(tmp_path / "a")
    data, test = load("digits", "train").first(64), load("digits", "test").first(24)
    other = tmp_path / "b" / path.name
    other.parent.mkdir()
    bias = result.graph.layers[-1].bias + 1
    changed = replace(result.graph, layers=(*result.graph.layers[:-1], replace(result.graph.layers[-1], bias=bias)))
    save_quantised(other, changed, notes={"network": "lenet5", "dataset": "digits", "log": result.log})

    def by(key: str, file: Path) -> dict[str, Any]:
        return {key: file if key == "start" else [file]}

    for key in ("start", "teachers"):
        options: dict[str, Any] = {"folder": tmp_path / key, "name": "lenet5-digits-127"}
        options["recipe"] = STILL if key == "start" else TINY
        train("lenet5", data, test, **options, **by(key, path))
        with pytest.raises(ConversionError, match="use another --out, or delete it"):
            train("lenet5", data, test, **options, **by(key, other))


def test_accuracies_on_other_data_are_not_taken_over(tmp_path: Path) -> None:
    data, test = load("digits", "train").first(64), load("digits", "test").first(24)
    options: dict[str, Any] = {"folder": tmp_path, "name": "lenet5-digits-8", "recipe": STILL, "levels": 8}
    result = train("lenet5", data, test, **options, start=Path("lenet5-mnist-8"))
    assert result.float_accuracy is None
    assert [row["phase"] for row in result.log] == ["qat"]


def test_the_command_starts_from_a_name_and_keeps_what_it_reads(tmp_path: Path, calif: Calif) -> None:
    common = ["train", "--dataset", "digits", "--levels", "8", "--epochs", "0", "--qat-epochs", "1"]
    asked = [*common, "--cutout", "3", "--mixup", "0.5", "--qat-lr", "0.001"]
    code, out, err = calif(*asked, "--start", "lenet5-mnist-8", "--out", str(tmp_path / "a"), "--json")
    assert code == 0, err
    assert json.loads(out)["command"].endswith("--qat-lr 0.001 --cutout 3 --mixup 0.5 --start lenet5-mnist-8")
    about = json.loads(torch.load(tmp_path / "a" / "lenet5-digits-8.qat.pt", weights_only=True)["about"])
    assert (about["cutout"], about["mixup"]) == (3, 0.5)
    assert about["start"].startswith("lenet5-mnist-8 after 23 epochs, ")
    path = tmp_path / "a" / "lenet5-digits-8.safetensors"
    before = path.read_bytes()
    for more in (["--start"], ["--start", "lenet5-mnist-8", "--teacher"]):
        code, _, err = calif(*common, *more, str(path), "--out", str(tmp_path / "a"))
        assert code == 2
        assert "the file that is read; give another" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--start", "lenet5-mnist-9"), "lenet5-mnist-9: found no such file or checkpoint; give a file, or one of: "),
        (
            ("--start", "lenet5-mnist-8", "--cutout", "33"),
            "--cutout: found 33 of images of 32 x 32 pixels; use at most",
        ),
        (("--start", "lenet5-mnist-8", "--mixup", "1e-9"), "--mixup: found 1e-09; use 0, or a number from 0.01 to 100"),
    ],
)
def test_the_command_refuses(tmp_path: Path, calif: Calif, options: tuple[str, ...], said: str) -> None:
    code, _, err = calif("train", "--dataset", "digits", "--epochs", "0", "--out", str(tmp_path / "b"), *options)
    assert code == 2
    assert err.startswith(f"calif: {said}")


def test_which_names_are_meant(tmp_path: Path) -> None:
    assert names_quantised(Path("lenet5-mnist-8"))
    assert names_quantised(Path("vgg9-cifar10-127"))  # of the repository, here or not
    assert names_quantised(Path("runs/a.safetensors"))
    assert names_quantised(Path("runs/a.safetensors.xz"))
    assert not names_quantised(Path("runs/a.float.pt"))
    assert names_quantised(Path("vgg9-cifar10"))  # no name: what there is, is said then
    assert not names_quantised(tmp_path)
    renamed = tmp_path / "lenet5.st"
    shutil.copy(find_checkpoint("lenet5-mnist-8"), renamed)
    assert names_quantised(renamed)
    (tmp_path / "picture").write_bytes(b"BM" + bytes(99))
    assert not names_quantised(tmp_path / "picture")


def refused(which: str | Path, *, network: str | None = None, classes: int = 10, shape: Any = (1, 28, 28)) -> str:
    with pytest.raises(ConversionError) as found:
        restored(Path(which), {"shape": shape, "classes": classes}, network=network)
    return str(found.value)


def test_what_is_refused(tmp_path: Path) -> None:
    """Each in one line that names the file."""
    path, result = a_run(tmp_path / "a")
    shape = load("digits", "train").shape
    text = re.escape(str(path))
    assert re.fullmatch(f"{text}: found network lenet5 instead of vgg9; start from one of the same network",
                        refused(path, network="vgg9", shape=shape))  # fmt: skip
    said = refused(path, classes=7, shape=shape)
    images = r"classes for images of [\dx ]+"
    assert re.fullmatch(rf"{text}: found 10 {images}; give a network of 7 {images}", said)
    assert "; give a network of 10 classes for images of 3 x 32 x 32" in refused(path, shape=(3, 32, 32))
    nameless = tmp_path / "nameless.safetensors"
    save_quantised(nameless, result.graph)
    assert refused(nameless).startswith(f"{nameless}: found a network of no name, which is not in the zoo")
    other = tmp_path / "other.safetensors"
    save_quantised(other, result.graph, notes={"network": "lenet5x4"})
    assert "where the network has weights of shape (24, 1, 5, 5)" in refused(other, shape=shape)
    absent = refused(tmp_path / "absent.safetensors")
    assert absent.startswith(f"{tmp_path / 'absent.safetensors'}: found no such file or checkpoint")


def test_networks_with_more_than_weights_are_refused() -> None:
    """And what they were to go into stays as it is."""
    q, _ = quantised(shaken("lenet5se"))
    model = build("lenet5se", 1, 10, 32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        ConversionError, match=r"found parameters 'features\.1\.weight', so that not all float weights follow"
    ):
        load_integers(model, q, "here")
    plain = build("lenet5", 1, 10, 32)
    with pytest.raises(ConversionError, match=r"found .* so that not all float weights follow"):
        load_integers(plain, q, "here")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
