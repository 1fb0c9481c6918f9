"""Some neurons of each layer in Brian2, fed with the spike trains that another backend recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import brian2
import numpy as np
import torch
from torch import Tensor

from calif_plugins.brian2 import calif_group, connect, replay_group, schedule
from calif_plugins.parameters import CaLIFParameters
from converters.backends.charges import Charges
from converters.errors import ConversionError
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage
from converters.results import RunResult

__all__ = ["sample_neurons"]


def sample_neurons(
    other: Network,
    run: RunResult,
    integers: Tensor,
    *,
    sample: int,
    seed: int,
    settle_from: int | None,
) -> list[dict[str, Any]]:
    """Compare ``sample`` neurons of each layer of ``other`` in Brian2 with what ``run`` recorded.

    Each neuron gets its real presynaptic trains, through its own synapses, at every step; so it must emit
    what was recorded. Returns a row of sums per layer, for :mod:`converters.measuring.cross_checking`.
    """
    if run.spikes is None:
        raise ConversionError("spikes", "a run that recorded none", 'use record="spikes"')
    generator = torch.Generator().manual_seed(seed)
    before = brian2.prefs.codegen.target
    brian2.prefs.codegen.target = "numpy"
    try:
        rows = []
        for stage in other.stages:
            k = min(sample, stage.size)
            chosen = torch.randperm(stage.size, generator=generator)[:k]
            rows.append(_layer(other, stage, chosen, run, integers, settle_from))
        return rows
    finally:
        brian2.prefs.codegen.target = before


def _layer(
    network: Network, stage: Stage, chosen: Tensor, run: RunResult, integers: Tensor, settle_from: int | None
) -> dict[str, Any]:
    trains = run.spikes
    assert trains is not None
    steps, n, k = len(trains[stage.name]), len(integers), len(chosen)
    brian2.start_scope()
    p = stage.parameters.for_shape(stage.shape)
    own = {
        name: np.broadcast_to(getattr(p, name), stage.shape).reshape(-1)[chosen.numpy()]
        for name in ("threshold", "leak", "y_min", "y_max", "v_init")
    }
    group = calif_group(
        n * k,
        CaLIFParameters(tie=p.tie, **own),
        shape=(k,),
        window=network.window,
        phase=run.phase,  # type: ignore[arg-type]
        settle_from=settle_from,
        charge=_given(network, stage, chosen, trains, integers, steps),
        layer="neurons",
    )
    objects: list[Any] = [group]
    for synapse in stage.synapses:
        if not synapse.linear or (network.coding == "direct" and set(synapse.sources) <= set(network.specs)):
            continue  # it is in the charge
        weights = synapse.rows(network.shapes[synapse.source], chosen).flatten(1)
        used = weights.any(0).nonzero()[:, 0]  # only what reaches one of them
        if not len(used):
            continue
        recorded = trains[synapse.source].flatten(2)[:, :, used].reshape(steps, -1).cpu().numpy()
        source = replay_group(recorded, layer="input")
        target, origin = weights[:, used].numpy().nonzero()
        w = weights[:, used].numpy()[target, origin].astype(np.float64)
        image = np.arange(n)[:, None]
        i, j = (image * len(used) + origin).reshape(-1), (image * k + target).reshape(-1)
        objects += [source, connect(source, group, i, j, np.tile(w, n), layer="input")]
    monitors = [brian2.EventMonitor(group, event) for event in ("pos", "neg")]
    net = brian2.Network(*objects, *monitors)
    net.schedule = schedule("input", "neurons")
    net.run(steps * brian2.defaultclock.dt)
    theirs = np.zeros((steps, n * k), dtype=np.int8)
    for monitor, sign in zip(monitors, (1, -1), strict=True):
        t = np.round(np.asarray(monitor.t / brian2.defaultclock.dt)).astype(np.int64)
        theirs[t, np.asarray(monitor.i)] = sign
    mine = trains[stage.name].flatten(2)[:, :, chosen].reshape(steps, -1).cpu().numpy()
    gap = 0.0
    if stage.name in run.membranes:
        recorded_v = run.membranes[stage.name].flatten(1)[:, chosen].reshape(-1).cpu().numpy()
        gap = float(np.abs(recorded_v - np.asarray(group.V[:])).max())
    return {
        "layer": stage.name,
        "neurons": k,
        "of_neurons": stage.size,
        "steps": steps,
        "compared": mine.size,
        "positive": int((mine > 0).sum()),
        "negative": int((mine < 0).sum()),
        "differing": int((mine != theirs).sum()),
        "counts": int((mine.sum(0) != theirs.sum(0)).sum()),
        "gap": gap,
        **_first(mine, theirs, chosen, stage, k),
    }


def _first(mine: np.ndarray, theirs: np.ndarray, chosen: Tensor, stage: Stage, k: int) -> dict[str, Any]:
    """Step, image and index of the first spike that differs, and what Brian2 emitted there."""
    wrong = np.argwhere(mine != theirs)
    if not len(wrong):
        return {"place": None, "spike": 0}
    step, column = (int(v) for v in wrong[0])
    index = np.unravel_index(int(chosen[column % k]), stage.shape)
    return {"place": [step, column // k, *map(int, index)], "spike": int(theirs[step, column])}


def _given(
    network: Network, stage: Stage, chosen: Tensor, trains: Mapping[str, Tensor], integers: Tensor, steps: int
) -> np.ndarray | None:
    """What comes without a synapse of Brian2's, into the chosen neurons: ``(steps, images * chosen)``.

    That is the charge of a directly coded input, and of operations that remember counts.
    """
    counting = replace(stage, synapses=tuple(s for s in stage.synapses if not s.linear))
    source = InputSpikes(network, integers.cpu())
    if stage.name not in source.charges and not counting.synapses:
        return None
    remembered = Charges(network, counting, "float64", integers.device) if counting.synapses else None
    total = []
    for t in range(steps):
        given = torch.zeros(len(integers), len(chosen), dtype=torch.float64)
        direct = source.direct(stage.name, t)
        if direct is not None:
            given = given + direct.flatten(1)[:, chosen]
        if remembered is not None:
            spikes = {name: trains[name][t] for s in counting.synapses for name in s.sources}
            given = given + remembered(spikes).flatten(1)[:, chosen].cpu()
        total.append(given)
    return torch.stack(total).reshape(steps, -1).numpy()
