"""The Brian2 backend: every layer as equations, every synapse spelled out. Slow, float64, readable.

Images stand side by side in one network. It is built once and reused for every batch of the same size:
state is set back, input counts are set anew. All layers step within one ``dt``, in graph order.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import brian2
import numpy as np
import torch
from torch import Tensor

from calif_plugins.brian2 import CountingSynapses, calif_group, connect, isi_group, schedule
from calif_plugins.encoding import direct_charge
from converters.errors import ConversionError
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage
from converters.operations import Synapse
from converters.results import RunResult, read_out

if TYPE_CHECKING:
    from converters.backends import Options

__all__ = ["TARGETS", "batch_size", "estimate", "simulate"]

TARGETS = ("numpy", "cython", "cpp_standalone")
BYTES_PER_SYNAPSE = 48  # measured, see tutorials/brian2_cost.py
MAX_SYNAPSES = 60_000_000
_LIMIT = 10_000  # steps after the window at which a network is declared restless
_STANDALONE_EXTRA = 256  # a standalone run cannot stop by itself


def estimate(network: Network) -> int:
    """Synapses of one image's network (synapses of weight zero, which are not built, included)."""
    shapes = network.shapes
    skip = network.encoder_name if network.encoder.coding == "direct" else None
    counted = [s for stage in network.stages for s in stage.synapses if s.linear and s.sources != (skip,)]
    return int(sum(s.connections(*(shapes[name] for name in s.sources)) for s in counted))


