"""One network on every backend: final counts against the executor, spikes against each other, files and windows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import converters
from converters.files.quantised_file import load_quantised, save_quantised
from converters.quantised import QuantGraph
from converters.results import RunResult, compare_counts

STEPPED = ("fast", "snntorch")


def integers(q: QuantGraph, n: int, seed: int = 1) -> Tensor:
    """Random integers of the input's range; the first image is silent."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(q.input.q_min, q.input.q_max + 1, (n, *q.input.shape), generator=g)
    x[0] = 0
    return x


def agrees(r: RunResult, expected: dict[str, Tensor]) -> bool:
    """Whether every count of a run is the executor's; at least one layer was compared."""
    rows = compare_counts(r, expected)
    assert rows
    return all(row.differing == 0 for row in rows)


def simulated(
    q: QuantGraph, x: Tensor, *, window: int | None = None, coding: str = "isi", brian: int = 2
) -> dict[str, RunResult]:
    """Runs on every backend, all of whose counts equal the integers of the network at that window.

    ``brian`` images go through Brian2. Spikes of all simulators are the same, step for step.
    """
    graph = converters.to_nir(q, T=window, coding=coding)
    whole = q.levels_of(coding)
    short = q if window is None or window >= whole else q.at_window(window, coding)
    x = x.clamp(short.input.q_min, short.input.q_max)
    expected = short.execute(integers=x)
    runs = {name: converters.run(graph, integers=x, backend=name, record="spikes") for name in STEPPED}
    runs["closed_form"] = converters.run(graph, integers=x, backend="closed_form")
    for name, r in runs.items():
        assert agrees(r, expected), name
        assert torch.allclose(r.logits, short.logits(expected), rtol=0, atol=1e-9), name
    if brian:
        r = converters.run(graph, integers=x[:brian], backend="brian2", record="spikes")
        assert agrees(r, {k: v[:brian] for k, v in expected.items()})
        runs["brian2"] = r
    trains = {name: r.spikes for name, r in runs.items() if r.spikes is not None}
    for name, theirs in trains.items():
        for layer, train in theirs.items():
            mine = trains["snntorch"][layer][:, : train.shape[1]]
            steps = min(len(mine), len(train))
            assert torch.equal(mine[:steps], train[:steps]), (name, layer)
            assert not mine[steps:].any(), (name, layer)
            assert not train[steps:].any(), (name, layer)
    return runs


def written_and_read(q: QuantGraph, x: Tensor, folder: Path) -> QuantGraph:
    """The network through both kinds of file, with the same integers."""
    save_quantised(folder / "q.safetensors", q)
    back = load_quantised(folder / "q.safetensors")
    expected = q.execute(integers=x)
    assert all(torch.equal(a, back.execute(integers=x)[k]) for k, a in expected.items())
    converters.write(folder / "net.nir", converters.to_nir(q))
    assert agrees(converters.run(converters.read(folder / "net.nir"), integers=x, backend="closed_form"), expected)
    return back
