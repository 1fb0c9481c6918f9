"""Sums are exact whatever the caller has switched on: every state of PyTorch against the same run without it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import converters
from calif_plugins.multistep import CaLIFMultiStep
from calif_plugins.parameters import CaLIFParameters
from converters.backends.baselines import run_baseline
from converters.errors import ConversionError
from converters.exact.sums import add_up, exact_state, whole_dtype
from converters.network import Network
from converters.operations import Conv2d, Linear
from converters.quantised import GraphBuilder, QuantGraph
from tests.converters.random_networks import integers_of
from tests.converters.sample_graphs import GRAPHS, images

CPU = torch.device("cpu")
N = 20  # images: as many as NNPACK asks for


@lru_cache
def network() -> QuantGraph:
    """Sums between half precision and 2**24; a convolution, a skip and dense layers."""
    gen = torch.Generator().manual_seed(0)

    def weights(*shape: int) -> Tensor:
        return torch.randint(-300, 301, shape, generator=gen, dtype=torch.int16)

    b = GraphBuilder()
    x = b.input((3, 6, 6), scale=1 / 127, q_min=0, q_max=127)
    c = b.layer(
        "c", [(x, Conv2d(weights(4, 3, 3, 3), padding=(1, 1)))], threshold=301.5, bias=77.7, y_min=-127, y_max=127,
        scale=1.0,
    )  # fmt: skip
    d = b.layer(
        "d", [(c, Conv2d(weights(4, 4, 3, 3), padding=(1, 1))), (x, Conv2d(weights(4, 3, 1, 1)))], threshold=433.3,
        y_min=0, y_max=127, scale=1.0,
    )  # fmt: skip
    return b.build(
        b.layer("o", [(b.flatten(d), Linear(weights(5, 144)))], threshold=900.1, y_min=-127, y_max=127, scale=1.0)
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def precision(kind: str) -> Iterator[None]:
    """Float32 products rounded to fewer bits, where the processor can."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.matmul.fp32_precision, onednn.conv.fp32_precision
    onednn.matmul.fp32_precision = onednn.conv.fp32_precision = kind
    try:
        yield
    finally:
        onednn.matmul.fp32_precision, onednn.conv.fp32_precision = before


@contextmanager
def without_onednn() -> Iterator[None]:
    onednn: Any = torch.backends.mkldnn
    onednn.enabled = False
    try:
        yield
    finally:
        onednn.enabled = True


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast bfloat16": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "autocast float16": partial(torch.autocast, "cpu", dtype=torch.float16),
    "inference mode": torch.inference_mode,
    "default float64": partial(default_dtype, torch.float64),
    "default float16": partial(default_dtype, torch.float16),
    "default bfloat16": partial(default_dtype, torch.bfloat16),
    "default device": partial(torch.device, "meta"),
    "deterministic": deterministic,
    "without oneDNN": without_onednn,
    "TF32": partial(precision, "tf32"),
    "bfloat16 products": partial(precision, "bf16"),
    "NumPy raises": partial(np.errstate, all="raise"),
    "gradients": torch.enable_grad,
}

RUNS: dict[str, dict[str, object]] = {
    "step loop": {"backend": "snntorch"},
    "half": {"backend": "snntorch", "dtype": "float16"},
    "int8": {"backend": "snntorch", "dtype": "int8"},
    "fast": {"backend": "fast"},
    "closed form": {"backend": "closed_form"},
}


@lru_cache
def expected(window: int) -> dict[str, Tensor]:
    """By matrices and rationals."""
    q = network().at_window(window)
    integers = q.input.quantise(images(network(), N)).numpy()
    each = [integers_of(q, image) for image in integers]
    return {name: torch.stack([torch.from_numpy(e[name]) for e in each]) for name in each[0]}


def differing(found: dict[str, Tensor], window: int) -> int:
    wanted = expected(window)
    assert {"c", "d", "o"} <= found.keys()
    return sum(int((found[k].cpu() != wanted[k]).sum()) for k in found)


