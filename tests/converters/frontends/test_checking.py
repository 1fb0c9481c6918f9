"""Every conversion compares itself with the model: what it lets through, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from converters.errors import ConversionError, ConversionWarning, FileFormatError
from converters.files.quantised_file import load_quantised, save_quantised
from converters.frontends.brevitas import from_brevitas
from converters.frontends.checking import Shown, check_layers
from converters.operations import Linear, Scale
from converters.quantised import Checked, GraphBuilder, Layer, QuantGraph
from tests.converters.frontends.test_brevitas import trained
from tests.networks import pixels

pytestmark = pytest.mark.filterwarnings("ignore:Named tensors:UserWarning")


def two_layers(seed: int = 0, readout: bool = False) -> QuantGraph:
    """Two dense layers with biases, thresholds per neuron and clamps that are reached; a skip from the input."""
    g = torch.Generator().manual_seed(seed)
    b = GraphBuilder("test")
    x = b.input((4,), scale=0.25, q_min=-4, q_max=4)

    def dense(out: int) -> tuple[Linear, Tensor, Tensor]:
        weight = torch.randint(-3, 4, (out, 4), generator=g)
        weight[:, 0] = 3  # no row is zero
        return Linear(weight), torch.rand(out, generator=g) * 3 + 1.3, torch.rand(out, generator=g) * 2 + 0.4

    op, threshold, bias = dense(4)
    h = b.layer("a", [(x, op)], threshold=threshold, bias=bias, y_min=0, y_max=5, scale=0.5)
    op, threshold, bias = dense(3)
    options: dict[str, Any] = {"y_min": 0, "y_max": 0, "spiking": False} if readout else {"y_min": -2, "y_max": 4}
    y = b.layer(
        "b", [(h, op), (x, Linear(torch.eye(4)[:3].long()))], threshold=threshold, bias=bias, scale=0.1, **options
    )
    return b.build(y)


def images(n: int = 40) -> Tensor:
    return pixels(n, (4,), signed=True, seed=5).double() * 1.4


def shown(q: QuantGraph, x: Tensor) -> Shown:
    """What a toolkit would show that is ``q``, exactly."""
    values = q.execute(x)
    scales = {q.input.name: q.input.scale, **{k.name: k.scale for k in q.layers if k.spiking}}
    return Shown([(name, values[name].double() * scale) for name, scale in scales.items()], q.logits(values))


FAULTS: dict[str, Callable[[Layer], dict[str, Any]]] = {
    "bias lost": lambda k: {"bias": torch.zeros(1)},
    "bias sign": lambda k: {"bias": -k.bias},
    "threshold doubled": lambda k: {"threshold": k.threshold * 2},
    "thresholds of other neurons": lambda k: {"threshold": k.threshold.flip(0)},
    "threshold off by a tenth": lambda k: {"threshold": k.threshold * 1.1},
    "clamp forgotten": lambda k: {"y_max": k.y_max + 1},
    "clamp too low": lambda k: {"y_max": k.y_max - 1},
    "lower clamp": lambda k: {"y_min": k.y_min - 1},
    "scale": lambda k: {"scale": k.scale * 1.5},
    "synapse lost": lambda k: {"synapses": (*k.synapses[1:], replace(k.synapses[0], ops=_negated(k)))},
}


def _negated(layer: Layer) -> tuple[Any, ...]:
    (op,) = layer.synapses[0].ops
    return (Linear(-op.stored),)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_layer_with_a_fault_is_named(fault: str, name: str) -> None:
    q, x = two_layers(), images()
    assert check_layers(q, x, shown(q, x)).near_ties == 0
    layers = tuple(replace(k, **FAULTS[fault](k)) if k.name == name else k for k in q.layers)
    with pytest.raises(ConversionError, match=rf"^{name}: found that .*; please report it.*check=False"):
        check_layers(replace(q, layers=layers), x, shown(q, x))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.booleans(), st.integers(0, 11), st.sampled_from([-2, -1, 1, 2]))
def test_a_single_weight_that_differs_is_found(seed: int, readout: bool, place: int, change: int) -> None:
    q = two_layers(seed, readout)
    basis = torch.cat([images(), torch.eye(4).double(), -torch.eye(4).double()])
    given_, last = shown(q, basis), q.layers[1]
    weight = last.synapses[0].ops[0].stored.clone()
    weight.view(-1)[place] += change
    changed = replace(last, synapses=(replace(last.synapses[0], ops=(Linear(weight),)), *last.synapses[1:]))
    wrong = replace(q, layers=(q.layers[0], changed))
    same = all(torch.equal(a, b) for a, b in zip(q.execute(basis).values(), wrong.execute(basis).values(), strict=True))
    if same:  # the clamps hide this one on these images
        assert check_layers(wrong, basis, given_).integers > 0
    else:
        with pytest.raises(ConversionError, match=r"^b: found that"):
            check_layers(wrong, basis, given_)


def test_layers_that_are_not_shown_are_judged_by_what_stands_behind_them() -> None:
    q, x = two_layers(), images()
    whole = shown(q, x)
    part = Shown([(n, v) for n, v in whole.values if n != "a"], whole.output)
    assert check_layers(q, x, part).layers == {"input", "b"}
    wrong = replace(q, layers=(replace(q.layers[0], bias=-q.layers[0].bias), q.layers[1]))
    with pytest.raises(ConversionError, match=r"^b: found that"):
        check_layers(wrong, x, part)


def rounding(threshold: float = 3.0, bias: float = 0.0, tie: Any = "even") -> tuple[QuantGraph, Tensor]:
    """``y = round((n + bias) / threshold)``, and images of all its integers."""
    b = GraphBuilder()
    x = b.input((1,), scale=1.0, q_min=-90, q_max=90)
    y = b.layer("y", [(x, Scale(1))], threshold=threshold, bias=bias, y_min=-99, y_max=99, scale=1.0, tie=tie)
    return b.build(y), torch.arange(-90.0, 91)[:, None]


def test_a_near_tie_is_let_through_and_nothing_else() -> None:
    q, x = rounding(threshold=2.0, bias=1e-7)  # odd integers lie 5e-8 above a tie
    wrong = rounding(threshold=2.0, bias=-1e-7)[0]
    record = check_layers(q, x, shown(wrong, x))
    assert record.near_ties == 90
    assert record.integers == 3 * 181  # the input, the layer, and what the model returned
    with pytest.raises(ConversionError, match=r"that 90 of 181 integers differ"):
        check_layers(q, x, shown(wrong, x), dtype=torch.float64)  # double sums are not that noisy
    with pytest.raises(ConversionError, match=r"integers differ"):
        check_layers(rounding(threshold=2.0, bias=0.01)[0], x, shown(wrong, x))


def test_another_tie_rule_is_no_noise() -> None:
    q, x = rounding(threshold=2.0)
    up = shown(rounding(threshold=2.0, tie="up")[0], x)
    with pytest.raises(ConversionError, match=r"^y: found 45 ties that the model all rounds by the rule 'up'"):
        check_layers(q, x, up)
    ((inputs, given_), (name, values)) = up.values
    values = values.clone()
    values[3::8] = shown(q, x).values[1][1][3::8]  # half of the ties the one way: float noise, as in a pool
    assert check_layers(q, x, Shown([(inputs, given_), (name, values)], values)).near_ties > 20


def test_levels_two_apart_are_no_near_tie() -> None:
    q, x = rounding()
    values = shown(q, x).values[1][1] + 2
    with pytest.raises(ConversionError, match=r"that 181 of 181 integers differ"):
        check_layers(q, x, Shown([], values))


def test_values_that_are_no_multiples_of_the_scale() -> None:
    q, x = rounding()
    with pytest.raises(ConversionError, match=r"^y: found that 181 of 181 values .* no multiples of the scale 1 "):
        check_layers(q, x, Shown([("y", torch.full((181, 1), 0.3))], torch.zeros(181, 1)))
    with pytest.raises(ConversionError, match="no multiples"):
        check_layers(q, x, Shown([("y", torch.full((181, 1), torch.nan))], torch.zeros(181, 1)))
    with pytest.raises(ConversionError, match=r"values of shape \(181, 2\)"):
        check_layers(q, x, Shown([("y", torch.zeros(181, 2))], torch.zeros(181, 1)))


def test_what_the_model_returns_is_the_last_layer() -> None:
    q, x = rounding()
    values = shown(q, x).values
    with pytest.raises(ConversionError, match=r"^output: found that"):
        check_layers(q, x, Shown(values, values[1][1].relu()))


def test_extremes_that_the_input_cuts_are_no_warning() -> None:
    """The comparison shows images of its own; what is said of images is said of the user's."""
    q, x = rounding()
    x = torch.cat([x, x * 30])
    assert check_layers(q, x, Shown([], torch.round(x.clamp(-90, 90) / 3))).near_ties == 0
    with pytest.warns(ConversionWarning, match="values up to"):
        q.execute(x)


