"""A converted network in Brian2: groups, synapses and monitors by layer name."""

from __future__ import annotations

import logging
import re
from typing import Any

import brian2
import nir
import numpy as np
import torch
from torch import Tensor

from calif_plugins.brian2 import CountingSynapses, calif_group, connect, isi_group, schedule
from calif_plugins.encoding import direct_charge
from calif_plugins.parameters import Phase
from converters.errors import ConversionError
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage
from converters.operations import Synapse
from converters.ports.inputs import Batches
from converters.results import RunResult, emitted, make_result

__all__ = ["BrianNetwork", "to_brian2"]

_LIMIT = 10_000  # steps after the window at which a network is declared restless
_STANDALONE_EXTRA = 256  # a standalone run cannot stop by itself
_STATE = ("V", "y", "fired", "last")
_OURS = re.compile(r"The object '(input\d*_neurons|layer\d+_(neurons|synapses\d+|pos|neg))'")


def _of_the_users(record: logging.LogRecord) -> bool:
    """Whether Brian2 tells of an object that somebody has made and forgotten: a network that is built, looked into and
    dropped has objects of ours that never ran."""
    return not _OURS.match(record.getMessage())


logging.getLogger("brian2.core.base.unused_brian_object").addFilter(_of_the_users)


def to_brian2(
    graph: nir.NIRGraph | Network,
    images: Batches | None = None,
    *,
    integers: Batches | None = None,
    phase: Phase = "settle",
    settle_from: int | None = None,
    trains: bool = True,
) -> BrianNetwork:
    """The converted network in Brian2, to look into and to add to.

    Parameters
    ----------
    graph : nir.NIRGraph
        From :func:`converters.to_nir` or :func:`converters.read`.
    images : float tensor ``(N, *input shape)``
        They stand side by side in one network. Of several inputs a tensor for each, in their order or in a
        dictionary by name.
    integers : int tensor, optional
        The input's integers instead of images.
    phase : {"settle", "paper", "none"}
    settle_from : int, optional
        Step from which thresholds are half, ``T`` by default.
    trains : bool
        Whether all spikes are recorded.

    Returns
    -------
    BrianNetwork

    Raises
    ------
    ConversionError
        For images of another shape, or none.

    Examples
    --------
    >>> import brian2, converters
    >>> from converters.operations import Linear
    >>> from converters.quantised import GraphBuilder
    >>> brian2.prefs.codegen.target = "numpy"
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.tensor([[1, 2]])))], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=0.5)
    >>> built = converters.to_brian2(converters.to_nir(b.build(y), T=4), torch.tensor([[1.0, 0.5]]))
    >>> membrane = brian2.StateMonitor(built.groups["fc"], "V", record=True)
    >>> built.net.add(membrane)
    >>> built.run()
    >>> built.groups["fc"].y[:].tolist(), built.synapses["input", "fc"][0].w[:].tolist(), len(membrane.V[0]) > 4
    ([3], [1.0, 2.0], True)
    """
    network = Network.from_graph(graph)
    counts = network.accept(images, integers)
    if not len(counts):
        raise ConversionError("images", "none", "give at least one")
    start = network.window if settle_from is None else settle_from
    return BrianNetwork(network, counts, phase=phase, settle_from=start, trains=trains)


