"""Reading large lowered files: memory stays within what the file declares, whatever compresses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import converters
from converters.operations import Linear
from converters.quantised import GraphBuilder

READ = """
import json, os, resource, sys, time
import converters, converters.files.nir_file, nir, h5py  # what they take is not the file's
def peak():  # of this process alone: ru_maxrss is inherited from the one that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, start = peak(), time.perf_counter()
graph = converters.read(sys.argv[1])
seconds = time.perf_counter() - start
arrays = [v for n in graph.nodes.values() for v in vars(n).values() if hasattr(v, "nbytes")]
print(json.dumps({
    "declared": sum(a.nbytes for a in arrays), "used": peak() - before,
    "bytes": os.path.getsize(sys.argv[1]), "seconds": seconds,
}))
"""


def measured(path: Path, **kw: Any) -> dict:
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True, **kw)
    return json.loads(done.stdout)


def wide(neurons: int, inputs: int) -> converters.QuantGraph:
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    x = b.input((inputs,), scale=1.0, q_min=0, q_max=3)
    w = torch.randint(-127, 128, (neurons, inputs), generator=gen, dtype=torch.int8)
    return b.build(b.layer("fc", [(x, Linear(w))], threshold=900.5, bias=0.5, y_min=0, y_max=3, scale=1.0))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("neurons", "inputs", "least"),
    [(500, 400, 20e6), pytest.param(1000, 4000, 100e6, marks=pytest.mark.slow)],
)
def test_memory_of_reading_is_bounded_by_what_the_file_declares(
    neurons: int, inputs: int, least: float, tmp_path: Path
) -> None:
    path = tmp_path / "wide.nir"
    converters.write(path, converters.lower(converters.to_nir(wide(neurons, inputs), T=3)))
    m = measured(path)
    assert m["declared"] > least
    assert m["bytes"] < m["declared"] / 4  # zeros compress
    assert m["used"] < 1.5 * m["declared"] + 30e6
    with pytest.raises(converters.errors.FileFormatError, match="the limit is"):
        converters.read(path, max_bytes=int(m["declared"] / 2))