@pytest.mark.parametrize("name", ["LeNet", "Residual"])
def test_a_conversion_says_what_it_was_compared_with(name: str) -> None:
    model: Any = trained(name, False)
    x = pixels(9, model.shape)
    checked = from_brevitas(model, x).checked
    assert checked is not None
    assert (checked.model, checked.images) == ("brevitas", 15)
    assert checked.integers > 10_000
    assert checked.layers >= 7
    own = from_brevitas(model, x[:2], check=pixels(70, model.shape, seed=3)).checked
    assert own is not None
    assert (own.images, own.kind) == (70, "the user's own")
    assert from_brevitas(model, x[:2], check=False).checked is None
    q = from_brevitas(model, x)
    assert q.at_window(3).checked is None
    assert q.at_window(10_000).checked == checked


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (1, r"^check: found int; give True, False or a batch"),
        (None, r"^check: found NoneType"),
        (torch.rand(2, 1, 5, 5), r"^check: found torch.float32 of shape \(2, 1, 5, 5\); give images like the example"),
        (torch.rand(0, 1, 16, 16), r"^check: found .*shape \(0, 1, 16, 16\)"),
        (torch.rand(2, 1, 16, 16).double(), r"^check: found torch.float64"),
        (torch.full((2, 1, 16, 16), torch.inf), r"^check: found NaN or infinite pixels"),
    ],
)
def test_errors_of_check(check: Any, message: str) -> None:
    model: Any = trained("LeNet", False)
    with pytest.raises(ConversionError, match=message):
        from_brevitas(model, pixels(2, model.shape), check=check)