@pytest.mark.parametrize("state", STATES)
def test_every_way_in_every_state(state: str) -> None:
    """From the network to the counts, all of it in the state: building, exporting, executing, running."""
    x, q = images(network(), N), network()
    expected(7)
    with STATES[state]():
        assert differing(q.execute(x), 127) == 0
        assert differing(q.at_window(7).execute(x), 7) == 0
        g = converters.to_nir(q, T=7)
        for name, options in RUNS.items():
            fresh = Network.from_graph(g)  # nothing kept from another state
            r = converters.run(fresh, x, **options)
            assert differing(r.counts, 7) == 0, name
            assert r.logits.dtype == torch.float64
        assert torch.equal(run_baseline(fresh, x[:2], name="stbif_quiet").predictions, r.predictions[:2])
        assert torch.equal(converters.run(fresh, x).predictions, r.predictions)
    r = converters.run(fresh, x)  # what the state left behind does for later, with gradients too
    assert differing(r.counts, 7) == 0


@pytest.mark.parametrize("state", ["autocast bfloat16", "inference mode", "default float64", "default device"])
def test_cross_check_in_every_state(state: str) -> None:
    q = GRAPHS["signed_input"]()
    x = images(q, 1)
    with STATES[state]():
        report = converters.cross_check(converters.to_nir(q, T=3), x)
    assert report.equal
    assert report.spikes_compared > 0


def test_the_settings_matter() -> None:
    """The same sums without care: so the test above is a test."""
    x = torch.randint(0, 128, (N, 16, 8, 8), generator=torch.Generator().manual_seed(0))
    w = torch.randint(-300, 301, (16, 16, 3, 3), generator=torch.Generator().manual_seed(1))
    right = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    assert right.abs().max() < 2**24

    def careless() -> int:
        return int((torch.nn.functional.conv2d(x.float(), w.float(), padding=1).double() != right).sum())

    assert careless() == 0
    for state in ("autocast bfloat16", "without oneDNN"):
        with STATES[state]():
            if state == "without oneDNN" and not torch.backends.nnpack.is_available():
                continue
            assert careless() > 100
            with exact_state():
                dtype = whole_dtype(2**22, CPU)
                found = torch.nn.functional.conv2d(x.to(dtype), w.to(dtype), padding=1)
            assert torch.equal(found.double(), right)


def test_nothing_is_left_switched() -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        with exact_state(), exact_state():
            assert not torch.is_inference_mode_enabled()
            assert torch.zeros(1).device == CPU
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.zeros(1).device.type == "meta"
    before = torch.get_num_threads()
    converters.run(converters.to_nir(GRAPHS["lenet"](), T=3), images(GRAPHS["lenet"](), 1))
    assert torch.get_num_threads() == before


def test_charges_of_other_shapes_are_never_added() -> None:
    with pytest.raises(ConversionError, match=r"fc: found charges of shapes \(2, 5\) and \(2, 1\)"):
        add_up([torch.zeros(2, 5), torch.zeros(2, 1)], "fc")
    with pytest.raises(ConversionError, match="fc: found no synapses"):
        add_up([], "fc")


@pytest.mark.parametrize("options", [{"backend": "fast"}, {"backend": "snntorch"}, {"backend": "closed_form"}])
def test_from_several_threads(options: dict[str, object]) -> None:
    q = GRAPHS["residual"]()
    g, x = Network.from_graph(converters.to_nir(q, T=5)), images(q, 12)
    wanted = q.at_window(5).execute(x)

    def one(k: int) -> int:
        counts = converters.run(g, x[k:], **options).counts
        return sum(int((counts[name] != wanted[name][k:]).sum()) for name in counts)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(12))) == [0] * 12


def test_brian2_belongs_to_the_main_thread() -> None:
    q = GRAPHS["lenet"]()
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConversionError, match="a thread other than the main one"):
        pool.submit(converters.run, converters.to_nir(q, T=3), images(q, 1), backend="brian2").result()


