"""A backend from outside, on the NumPy rule; and what it can get wrong, one fault at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins import CaLIFParameters
from calif_plugins.reference import step
from converters.backends import Backend, Settings
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage
from converters.results import RunResult, emitted, empty_result, make_result

State = dict[str, tuple[Any, Any]]


class NumpyBackend(Backend):
    """All images at once, as arrays ``(channels, N, ...)``: parameters are per channel along the first axis."""

    name = "numpy"

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        if not len(integers):
            return empty_result(network, integers, backend=self.name, phase=settings.phase, record=settings.record)
        n, window, shapes = len(integers), network.window, network.shapes
        source = InputSpikes(network, integers, dtype=torch.float64)
        state = self.first_state(network, n)
        sent = {k: torch.zeros(n, *shape, dtype=torch.float64) for k, shape in shapes.items()}
        fired = {k: torch.zeros_like(x) for k, x in sent.items()}
        brought: dict[str, Any] = dict.fromkeys(shapes, 0.0)
        trains: dict[str, list[Tensor]] = {k: [] for k in shapes}
        extra = torch.zeros(n, dtype=torch.int64)
        last = {"settle": 10_000, "paper": window + 1, "none": window}[settings.phase]
        for t in range(last):
            half, leak = self.clock(t, window, settings)
            spikes = source.spikes(t)
            for stage in network.stages:
                for k, s in spikes.items():
                    if len(trains[k]) == t:
                        trains[k].append(s.to(torch.int8))
                        sent[k] = sent[k] + s
                whole = stage.charge(sent)
                charge, brought[stage.name] = whole - brought[stage.name], whole
                share = source.direct(stage.name, t)
                charge = charge if share is None else charge + share
                p = self.parameters(stage)
                v, y = state[stage.name]
                v, y, ternary = step(v, y, charge.movedim(1, 0).numpy(), p, half=half, leak=leak)
                state[stage.name] = v, y
                spikes[stage.name] = torch.from_numpy(ternary).movedim(0, 1).to(torch.float64)
                fired[stage.name] += spikes[stage.name].abs()
            out = network.stages[-1].name
            trains[out].append(spikes[out].to(torch.int8))
            active = torch.stack([spikes[s.name].flatten(1).any(1) for s in network.stages]).any(0)
            if t >= window:
                extra[active] = t + 1 - window
                if not bool(active.any()):
                    break
        counts = {k: torch.from_numpy(y).movedim(0, 1) for k, (_, y) in state.items()}
        return make_result(
            network,
            integers,
            backend=self.name,
            phase=settings.phase,
            record=settings.record,
            counts=counts,
            membranes={k: torch.from_numpy(v).movedim(0, 1) for k, (v, _) in state.items()},
            sent={k: emitted(fired[k], counts[k], network.fan_out[k]) for k in counts},
            extra_steps=extra,
            spikes={k: torch.stack(x) for k, x in trains.items()},
        )

    # --- what a fault changes -----------------------------------------------------------------------

    def first_state(self, network: Network, n: int) -> State:
        state = {}
        for stage in network.stages:
            shape = (stage.shape[0], n, *stage.shape[1:])
            v = np.zeros(shape) + self.parameters(stage).for_shape(shape).v_init
            state[stage.name] = v, np.zeros(shape, dtype=np.int64)
        return state

    def parameters(self, stage: Stage) -> CaLIFParameters:
        return stage.parameters

    def clock(self, t: int, window: int, settings: Settings) -> tuple[bool, bool]:
        """Whether thresholds are half at step ``t``, and whether the leak acts."""
        return t >= settings.settle_from, t < window


class TiesGoUp(NumpyBackend):
    def parameters(self, stage: Stage) -> CaLIFParameters:
        return replace(stage.parameters, tie="up")


class TiesGoToEven(NumpyBackend):
    def parameters(self, stage: Stage) -> CaLIFParameters:
        return replace(stage.parameters, tie="even")


class NoCeiling(NumpyBackend):
    def parameters(self, stage: Stage) -> CaLIFParameters:
        p = stage.parameters
        return p if stage.readout else replace(p, y_max=p.y_max * 1000)


class NoGate(NumpyBackend):
    def parameters(self, stage: Stage) -> CaLIFParameters:
        p = stage.parameters
        return p if stage.readout else replace(p, y_min=p.y_min - 1000)


class OneThreshold(NumpyBackend):
    """Takes the first channel's threshold for all of them."""

    def parameters(self, stage: Stage) -> CaLIFParameters:
        return replace(stage.parameters, threshold=np.ravel(stage.parameters.threshold)[0])


