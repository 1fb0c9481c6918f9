"""What an output says: PyTorch's own arg-max, of what the model returns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import converters
from converters.ports.answers import classes_of, named, predicted
from converters.ports.outputs import Output, leaves, places
from converters.ports.tails import Tail, apply
from converters.testing.networks import NETWORKS, images
from tests.converters.task_graphs import LEVELS, UNet, of, several

SOFTMAX, LOG, SIGMOID = Tail("softmax", {"dim": 1}), Tail("log_softmax", {"dim": 1}), Tail("sigmoid")
CASES: dict[str, tuple[tuple[Tail, ...], tuple[int, ...], int]] = {
    "classes": ((), (4,), 4),
    "classes, softmax": ((SOFTMAX,), (4,), 4),
    "classes as 1 x 1 maps": ((LOG,), (3, 1, 1), 3),
    "map": ((), (3, 2, 5), 3),
    "map, larger": ((Tail("interpolate", {"size": (4, 10), "mode": "bilinear"}),), (3, 2, 5), 3),
    "map, mean": ((Tail("mean", {"dim": (2, 3)}), SOFTMAX), (3, 2, 5), 3),
    "map, classes last": ((Tail("permute", {"dims": [1, 2, 0]}), Tail("argmax", {"dim": -1})), (3, 2, 5), 3),
    "map, softmax along rows": ((Tail("softmax", {"dim": 2}),), (3, 2, 5), 3),
    "negated": ((Tail("neg"),), (4,), 4),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_arg_max_of_what_is_returned(case: str) -> None:
    tail, shape, classes = CASES[case]
    value = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    returned = apply(tail, value)
    want = returned.argmax(1) if returned.is_floating_point() else returned
    found = predicted(Output("x", tail), value)
    assert found.dtype == torch.int64
    assert torch.equal(found, want.reshape(6) if want[0].numel() == 1 else want)
    assert classes_of(Output("x", tail), shape) == classes
    assert predicted(Output("x", tail), value[:0]).shape == (0, *found.shape[1:])


@settings(deadline=None)
@given(st.permutations(range(5)), st.integers(0, 1000), st.sampled_from([SOFTMAX, LOG, SIGMOID]))
def test_functions_that_only_stretch_the_scores_make_no_ties(order: list[int], size: int, tail: Tail) -> None:
    """A sigmoid of 40 is that of 50 in float64."""
    x = torch.tensor([order], dtype=torch.float64) * (size + 1) + size
    assert predicted(Output("x", (tail,)), x).tolist() == [order.index(4)]


@pytest.mark.parametrize("tail", [(), (SIGMOID,), (Tail("hardsigmoid"),), (Tail("squeeze", {"dim": 1}), SIGMOID)])
@pytest.mark.parametrize("shape", [(1,), (1, 2, 3)])
def test_a_single_score_says_yes_above_one_half(tail: tuple[Tail, ...], shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(predicted(Output("x", tail), x), (torch.sigmoid(x.squeeze(1)) > 0.5).long())
    assert classes_of(Output("x", tail), shape) == 2


def test_names_lead_to_their_outputs() -> None:
    q = NETWORKS["heads"]()
    assert [name for name, _ in named(q.outputs)] == ["classes", "maps.0", "maps.1", "rest.0", "rest.1"]
    assert [leaf for _, leaf in named(q.outputs)] == list(leaves(q.outputs))


@pytest.mark.parametrize("backend", ["fast", "snntorch", "closed_form"])
def test_every_output_of_a_run_says_its_own(backend: str) -> None:
    q = several()
    x = images(q, 5)
    r = converters.run(converters.to_nir(q, T=LEVELS), x, backend=backend)
    said = r.all_predictions
    assert list(said) == list(q.outputs)
    values = q.execute(x)
    assert torch.equal(said["label"], values["fc"].argmax(1))
    assert torch.equal(said["map"], values["pixels"].argmax(1))
    assert said["map"].shape == (5, 6, 6)
    assert torch.equal(r.predictions, said["label"])
    assert torch.equal(q.predict(x, batch=2), said["label"])


def test_a_run_of_a_single_map_labels_every_pixel() -> None:
    q = of(several(), "map")
    x = images(q, 3)
    r = converters.run(converters.to_nir(q, T=LEVELS), x)
    assert torch.equal(r.predictions, q.execute(x)["pixels"].argmax(1))
    assert torch.equal(r.predictions, r.all_predictions)
    assert torch.equal(q.predict(x), r.predictions)
    assert q.predict(x[:0]).shape == (0, 6, 6)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**16))
def test_predictions_of_batches_are_those_of_all(seed: int) -> None:
    q = several(seed)
    x = images(q, 5)
    g = converters.to_nir(q, T=LEVELS)
    whole, parts = (converters.run(g, x, batch=n).all_predictions for n in (5, 2))
    for (_, a), (_, b) in zip(places(whole), places(parts), strict=True):
        assert torch.equal(a, b)


def test_a_unet_says_of_every_pixel_what_its_trained_self_says() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8)
    m = converters.prepare_qat(UNet(), x[:2], levels=LEVELS, check=False)
    m(x)
    q = converters.from_pt2e(m)
    r = converters.run(converters.to_nir(q, T=LEVELS), x)
    with torch.no_grad():
        scores = _evaluated(m)(x)
    best, second = scores.topk(2, 1).values.unbind(1)
    clear = best - second > q.output.scale / 2  # by a level: float32 may round a tie the other way
    assert clear.float().mean() > 0.5
    assert torch.equal(r.predictions[clear], scores.argmax(1)[clear])


def _evaluated(m: nn.Module) -> nn.Module:
    return m.eval()
