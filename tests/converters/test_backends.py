"""One conformance suite for every backend: what it says about a network must equal the integers and the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import converters
from calif_plugins import reference
from calif_plugins.encoding import isi_encode
from converters.errors import ConversionError
from converters.network import Network
from converters.results import compare_counts
from tests.converters.graphs import GRAPHS, images, lenet

WINDOWS = (1, 4, 15, 16, 33)


def oracle(network: Network, integers: torch.Tensor, phase: str, settle_from: int | None = None):
    """The NumPy reference on one image: traces of every stage. Charges by float64 convolution."""
    train = isi_encode(counts=integers.numpy(), window=network.window)
    silence = np.zeros_like(train[0])
    names = [network.encoder_name, *(s.name for s in network.stages)]

    def charge(stage):
        def at(t: int, spikes: list[np.ndarray]) -> np.ndarray:
            now = [train[t] if t < network.window else silence, *spikes]
            by_name = {n: torch.as_tensor(s, dtype=torch.float64)[None] for n, s in zip(names, now, strict=False)}
            return stage.charge(by_name)[0].numpy()

        return at

    return reference.run_network(
        [charge(s) for s in network.stages],
        [s.parameters for s in network.stages],
        [s.shape for s in network.stages],
        network.window,
        phase=phase,
        settle_from=settle_from,
    )


@pytest.mark.parametrize("backend", ["snntorch", "closed_form"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", GRAPHS)
def test_counts_equal_the_integers(backend, window, name):
    q = GRAPHS[name]()
    x = images(q, 6)
    r = converters.run(converters.to_nir(q, T=window), x, backend=backend)
    shrunk = q.at_window(window)
    expected = shrunk.execute(x)
    rows = compare_counts(r, expected)
    assert [row.layer for row in rows] == [layer.name for layer in q.layers if layer.spiking]
    assert sum(row.compared for row in rows) > 0
    assert [row for row in rows if row.differing] == []
    assert torch.equal(r.predictions, shrunk.predict(x))
    if not q.output.spiking:
        assert torch.allclose(r.logits, shrunk.logits(expected), atol=1e-6)


@pytest.mark.parametrize("phase", ["settle", "paper", "none"])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_spike_equals_the_reference(name, phase):
    q = GRAPHS[name]()
    network = Network.from_graph(converters.to_nir(q, T=15))
    integers = network.spec.quantise(images(q, 3, seed=5))
    r = converters.run(network, integers=integers, phase=phase, record="spikes")
    assert r.spikes is not None
    assert r.extra_steps is not None
    negative = 0
    for k in range(len(integers)):
        traces = oracle(network, integers[k], phase)
        steps = max(len(t.spikes) for t in traces)
        assert int(r.extra_steps[k]) == (traces[0].extra_steps if phase != "none" else 0)
        for stage, trace in zip(network.stages, traces, strict=True):
            spikes = r.spikes[stage.name][:, k].numpy()
            assert (spikes[:steps] == trace.spikes).all()
            assert not spikes[steps:].any()
            assert (r.membranes[stage.name][k].numpy() == trace.v).all()
            assert int(r.positive[stage.name][k]) == (trace.spikes > 0).sum()
            assert int(r.negative[stage.name][k]) == (trace.spikes < 0).sum()
            negative += int(r.negative[stage.name][k])
    assert negative > 0


@pytest.mark.parametrize("settle_from", [0, 3, 14])
@pytest.mark.parametrize("name", ["lenet", "residual"])
def test_settling_earlier_ends_on_the_same_counts(name, settle_from):
    q = GRAPHS[name]()
    x = images(q, 4)
    r = converters.run(converters.to_nir(q, T=15), x, settle_from=settle_from)
    assert all(not row.differing for row in compare_counts(r, q.execute(x)))


@pytest.mark.parametrize("name", GRAPHS)
def test_direct_input_ends_on_the_same_counts(name):
    q = GRAPHS[name]()
    x = images(q, 4)
    r = converters.run(converters.to_nir(q, T=9, coding="direct"), x)
    assert all(not row.differing for row in compare_counts(r, q.at_window(9).execute(x)))
    assert "input" not in r.positive
    assert r.macs is not None
    assert bool((r.macs > 0).all())


def test_the_other_phases_are_not_exact():
    q = lenet()
    x = images(q, 20)
    wrong = {}
    for phase in ("settle", "paper", "none"):
        rows = compare_counts(converters.run(converters.to_nir(q, T=15), x, phase=phase), q.execute(x))
        wrong[phase] = sum(row.differing for row in rows)
    assert wrong["settle"] == 0 < wrong["paper"] < wrong["none"]


def test_batches_do_not_change_anything():
    q = GRAPHS["residual"]()
    x = images(q, 7)
    g = converters.to_nir(q, T=8)
    whole = converters.run(g, x, record="spikes", batch=7)
    parts = converters.run(g, x, record="spikes", batch=3)
    assert whole.spikes is not None
    assert parts.spikes is not None
    for name, train in whole.spikes.items():
        assert torch.equal(train, parts.spikes[name])
    assert whole.sops is not None
    assert torch.equal(whole.sops, parts.sops)
    assert torch.equal(whole.logits, parts.logits)
    assert torch.equal(whole.latency, parts.latency)


def test_synaptic_operations_count_every_synapse_once():
    q = lenet()
    network = Network.from_graph(converters.to_nir(q, T=15))
    x = images(q, 2)
    r = converters.run(network, x, record="spikes")
    assert r.spikes is not None
    assert r.sops is not None
    total = torch.zeros(2, dtype=torch.float64)
    for stage in network.stages:
        for synapse in stage.synapses:  # ones through the transposed structure, by brute force
            fired = r.spikes[synapse.source].abs().sum(0).double()
            for k in range(2):
                for index in fired[k].nonzero():
                    one = torch.zeros(1, *fired[k].shape, dtype=torch.float64)
                    one[(0, *index.tolist())] = 1
                    reached = one
                    for op in synapse.ops:
                        ones = torch.ones_like(op.weight) if hasattr(op, "weight") else None
                        reached = (type(op)(**{**vars_of(op), "weight": ones}) if ones is not None else op)(reached)
                    total[k] += fired[k][tuple(index)] * (reached != 0).sum()
    assert torch.equal(r.sops, total)


def vars_of(op) -> dict:
    from dataclasses import fields

    return {f.name: getattr(op, f.name) for f in fields(op) if f.init}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "nest"}, "'nest'; use one of snntorch"),
        ({"phase": "later"}, "'later'; use one of settle"),
        ({"record": "all"}, "'all'; use one of output"),
        ({"settle_from": 16}, "use a step between 0 and T = 15"),
        ({"batch": 0}, "use at least 1"),
        ({"volume": 11}, r"\['volume'\]"),
        ({"backend": "closed_form", "phase": "paper"}, "only 'settle' has a closed form"),
    ],
)
def test_bad_options(change, message):
    q = lenet()
    with pytest.raises(ConversionError, match=message):
        converters.run(converters.to_nir(q, T=15), images(q, 1), **change)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 1, 9, 9), r"a batch of shape \(2, 1, 9, 9\); the network takes \(N, 1, 8, 8\)"),
        (torch.full((1, 1, 8, 8), float("nan")), "NaN or infinite pixels"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "torch.uint8; give a float tensor"),
    ],
)
def test_bad_images(bad, message):
    with pytest.raises(ConversionError, match=message):
        converters.run(converters.to_nir(lenet(), T=15), bad)


@pytest.mark.parametrize("window", [0, -3, 2.5, float("inf"), float("nan")])
def test_bad_windows(window):
    with pytest.raises(ConversionError, match="use a whole number of steps, at least 1"):
        converters.to_nir(lenet(), T=window)


def test_no_images_no_result_but_no_error():
    q = lenet()
    r = converters.run(converters.to_nir(q, T=15), torch.zeros(0, 1, 8, 8))
    assert r.predictions.shape == (0,)
    with pytest.raises(ConversionError, match="images: found none; give at least one"):
        converters.run(converters.to_nir(q, T=15), torch.zeros(0, 1, 8, 8), backend="brian2")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 1, 8, 8), r"torch.float32 of shape \(1, 1, 8, 8\); give a tensor of integers, \(N, 1, 8, 8\)"),
        (torch.zeros(1, 64, dtype=torch.int64), r"of shape \(1, 64\)"),
        (torch.full((1, 1, 8, 8), 99), "values out of range; the input takes 0 to 15"),
        ([[1]], "found list"),
    ],
)
def test_bad_integers(bad, message):
    with pytest.raises(ConversionError, match=message):
        converters.run(converters.to_nir(lenet(), T=15), integers=bad)
    with pytest.raises(ConversionError, match=message):
        lenet().execute(integers=bad)
