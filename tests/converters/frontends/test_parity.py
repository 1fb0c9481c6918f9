"""Our integers against a toolkit's own model in float32 and in float64: what differs is shown to be a near-tie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import converters
from converters.errors import ConversionError
from converters.zoo.untrained import untrained
from tests.gallery.attention import ATTENTION


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", ["vision transformer", "windows, shifted"])
def test_a_transformer_in_both_precisions(name: str, double: bool) -> None:
    case = ATTENTION[name]
    torch.manual_seed(0)
    x = torch.rand(12, *case.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prepared = converters.prepare_qat(case.make(), x, levels=127).train()
    prepared(x)
    report = converters.parity(prepared.eval(), x, double=double)
    assert report.model == "pt2e"
    assert report.integers > 12 * 1000
    assert report.wrong == 0
    assert all(row.share <= 1 for row in report.layers)
    if double:  # ties, which quantisers that multiply by the inverse of a scale in float32 move
        assert all(row.furthest < 1e-4 for row in report.layers)
    assert next(prepared.parameters()).dtype is torch.float32, "a copy runs in float64"


def test_a_fault_is_seen_in_float64_as_well() -> None:
    """A model that rounds another way than it says: every layer behind is judged by itself."""
    x = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    model = untrained("lenet5", "brevitas", x)
    assert converters.parity(model, x, double=True).differing == 0

    def off(module: nn.Module, inputs: object, out: torch.Tensor) -> torch.Tensor:
        return out + out.detach().abs().max() * 1e-3

    hook = next(m for n, m in model.named_modules() if n.endswith("classifier.0")).register_forward_hook(off)
    report = converters.parity(model, x, double=True)
    hook.remove()
    assert {row.layer for row in report.layers if row.differing > row.near_ties} == {"net.classifier.0"}


def test_random_weights_are_the_seeds() -> None:
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    one, two, other = (untrained("lenet5", "pt2e", x, seed=seed, levels=15).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_what_cannot_run_in_float64() -> None:
    with pytest.raises(ConversionError, match=r"^double: found an ONNX model"):
        converters.parity("model.onnx", 4, double=True)
