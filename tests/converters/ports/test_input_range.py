"""Images that the range of a network's input cuts are spoken of once: in training, by the executor, and by a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import converters
from converters.errors import ConversionWarning
from converters.frontends.pt2e import from_pt2e, prepare_qat
from converters.quantised import InputSpec
from tests.networks import make, pixels


@pytest.mark.parametrize("example", [torch.zeros, torch.ones, torch.rand])
def test_an_example_that_does_not_show_the_sign(example: Callable[..., torch.Tensor]) -> None:
    """Training, the executor and a run each say so once per object; the share is that of the pixels below zero."""
    x = pixels(16, (1, 12, 12), signed=True)
    prepared = prepare_qat(make("lenet5"), example(4, 1, 12, 12), levels=15)
    with pytest.warns(ConversionWarning, match=r"^x: found negative values, .*signed_input=True") as caught:
        prepared(x)
    share = float(str(caught[0].message).split("values, ")[1].split("%")[0]) / 100
    assert share == pytest.approx(float((x < 0).double().mean()), abs=0.03)  # but for those that round to 0
    prepared(x)  # a second warning would be an error
    prepared.eval()(x)
    q = from_pt2e(prepared)
    with pytest.warns(ConversionWarning, match=r"^input: found negative values, .* they become 0; give images"):
        q.execute(x)
    q.execute(x)
    q.predict(x)
    g = converters.to_nir(q, T=15)
    with pytest.warns(ConversionWarning, match="^input: found negative values") as caught:
        converters.run(g, x, batch=4)
    assert len(caught) == 1


def test_a_signed_network_has_nothing_to_say() -> None:
    x = pixels(16, (1, 12, 12), signed=True)
    prepared = prepare_qat(make("lenet5"), x[:4], levels=3)
    prepared(x)
    q = from_pt2e(prepared)
    q.execute(x)
    with pytest.warns(ConversionWarning, match=r"^input: found values up to \d+ times the largest that"):
        q.execute(255 * x)


@pytest.mark.parametrize(
    ("q_min", "values", "text"),
    [
        (0, [-1.0] * 2 + [0.5] * 98, r"negative values, 2\.0 % of a batch, for an input whose levels are 0 to 10"),
        (0, [-1.0] + [0.5] * 199, None),  # noise
        (-10, [-1.0] * 50 + [1.0] * 50, None),
        (0, [1.4] * 20 + [0.5] * 80, None),  # a range with the least error
        (0, [255.0] * 10 + [0.0] * 90, r"values up to 255 times the largest that the input takes; 10\.0 % of a batch"),
        (
            -10,
            [-40.0] * 10 + [1.4] * 10 + [0.0] * 80,
            r"values up to 40 times the largest .*; 20\.0 % of a batch",
        ),
        (0, [], None),
    ],
)
def test_what_counts_as_cut(q_min: int, values: list[float], text: str | None) -> None:
    spec = InputSpec((1,), 0.1, q_min, 10)
    images = torch.tensor(values).reshape(-1, 1)
    if text is None:
        spec.quantise(images)
        return
    with pytest.warns(ConversionWarning, match=text):
        n = spec.quantise(images)
    assert n.aminmax() == (torch.clamp((images * 10).round(), q_min, 10).aminmax())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec.quantise(images)
    assert spec == InputSpec((1,), 0.1, q_min, 10)
