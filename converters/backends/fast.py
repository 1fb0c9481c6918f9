"""The same spikes as the step loop, several times faster: integer kernels, many steps per call.

A feed-forward network without delays can be run layer by layer over a block of steps. Charges come from
PyTorch's oneDNN int8 kernels on spikes stored as bytes (exact: sums of small integers, put out as float32),
where the processor has them, else from float convolutions; where few inputs fire, neurons gather the weights of
those (:mod:`calif_plugins.multistep_gather`). The neurons' scan is one compiled pass
(:mod:`calif_plugins.multistep`). Images go through in chunks, so that a layer's charges stay in the cache;
memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins import multistep
from converters.backends.contract import Backend, NoOptions, Settings
from converters.backends.fast_chunks import TAIL, images_at_a_time, steps_at_a_time
from converters.backends.fast_plan import Input, Plan, PlannedLayer, first, last, places
from converters.backends.fast_program import Program
from converters.backends.fast_state import State
from converters.errors import MissingExtraError
from converters.exact.sums import add_up, whole_dtype
from converters.input_spikes import InputSpikes
from converters.network import Network
from converters.results import Emitted, RunResult, make_result, merge

__all__ = ["BACKEND", "Fast"]

_NEURONS = 20_000_000  # whose counts are written to one tensor
_LONG = 2**15  # steps: narrow neurons count no further
_PARTS = 4  # products are computed for a quarter of a block's images and steps, a half, three quarters, or all of them


class Fast(Backend):
    """Runs on a CPU with Numba, in a process whose threads are its own."""

    name = "fast"

    def unusable(self, device: torch.device) -> str:
        if device.type != "cpu":
            return f"does not run on {device.type}"
        if multistep.lost_in_fork():
            return (
                "does not run in a process forked after Numba had started its threads (spawn it, or set "
                "NUMBA_THREADING_LAYER=workqueue)"
            )
        return "" if multistep.available() else "needs Numba"

    def batch_size(self, network: Network) -> int:
        """Whole chunks: what is held at once beside them are the results."""
        some, most = images_at_a_time(network), max(1, min(256, _NEURONS // max(network.neurons, 1)))
        return most // some * some or most

    def check(self, network: Network, settings: Settings) -> None:
        if self.unusable(settings.device) == "needs Numba":
            raise MissingExtraError("numba", "fast", "the fast simulator is compiled by it")
        super().check(network, settings)

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: NoOptions) -> RunResult:
        with multistep.one_at_a_time():
            plan = network.keep(("fast",), lambda: Plan(network))
            program = network.keep(("fast", "program"), lambda: Program.of(plan))
            if program is not None and settings.record != "spikes":
                result = program.run(integers, settings)
                if result is not None:
                    return result
            return _in_parts(plan, integers, settings)


def _in_parts(plan: Plan, integers: Tensor, settings: Settings) -> RunResult:
    """Some images after the others: their neurons take the same memory, and counts go to where they stay.

    Memory that is new costs as much as some steps: the system has to find it and to clear it.
    """
    some = images_at_a_time(plan.network)
    if len(integers) <= some:
        return _Run(plan, integers, settings).result()
    counts = {
        stage.name: torch.empty(len(integers), *stage.shape, dtype=torch.int32)
        for stage in plan.network.stages
        if settings.record != "output" and not stage.readout
    }
    states: list[State] | None = None
    results = []
    for at, part in zip(range(0, len(integers), some), integers.split(some), strict=True):
        run = _Run(plan, part, settings, states)
        states = run.states.copy()
        results.append(run.result({name: whole[at : at + len(part)] for name, whole in counts.items()}))
        del run  # with its trains, before the next one has some
    return merge(results)


class _Run:
    """``states``: those of a run before, of as many images, to start anew with."""

    def __init__(self, plan: Plan, integers: Tensor, options: Settings, states: list[State] | None = None) -> None:
        self.plan, self.options, self.n = plan, options, len(integers)
        self.kernels = multistep.kernels()
        self.integers = integers
        self.network = plan.network
        self.half_from = 2**30 if options.phase == "none" else options.settle_from
        self.source = InputSpikes(self.network, integers)
        self.counts = {
            name: last(x).to(torch.int32).contiguous() for name, x in self.network.by_input(integers).items()
        }
        self.direct: dict[str, np.ndarray] = {}
        if self.source.coded_directly:
            whole = {name: last(x).reshape(-1).contiguous() for name, x in self.source.charges.items()}
            self.direct = {name: x.numpy() for name, x in whole.items()}
        if states and states[0].shape[0] == self.n:
            self.states = states
            for state in states:
                state.reset()
        else:
            self.states = [State(layer.parameters, layer.stage.shape, self.n) for layer in plan.stages]
        self.last = np.zeros(self.n, dtype=np.int64)  # last step in which the image's network fired
        self.share: dict[str, float] = {}  # of neurons that fire in a step, of each layer
        self.heard: dict[str, np.ndarray] = {}  # bool (steps, N): whether any of them does
        self.still: set[str] = set()  # layers that stay silent until something arrives: no leak, thresholds are half
        self.trains: dict[str, list[Tensor]] = {k: [] for k in self.network.shapes}
        # of synapses that count: what has come in so far, and what the operations that count made of it
        self.counted: dict[int, tuple[list[Tensor], Tensor | None]] = {}
        window = self.network.window
        block = steps_at_a_time(self.network)
        for t in range(0, window, block):
            self._block(t, min(block, window - t))
        if options.phase == "paper":
            self._block(window, 1)
        t, tail = window, min(block, TAIL)
        while options.phase == "settle" and bool(self._block(t, tail).all()):
            t += tail
        self.end = t

    def _block(self, t: int, steps: int) -> Any:
        """Run ``steps`` steps from ``t``; for each, whether anything fired."""
        settled_from = max(self.network.window, self.half_from)
        if t + steps >= _LONG:
            self._widen(t)
        spikes = {name: self._input(name, counts, t, steps) for name, counts in self.counts.items()}
        active = np.zeros((steps, self.n), dtype=bool)
        for layer, state in zip(self.plan.stages, self.states, strict=True):
            name = layer.stage.name
            out = torch.empty(steps, state.rows, layer.parameters.rows, dtype=torch.uint8)
            fired = np.empty((steps + 1, state.rows), dtype=np.int32)
            fired[0] = state.last
            if not self.n or (name in self.still and self._silent(layer, t)):
                out.fill_(1)
                fired[1:] = 0
            else:
                self._scan(layer, state, spikes, t, steps, out, fired)
            spikes[name] = out.reshape(steps, *state.shape)
            self._keep(spikes, self.plan.done[name])
            of_images: Any = fired[1:]
            if state.rows != self.n:
                of_images = of_images.reshape(steps, self.n, state.rows // max(self.n, 1)).sum(2)
            self.share[name] = float(of_images.sum()) / max(out.numel(), 1)
            heard = of_images > 0
            self.heard[name] = heard
            state.last = fired[-1]
            if t + steps > settled_from and not heard[-1].any():
                self.still.add(name)
            else:
                self.still.discard(name)
            active |= heard
        if self.n:
            when = np.arange(t + 1, t + steps + 1)[:, None] * active
            self.last = np.maximum(self.last, when.max(0))
        self._keep(spikes, list(spikes))
        return active.any(1)

    def _keep(self, spikes: dict[str, Tensor], done: list[str]) -> None:
        """Drop the spikes of sources that no later layer hears; into their trains, if these are asked for."""
        for name in done:
            s = spikes.pop(name)
            if self.options.record == "spikes":
                self.trains[name].append(first(s.flatten(0, 1)).unflatten(0, s.shape[:2]).to(torch.int8).sub_(1))

    def _silent(self, layer: PlannedLayer, t: int) -> bool:
        """Whether nothing arrives in this block."""
        if layer.stage.name in self.direct and t < self.network.window:
            return False
        return not any(self.share[name] for given in layer.inputs for name in given.sources)

    def _scan(
        self,
        layer: PlannedLayer,
        state: State,
        spikes: dict[str, Tensor],
        t: int,
        steps: int,
        out: Tensor,
        fired: np.ndarray,
    ) -> None:
        k = self.kernels
        clock = (t, self.network.window, self.half_from, layer.stage.parameters.tie == "even")
        common: tuple[Any, ...] = (*state.arguments, clock, out.numpy(), fired)
        if layer.stage.linear and self._silent(layer, t):
            k.quiet_scan(*common)
            return
        direct = self.direct.get(layer.stage.name)
        if direct is not None and layer.stage.linear and len(layer.inputs) == 1 and layer.portions is torch.int32:
            k.direct_scan(direct, *common)
            return
        if direct is None and self._without_products(k, layer, state, spikes, common):
            return
        parts = []
        for given in layer.inputs:
            if given.charge is None or not given.synapse.linear:
                parts.append(self._change(given, spikes))
            elif not (self.source.coded_directly and set(given.sources) <= set(self.counts)):
                parts.append(self._products(given, spikes))
        if direct is not None:
            portion = torch.empty(steps, self.n, *layer.stage.shape[1:], layer.stage.shape[0], dtype=layer.portions)
            k.portions(direct, t, self.network.window, portion.reshape(steps, -1).numpy())
            parts.append(places(portion.to(torch.float64) if parts else portion))
        k.scan(add_up(parts, layer.stage.name).reshape(-1).contiguous().numpy(), *common)  # a slice has strides

    def _without_products(
        self, k: Any, layer: PlannedLayer, state: State, spikes: dict[str, Tensor], common: tuple[Any, ...]
    ) -> bool:
        """Run a layer whose charges a kernel adds up by itself, if it is such a one."""
        if layer.pool is not None:
            (source,), events = layer.inputs[0].sources, layer.pool_events
            x = spikes[source].numpy()
            if events is not None and self.share[source] < events.share:
                k.pool_event_scan(x.reshape(-1), *events.arguments, *common)
                return True
            pool, (_, height, width) = layer.pool, layer.stage.shape
            k.pool_scan(x, *(n for pair in pool for n in pair), height, width, *common)
            return True
        if layer.factors is not None:
            pairs = zip((spikes[given.sources[0]] for given in layer.inputs), layer.moves, strict=True)
            xs = tuple((x if moves is None else moves(x)).reshape(-1).numpy() for x, moves in pairs)
            k.sum_scan(xs, layer.factors, *common)
            return True
        if layer.gathered is not None:
            (source,), gathered = layer.inputs[0].sources, layer.gathered
            rows, threads = state.rows // self.n, torch.get_num_threads()
            parts = min(rows, -(-threads // self.n))  # of an image, where images are fewer than threads
            if self.share[source] < gathered.share * min(1.0, self.n * parts / threads):
                k.gather_scan(spikes[source].numpy().reshape(-1), parts, *gathered.arguments, *common)
                return True
        return False

    def _products(self, given: Input, spikes: dict[str, Tensor]) -> Tensor:
        """The charges of a linear synapse, those of silent images and steps left out of its products."""
        assert given.charge is not None
        x, heard = spikes[given.sources[0]], self.heard[given.sources[0]].reshape(-1)
        some = len(heard) * -(-int(heard.sum()) * _PARTS // len(heard)) // _PARTS  # of a few sizes: each has its kernel
        if some >= len(heard) or not some:
            return given.charge(x)
        which = torch.from_numpy(np.argsort(~heard, kind="stable")[:some])  # the others of them are silent
        charge = given.charge(x.flatten(0, 1)[which][None])
        whole = charge.new_zeros(len(heard), charge.shape[1] // some, charge.shape[2])
        whole[which] = charge.reshape(some, *whole.shape[1:])
        return whole.reshape(len(x), -1, charge.shape[2])

    def _change(self, given: Input, spikes: dict[str, Tensor]) -> Tensor:
        """The charges of a synapse that counts, for a block of steps at once: ``(steps, places, C)``.

        ``rest(diff(acts(cumsum(lead(spikes)))))``: one call of each operation for all steps, and the compiled kernels
        for the linear ones in front, where there are some.
        """
        counting = given.counting
        assert counting is not None
        n, zero = self.n, 1  # that a byte has where there is no spike
        dtype = whole_dtype(counting.largest, torch.device("cpu"), where=given.sources[0])
        if given.charge is not None:
            x, zero = given.charge(spikes[given.sources[0]]), 0
            arrived = [x.reshape(len(x), n, *counting.shape[1:], counting.shape[0])]
        else:
            pairs = zip((spikes[name] for name in given.sources), counting.moves, strict=True)
            arrived = [x if moves is None else moves(x) for x, moves in pairs]
        sums, result_before = self.counted.get(id(given), ([], None))
        sums = [total.to(dtype) for total in sums] or [torch.zeros(x.shape[1:], dtype=dtype) for x in arrived]
        now, steps = [], len(arrived[0])
        for x, total in zip(arrived, sums, strict=True):
            counts = torch.empty(x.shape, dtype=dtype)
            flat = x.reshape(steps, -1), total.reshape(-1), counts.reshape(steps, -1)
            multistep.moves().counted_up(flat[0].numpy(), zero, *(y.numpy() for y in flat[1:]))
            now.append(counts.flatten(0, 1) if counting.in_order else first(counts.flatten(0, 1)))
        for act in counting.acts:
            now = [act(*now).to(dtype)]
        result = now[0].unflatten(0, (steps, n))
        self.counted[id(given)] = sums, result[-1].clone()
        charge = torch.empty_like(result)
        torch.sub(result[1:], result[:-1], out=charge[1:])
        charge[0] = result[0] if result_before is None else result[0] - result_before
        charge = charge.flatten(0, 1)
        for act in counting.rest:
            charge = act(charge)
        return places(last(charge).unflatten(0, (steps, n)))

    def _widen(self, t: int) -> None:
        for state in self.states:
            state.widen(min(t, self.network.window))

    def _input(self, name: str, counts: Tensor, t: int, steps: int) -> Tensor:
        """Spikes + 1 of an encoder, uint8 ``(steps, N, *shape)``, channels last."""
        out = torch.empty(steps, *counts.shape, dtype=torch.uint8)
        total = 0
        if self.source.coded_directly:
            out.fill_(1)
        else:
            flat = out.flatten(1).numpy()
            total = self.kernels.isi(counts.reshape(-1).numpy(), t, self.network.window, flat)
        self.share[name] = total / max(out.numel(), 1)
        self.heard[name] = np.full((steps, self.n), total > 0)
        return out

    def result(self, into: Mapping[str, Tensor] | None = None) -> RunResult:
        """What came out; states that nobody else keeps are given up layer by layer, not held beside all counts.

        ``into``: int32 ``(N, *layer shape)``, where the counts of a layer belong.
        """
        record, read = self.options.record, {stage.name for stage in self.network.output_stages}
        counts: dict[str, Tensor] = {}
        membranes: dict[str, Tensor] = {}
        sent: dict[str, Emitted] = {}
        for layer, state in zip(self.plan.stages, self._used_up(), strict=True):
            name = layer.stage.name
            sent[name] = state.emitted(self.plan.fan_out[name])
            if record != "output" or name in read:
                counts[name] = state.counts(None if into is None else into.get(name))
            if record == "spikes" or name in read:
                state.widen(min(self.end, self.network.window))
                membranes[name] = state.membranes
        return make_result(
            self.network,
            self.integers,
            backend=BACKEND.name,
            phase=self.options.phase,
            record=record,
            counts=counts,
            membranes=membranes,
            sent=sent,
            extra_steps=torch.from_numpy(np.maximum(self.last - self.network.window, 0)),
            spikes=self._spikes(self.network.window) if record == "spikes" else None,
        )

    def _used_up(self) -> Iterator[State]:
        self.states.reverse()
        while self.states:
            yield self.states.pop()

    def _spikes(self, window: int) -> dict[str, Tensor]:
        """Trains up to the end of the window, or the last spike after it."""
        end = max(window, int(self.last.max()) if self.n else 0)
        return {k: torch.cat(v)[:end] for k, v in self.trains.items()}


BACKEND = Fast()
