"""Memory of the fast simulator: flat in batch and window for counts, linear only where trains are asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from converters.benchmark.worker import peak_memory

# peaks in MB after each of some runs, in one process: what a later run needs beyond all before it
RUN = """
import json, sys, torch, converters
from converters.benchmark.worker import peak_memory
from converters.network import Network
from converters.zoo.named import load_checkpoint
torch.set_num_threads(1)
q, _ = load_checkpoint("lenet5-mnist-8")
gen, peaks, sizes = torch.Generator().manual_seed(0), [], []
for window, n, record in json.loads(sys.argv[1]):
    network = Network.from_graph(converters.to_nir(q, T=window))
    integers = torch.randint(0, 9, (n, 1, 32, 32), generator=gen)
    r = converters.run(network, integers=integers, record=record, batch=n, backend="fast")
    sizes.append(sum(v.numel() for v in (r.spikes or {}).values()) / 2**20)
    del r
    peaks.append(peak_memory())
print(json.dumps([peaks, sizes]))
"""

# the same of networks of some layers, 16 x side x side neurons each, for one image
LAYERS = """
import json, sys, torch, converters
from converters.benchmark.worker import peak_memory
from converters.network import Network
from converters.operations import Conv2d
from converters.quantised import GraphBuilder
torch.set_num_threads(1)
gen, peaks, wrong = torch.Generator().manual_seed(0), [], 0
for layers, side in json.loads(sys.argv[1]):
    b = GraphBuilder()
    x = b.input((16, side, side), scale=1.0, q_min=0, q_max=31)
    for k in range(layers):
        op = Conv2d(torch.randint(-127, 128, (16, 16, 3, 3), generator=gen, dtype=torch.int8), (1, 1), (1, 1))
        x = b.layer(f"layer{k}", [(x, op)], threshold=900.0, y_min=0, y_max=31, scale=1.0)
    q = b.build(x)
    integers = torch.randint(0, 32, (1, 16, side, side), generator=gen)
    r = converters.run(Network.from_graph(converters.to_nir(q, T=32)), integers=integers, backend="fast", check=False)
    peaks.append(peak_memory())
    expected = q.execute(integers=integers) if side < 50 else {}
    wrong += sum(int((v != expected[k]).sum()) for k, v in r.counts.items() if k in expected)
    del r
print(json.dumps([peaks, wrong]))
"""


def peaks(*runs: Any, code: str = RUN) -> Any:
    done = subprocess.run([sys.executable, "-c", code, json.dumps(runs)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_counts_take_the_same_memory_for_any_batch_and_window() -> None:
    """All charges of the last two runs would be some GB more; chunks leave results and inputs.

    Short windows take other kernels than long ones, whose code and chunks take memory too: each kind by itself.
    """
    runs = (32, 128), (32, 1200), (256, 128), (512, 128), (256, 500)
    (short, many, long, longer, larger), _ = peaks(*((t, n, "output") for t, n in runs))
    assert short > 100
    assert many - short < 60
    assert longer - long < 60
    assert larger - longer < 60


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_trains_take_what_they_hold() -> None:
    (first, short, long), (nothing, some, many) = peaks((32, 128, "output"), (64, 64, "spikes"), (512, 64, "spikes"))
    assert (nothing, many > 7 * some > 0) == (0, True)
    assert many > 200
    assert many < long - short < 4 * many
    assert short - first < 4 * some + 60


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_neuron_takes_its_state_and_its_count() -> None:
    """16 layers more are 3.7 million neurons: with their spikes, tables and wide states they were 68 bytes each."""
    neurons = 16 * 16 * 120**2
    (_, few, many), wrong = peaks((2, 32), (4, 120), (20, 120), code=LAYERS)
    assert wrong == 0
    assert many - few < 30 * neurons / 2**20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_layer_larger_than_a_chunk_goes_by_fewer_steps() -> None:
    """Its charges in a block of 32 steps would be 330 MB, and with spikes and tables they were 1,000."""
    (_, small, large), wrong = peaks((2, 32), (2, 120), (2, 400), code=LAYERS)
    assert wrong == 0
    assert large - small < 500


def test_peak_is_of_this_process() -> None:
    """A child's peak does not begin with its parent's, which ``ru_maxrss`` would."""
    block = bytearray(400 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    here = peak_memory()
    code = "from converters.benchmark.worker import peak_memory; print(peak_memory())"
    there = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert here > 400
    assert 50 < there < here - 50