def batch_size(network: Network) -> int:
    """Images side by side by default: as many as keep the synapses at a few million."""
    return max(1, min(32, 4_000_000 // max(estimate(network), 1)))


def simulate(network: Network, integers: Tensor, options: Options) -> RunResult:
    """Every spike of every layer, for input ``integers`` of shape ``(N, *input shape)``.

    Own options: ``target`` (numpy, cython or cpp_standalone), ``max_synapses``.
    """
    target = options.own.get("target", "numpy")
    if target not in TARGETS:
        raise ConversionError("target", f"{target!r}", f"use one of {', '.join(TARGETS)}")
    limit = int(options.own.get("max_synapses", MAX_SYNAPSES))
    if threading.current_thread() is not threading.main_thread():  # Brian2 handles signals, and its state is global
        raise ConversionError("brian2", "a thread other than the main one", "run it there, or in a process of its own")
    n = len(integers)
    if not n:  # Brian2 has no empty groups
        raise ConversionError("images", "none", "give at least one, or use backend snntorch")
    synapses = estimate(network) * n
    if synapses > limit:
        one = synapses // n
        way_out = (
            f"use batch={max(1, limit // one)}, or raise max_synapses"
            if one <= limit
            else "check a sample of its neurons (cross-check --sample K), use backend snntorch, or raise max_synapses"
        )
        raise ConversionError(
            "brian2",
            f"{synapses:,} synapses for {n} images, about {synapses * BYTES_PER_SYNAPSE / 2**30:.1f} GB "
            f"(limit {limit:,})",
            way_out,
        )
    counts = integers.cpu().numpy().reshape(n, -1)
    with _quiet(), _code_generation(target) as standalone:
        key = (n, target, options.phase, options.settle_from, options.record == "spikes")
        if standalone or network.encoder.coding == "direct":  # built for these very images
            built = _Built(network, counts, options)
        else:
            kept = network.__dict__.setdefault("_brian2", {})
            if key not in kept:
                kept.clear()  # one at a time: they are large
                kept[key] = _Built(network, counts, options)
            built = kept[key]
        built.run(counts, standalone)
        return built.result(network, integers, options)


class _Built:
    """A Brian2 network for ``n`` images side by side."""

    def __init__(self, network: Network, counts: np.ndarray, options: Options) -> None:
        n, window = len(counts), network.window
        brian2.start_scope()
        self.window, self.phase = window, options.phase
        self.direct = network.encoder.coding == "direct"
        names = {name: f"layer{k}" for k, name in enumerate(network.shapes)}
        input_spikes = InputSpikes(network, torch.from_numpy(counts).reshape(n, *network.spec.shape))
        groups: dict[str, Any] = {}
        self.groups = groups
        self.counting: list[CountingSynapses] = []
        objects: list[Any] = []
        self.source = None
        if not self.direct:
            self.source = isi_group(counts.reshape(-1), window, layer=names[network.encoder_name], name="input_neurons")
            groups[network.encoder_name] = self.source
            objects.append(self.source)
        self.stages: dict[str, Any] = {}
        for stage in network.stages:
            layer = names[stage.name]
            charge = None
            given = input_spikes.charges.get(stage.name)
            if given is not None:
                total = given.reshape(-1).numpy()  # of each image, one after the other
                charge = np.stack([direct_charge(total, t, window) for t in range(window)]).astype(np.float64)
            group = calif_group(
                n * stage.size,
                stage.parameters,
                shape=stage.shape,
                window=window,
                phase=options.phase,
                settle_from=options.settle_from,
                charge=charge,
                layer=layer,
                name=f"{layer}_neurons",
            )
            objects.append(group)
            groups[stage.name] = self.stages[stage.name] = group
            for k, synapse in enumerate(stage.synapses):
                if not synapse.linear:
                    objects.append(self._counting(network, stage, synapse, names))
                    continue
                if synapse.source not in groups:
                    continue
                w = synapse.matrix(network.shapes[synapse.source]).tocoo()
                image = np.arange(n, dtype=np.int64)[:, None]
                i = (image * w.shape[1] + w.col).reshape(-1)
                j = (image * w.shape[0] + w.row).reshape(-1)
                if len(i):
                    source = names[synapse.source]
                    objects.append(
                        connect(
                            groups[synapse.source],
                            group,
                            i,
                            j,
                            np.tile(w.data.astype(np.float64), n),
                            layer=source,
                            name=f"{layer}_synapses{k}",
                        )
                    )
        self.monitors: dict[str, tuple[Any, Any]] = {}
        if options.record == "spikes":
            for name, group in groups.items():
                self.monitors[name] = tuple(
                    brian2.EventMonitor(group, event, name=f"{names[name]}_{event}") for event in ("pos", "neg")
                )
                objects += self.monitors[name]
        self.net = brian2.Network(*objects)
        self.net.schedule = schedule(*names.values())
        self.initial = {
            s.name: np.tile(np.broadcast_to(s.parameters.for_shape(s.shape).v_init, s.shape).reshape(-1), n)
            for s in network.stages
        }
        self.used = False

    def run(self, counts: np.ndarray, standalone: bool) -> None:
        dt = brian2.defaultclock.dt
        if standalone:
            extra = {"settle": _STANDALONE_EXTRA, "paper": 1, "none": 0}[self.phase]
            self.net.run((self.window + extra) * dt)
            return
        if self.used:
            self._rewind()
        self.used = True
        if self.source is not None:
            self.source.n = counts.reshape(-1)
        done, chunk = 0, self.window + {"settle": 12, "paper": 1, "none": 0}[self.phase]
        while True:
            self.net.run(chunk * dt)
            done += chunk
            if self.phase != "settle" or self._last() < done:  # a silent step of the rounding phase is the last one
                return
            if done > self.window + _LIMIT:
                raise ConversionError("brian2", f"neurons that still fire at step {done}", "check the graph for cycles")
            chunk = 2 * (done - self.window)

    def _counting(self, network: Network, stage: Stage, synapse: Synapse, names: dict[str, str]) -> Any:
        """An operation that remembers counts, as a Brian2 object that acts once the last of its sources has."""
        given = [self.groups.get(name) for name in synapse.sources]
        shapes = [network.shapes[name] for name in synapse.sources]
        n = len(self.groups[stage.name]) // stage.size

        def change(*now: np.ndarray) -> np.ndarray:
            batch = [torch.from_numpy(x).reshape(n, *shape) for x, shape in zip(now, shapes, strict=True)]
            return synapse(*batch).to(torch.float64).reshape(-1).numpy()

        sizes = [n * int(np.prod(shape)) for shape in shapes]
        order = list(network.shapes)
        last = max(synapse.sources, key=order.index)
        made = CountingSynapses(
            given, self.groups[stage.name], change, sizes, layer=names[last], name=f"{names[stage.name]}_counting*"
        )
        self.counting.append(made)
        return made

    def _last(self) -> int:
        return max(int(np.max(g.last[:])) for g in self.stages.values())

    def _rewind(self) -> None:
        for synapses in self.counting:
            synapses.reset()
        for name, group in self.stages.items():
            group.V = self.initial[name]
            group.y, group.fired, group.last = 0, 0, 0
        for pair in self.monitors.values():
            for monitor in pair:
                monitor.resize(0)
                monitor.variables["N"].set_value(0)
        self.net.t_ = 0.0

    def result(self, network: Network, integers: Tensor, options: Options) -> RunResult:
        n, window = len(integers), network.window
        state = {
            name: {v: np.array(getattr(group, v)[:]).reshape(n, *network.shapes[name]) for v in _STATE}
            for name, group in self.stages.items()
        }
        counts = {k: torch.from_numpy(s["y"].astype(np.int64)) for k, s in state.items()}
        fired = {k: torch.from_numpy(s["fired"].astype(np.float64)) for k, s in state.items()}
        membranes = {k: torch.from_numpy(s["V"].astype(np.float64)) for k, s in state.items()}
        last = torch.from_numpy(np.stack([s["last"].reshape(n, -1).max(1) for s in state.values()])).amax(0)
        if not self.direct:
            counts[network.encoder_name] = integers.cpu().to(torch.int64)
            fired[network.encoder_name] = integers.cpu().abs().to(torch.float64)
        sops, macs = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        for name, spikes in fired.items():
            sops += (spikes * network.fan_out[name]).flatten(1).sum(1)
        if self.direct:
            macs = ((integers.cpu() != 0) * network.fan_out[network.encoder_name]).flatten(1).sum(1)
        out = network.output
        spikes_of = [s.name for s in network.stages if not s.readout]
        keep = [out.name] if options.record == "output" else spikes_of
        return RunResult(
            backend="brian2",
            phase=options.phase,
            window=window,
            output_name=out.name,
            counts={k: counts[k].to(torch.int32) for k in spikes_of if k in keep},
            membranes=membranes if options.record == "spikes" else {out.name: membranes[out.name]},
            logits=read_out(out, counts[out.name].to(torch.float64), membranes[out.name]),
            positive={k: ((f + counts[k]) / 2).flatten(1).sum(1).to(torch.int64) for k, f in fired.items()},
            negative={k: ((f - counts[k]) / 2).flatten(1).sum(1).to(torch.int64) for k, f in fired.items()},
            extra_steps=torch.clamp(last.to(torch.int64) - window, min=0),
            sops=sops,
            macs=macs,
            spikes=self._trains(network, n, int(last.max())) if options.record == "spikes" else None,
        )

    def _trains(self, network: Network, n: int, last: int) -> dict[str, Tensor]:
        steps = max(self.window, last)
        trains = {}
        for name, shape in network.shapes.items():
            train = np.zeros((steps, n * int(np.prod(shape))), dtype=np.int8)
            for monitor, sign in zip(self.monitors.get(name, ()), (1, -1), strict=False):
                t = np.round(np.asarray(monitor.t / brian2.defaultclock.dt)).astype(np.int64)
                train[t, np.asarray(monitor.i)] = sign
            trains[name] = torch.from_numpy(train.reshape(steps, n, *shape))
        return trains


_STATE = ("V", "y", "fired", "last")


@contextmanager
def _code_generation(target: str) -> Iterator[bool]:
    """Brian2's global settings for one run, and back."""
    before = brian2.prefs.codegen.target
    if target != "cpp_standalone":
        brian2.prefs.codegen.target = target
        try:
            yield False
        finally:
            brian2.prefs.codegen.target = before
        return
    folder = tempfile.mkdtemp(prefix="calif-brian2-")
    brian2.set_device("cpp_standalone", directory=folder, build_on_run=True)
    try:
        yield True
    finally:
        brian2.device.reinit()
        brian2.set_device("runtime")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Brian2's advice on code generation."""
    logger = logging.getLogger("brian2")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