class BrianNetwork:
    """A converted network in Brian2, for ``N`` images side by side, and all of its objects.

    Attributes
    ----------
    net : brian2.Network
        ``net.add(...)`` takes monitors of your own. All layers act within one ``dt``, in graph order.
    groups : dict of str to NeuronGroup
        The neurons of every layer, and of the input unless it is coded directly: variables ``V``, ``y`` and ``fired``,
        events ``pos`` and ``neg``. The neurons of an image follow each other, channels first.
    synapses : dict of (str, str) to list
        What leads from one layer to another, by both names: ``Synapses`` with weights ``w``, or
        :class:`calif_plugins.brian2.CountingSynapses`.
    monitors : dict of str to (EventMonitor, EventMonitor)
        Positive and negative spikes, where trains are recorded.
    """

    def __init__(
        self, network: Network, integers: Tensor, *, phase: Phase, settle_from: int, trains: bool = True
    ) -> None:
        brian2.start_scope()
        self.network, self.phase, self.settle_from, self.n = network, phase, settle_from, len(integers)
        self.window = network.window
        self.slots = {name: f"layer{k}" for k, name in enumerate(network.shapes)}
        self.groups: dict[str, Any] = {}
        self.synapses: dict[tuple[str, str], list[Any]] = {}
        self.monitors: dict[str, tuple[Any, Any]] = {}
        source = InputSpikes(network, integers.cpu())
        if not source.coded_directly:
            for k, (name, given) in enumerate(network.by_input(integers.cpu()).items()):
                group = f"input{k or ''}_neurons"
                counts = given.numpy().reshape(-1)
                self.groups[name] = isi_group(counts, self.window, layer=self.slots[name], name=group)
        for stage in network.stages:
            self.groups[stage.name] = self._neurons(stage, source.charges.get(stage.name))
            for k, synapse in enumerate(stage.synapses):
                self._connect(stage, synapse, k)
        if trains:
            for name, group in self.groups.items():
                up, down = (
                    brian2.EventMonitor(group, event, name=f"{self.slots[name]}_{event}") for event in ("pos", "neg")
                )
                self.monitors[name] = up, down
        objects = [*self.groups.values(), *(s for made in self.synapses.values() for s in made)]
        self.net = brian2.Network(*objects, *(m for pair in self.monitors.values() for m in pair))
        self.net.schedule = schedule(*self.slots.values())
        self._used = False

    def __repr__(self) -> str:
        layers, neurons = len(self.network.stages), sum(stage.size for stage in self.network.stages)
        return (
            f"BrianNetwork(images={self.n}, T={self.window}, phase={self.phase!r}, layers={layers}, "
            f"neurons={self.n * neurons:,}; groups, synapses and monitors by layer, net, run())"
        )

    def _neurons(self, stage: Stage, charge: Tensor | None) -> Any:
        given = None
        if charge is not None:  # of each image, one after the other
            total = charge.reshape(-1).numpy()
            given = np.stack([direct_charge(total, t, self.window) for t in range(self.window)]).astype(np.float64)
        slot = self.slots[stage.name]
        return calif_group(
            self.n * stage.size,
            stage.parameters,
            shape=stage.shape,
            window=self.window,
            phase=self.phase,
            settle_from=self.settle_from,
            charge=given,
            layer=slot,
            name=f"{slot}_neurons",
        )

    def _connect(self, stage: Stage, synapse: Synapse, k: int) -> None:
        slot = self.slots[stage.name]
        if not synapse.linear:
            made: Any = self._counting(stage, synapse, f"{slot}_synapses{k}")
        else:
            if synapse.source not in self.groups:
                return  # coded directly: the charge has it
            w = synapse.matrix(self.network.shapes[synapse.source]).tocoo()
            if not w.nnz:
                return
            image = np.arange(self.n, dtype=np.int64)[:, None]
            made = connect(
                self.groups[synapse.source],
                self.groups[stage.name],
                (image * w.shape[1] + w.col).reshape(-1),
                (image * w.shape[0] + w.row).reshape(-1),
                np.tile(w.data.astype(np.float64), self.n),
                layer=self.slots[synapse.source],
                name=f"{slot}_synapses{k}",
            )
        for name in synapse.sources[:1] if synapse.linear else synapse.sources[-1:]:
            self.synapses.setdefault((name, stage.name), []).append(made)

    def _counting(self, stage: Stage, synapse: Synapse, name: str) -> CountingSynapses:
        """An operation that remembers counts, as a Brian2 object that acts once the last of its sources has."""
        shapes = [self.network.shapes[source] for source in synapse.sources]

        def charge(*now: np.ndarray) -> np.ndarray:
            batch = [torch.from_numpy(x).reshape(self.n, *shape) for x, shape in zip(now, shapes, strict=True)]
            return synapse(*batch).to(torch.float64).reshape(-1).numpy()

        order = list(self.network.shapes)
        last = max(synapse.sources, key=order.index)
        return CountingSynapses(
            [self.groups.get(source) for source in synapse.sources],
            self.groups[stage.name],
            charge,
            [self.n * int(np.prod(shape)) for shape in shapes],
            layer=self.slots[last],
            name=name,
        )

    def run(self, integers: Tensor | None = None, *, standalone: bool = False) -> None:
        """Run the window and the rounding phase, from the beginning.

        Parameters
        ----------
        integers : int tensor ``(N, *input shape)``, optional
            The integers of other images, as many; not for an input that is coded directly. Of several inputs as
            :meth:`Network.accept` has them.
        standalone : bool
            Whether Brian2 builds a program of its own, which runs for a fixed time.

        Raises
        ------
        ConversionError
            If neurons never fall quiet.
        """
        dt = brian2.defaultclock.dt
        if standalone:
            extra = {"settle": _STANDALONE_EXTRA, "paper": 1, "none": 0}[self.phase]
            self.net.run((self.window + extra) * dt)
            return
        if self._used:
            self._rewind()
        self._used = True
        for name, given in ({} if integers is None else self.network.by_input(integers.cpu())).items():
            if name in self.groups:
                self.groups[name].n = given.numpy().reshape(-1)
        done, chunk = 0, self.window + {"settle": 12, "paper": 1, "none": 0}[self.phase]
        while True:
            self.net.run(chunk * dt)
            done += chunk
            if self.phase != "settle" or self._last() < done:  # a silent step of the rounding phase is the last one
                return
            if done > self.window + _LIMIT:
                raise ConversionError("brian2", f"neurons that still fire at step {done}", "check the graph for cycles")
            chunk = 2 * (done - self.window)

    def _layers(self) -> dict[str, Any]:
        return {stage.name: self.groups[stage.name] for stage in self.network.stages}

    def _last(self) -> int:
        return max(int(np.max(g.last[:])) for g in self._layers().values())

    def _rewind(self) -> None:
        for made in self.synapses.values():
            for synapses in made:
                if isinstance(synapses, CountingSynapses):
                    synapses.reset()
        for stage in self.network.stages:
            group, start = self.groups[stage.name], stage.parameters.for_shape(stage.shape).v_init
            group.V = np.tile(np.broadcast_to(start, stage.shape).reshape(-1), self.n)
            group.y, group.fired, group.last = 0, 0, 0
        for pair in self.monitors.values():
            for monitor in pair:
                monitor.resize(0)
                monitor.variables["N"].set_value(0)
        self.net.t_ = 0.0

    def result(self, integers: Tensor, *, record: str = "counts") -> RunResult:
        """What ran, as every backend returns it; ``integers`` ``(N, *input shape)`` are the input's."""
        network, n = self.network, self.n
        state = {
            name: {v: np.array(getattr(group, v)[:]).reshape(n, *network.shapes[name]) for v in _STATE}
            for name, group in self._layers().items()
        }
        counts = {k: torch.from_numpy(s["y"].astype(np.int64)) for k, s in state.items()}
        fired = {k: torch.from_numpy(s["fired"].astype(np.float64)) for k, s in state.items()}
        last = torch.from_numpy(np.stack([s["last"].reshape(n, -1).max(1) for s in state.values()])).amax(0)
        return make_result(
            network,
            integers.cpu(),
            backend="brian2",
            phase=self.phase,
            record=record,
            counts=counts,
            membranes={k: torch.from_numpy(s["V"].astype(np.float64)) for k, s in state.items()},
            sent={k: emitted(fired[k], counts[k], network.fan_out[k]) for k in counts},
            extra_steps=torch.clamp(last.to(torch.int64) - self.window, min=0),
            spikes=self._trains(int(last.max())) if record == "spikes" else None,
        )

    def _trains(self, last: int) -> dict[str, Tensor]:
        steps = max(self.window, last)
        trains = {}
        for name, shape in self.network.shapes.items():
            train = np.zeros((steps, self.n * int(np.prod(shape))), dtype=np.int8)
            for monitor, sign in zip(self.monitors.get(name, ()), (1, -1), strict=False):
                t = np.round(np.asarray(monitor.t / brian2.defaultclock.dt)).astype(np.int64)
                train[t, np.asarray(monitor.i)] = sign
            trains[name] = torch.from_numpy(train.reshape(steps, self.n, *shape))
        return trains
