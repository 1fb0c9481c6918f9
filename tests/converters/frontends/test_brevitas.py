"""from_brevitas against the integers of Brevitas' own quantised tensors, layer by layer, in float64 and float32."""

from __future__ import annotations

import copy
from functools import cache, partial
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
import torch.nn.functional as F
from brevitas.inject.enum import FloatToIntImplType
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFixedPoint,
    Int8WeightPerTensorFloat,
    Int32Bias,
    TruncTo8bit,
    Uint8ActPerTensorFixedPoint,
)
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.exact.rounding import exact_round
from converters.frontends.brevitas import from_brevitas
from converters.results import compare_counts
from tests.networks import pixels

pytestmark = pytest.mark.filterwarnings("ignore:Named tensors:UserWarning")

CHANNELS = {"weight_quant": Int8WeightPerChannelFloat}


def conv(a: Any, b: Any, k: Any, **options: Any) -> Any:
    return qnn.QuantConv2d(a, b, k, return_quant_tensor=False, **options)


def relu(bits: int = 8, **options: Any) -> Any:
    return qnn.QuantReLU(bit_width=bits, return_quant_tensor=True, **options)


def identity(bits: int = 8, **options: Any) -> Any:
    return qnn.QuantIdentity(bit_width=bits, return_quant_tensor=True, **options)