class _Predicting(Dataset):
    """Runs a network for every item, as a data set with a spiking network in front does."""

    def __init__(self, options: dict[str, object]) -> None:
        self.options = options
        self.graph = Network.from_graph(converters.to_nir(GRAPHS["lenet"](), T=5))
        self.images = images(GRAPHS["lenet"](), 4)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[Tensor, str]:
        r = converters.run(self.graph, self.images[k : k + 1], **self.options)
        return r.counts["fc2"][0], r.backend


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
@pytest.mark.parametrize("options", [{}, {"backend": "closed_form"}])
def test_workers_forked_after_a_run(options: dict[str, object]) -> None:
    data = _Predicting(options)
    here = converters.run(data.graph, data.images, **options)
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
    found = list(loader)
    assert torch.equal(torch.cat([counts for counts, _ in found]), here.counts["fc2"])
    if not options:
        assert {name for _, names in found for name in names} == {"snntorch"}


_FORKS = """
import numpy, os, sys, torch, converters
from calif_plugins.multistep import CaLIFMultiStep
from calif_plugins.parameters import CaLIFParameters
from converters.errors import ConversionError
from tests.converters.sample_graphs import GRAPHS, images
torch.set_num_threads(2)
q = GRAPHS["lenet"]()
g, x = converters.to_nir(q, T=5), images(q, 40)
counts = converters.run(g, x).counts
def alike(a, b):  # without PyTorch, whose own comparison could wait for threads that did not come along
    return numpy.array_equal(a.numpy(), b.numpy())
child = os.fork()
if not child:
    same = [alike(counts[k], v) for k, v in converters.run(g, x).counts.items()]
    same += [alike(counts[k], q.at_window(5).execute(x)[k]) for k in counts]
    same += [alike(counts[k], v) for k, v in converters.run(g, x, backend="closed_form").counts.items()]
    for refused in (lambda: converters.run(g, x, backend="fast"), lambda: CaLIFMultiStep(CaLIFParameters())(x[None])):
        try:
            refused()
            same.append(os.environ.get("NUMBA_THREADING_LAYER") == "workqueue")
        except ValueError as error:
            same.append("forked after" in str(error))
    os._exit(0 if all(same) and torch.get_num_threads() == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
@pytest.mark.parametrize("layer", ["omp", pytest.param("workqueue", marks=pytest.mark.slow)])
def test_a_process_of_several_threads_forks(layer: str) -> None:
    """Neither waits for threads that did not come along, nor ends: in the child one thread, and the step loop."""
    env = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run([sys.executable, "-c", _FORKS], env=env, timeout=120, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def digest() -> str:
    """Of nodes, edges, layers and spikes, in their order."""
    found = hashlib.sha256()
    for name in ("residual", "concat"):
        q = GRAPHS[name]()
        g = converters.to_nir(q, T=5)
        r = converters.run(g, images(q, 3), record="spikes")
        assert r.spikes is not None
        found.update(repr((list(g.nodes), g.edges, list(r.counts), list(r.spikes), r.logits.tolist())).encode())
        found.update(b"".join(v.numpy().tobytes() for v in r.spikes.values()))
    return found.hexdigest()


@pytest.mark.parametrize("seed", ["4242", pytest.param("0", marks=pytest.mark.slow)])
def test_hash_seeds_change_nothing(seed: str) -> None:
    """Against this process, which has a seed of its own."""
    code = "from tests.converters.exact.test_sums import digest; print(digest())"
    env = {**os.environ, "PYTHONHASHSEED": seed}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, text=True)
    assert other.stdout.split() == [digest()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_charges_of_every_type(dtype: torch.dtype) -> None:
    charge = torch.tensor([3, 3, 0, 0, 0]).to(dtype).reshape(5, 1, 1)
    wide = CaLIFMultiStep(CaLIFParameters(threshold=2.0), window=3)(charge.to(torch.float32))
    assert torch.equal(CaLIFMultiStep(CaLIFParameters(threshold=2.0), window=3)(charge).float(), wide)


def test_charges_that_are_no_numbers() -> None:
    layer = CaLIFMultiStep(CaLIFParameters())
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="charge: must be real and finite"):
            layer(torch.full((2, 1, 1), bad))
