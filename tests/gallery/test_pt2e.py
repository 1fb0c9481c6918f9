"""Every network of the gallery, from PyTorch over PT2E to spikes: their counts are the quantised network's integers.

Three independent things say the same: torchao's own forward (compared layer by layer as the network is converted), the
integer executor, and the neurons of every backend.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import converters
from converters import QuantGraph
from converters.frontends.level_quantiser import LevelQuantiser
from converters.operations import Operation
from converters.results import compare_counts
from tests.gallery.networks import GALLERY, Case

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

WINDOW = 8
BACKENDS = ("closed_form", "fast", "snntorch")
# each kind of operation in Brian2's own groups: the first of them in every run, the others in the long one
BRIAN2 = (
    "conv transposed 2d", "linear on tokens", "SiLU", "max pool 2d", "max over the map", "average pool 2d",
    "difference", "squeeze and excite", "layer norm of tokens", "softmax over channels", "pixel shuffle", "bilinear",
)  # fmt: skip
MORE_IN_BRIAN2 = (
    "conv 1d", "conv dilated 3d", "two bits", "batch norm behind a ReLU", "LeakyReLU", "GELU alone",
    "PReLU per channel", "SiLU saturated", "max pool 1d", "max pool padded", "minimum of two", "mean over channels",
    "residual", "product of two", "group norm", "permute", "concatenation of rows", "stochastic depth",
    "ShuffleNet block", "U-Net", "ConvNeXt block", "local response norm", "RMS norm", "inception", "a dense block",
)  # fmt: skip


def images(case: Case, n: int, seed: int) -> Tensor:
    """Random ones, with zeros and extremes among them; the last but one is empty."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *case.shape, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.2] = 0
    x[torch.rand(x.shape, generator=generator) < 0.1] = 1
    if case.signed:
        x *= torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    x[-2] = 0
    return x


@cache
def converted(name: str) -> QuantGraph:
    """Prepared, trained for two steps, and compared with the trained model by ``from_pt2e``."""
    case = GALLERY[name]
    torch.manual_seed(0)
    net = case.make()
    prepared = converters.prepare_qat(net, images(case, 4, 0), levels=case.levels, weight_bits=case.bits)
    prepared.train()
    optimiser = torch.optim.SGD([p for p in prepared.parameters() if p.requires_grad], lr=1e-3)
    for seed in (1, 2):
        optimiser.zero_grad()
        sum(y.square().mean() for y in tree_leaves(prepared(images(case, 6, seed)))).backward()
        optimiser.step()
    return converters.from_pt2e(prepared)


# two of three in every run, the others in the long one
_LONG = {"windows of cosines", "Swin v2"}
_SOME = [pytest.param(n, marks=pytest.mark.slow) if k % 3 == 2 or n in _LONG else n for k, n in enumerate(GALLERY)]


@pytest.mark.parametrize("name", _SOME)
def test_counts_are_the_toolkits_integers(name: str, tmp_path: Path) -> None:
    case, q = GALLERY[name], converted(name)
    assert q.checked is not None
    assert q.checked.integers > 0
    window = min(q.levels, WINDOW)
    graph, x = converters.to_nir(q, window), images(case, 3, 3)
    expected = q.at_window(window).execute(x)
    converters.write(tmp_path / "net.nir", graph)
    again = converters.read(tmp_path / "net.nir")
    for backend in BACKENDS:
        result = converters.run(again if backend == "fast" else graph, x, backend=backend, check=False)
        rows = compare_counts(result, expected)
        assert len(rows) == sum(layer.spiking for layer in q.layers)
        assert [row for row in rows if row.differing] == [], backend


@pytest.mark.parametrize("name", [*BRIAN2, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE_IN_BRIAN2)])
def test_counts_in_brian2(name: str) -> None:
    q = converted(name)
    window = min(q.levels, 3)
    x = images(GALLERY[name], 3, 3)[:1]
    result = converters.run(converters.to_nir(q, window), x, backend="brian2")
    rows = compare_counts(result, q.at_window(window).execute(x))
    assert rows
    assert [row for row in rows if row.differing] == []


def test_there_is_one_for_each_kind() -> None:
    assert len(GALLERY) >= 200
    assert {*BRIAN2, *MORE_IN_BRIAN2} <= set(GALLERY)


def _operations(q: QuantGraph, layer: str) -> list[Operation]:
    (found,) = (k for k in q.layers if k.name == layer)
    return [op for s in found.synapses for op in s.ops]


def _met(name: str) -> Counter[str]:
    """What of all that is rare happens in one network: in its spikes, and in its integers."""
    q, case = converted(name), GALLERY[name]
    x, found = images(case, 6, 3), Counter[str]()
    values = q.execute(x)
    result = converters.run(converters.to_nir(q, min(q.levels, WINDOW)), x, backend="snntorch", record="spikes")
    for layer in q.layers:
        kinds = {type(op).__name__ for op in _operations(q, layer.name)}
        if kinds & {"MaxPool", "AdaptiveMaxPool", "MaxOver", "Maximum", "Minimum"}:
            found["negative spikes through a max"] += int((result.spikes[layer.name] < 0).sum())
        if kinds & {"MaxPool", "AdaptiveMaxPool"}:
            found["empty windows"] += int((values[layer.name] == 0).sum())
        if "Levels" in kinds:
            found["saturated levels"] += int((values[layer.name] == layer.y_max).sum())
    return found


def test_what_is_rare_happens() -> None:
    """Maxima that sink, windows without a spike, tables at their end."""
    names = ("max pool 2d", "minimum of two", "max pool of the input", "sigmoid saturated")
    found = sum((_met(name) for name in names), Counter[str]())
    assert found["negative spikes through a max"] > 500
    assert found["empty windows"] > 20
    assert found["saturated levels"] > 50


def test_exact_ties_are_torchaos_own() -> None:
    """A pool on its input's scale: one sum in four lies halfway between two levels, and all go as the model's do."""
    torch.manual_seed(0)
    x = torch.randint(-7, 8, (6, 3, 8, 8)) / 4
    prepared = converters.prepare_qat(torch.nn.AvgPool2d(2), x, levels=7).train()
    prepared(x)
    for quantiser in prepared.modules():
        if isinstance(quantiser, LevelQuantiser):
            quantiser.scale.fill_(0.25)
    q = converters.from_pt2e(prepared, check=x)
    assert q.checked is not None
    assert q.checked.near_ties == 0
    layer, values = q.output, q.execute(x)
    exact = layer.quotient(q.accumulate(layer, values))
    assert int((exact - exact.floor() == 0.5).sum()) > 50
    for backend in BACKENDS:
        result = converters.run(converters.to_nir(q, WINDOW), x, backend=backend)
        assert [row for row in compare_counts(result, values) if row.differing] == [], backend