class LeNet(nn.Module):
    """Integer biases, pools of both kinds, a quantised output."""

    shape = (1, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.input = identity()
        self.features = nn.Sequential(
            conv(1, 6, 5, bias_quant=Int32Bias), relu(), nn.AvgPool2d(2), identity(signed=False),
            conv(6, 8, 3, bias_quant=Int32Bias), relu(4), qnn.TruncAvgPool2d(2, bit_width=4),
        )  # fmt: skip
        self.fc1 = qnn.QuantLinear(32, 20, bias=True, bias_quant=Int32Bias, weight_bit_width=4)
        self.relu = relu()
        self.fc2 = qnn.QuantLinear(20, 10, bias=True, output_quant=Int8ActPerTensorFloat, return_quant_tensor=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(self.input(x))
        return self.fc2(self.relu(self.fc1(torch.flatten(x, 1))))


class Residual(nn.Module):
    """Batch norms of both signs, an addition on a shared quantiser, global average pool, a float output."""

    shape = (2, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.input = identity()
        self.stem = nn.Sequential(conv(2, 4, 3, padding=1, bias=False, **CHANNELS), nn.BatchNorm2d(4), relu())
        self.body = nn.Sequential(
            conv(4, 6, 3, stride=2, padding=1, bias=False, **CHANNELS), nn.BatchNorm2d(6), relu(5),
            conv(6, 6, 3, padding=1, bias=True), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.short = nn.Sequential(conv(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
        self.add = qnn.QuantEltwiseAdd(output_quant=None)
        self.relu = relu()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.pooled = identity()
        self.fc = qnn.QuantLinear(6, 5, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(self.input(x))
        x = self.relu(self.add(self.body(x), self.short(x)))
        return self.fc(self.pooled(self.pool(x)).flatten(1))


class Depthwise(nn.Module):
    """Depthwise, dilated and grouped convolutions, ReLU6, a functional pool, weights on powers of two."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.input = identity(act_quant=Uint8ActPerTensorFixedPoint)
        point = {"weight_quant": Int8WeightPerTensorFixedPoint}
        self.first = nn.Sequential(
            conv(3, 4, 3, stride=2, padding=1, **point), nn.BatchNorm2d(4), nn.ReLU6(), identity()
        )
        self.dw = nn.Sequential(conv(4, 4, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(4), relu())
        self.pw = nn.Sequential(
            conv(4, 8, 1, **CHANNELS), nn.BatchNorm2d(8), relu(act_quant=Uint8ActPerTensorFixedPoint)
        )
        self.grouped = nn.Sequential(conv(8, 8, (3, 1), padding=(1, 0), groups=2, **point), relu(6))
        self.pooled = identity()
        self.fc = qnn.QuantLinear(8 * 4, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.pw(self.dw(self.first(self.input(x)))))
        return self.fc(self.pooled(F.avg_pool2d(x, 2, 2, 0, False, True, None)).reshape(x.shape[0], -1))


class Concat(nn.Module):
    """Two branches joined on one quantiser (QuantCat of Brevitas 0.13.4 does not run), dropout, a truncating pool."""

    shape = (1, 12, 12)

    class Branch(nn.Module):
        def __init__(self, out: Any, k: Any) -> None:
            super().__init__()
            self.conv, self.relu = conv(1, out, k, padding=k // 2), relu()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.input = identity()
        self.left, self.right = self.Branch(3, 3), self.Branch(2, 1)
        self.shared = identity()
        self.merge, self.relu = conv(5, 4, 3), relu()
        self.extra, self.sum = conv(4, 4, 3, padding=1), identity()
        self.extra_q = qnn.QuantIdentity(return_quant_tensor=False)
        self.pool = qnn.TruncAvgPool2d(2, trunc_quant=TruncTo8bit, float_to_int_impl_type=FloatToIntImplType.FLOOR)
        self.drop = nn.Dropout(0.2)
        self.fc = qnn.QuantLinear(4 * 5 * 5, 5, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input(x)
        x = self.relu(self.merge(torch.cat([self.shared(self.left(x)), self.shared(self.right(x))], dim=1)))
        x = self.sum(self.extra_q(self.extra(x)) + x)
        return self.fc(self.drop(self.pool(x)).flatten(1))


KINDS = {k.__name__: k for k in (LeNet, Residual, Depthwise, Concat)}


@cache
def trained(name: str, double: bool) -> nn.Module:
    torch.manual_seed(1)
    model = KINDS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.5)
            with torch.no_grad():
                module.weight[0] *= -1
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    for k in range(20):
        out = model(pixels(16, model.shape, seed=100 + k))
        out = out.value if isinstance(out, QuantTensor) else out
        labels = torch.randint(0, out.shape[1], (16,), generator=torch.Generator().manual_seed(k))
        optimiser.zero_grad()
        F.cross_entropy(out, labels).backward()
        optimiser.step()
    model.eval()
    return model.double() if double else model


@torch.no_grad()
def toolkit_integers(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Integers of every quantised tensor that a module puts out, by the module's path; and the output."""
    found: dict[str, Tensor] = {}

    def hook(path: str) -> Any:
        def keep(module: Any, _: Any, out: Any) -> None:
            if isinstance(out, QuantTensor):
                found[path] = out.int(float_datatype=True).to(torch.int64)

        return keep

    handles = [m.register_forward_hook(hook(path)) for path, m in model.named_modules()]
    out = model(x)
    for handle in handles:
        handle.remove()
    return found, out.value if isinstance(out, QuantTensor) else out


# what quantises a layer, where that is not the module whose path the layer bears
QUANTISED_BY: dict[str, dict[str, Any]] = {
    "LeNet": {"input": "input", "features.0": "features.1", "features.2": "features.3", "features.4": "features.5",
              "features.6": "features.6", "fc1": "relu", "fc2": "fc2"},
    "Residual": {"input": "input", "stem.0": "stem.2", "body.0": "body.2", "body.3": None, "short.0": None,
                 "add": "relu", "pool": "pooled"},
    "Depthwise": {"input": "input", "first.0": "first.3", "dw.0": "dw.2", "pw.0": "pw.2", "grouped.0": "grouped.1",
                  "avg_pool2d": "pooled"},
    "Concat": {"input": "input", "left.conv": "left.relu", "right.conv": "right.relu", "merge": "relu",
               "add": "sum", "pool": "pool"},
}  # fmt: skip


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_integers_are_the_toolkits(name: str, double: bool) -> None:
    model: Any = trained(name, double)
    x = pixels(500, model.shape, seed=7)
    x = x.double() if double else x
    q = from_brevitas(model, x[:2])
    theirs, output = toolkit_integers(model, x)
    values = q.execute(x)
    by = QUANTISED_BY[name]
    compared = differing = 0
    for layer, quantiser in by.items():
        if quantiser is None:
            continue
        assert values[layer].unique().numel() > 3, layer
        compared += values[layer].numel()
        differing += int((values[layer] != theirs[quantiser].reshape(values[layer].shape)).sum())
    assert compared > 100_000
    if double:
        assert differing == 0
        assert torch.allclose(q.logits(values), output, atol=1e-9)
    else:  # a near-tie moves what stands behind it too
        assert differing <= compared * 1e-4
        assert_near_ties(q, theirs, by)
    g = converters.to_nir(q, T=q.levels)
    rows = compare_counts(converters.run(g, x[:5]), q.execute(x[:5]))
    assert [row for row in rows if row.differing] == []


def assert_near_ties(q: Any, theirs: Any, by: Any) -> None:
    """Every layer on the toolkit's own inputs: at most 1 in 100,000 differs, and each of those is a near-tie."""
    known = {layer: theirs[by[layer]].reshape(-1, *shape) for layer, shape in q.shapes.items() if by.get(layer)}
    compared = differing = 0
    for layer in q.layers:
        if layer.name not in known or any(s.source not in known for s in layer.synapses):
            continue
        acc = q.accumulate(layer, known)
        mine = exact_round(acc, layer.bias, layer.threshold, layer.tie, layer.y_min, layer.y_max)
        wrong = mine != known[layer.name]
        view = (1, -1) + (1,) * (acc.ndim - 2)
        ratio = (acc + layer.bias.view(view)) / layer.threshold.view(view)
        assert bool(((ratio - ratio.floor() - 0.5).abs()[wrong] < 1e-4).all()), layer.name
        compared, differing = compared + wrong.numel(), differing + int(wrong.sum())
    assert compared > 50_000
    assert differing * 100_000 <= compared


def test_the_model_is_left_alone() -> None:
    model: Any = trained("Residual", False)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    from_brevitas(model, pixels(2, model.shape))
    assert model.training
    model.eval()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_weights_merged_into_batch_norm_would_be_another_network() -> None:
    """Why batch norm is folded behind the accumulator: merging it first changes the integers."""
    model: Any = trained("Residual", True)
    x = pixels(100, model.shape, seed=3).double()
    exact = from_brevitas(model, x[:2]).execute(x)
    merged = copy.deepcopy(model)
    for block in (merged.stem, merged.body, merged.short):
        for k, module in enumerate(list(block)):
            if isinstance(module, nn.BatchNorm2d):
                if block[k - 1].bias is None:
                    block[k - 1].register_parameter("bias", nn.Parameter(torch.zeros(module.num_features).double()))
                block[k - 1].merge_bn_in(module)
                block[k] = nn.Identity()
    other = from_brevitas(merged, x[:2]).execute(x)
    assert (exact["add"] != other["add"]).double().mean() > 0.001


ERRORS = [
    (lambda: [identity(), nn.Conv2d(1, 2, 3)], r"^1: found an unquantised Conv2d; use brevitas.nn.QuantConv2d"),
    (lambda: [conv(1, 2, 3), relu()], r"^0: found the unquantised input; put a brevitas.nn.QuantIdentity"),
    (lambda: [identity(), conv(1, 2, 3), nn.ReLU(), conv(2, 2, 1)], r"^1: found an unquantised activation, used by 3"),
    (lambda: [identity(), conv(1, 2, 3), nn.GELU(), conv(2, 2, 1)], r"^1: found an unquantised activation, used by 3"),
    (lambda: [identity(), conv(1, 2, 3), nn.GELU()], r"^1: found an unquantised activation, used by output"),
    (lambda: [identity(), conv(1, 2, 3), qnn.QuantSigmoid(act_quant=None), conv(2, 2, 1)], r"^1: found an unquantised"),
    (lambda: [identity(), conv(1, 2, 3), nn.Softmax2d()], r"^2: found the module Softmax2d, which is not converted"),
    (
        lambda: [identity(), conv(1, 2, 3), qnn.QuantHardTanh(act_quant=None, min_val=-1.0, max_val=1.0)],
        r"^2: found an unquantised QuantHardTanh; use nn.Hardtanh",
    ),
    (lambda: [identity(), nn.ConvTranspose2d(1, 2, 3)], r"^1: found an unquantised ConvTranspose2d; use brevitas.nn.Q"),
    (lambda: [identity(), conv(1, 2, 3, weight_quant=None)], r"^1: found unquantised weights; give"),
    (lambda: [identity(float_to_int_impl_type=FloatToIntImplType.FLOOR), conv(1, 2, 3)], r"^0: found a quantiser that"),
    (lambda: [identity(), nn.BatchNorm2d(1), conv(1, 2, 3)], r"^1: found an unquantised activation, used by 2"),
    (lambda: [identity(), conv(1, 2, 3), relu(), nn.AvgPool2d(2), conv(2, 2, 1)], r"^3: found an unquantised act"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "message"), ERRORS)
def test_errors_name_the_module(layers: Any, message: str) -> None:
    model = nn.Sequential(*layers())
    x = pixels(4, (1, 12, 12))
    model(x)
    with pytest.raises(ConversionError, match=message):
        from_brevitas(model, x)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input, self.cat = identity(), qnn.QuantCat()

    def forward(self, x: Tensor) -> Any:
        return self.cat([self.input(x), self.input(x)])


def test_what_brevitas_itself_does_not_run_has_an_answer() -> None:
    with pytest.raises(AttributeError):  # if it runs one day, it can be converted
        Joined()(pixels(2, (1, 4, 4)))
    with pytest.raises(
        ConversionError, match=r"^cat: found a QuantCat, which Brevitas itself does not run .*torch.cat"
    ):
        from_brevitas(Joined(), pixels(2, (1, 4, 4)))


def test_recurrence_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"^1.lstm: found a recurrence over time; only feed-forward"):
        from_brevitas(nn.Sequential(identity(), Recurrent()), pixels(2, (4, 8)))


class Attention(nn.Module):
    def __init__(self, kind: Any, call: dict[str, Any], **options: Any) -> None:
        super().__init__()
        self.input, self.a, self.call = qnn.QuantIdentity(bit_width=8), kind(**options), call

    def forward(self, x: Tensor) -> Any:
        x = self.input(x)
        return self.a(x, x, x, **self.call)


HEADS = partial(Attention, qnn.QuantMultiheadAttention, embed_dim=8, num_heads=2)
SCORES = partial(Attention, qnn.QuantScaledDotProductAttention)
LAST = -torch.ones(4, 4).triu(1)
REFUSED = [
    (HEADS({}), r"^a: found an attention whose images are not the first axis .*; build it with batch_first=True"),
    (HEADS({"key_padding_mask": torch.zeros(2, 4).bool()}, batch_first=True), r"^a: found a mask of each image's own"),
    (HEADS({"attn_mask": torch.zeros(4, 4, 4)}, batch_first=True), r"^a: found a mask for each image and head; give"),
    (HEADS({"attn_mask": LAST}, batch_first=True), r"^a: found a mask of numbers .*; give a softmax_input_quant"),
    (
        HEADS(
            {"attn_mask": torch.full((4, 4), -torch.inf).triu(1)},
            softmax_input_quant=Int8ActPerTensorFloat,
            batch_first=True,
        ),
        r"^a.softmax_input_quant: found a scale of inf; calibrate",
    ),
    (HEADS({}, q_scaled_quant=None, batch_first=True), r"^a: found an attention without q_scaled_quant; give it"),
    (HEADS({}, attn_output_weights_quant=None, batch_first=True), r"^a: found an attention without attn_output_weight"),
    (
        HEADS({}, out_proj_input_quant=None, out_proj_bias_quant=None, batch_first=True),
        r"^a: found an attention without out_proj.input_quant; give it an out_proj_input_quant",
    ),
    (HEADS({}, in_proj_weight_quant=None, in_proj_bias_quant=None, batch_first=True), r"^a.in_proj: found unquantised"),
    (SCORES({"dropout_p": 0.1}), r"^a: found a dropout that stays on in eval mode"),
    (SCORES({}, pre_process_k=torch.neg), r"^a: found an attention that changes its operands first; do so in front"),
    (SCORES({"attn_mask": torch.zeros(2, 4, 4).bool()}), r"^a: found a mask of shape \(2, 4, 4\)"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_attention_without_an_exact_form_is_refused(model: nn.Module, message: str) -> None:
    model(pixels(2, (4, 8)))
    with pytest.raises(ConversionError, match=message) as caught:
        from_brevitas(model, pixels(2, (4, 8)))
    assert "\n" not in str(caught.value)


def test_an_attention_returns_its_weights_beside_its_output() -> None:
    torch.manual_seed(0)
    model = HEADS({}, batch_first=True)
    x = pixels(4, (4, 8)).double()
    model.double()(x)
    model.eval()
    q = from_brevitas(model, x)
    with torch.no_grad():
        theirs = model(x)
    ours = q.returned(q.execute(x))
    assert [tuple(t.shape) for t in ours] == [(4, 4, 8), (4, 4, 4)]
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).abs().max()) < 1e-9


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = qnn.QuantLSTM(8, 3, batch_first=True)

    def forward(self, x: Any) -> Tensor:
        out: Tensor = self.lstm(x)[0]
        return out


def test_per_tensor_and_bits() -> None:
    model = nn.Sequential(
        identity(3), conv(1, 2, 3, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=2), relu(2)
    )
    x = pixels(8, (1, 6, 6))
    model(x)
    q = from_brevitas(model, x)
    (layer,) = q.layers
    assert (q.input.q_min, q.input.q_max) == (-4, 3)
    assert (layer.y_min, layer.y_max) == (0, 3)
    assert int(layer.synapses[0].ops[0].stored.abs().max()) == 1
