"""What neurons gather of a step's spikes is what PyTorch's convolution in float64 makes of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import converters
from converters.backends import fast, fast_chunks, fast_events, fast_program
from converters.backends.fast_plan import Plan
from converters.network import Network
from converters.operations import Conv2d, Flatten, Linear
from converters.quantised import GraphBuilder
from tests.converters.sample_graphs import GRAPHS, images

numba = pytest.importorskip("numba")

from calif_plugins import multistep_portions  # noqa: E402
from calif_plugins.multistep_gather import gather_row, list_spikes  # noqa: E402

SILENT = -(2**30)


@numba.njit
def rows_of(x: Any, channels: Any, field: Any, lines: Any, most: Any, out: Any) -> None:
    """Every row of the charges of one image; one that nothing reaches stays."""
    height, width, places = field[0], field[1], field[0] * field[1]
    step, size = field[10], field[11]
    spikes = np.empty(2 * places * channels, dtype=np.int32)
    first = np.empty(2 * (places + 1), dtype=np.int32)
    list_spikes(x, 0, channels, 0, height * width, width, step, size, spikes, first)
    charge = np.empty(out.shape[1] + 31, dtype=np.int32)
    for r in range(out.shape[0]):
        if gather_row(r, charge, field, lines, most, spikes, first):
            out[r] = charge[: out.shape[1]]


def layer_of(weight: torch.Tensor, shape: tuple[int, ...], stride: Any, padding: Any) -> Any:
    b = GraphBuilder()
    x = b.input(shape, scale=1.0, q_min=-1, q_max=1)
    op = [Flatten(), Linear(weight)] if weight.ndim == 2 else Conv2d(weight, stride, padding)
    y = b.layer("c", [(x, op)], threshold=0.5, y_min=-1, y_max=1, scale=1.0)
    (layer,) = Plan(Network.from_graph(converters.to_nir(b.build(y), T=1))).stages
    return layer


CASES = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([1, 3, 31, 63, 64, 65, 130]),
        "targets": st.sampled_from([1, 10, 32, 33, 96, 160, 255, 480]),
        "size": st.tuples(st.integers(1, 6), st.integers(1, 6)),
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.tuples(st.integers(0, 5), st.integers(0, 5)),
        "bits": st.sampled_from([8, 16, 24]),
        "large": st.booleans(),
        "share": st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        "seed": st.integers(0, 2**20),
    }
)


@settings(max_examples=60, deadline=None)
@given(case=CASES)
def test_gathered_charges(case: dict[str, Any]) -> None:
    gen = torch.Generator().manual_seed(case["seed"])
    (h, w), kernel, padding = case["size"], case["kernel"], case["padding"]
    assume(all(s + 2 * p >= k for s, p, k in zip((h, w), padding, kernel, strict=True)))
    bound = 2 ** (case["bits"] - 1)
    shape = (case["targets"], case["channels"], *kernel)
    dtype = torch.int8 if bound == 128 else torch.int32
    weight = torch.randint(-bound, bound, shape, generator=gen).to(dtype)
    if case["large"]:  # of one sign, so that sums grow
        weight = torch.full(shape, bound - 1, dtype=dtype)
    layer = layer_of(weight, (case["channels"], h, w), case["stride"], padding)
    assume(layer.gathered is not None)
    x = torch.where(
        torch.rand(case["channels"], h, w, generator=gen) < case["share"],
        torch.randint(0, 2, (case["channels"], h, w), generator=gen) * 2 - 1 if not case["large"] else 1,
        0,
    )
    wanted = F.conv2d(x[None].double(), weight.double(), stride=case["stride"], padding=padding)[0].movedim(0, -1)
    out = np.full((len(wanted), wanted[0].numel()), SILENT, dtype=np.int32)
    flat = (x + 1).to(torch.uint8).movedim(0, -1).reshape(-1).numpy()
    channels, field, lines, most = layer.gathered.arguments
    rows_of(flat, channels, field, lines, most, out)
    out[out == SILENT] = 0
    np.testing.assert_array_equal(out.reshape(wanted.shape), wanted.numpy())


@pytest.mark.parametrize("features", [(7,), (2, 3, 3)])
def test_gathered_by_a_dense_layer(features: tuple[int, ...]) -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(-1, 2, features, generator=gen)
    weight = torch.randint(-128, 128, (300, x.numel()), generator=gen, dtype=torch.int8)
    layer = layer_of(weight, features, None, None)
    out = np.zeros((1, 300), dtype=np.int32)
    rows_of((x + 1).to(torch.uint8).movedim(0, -1).reshape(-1).numpy(), *layer.gathered.arguments, out)
    assert out[0].tolist() == (weight.double() @ x.reshape(-1).double()).tolist()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("some", [1, 2, 3])
def test_images_and_rows_are_shared_out(monkeypatch: pytest.MonkeyPatch, threads: int, some: int) -> None:
    """Of fewer images than threads each takes some rows; padding has rows that no spike can reach."""
    monkeypatch.setattr(fast_events, "GATHER_SHARE", 2.0)
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    x = b.input((4, 5, 5), scale=1.0, q_min=-15, q_max=15)
    weight = torch.randint(-9, 10, (8, 4, 2, 2), generator=gen, dtype=torch.int8)
    y = b.layer("c", [(x, Conv2d(weight, (1, 2), (3, 0)))], threshold=20.5, bias=1.0, y_min=-15, y_max=15, scale=1.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=15))
    integers = torch.randint(-15, 16, (some, 4, 5, 5), generator=gen)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fast = converters.run(network, integers=integers, backend="fast", record="spikes", check=False)
    finally:
        torch.set_num_threads(before)
    slow = converters.run(network, integers=integers, backend="snntorch", record="spikes", check=False)
    assert all(torch.equal(fast.spikes[k], v) for k, v in slow.spikes.items())
    assert int((slow.spikes["c"] < 0).sum()) > 10


def test_where_gathering_is_less_work() -> None:
    """Many channels are worth it up to half of the spikes; three never are."""
    many = layer_of(torch.ones(256, 256, 3, 3, dtype=torch.int8), (256, 8, 8), (1, 1), (1, 1)).gathered
    few = layer_of(torch.ones(8, 3, 3, 3, dtype=torch.int8), (3, 32, 32), (1, 1), (1, 1)).gathered
    assert few.share < 0.1 < 0.2 < many.share < 1.5


@settings(max_examples=200, deadline=None)
@given(
    whole=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=9),
    window=st.integers(1, 2**20),
    t=st.integers(0, 100),
)
def test_portions_of_whole_numbers(whole: list[int], window: int, t: int) -> None:
    """Against Python's whole numbers, from any step on."""
    each = np.empty(len(whole), dtype=np.int64)
    rest, left = np.empty(len(whole), dtype=np.int32), np.empty(len(whole), dtype=np.int32)
    multistep_portions.divide(np.array(whole, dtype=np.int64), t, window, each, rest, left)
    for step in range(t, t + 3):
        charge = np.empty(len(whole), dtype=np.int64)
        multistep_portions.portion(window, each, rest, left, charge)
        assert charge.tolist() == [(step + 1) * c // window - step * c // window for c in whole]


def test_counts_of_chunks_lie_in_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks write to where the result has its counts; the neurons of one do not reach into the next."""
    monkeypatch.setattr(fast.Program, "of", classmethod(lambda cls, plan: None))
    monkeypatch.setattr(fast_chunks, "_CHUNK_BYTES", 1)
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    x = b.input((6,), scale=1.0, q_min=-7, q_max=7)
    h = b.layer("h", [(x, Linear(torch.randint(-9, 10, (5, 6), generator=gen)))], threshold=9.5, bias=1.0, y_min=-7,
                y_max=7, scale=1.0)  # fmt: skip
    y = b.layer("y", [(h, Linear(torch.randint(-9, 10, (3, 5), generator=gen)))], threshold=9.5, y_min=-7, y_max=7,
                scale=1.0)  # fmt: skip
    network = Network.from_graph(converters.to_nir(b.build(y), T=7))
    integers = torch.randint(-7, 8, (9, 6), generator=gen)
    for record in ("output", "counts", "spikes"):
        fast_result = converters.run(network, integers=integers, backend="fast", record=record, check=False)
        slow = converters.run(network, integers=integers, backend="snntorch", record=record, check=False)
        assert fast_result.counts.keys() == slow.counts.keys()
        assert all(torch.equal(fast_result.counts[k], v) for k, v in slow.counts.items())
        assert all(torch.equal(fast_result.membranes[k], v) for k, v in slow.membranes.items())
        assert torch.equal(fast_result.logits, slow.logits)


@pytest.mark.parametrize("large", [False, True])
def test_one_network_in_two_threads_at_once(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """What a run prepares is kept with the network; what it changes is its own."""
    if large:
        monkeypatch.setattr(fast_program, "_SMALL", 0)
    network = Network.from_graph(converters.to_nir(GRAPHS["lenet"](), T=7))
    given = [network.accept(images(GRAPHS["lenet"](), n, seed=n), None) for n in (5, 9)]

    def counts(integers: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(converters.run(network, integers=integers, backend="fast", check=False).counts)

    alone = [counts(x) for x in given]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(counts, given * 20))
    for k, found in enumerate(together):
        assert all(torch.equal(v, alone[k % 2][name]) for name, v in found.items())
