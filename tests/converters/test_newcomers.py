"""What people who try their own networks for the first time meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.ops import StochasticDepth

import converters
from converters.results import compare_counts


class Twice(nn.Module):
    """One layer at two places: its weights are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) - self.a(x.flip(1))


class Dropped(nn.Module):
    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.drop = StochasticDepth(p, mode)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return h + self.drop(self.b(h))


class Larger(nn.Module):
    def __init__(self, factor: float, mode: str, corners: bool) -> None:
        super().__init__()
        self.factor, self.mode, self.corners = factor, mode, corners

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor, mode=self.mode, align_corners=self.corners)


def converted(net: nn.Module, x: Tensor, **options: Any) -> tuple[converters.QuantGraph, nn.Module]:
    m = converters.prepare_qat(net, x, levels=15)
    m(x)
    return converters.from_pt2e(m.eval(), **options), m


def test_a_network_that_uses_a_layer_twice_is_a_file(tmp_path: Path) -> None:
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    q, _ = converted(Twice(), x)
    converters.save_quantised(tmp_path / "q.safetensors", q)
    again = converters.load_quantised(tmp_path / "q.safetensors")
    for name, values in q.execute(x).items():
        assert torch.equal(again.execute(x)[name], values)


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_stochastic_depth_of_any_chance(p: float, mode: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 6, 6)
    q, _ = converted(Dropped(p, mode), x)
    result = converters.run(converters.to_nir(q), x)
    assert not any(row.differing for row in compare_counts(result, q.execute(x)))


# of the 400 below, those whose sums along two axes leave the threshold too few bits
TOO_WIDE = {(1.3, 5, 7), (1.3, 5, 9), (1.3, 7, 6), (1.3, 9, 9)}


@settings(max_examples=12, deadline=None)
@example(1.3, "bicubic", False, 5, 7)
@given(
    st.sampled_from([1.5, 2.0, 0.75, 1.3]), st.sampled_from(["bilinear", "bicubic"]), st.booleans(),
    st.integers(5, 9), st.integers(5, 9),
)  # fmt: skip
def test_an_interpolation_at_the_end_keeps_its_factor(f: float, mode: str, corners: bool, high: int, wide: int) -> None:
    x = torch.rand(3, 2, high, wide, generator=torch.Generator().manual_seed(high * wide))
    q, m = converted(Larger(f, mode, corners), x, check=False)
    if mode == "bicubic" and not corners and (f, high, wide) in TOO_WIDE:
        with pytest.raises(converters.ConversionError, match="fractional bits round elsewhere"):
            converters.to_nir(q)
        return
    ours = converters.run(converters.to_nir(q), x).outputs
    assert isinstance(ours, Tensor)
    step = max(layer.scale for layer in (q.input, *q.layers))
    assert float((ours - m(x)).abs().max()) <= 1.001 * step


@pytest.mark.parametrize(
    "call",
    [
        lambda q, g, path: converters.to_nir(g),
        lambda q, g, path: converters.to_nir(nn.Linear(2, 2)),
        lambda q, g, path: converters.write(g, path),
        lambda q, g, path: converters.save_quantised(q, path),
    ],
    ids=["to_nir of a graph", "to_nir of a module", "write the other way round", "save the other way round"],
)
def test_arguments_of_another_kind(call: Any, tmp_path: Path) -> None:
    q, _ = converted(Twice(), torch.rand(4, 5))
    with pytest.raises(converters.ConversionError, match="give a "):
        call(q, converters.to_nir(q), tmp_path / "x")
    assert not list(tmp_path.iterdir())


WRITERS: dict[str, Any] = {
    ".nir": lambda path, q: converters.write(path, converters.to_nir(q)),
    ".safetensors": lambda path, q: converters.save_quantised(path, q),
    ".onnx": lambda path, q: converters.to_onnx(q, path),
}


@pytest.mark.parametrize("own", sorted(WRITERS))
def test_a_file_is_not_named_as_another_kind(own: str, tmp_path: Path) -> None:
    q, _ = converted(Twice(), torch.rand(4, 5))
    for ending in ({*WRITERS} - {own}) | {".foo", ".pt", ".html"}:
        with pytest.raises(converters.ConversionError, match=f"x{ending}: found the ending of another kind") as error:
            WRITERS[own](tmp_path / f"x{ending}", q)
        assert f"give a name that ends in {own}" in str(error.value)
    assert not list(tmp_path.iterdir())
    for name in ("x", "x-v0.2", f"x{own}", f"X{own.upper()}"):
        WRITERS[own](tmp_path / name, q)
        assert (tmp_path / name).stat().st_size


class Branches(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "if":
            return self.fc(x) if x.sum() > 0 else self.fc(-x)
        return self.fc(x[: int(x.max())])


@pytest.mark.parametrize("kind", ["if", "size"])
def test_what_the_exporter_prints_before_an_error_is_not_shown(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(converters.ConversionError, match=r"torch.export cannot follow its forward"):
        converters.prepare_qat(Branches(kind), torch.rand(2, 5))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_the_module_takes_no_input_after_its_window(coding: str) -> None:
    """Other images of the same number, without a reset, would be added to the first ones."""
    torch.manual_seed(0)
    x = torch.rand(4, 5)
    q, _ = converted(Twice(), x)
    net = converters.to_snntorch(converters.to_nir(q, coding=coding))
    net(net.encode(x))
    net.settle()
    net(torch.zeros(2, 4, 5))
    for late in (net.encode(x), net.encode(x)[0] + 1):
        with pytest.raises(converters.ConversionError, match="after the window of 15 steps; call reset"):
            net(late)
    net.reset()
    net(net.encode(x))
    net.settle()
    assert torch.equal(net.read_out(), q.logits(q.execute(x)))
    net.reset()
    with pytest.raises(converters.ConversionError, match="input at step 15"):
        net(torch.cat([net.encode(x), net.encode(x)]))


@pytest.mark.parametrize("what", ["prune.remove", "parametrizations.weight_norm"])
def test_layers_that_cannot_be_copied(what: str) -> None:
    """Their error names the way out, and that is one."""
    net = nn.Sequential(nn.Linear(5, 3), nn.ReLU())
    if what == "prune.remove":
        prune.l1_unstructured(net[0], "weight", amount=0.4)
        net(torch.rand(2, 5))
    else:
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(net[0])
        net(torch.rand(2, 5))
    with pytest.raises(converters.ConversionError, match=what):
        converters.prepare_qat(net, torch.rand(4, 5))
    if what == "prune.remove":
        prune.remove(net[0], "weight")
    else:
        net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)), nn.ReLU())
    q, _ = converted(net, torch.rand(4, 5))
    assert q.checked is not None
