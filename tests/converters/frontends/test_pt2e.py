"""The PT2E front-end against torchao's own integers, recorded from its fake quantisers."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchao.quantization.pt2e import FakeQuantizeBase

import converters
from converters.errors import ConversionError
from converters.exact.rounding import exact_round
from converters.frontends.pt2e import freeze_observers, from_pt2e, prepare_qat
from converters.results import compare_counts
from tests.networks import NETWORKS, LeNet5, make, pixels, short_training


def recorded(prepared: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The integers of all activation quantisers in order, from what they give in evaluation, and the output."""
    seen: list[torch.Tensor] = []

    def keep(fake: Any, _: Any, result: torch.Tensor) -> None:
        if fake.qscheme != torch.per_channel_symmetric and result.shape[0] == len(x):
            seen.append(torch.round(result.detach() / fake.scale).to(torch.int64))

    twin = copy.deepcopy(prepared).eval()
    quantisers = {id(m): m for m in twin.modules() if isinstance(m, FakeQuantizeBase)}.values()
    handles = [m.register_forward_hook(keep) for m in quantisers]
    output = twin(x).detach()
    for handle in handles:
        handle.remove()
    return seen, output


def near_tie(q: converters.QuantGraph, layer: Any, values: Any, index: Any) -> bool:
    """Whether the exact quotient of one neuron lies within a float32's noise of a tie."""
    acc = q.accumulate(layer, values)[index]
    c = int(index[1])
    x = (Fraction(int(acc)) + Fraction(float(layer.bias[c]))) / Fraction(float(layer.threshold[c]))
    size = float(abs(x)) + 1
    return abs(float(x % 1) - 0.5) < 1e-4 * size


CASES = [
    ("lenet5", 127, 8, True), ("lenet5", 8, 4, False), ("lenet5", 3, 8, True), ("lenet5", 1, 2, True),
    ("residual", 127, 8, True), ("depthwise", 15, 6, False),
    ("concat", 127, 8, False), ("concat", 7, 3, True), ("signed", 127, 8, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "levels", "bits", "per_channel"), CASES)
def test_integers_are_the_toolkits(name: str, levels: int, bits: int, per_channel: bool) -> None:
    model = make(name)
    x = pixels(2000 if name == "signed" else 500, *NETWORKS[name][1:], seed=7)
    prepared = prepare_qat(model, x[:8], levels=levels, weight_bits=bits, per_channel=per_channel)
    short_training(prepared, name)
    q = from_pt2e(prepared)
    theirs, output = recorded(prepared, x)
    values = q.execute(x)
    assert len(theirs) == len(values)  # one quantiser per layer, and the input's
    # the graph's order need not be ours: the recording that fits is the layer's
    fitting = {
        name: min((t for t in theirs if t.numel() == a.numel()), key=lambda t: int((t.reshape(a.shape) != a).sum()))
        for name, a in values.items()
    }
    fitting = {name: t.reshape(values[name].shape) for name, t in fitting.items()}
    assert torch.equal(fitting[q.input.name], values[q.input.name])
    compared = differing = 0
    for layer in q.layers:  # each layer on the toolkit's own inputs, so that every difference is its own
        bias, threshold = layer.bias, layer.threshold
        acc = q.accumulate(layer, fitting)
        mine = exact_round(acc, bias, threshold, layer.tie, layer.y_min, layer.y_max)
        compared += mine.numel()
        for index in (mine != fitting[layer.name]).nonzero():
            differing += 1
            assert near_tie(q, layer, fitting, tuple(index.tolist()))
    assert differing * 100_000 <= compared
    assert compared > 100_000
    assert q.levels == levels
    assert torch.allclose(q.logits(fitting).float(), output, atol=1e-5)
    assert (q.predict(x) == output.argmax(1)).double().mean() > 0.995
    widest = max(
        int(op.stored.abs().max())
        for layer in q.layers
        for s in layer.synapses
        for op in s.ops
        if hasattr(op, "groups")
    )
    assert widest <= 2 ** (bits - 1) - 1
    # and on to spikes
    g = converters.to_nir(q, T=min(levels, 20))
    rows = compare_counts(converters.run(g, x[:6]), q.at_window(min(levels, 20)).execute(x[:6]))
    assert [row for row in rows if row.differing] == []


@pytest.mark.parametrize(
    ("name", "levels", "per_channel"), [("signed", 300, False), ("concat", 100, True), ("residual", 40, True)]
)
def test_none_differs_in_float64(name: str, levels: int, per_channel: bool) -> None:
    model = make(name)
    x = pixels(500, *NETWORKS[name][1:], seed=7)
    prepared = prepare_qat(model, x[:8], levels=levels, per_channel=per_channel)
    short_training(prepared, name)
    prepared.double()
    q = from_pt2e(prepared)
    theirs, _ = recorded(prepared, x.double())
    values = q.execute(x.double())
    compared = 0
    for layer in q.layers:
        same = [t for t in theirs if t.numel() == values[layer.name].numel()]
        differing = [int((t.reshape(values[layer.name].shape) != values[layer.name]).sum()) for t in same]
        assert min(differing) == 0
        compared += same[0].numel()
    assert compared > 50_000