class Fixed(nn.Module):
    """Takes batches of two images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = qnn.QuantIdentity(return_quant_tensor=True), qnn.QuantLinear(4, 2, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(2, 4))


def test_a_model_of_one_batch_size() -> None:
    model = Fixed()
    x = pixels(2, (1, 2, 2))
    model(x)
    with pytest.raises(
        ConversionError, match=r"^check: found that the model does not run on 13 images .*batches of any"
    ):
        from_brevitas(model, x)
    checked = from_brevitas(model, x, check=x).checked
    assert checked is not None
    assert checked.images == 2


def test_nothing_moves(tmp_path: Path) -> None:
    """Neither the model, nor the images, nor any random state, nor the switches of the caller."""
    model: Any = trained("Concat", False).train()
    x = pixels(3, model.shape)
    state, image, random = {k: v.clone() for k, v in model.state_dict().items()}, x.clone(), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        checked = from_brevitas(model, x).checked
        assert torch.is_autocast_enabled("cpu")
    assert checked is not None
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, image)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.eval()


def test_a_file_keeps_what_was_checked(tmp_path: Path, calif: Any) -> None:
    q = replace(two_layers(), checked=Checked("pt2e", 13, "the example, random and extreme images", 3, 1234, 1, 0.5))
    save_quantised(tmp_path / "q.safetensors", q)
    read = load_quantised(tmp_path / "q.safetensors")
    assert q.checked is not None
    assert read.checked == replace(q.checked, seconds=None)
    code, out, _ = calif("inspect", tmp_path / "q.safetensors")
    assert code == 0
    assert "1,234 integers of 3 layers, 1 near-tie, no other difference" in " ".join(out.split())
    _, out, _ = calif("inspect", tmp_path / "q.safetensors", "--json")
    assert json.loads(out)["checked"]["integers"] == 1234
    save_quantised(tmp_path / "none.safetensors", two_layers())  # as files were before
    assert load_quantised(tmp_path / "none.safetensors").checked is None
    _, out, _ = calif("inspect", tmp_path / "none.safetensors", "--json")
    assert json.loads(out)["checked"] is None


@pytest.mark.parametrize("damage", [{"integers": -1}, {"images": "many"}, {"kind": 3}, {"other": 1}])
def test_a_damaged_record_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    from safetensors import safe_open

    path = tmp_path / "q.safetensors"
    save_quantised(path, replace(two_layers(), checked=Checked("pt2e", 13, "images", 3, 1234, 1)))
    with safe_open(path, framework="pt") as f:
        header = f.metadata()
    topology = json.loads(header["topology"])
    topology["checked"] |= damage
    save_file(load_file(path), path, {**header, "topology": json.dumps(topology)})
    with pytest.raises(FileFormatError):
        load_quantised(path)
