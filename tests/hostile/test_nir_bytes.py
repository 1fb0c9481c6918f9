"""``.nir`` files made to cost memory or time, or to make memory that is not theirs into weights: one line each.

Each is read in a process whose memory ends at 3 times ``max_bytes`` and 200 MB beyond what it had before.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import converters
from converters.files.nir_file import MAX_BYTES
from converters.operations import Linear
from converters.quantised import GraphBuilder
from tests.converters.sample_graphs import GRAPHS
from tests.hostile.limited import Outcome, read_limited
from tests.hostile.nir_files import HOSTILE, MANY, Change

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory from /proc")
LIMIT = 64 * 2**20


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.nir"
    converters.write(path, converters.to_nir(GRAPHS["signed_input"](), T=15))
    return path


def made(good: Path, folder: Path, changes: dict[str, tuple[Change, str]]) -> dict[str, Path]:
    paths = {}
    for k, (name, (change, _)) in enumerate(changes.items()):
        paths[name] = folder / f"{k}.nir"
        shutil.copy(good, paths[name])
        with h5py.File(paths[name], "r+") as file:
            change(file)
    return paths


@pytest.fixture(scope="module")
def outcomes(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Outcome]]]:
    """Each file is read twice."""
    paths = made(good, tmp_path_factory.mktemp("hostile"), HOSTILE)
    found = read_limited(good, [(path, LIMIT) for path in paths.values() for _ in range(2)])
    assert len(found) == 2 * len(paths), f"the process died of {list(paths)[len(found) // 2]!r}"
    return {name: (path, found[2 * k : 2 * k + 2]) for k, (name, path) in enumerate(paths.items())}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_in_bounded_memory_and_time(name: str, outcomes: dict[str, tuple[Path, list[Outcome]]]) -> None:
    path, (first, second) = outcomes[name]
    assert re.search(HOSTILE[name][1], first.said), first.said
    assert first.said == second.said
    assert first.said.startswith(("read ", f"{path}:/node/"))
    assert "\n" not in first.said
    assert first.seconds < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_many_small_things_take_bounded_time(name: str, good: Path, tmp_path: Path) -> None:
    path = made(good, tmp_path, {name: MANY[name]})[name]
    (outcome,) = read_limited(good, [(path, MAX_BYTES)])
    assert re.search(MANY[name][1], outcome.said), outcome.said
    assert outcome.seconds < 5 * (1 + path.stat().st_size / 1e8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["i1", "<f4", ">f8", "u8"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_network_as_large_as_the_limit_is_read_within_the_memory(
    kind: str, whole: bool, good: Path, tmp_path: Path
) -> None:
    """In one chunk and in many; elements of one byte count as four, since networks hold larger ones."""
    inputs = 4000 if np.dtype(kind).itemsize <= 4 else 2000
    shape = (LIMIT // 5 * 4 // max(np.dtype(kind).itemsize, 4) // inputs, inputs)
    weight = np.random.default_rng(0).integers(0, 100, shape)
    b = GraphBuilder()
    x = b.input((inputs,), scale=1.0, q_min=0, q_max=3)
    y = b.layer("fc", [(x, Linear(torch.from_numpy(weight)))], threshold=9.5, bias=0.5, y_min=0, y_max=3, scale=1.0)
    path = tmp_path / "large.nir"
    converters.write(path, converters.to_nir(b.build(y), T=3))
    with h5py.File(path, "r+") as file:
        (name,) = [f"node/nodes/{node}/weight" for node in file["node/nodes"] if "weight" in file[f"node/nodes/{node}"]]
        del file[name]
        chunks = shape if whole else True
        file.create_dataset(name, data=weight.astype(kind), chunks=chunks, compression="gzip", shuffle=True)
    (outcome,) = read_limited(good, [(path, LIMIT)])
    assert outcome.said.startswith("read "), outcome.said
    assert outcome.seconds < 5
