"""A prepared model is a module like any other: its modes, its copies, its files and its wrappers."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchao.quantization.pt2e import FakeQuantizeBase, disable_fake_quant, disable_observer

from converters.errors import ConversionError
from converters.frontends.pt2e import from_pt2e, prepare_qat
from converters.frontends.pt2e_module import PreparedModel
from converters.frontends.pt2e_training import training_view
from tests.converters.frontends.test_pt2e_in_place import assert_same_function
from tests.networks import NETWORKS, make, pixels, short_training

X = pixels(6, (1, 12, 12), seed=1).double()


def norm(n: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(n, eps=0.1, momentum=0.4).double()
    nn.init.uniform_(layer.weight, -1.5, 1.5)
    return layer


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), *middle, nn.Flatten(), nn.LazyLinear(6), nn.BatchNorm1d(6, 0.2, 0.3),
        nn.ReLU(), nn.AlphaDropout(0.2), nn.Linear(6, 3),
    ).double()  # fmt: skip


DROPOUTS: dict[str, Callable[[], nn.Module]] = {
    "Dropout": lambda: nn.Dropout(0.1),
    "Dropout in place": lambda: nn.Dropout(0.1, inplace=True),
    "Dropout2d": lambda: nn.Dropout2d(0.3),
    "AlphaDropout": lambda: nn.AlphaDropout(0.1),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.3),
    "convolution without bias": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), norm(4)),
    "strided": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2), norm(4), nn.Dropout(0.2)),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_both_modes_are_the_networks_own(name: str) -> None:
    """Dropout rates, batch norms' eps and momentum; the same random numbers, before and after switches."""
    model = network(DROPOUTS[name]())
    model(X)
    assert_same_function(model, X)
    prepared = prepare_qat(model.train(), X)
    for m in (prepared.apply(disable_fake_quant).apply(disable_observer), model):
        for mode in (True, False, True, True, False, True):
            torch.manual_seed(2)
            m.train(mode)(X)
    theirs = dict(model.named_buffers())
    ours = {k: v for k, v in prepared.named_buffers() if k in theirs}
    assert len(ours) == len(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4, 0.1, 0.3), nn.Dropout1d(0.4)), (4, 2, 9)),
        (lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4, 0.1, 0.3), nn.Dropout3d(0.4)), (4, 2, 4, 4, 4)),
    ],
)
def test_the_switch_knows_one_and_three_dimensions(net: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = net(), torch.rand(shape)
    graph = torch.export.export(copy.deepcopy(model).train(), (x,)).module(check_guards=False)
    switched = PreparedModel.of(graph)
    for mode in (False, True, False, True):
        outputs = []
        for m in (model.train(mode), switched.train(mode)):
            torch.manual_seed(1)
            outputs.append(m(x))
        assert torch.equal(*outputs), mode
    assert torch.equal(model.get_buffer("1.running_var"), switched.get_buffer("1.running_var"))


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_moves_in_evaluation(name: str) -> None:
    _, shape, signed = NETWORKS[name]
    prepared = prepare_qat(make(name), pixels(4, shape, signed), levels=15)
    short_training(prepared, name, steps=2)
    before = copy.deepcopy(prepared.state_dict())
    prepared.eval()
    for scale in (1.0, 7.0):
        prepared(scale * pixels(5, shape, signed, seed=3))
        with torch.no_grad():
            prepared(scale * pixels(5, shape, signed, seed=3))
    after = prepared.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    prepared.train()
    prepared(pixels(5, shape, signed, seed=4))
    moved = [k for k, v in before.items() if not torch.equal(v, after[k])]
    assert any(k.endswith("max_val") for k in moved)
    assert any(k.endswith("num_batches_tracked") for k in moved) == any("num_batches" in k for k in before)


def trained() -> tuple[PreparedModel, Tensor]:
    prepared = prepare_qat(make("concat"), pixels(4, (1, 12, 12)), levels=15)
    short_training(prepared, "concat", steps=3)
    return prepared, pixels(8, (1, 12, 12), seed=9)


def reloaded(m: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(m, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "torch.save": reloaded,
    "a copy of a file's": lambda m: copy.deepcopy(reloaded(m)),
    "AveragedModel": AveragedModel,
    "DataParallel": nn.DataParallel,
    "averaged and parallel": lambda m: nn.DataParallel(AveragedModel(m)),
}


@pytest.mark.parametrize("kind", COPIES)
@torch.no_grad()
def test_copies_and_wrappers(kind: str) -> None:
    with torch.enable_grad():
        prepared, x = trained()
    other = COPIES[kind](prepared.train())
    assert other.training
    assert other.eval() is other
    assert not other.training
    prepared.eval()
    assert torch.equal(other(x), prepared(x))
    a, b = from_pt2e(prepared).execute(x), from_pt2e(other).execute(x)
    assert list(a) == list(b)
    assert all(torch.equal(a[k], b[k]) for k in a)
    other.train()
    assert not torch.equal(other(x), other(x))  # dropout is on


def test_a_model_from_a_file_trains_on_bit_for_bit() -> None:
    prepared, _ = trained()
    other = reloaded(prepared)
    assert [k for k, _ in other.named_parameters()] == [k for k, _ in prepared.named_parameters()]
    for m in (prepared, other):
        torch.manual_seed(4)
        short_training(m, "concat", steps=3)
    after = other.state_dict()
    assert list(after) == list(prepared.state_dict())
    assert all(torch.equal(v, after[k]) for k, v in prepared.state_dict().items())


def test_the_methods_of_a_module() -> None:
    prepared, x = trained()
    assert prepared.eval() is prepared
    assert prepared.training is False
    assert prepared.train() is prepared
    assert prepared.training is True
    assert prepared.eval().to("cpu")(x).shape == (8, 5)
    assert all(not m.training for m in prepared.modules())
    assert prepare_qat(make("lenet5").eval(), pixels(2, (1, 12, 12))).training is False


def test_converting_leaves_the_model_alone() -> None:
    prepared, _ = trained()
    prepared.train()
    prepared.get_submodule("activation_post_process_0").eval()
    before, modes = copy.deepcopy(prepared.state_dict()), [m.training for m in prepared.modules()]
    random = torch.get_rng_state()
    assert from_pt2e(prepared).checked is not None
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in prepared.modules()]
    after = prepared.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_a_compiled_model_is_unwrapped() -> None:
    prepared, x = trained()
    compiled: Any = torch.compile(prepared, backend="eager")
    a, b = from_pt2e(prepared).execute(x), from_pt2e(nn.DataParallel(compiled)).execute(x)
    assert all(torch.equal(a[k], b[k]) for k in a)


class Lightning(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def test_other_wrappers_are_told_what_to_give() -> None:
    prepared, _ = trained()
    with pytest.raises(ConversionError, match=r"model: found Lightning around a prepared model; convert its net$"):
        from_pt2e(Lightning(prepared))
    with pytest.raises(ConversionError, match="convert what prepare_qat returned"):
        from_pt2e(training_view(prepared))
    with pytest.raises(ConversionError, match="found int; give what prepare_qat returned"):
        from_pt2e(3)  # type: ignore[arg-type]
    with pytest.raises(ConversionError, match=r"weights of torch\.bfloat16; convert a model in float32"):
        from_pt2e(prepared.bfloat16())


def test_a_model_that_has_seen_nothing_says_so_in_evaluation() -> None:
    """Its levels would be those of a range that nobody chose."""
    prepared = prepare_qat(make("lenet5"), pixels(2, (1, 12, 12))).eval()
    with pytest.raises(
        ConversionError, match=r"^features\.0\.weight: found a quantiser that has seen no data; train the model"
    ):
        prepared(pixels(2, (1, 12, 12)))
    assert torch.isfinite(prepared.apply(disable_fake_quant)(pixels(2, (1, 12, 12)))).all()


def test_scales_stay_in_float32() -> None:
    prepared, x = trained()
    scales = [m.scale.clone() for m in prepared.modules() if isinstance(m, FakeQuantizeBase)]
    prepared.double().train()(x.double())
    now = [m.scale for m in prepared.modules() if isinstance(m, FakeQuantizeBase)]
    assert {s.dtype for s in now} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(scales, now, strict=True))
