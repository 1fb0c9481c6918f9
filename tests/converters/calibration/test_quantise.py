"""Quantisation of float networks without training, from their images alone."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import converters
from converters.errors import ConversionError
from converters.frontends.level_quantiser import LevelQuantiser
from tests.networks import Concat, Depthwise, LeNet5, Residual, pixels

NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "a residual net": (Residual, (2, 8, 8)),
    "depthwise convolutions": (Depthwise, (3, 16, 16)),
    "a concatenation": (Concat, (1, 12, 12)),
}


def trained(kind: type[nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """With statistics of its own in its batch norms."""
    torch.manual_seed(0)
    model = kind().train()
    for _ in range(3):
        model(pixels(16, shape, seed=5))
    return model


def ranges_of(model: nn.Module) -> list[float]:
    return [float(m.scale[0]) * int(m.quant_max) for m in model.modules() if isinstance(m, LevelQuantiser)]


def test_a_program_that_was_exported_is_quantised_as_its_module_is() -> None:
    """Through a file, which needs no code of the module."""
    model = trained(*NETWORKS["a residual net"]).eval()
    x, file = pixels(16, (2, 8, 8)), io.BytesIO()
    torch.export.save(torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("N")},)), file)
    file.seek(0)
    own, read = (
        converters.from_pt2e(converters.quantise(m, x, levels=15)) for m in (model, torch.export.load(file).module())
    )
    assert [layer.name for layer in read.layers] == [layer.name for layer in own.layers]
    a, b = own.execute(x), read.execute(x)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_come_out_as_they_went_in(name: str) -> None:
    """At 127 levels hardly anything is lost, and all counts are the quantised network's."""
    kind, shape = NETWORKS[name]
    model, images = trained(kind, shape), pixels(24, shape, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prepared = converters.quantise(model, images, batch=7)
    assert model.training
    assert not prepared.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    wanted = model.eval()(images)
    assert float((prepared(images) - wanted).detach().square().mean()) < 2e-3 * float(wanted.detach().var())
    q = converters.from_pt2e(prepared)
    result = converters.run(converters.to_nir(q, T=128), images[:3])
    integers = q.execute(images[:3])
    assert all(torch.equal(counts.long(), integers[layer]) for layer, counts in result.counts.items())


def test_minmax_is_the_largest_value_of_all_images() -> None:
    model, images = LeNet5(small=True).eval(), pixels(40, (1, 12, 12), seed=1)
    tops = [float(x.detach().max()) for x in (images, model.features[:2](images), model.features[:3](images))]
    prepared = converters.quantise(model, images, ranges="minmax", weights="minmax", batch=9)
    nodes = [n for n in prepared.graph.nodes if n.op == "call_module"]
    found: list[Any] = [prepared.get_submodule(str(n.target)) for n in nodes]
    highs = [float(q.scale[0]) * int(q.quant_max) for q in found if not q.is_per_channel]
    assert highs[:3] == pytest.approx(tops)


def test_the_batch_makes_no_difference() -> None:
    model, images = LeNet5(small=True).eval(), pixels(40, (1, 12, 12), seed=1)
    a, b = (ranges_of(converters.quantise(model, images, 8, batch=size)) for size in (40, 11))
    assert a == pytest.approx(b, rel=1e-5)


class Labelled:
    """A stream that can be gone through again: images and labels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Any:
        return iter([(part, torch.arange(len(part))) for part in self.images.split(6)])


def test_a_stream_of_labelled_batches_is_its_images() -> None:
    model, images = LeNet5(small=True), pixels(20, (1, 12, 12), seed=1)
    data = TensorDataset(images, torch.arange(20))
    found = [ranges_of(converters.quantise(model, x, 8)) for x in (images, Labelled(images), DataLoader(data, 6))]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-5)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.relu(self.a(left)) + self.b(right)


def test_several_inputs_and_an_image_that_is_negative_late() -> None:
    left, right = torch.rand(70, 3), torch.rand(70, 2)
    right[-1] = -1.0
    for given in ((left, right), {"right": right, "left": left}):
        q = converters.from_pt2e(converters.quantise(Two(), given, 31))
        assert [(spec.q_min, spec.q_max) for spec in q.inputs] == [(0, 31), (-31, 31)]


def test_it_is_saved_and_trained_as_any_prepared_model() -> None:
    model, images = LeNet5(small=True), pixels(20, (1, 12, 12), seed=1)
    prepared = converters.quantise(model, images, 8, quantise_output=False, input_levels=15, per_channel=False)
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(images), prepared(images))
    other = converters.prepare_qat(
        model, images, 8, quantise_output=False, input_levels=15, per_channel=False, check=False
    )
    other.load_state_dict(prepared.state_dict())
    assert torch.equal(other.eval()(images), prepared(images))
    prepared.train()(images).square().mean().backward()
    assert all(p.grad is not None for p in prepared.parameters())


def test_progress_ends_with_all_images() -> None:
    told: list[tuple[str, int, int]] = []
    images = pixels(20, (1, 12, 12), seed=1)
    converters.quantise(LeNet5(small=True), images, batch=8, progress=lambda *row: told.append(row))
    assert told[:3] == [("ranges", 8, 20), ("ranges", 16, 20), ("ranges", 20, 20)]


class Dropping(nn.Module):
    """A dropout that evaluation does not switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.dropout(x, 0.5))


class Overflow(nn.Module):
    """Finite weights and images, but no finite values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.layer.weight.data.fill_(3e38)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def broken() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = torch.nan
    return layer


X = torch.rand(8, 4)
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no images": (nn.Linear(4, 4), X[:0], "calibration: found no images"),
    "no batches": (nn.Linear(4, 4), Labelled(X[:0]), "calibration of input: found no images"),
    "NaN": (nn.Linear(4, 4), X / 0, "calibration: found NaN or infinite pixels; clean the data"),
    "integers": (nn.Linear(4, 4), X.long(), r"calibration: found torch\.int64 of shape \(8, 4\); give a float batch"),
    "an iterator": (nn.Linear(4, 4), iter([X]), "calibration: found list_iterator; give a batch of images, or"),
    "a path": (nn.Linear(4, 4), "images/", "calibration: found str; give a batch of images"),
    "shapes": (nn.Linear(4, 4), [X, X[:, :3]], "calibration: found 2 for forward"),
    "another shape": (nn.Linear(4, 4), X[:, :3], r"example: found images of shape \(3,\), which"),
    "prepared": (converters.prepare_qat(nn.Linear(4, 4), X), X, "model: found one that is prepared already; give the"),
    "no module": (len, X, "model: found builtin_function_or_method; give a torch.nn.Module"),
    "dropout": (Dropping(), X, "Dropping: found that its forward draws random numbers in evaluation mode; use"),
    "broken weights": (broken(), X, "weight: found NaN or infinite values"),
    "broken values": (
        Overflow(),
        1 + X,
        "found values that are not finite on calibration images; clean the data, or mend",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_one_line(name: str) -> None:
    model, images, message = REFUSED[name]
    with pytest.raises(ConversionError, match=message) as error:
        converters.quantise(model, images, check=name in ("dropout",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", [{"ranges": "best"}, {"percentile": 101}, {"weights": "best"}, {"batch": 0}])
def test_options_are_named(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ConversionError, match=f"{name}: found"):
        converters.quantise(nn.Linear(4, 4), X, **option)