def test_any_training_loop(tmp_path: Path) -> None:
    model = LeNet5(small=True)
    prepared = prepare_qat(model, pixels(2, (1, 12, 12)), levels=15)
    before = copy.deepcopy(prepared.state_dict())
    short_training(prepared, "lenet5", steps=3)
    assert any(not torch.equal(before[k], v) for k, v in prepared.state_dict().items() if "weight" in k)
    for n in (1, 3, 17):  # any batch size
        assert prepared(pixels(n, (1, 12, 12))).shape == (n, 10)
    x = pixels(5, (1, 12, 12), seed=3)
    torch.save(prepared.state_dict(), tmp_path / "w.pt")
    again = prepare_qat(LeNet5(small=True), pixels(2, (1, 12, 12)), levels=15)
    again.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    again.eval()
    assert torch.equal(prepared(x), again(x))
    a, b = from_pt2e(prepared).execute(x), from_pt2e(again).execute(x)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(prepared(x), again(x))  # converting leaves the model alone


def test_frozen_observers_keep_their_ranges() -> None:
    prepared = prepare_qat(LeNet5(small=True), pixels(2, (1, 12, 12)), levels=15)
    prepared(pixels(8, (1, 12, 12)))
    freeze_observers(prepared)
    scales = {k: v.clone() for k, v in prepared.state_dict().items() if k.endswith("scale") and v.numel() == 1}
    prepared(5 * pixels(8, (1, 12, 12)))
    assert scales
    assert all(torch.equal(prepared.state_dict()[k], v) for k, v in scales.items())


def test_an_unquantised_output_is_read_from_the_membrane() -> None:
    torch.manual_seed(0)
    prepared = prepare_qat(LeNet5(small=True), pixels(2, (1, 12, 12)), levels=4, quantise_output=False)
    short_training(prepared, "lenet5")
    q = from_pt2e(prepared)
    assert not q.output.spiking
    x = pixels(40, (1, 12, 12), seed=5)
    prepared.eval()
    assert torch.allclose(q.logits(q.execute(x)).float(), prepared(x), atol=1e-4)
    r = converters.run(converters.to_nir(q, T=4), x)
    assert torch.allclose(r.logits.float(), prepared(x), atol=1e-4)
    assert torch.equal(r.predictions, q.predict(x))


class _Bad(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(1, 2, 3), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(F.relu(self.conv(x)))


class _Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (nn.Sequential(nn.LogSoftmax(1), nn.Conv2d(2, 2, 1)), r"inner.0: found the operation log_softmax; leave"),
        (_Branches(), r"torch.export cannot follow its forward"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_named(inner: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        prepare_qat(_Bad(inner), torch.rand(2, 1, 12, 12))


@pytest.mark.parametrize(
    "inner",
    [
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(3),
    ],
)
def test_pools_whose_windows_differ(inner: nn.Module) -> None:
    x = torch.rand(2, 1, 12, 12)
    model = prepare_qat(_Bad(inner), x)
    model(x)
    q = from_pt2e(model)
    with torch.no_grad():
        expected = model.eval()(x)
    torch.testing.assert_close(q.logits(q.execute(x)), expected.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"levels": 0}, "levels: found 0"),
        ({"weight_bits": 9}, "weight_bits: found 9; use 2 to 8"),
        ({"weight_bits": 1}, "weight_bits: found 1"),
        ({"example": torch.full((2, 1, 12, 12), float("nan"))}, "NaN"),
        ({"example": torch.zeros(2, 1, 12, 12, dtype=torch.uint8)}, "give a float batch"),
        ({"model": "lenet"}, r"give a torch\.nn\.Module"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    arguments = {"model": LeNet5(small=True), "example": torch.rand(2, 1, 12, 12), **kwargs}
    with pytest.raises(ConversionError, match=message):
        prepare_qat(**arguments)


def test_models_that_were_not_prepared_or_have_seen_nothing() -> None:
    with pytest.raises(ConversionError, match="prepare it with prepare_qat first"):
        from_pt2e(LeNet5(small=True))
    with pytest.raises(ConversionError, match="a quantiser that has seen no data"):
        from_pt2e(prepare_qat(LeNet5(small=True), torch.rand(2, 1, 12, 12)))


def test_batch_norm_behind_a_linear_layer_folds_behind_the_accumulator() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1.0, -1, 0, 2, -0.5, 1, 1, 1]))
        net[1].bias.uniform_(-0.5, 0.5)
    prepared = prepare_qat(net, torch.rand(4, 6), levels=15)
    prepared.train()
    for k in range(4):
        prepared(torch.rand(32, 6, generator=torch.Generator().manual_seed(k)))
    prepared.eval()
    q = from_pt2e(prepared)
    x = torch.rand(2000, 6, generator=torch.Generator().manual_seed(9))
    theirs, _ = recorded(prepared, x)
    for a, b in zip(q.execute(x).values(), theirs, strict=True):
        assert int((a != b).sum()) == 0


def test_weights_that_are_not_finite_do_not_become_integers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    prepared = prepare_qat(net, torch.rand(4, 6), levels=15)
    prepared(torch.rand(32, 6))
    with torch.no_grad():
        next(p for p in prepared.parameters() if p.ndim == 2)[0, 0] = float("nan")
    with pytest.raises(ConversionError, match="NaN or infinite values"):
        from_pt2e(prepared)
