"""The documentation builds without a warning, fetches nothing, and what it says of others is so."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calif_plugins import CaLIFParameters
from calif_plugins.reference import closed_form, run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wanted = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: make docs installs what the pages need")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser loads by itself: scripts, styles, pictures, fonts; not links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: Any, attributes: Any) -> None:
        given = dict(attributes)
        if tag == "link" and given.get("rel") in ("canonical", "prev", "next"):
            return
        self.found += [given[k] for k in ("src", "srcset", "data") if given.get(k)]
        if tag == "link" and given.get("href"):
            self.found.append(given["href"])


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 11
    for path in pages:
        fetched = Fetched(path.read_text(encoding="utf-8")).found
        assert fetched, path
        assert not [u for u in fetched if re.match(r"(?:\w+:)?//", u)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:\w+:)?//", path.read_text(encoding="utf-8")), path


def test_equations_are_typeset(site: Path) -> None:
    page = (site / "theorem" / "index.html").read_text(encoding="utf-8")
    assert page.count("<math") > 100
    assert "\\operatorname" not in page
    assert "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_every_public_function_has_its_place(site: Path) -> None:
    import calif_plugins
    import converters

    pages = "".join(p.read_text(encoding="utf-8") for p in (site / "api").rglob("index.html"))
    for package in (calif_plugins, converters):
        for name in set(package.__all__) - {"__version__"}:
            assert re.search(rf'id="[\w.]*\.{name}"', pages), f"{package.__name__}.{name}"


def test_st_bif_is_ca_lif_from_the_first_step() -> None:
    """docs/rivals.md: the same spikes as ``settle_from=0`` with ties up, and exact once it is quiet."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason="SpikingJelly is not installed")
    window, n = 12, 2000
    charges = np.random.default_rng(0).integers(-6, 8, (window, n)).astype(float)
    p = CaLIFParameters(threshold=4.0, y_min=-3, y_max=8, tie="up")  # sums of quarters: exact, with many ties
    ours = run(charges, p, settle_from=0)
    node = neuron.STBIFNode(4.0, level=12, pos_max=8, neg_min=-3)
    given = np.concatenate([charges, np.zeros((len(ours.spikes) - window + 1, n))])
    theirs = torch.stack([node(torch.tensor(x)) for x in given]).numpy() / 4.0
    np.testing.assert_array_equal(theirs[:-1], ours.spikes)
    assert not theirs[-1].any()
    z = charges.sum(0)
    np.testing.assert_array_equal(theirs.sum(0), closed_form(z, p))
    ties = z % 4 == 2
    assert ties.sum() > 100
    even = closed_form(z, CaLIFParameters(threshold=4.0, y_min=-3, y_max=8, tie="even"))
    assert (theirs.sum(0) != even)[ties].any()  # what the rule `even` is for
    assert (theirs[:window].sum(0) != closed_form(z, p)).any()  # what the waiting is for