class ForgetsTheFirstMembrane(NumpyBackend):
    def parameters(self, stage: Stage) -> CaLIFParameters:
        return replace(stage.parameters, v_init=0.0)


class LeaksAfterTheWindow(NumpyBackend):
    def clock(self, t: int, window: int, settings: Settings) -> tuple[bool, bool]:
        return t >= settings.settle_from, True


class NeverLeaks(NumpyBackend):
    def clock(self, t: int, window: int, settings: Settings) -> tuple[bool, bool]:
        return t >= settings.settle_from, False


class OneStepLate(NumpyBackend):
    def clock(self, t: int, window: int, settings: Settings) -> tuple[bool, bool]:
        return t > settings.settle_from, t < window


class OneStepEarly(NumpyBackend):
    def clock(self, t: int, window: int, settings: Settings) -> tuple[bool, bool]:
        return t >= settings.settle_from - 1, t < window


class IgnoresSettleFrom(NumpyBackend):
    def clock(self, t: int, window: int, settings: Settings) -> tuple[bool, bool]:
        return t >= window, t < window


class KeepsItsState(NumpyBackend):
    """Begins the next batch where the one before it ended."""

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        self.settings = settings
        return super().simulate(network, integers, settings, options)

    def first_state(self, network: Network, n: int) -> State:
        def make() -> State:
            return super(KeepsItsState, self).first_state(network, n)

        return network.keep((self.name, n, self.settings), make)


class TakesEverySecondImage(NumpyBackend):
    """Says of each image but the first what is true of the one before it."""

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        return super().simulate(network, torch.cat([integers[:1], integers[:-1]]), settings, options)


class NoRounding(NumpyBackend):
    """Runs the phase none, whatever is asked for."""

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        r = super().simulate(network, integers, replace(settings, phase="none"), options)
        return replace(r, phase=settings.phase)


class ChangesItsResult(NumpyBackend):
    """Right in all but one field of its result."""

    def __init__(self, field: str) -> None:
        self.field = field

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        r = super().simulate(network, integers, settings, options)
        value: Any = getattr(r, self.field)
        if self.field in ("extra_steps", "sops", "macs", "logits"):
            changed: dict[str, Any] = {self.field: value + 1}
            return replace(r, **changed)
        if self.field == "backend":
            return replace(r, backend="snntorch")
        if not value:
            return r
        name = list(value)[-1]
        other: dict[str, Any] = {self.field: {**value, name: value[name] + 1}}
        return replace(r, **other)


class RecordsTooMuch(NumpyBackend):
    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        return super().simulate(network, integers, replace(settings, record="spikes"), options)


class RecordsTooLittle(NumpyBackend):
    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        return super().simulate(network, integers, replace(settings, record="output"), options)


class TakesAnyOption(NumpyBackend):
    def options_of(self, given: Any) -> Any:
        return self.own_options()


class NoPhaseIsRefused(NumpyBackend):
    """Declares less than it takes."""

    phases = ("settle", "none")

    def check(self, network: Network, settings: Settings) -> None:
        return


FAULTS: list[NumpyBackend] = [
    TiesGoUp(),
    TiesGoToEven(),
    NoCeiling(),
    NoGate(),
    OneThreshold(),
    ForgetsTheFirstMembrane(),
    LeaksAfterTheWindow(),
    NeverLeaks(),
    OneStepLate(),
    OneStepEarly(),
    IgnoresSettleFrom(),
    KeepsItsState(),
    TakesEverySecondImage(),
    NoRounding(),
    RecordsTooMuch(),
    RecordsTooLittle(),
    TakesAnyOption(),
    NoPhaseIsRefused(),
    *(
        ChangesItsResult(field)
        for field in (
            "backend", "counts", "membranes", "logits", "positive", "negative", "extra_steps", "sops", "macs", "spikes"
        )
    ),
]  # fmt: skip
