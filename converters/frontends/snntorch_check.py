"""Spike trains of a network that was given, against those of the Ca-LIF network that was made of it.

Each layer is judged by itself: it gets the *given* network's spikes, of the same step, so that one difference neither
hides nor causes another. What arrives must be what arrived there, in thresholds; and the layer must fire as the given
one did. If every layer does, the trains of the whole network are the same.

Sums in float64 can fall on the other side of a threshold than exact ones. So a spike may differ where the membrane is
as close to its threshold as rounding reaches; the layer then follows the given one, and is judged further.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from calif_plugins.parameters import CaLIFParameters
from converters.errors import ConversionError
from converters.network import Network, Stage, float64
from converters.quantised import InputSpec

__all__ = ["Step", "compare_trains", "probe_counts"]

_TODO = "please report it, with the model; check=False converts without this comparison"
_MOST = 2**31 - 1  # what a node writes for a range without end
_NOISE = 2.0**-40  # of float64 sums: rounding by far smaller than any weight's own


class Step(NamedTuple):
    """What the given network did in a step: spikes of the input and each layer, and what arrived there in thresholds.

    Both by the converted network's names; batches ``(N, *shape)``. What arrived is after the leak.
    """

    spikes: Mapping[str, Tensor]
    drive: Mapping[str, Tensor]


def probe_counts(spec: InputSpec, check: bool | Tensor) -> tuple[Tensor, str] | None:
    """Input integers ``(N, *shape)`` to compare on, and what they are; None for ``check=False``.

    Zeros, the largest and the smallest count everywhere, one pixel of the largest, and four random images.

    Raises
    ------
    ConversionError
        If ``check`` is neither a bool nor images of the network's input.
    """
    if isinstance(check, Tensor):
        return spec.accept(check, None), "the user's own"
    if type(check) is not bool:
        raise ConversionError("check", type(check).__name__, "give True, False or a batch of images")
    if not check:
        return None
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(spec.q_min, spec.q_max + 1, (4, *spec.shape), generator=generator)
    flat = torch.tensor([0, spec.q_max, spec.q_min]).view(-1, *[1] * len(spec.shape)).expand(-1, *spec.shape)
    pixel = torch.zeros(1, noise[0].numel(), dtype=torch.int64)
    pixel[0, pixel.numel() // 2] = spec.q_max
    return torch.cat([noise, flat, pixel.view(1, *spec.shape)]), "random and extreme images"


def compare_trains(
    network: Network,
    steps: Iterable[Step],
    *,
    given: Sequence[CaLIFParameters] = (),
    first_only: bool = False,
) -> tuple[int, int]:
    """Numbers of spikes and silences that were compared, and of near-ties among them.

    ``given``: parameters of the given neurons, where they are Ca-LIF neurons too; what no window need show, ranges and
    tie rules, must be the same. ``first_only``: only up to each neuron's first spike, where the given neurons are
    others from then on.

    Raises
    ------
    ConversionError
        Naming the first layer, in the network's order, that differs, and how.
    """
    layers = [_Followed(stage, first_only) for stage in network.stages]
    for t, step in enumerate(steps):
        for layer in layers:
            layer.follow(step, t)
    for layer, p in zip(layers, given, strict=False):
        layer.wrong = layer.wrong or _range(layer.stage.parameters, p)
    for layer in layers:
        if layer.wrong:
            raise ConversionError(layer.stage.name, layer.wrong, _TODO)
    return sum(layer.compared for layer in layers), sum(layer.near_ties for layer in layers)


class _Followed:
    """One converted layer on the given network's spikes. Membranes are in whole units of charge."""

    def __init__(self, stage: Stage, first_only: bool) -> None:
        self.stage, self.first_only = stage, first_only
        p = stage.parameters.for_shape(stage.shape)
        self.threshold, self.leak = float64(p.threshold), float64(p.leak)
        self.y_min, self.y_max = float64(p.y_min), float64(p.y_max)
        self.v, self.y = float64(p.v_init).expand(stage.shape), torch.zeros(stage.shape, dtype=torch.float64)
        scale = sum(s.gain for s in stage.synapses) + self.leak.abs() + self.threshold
        self.slack = (_rounding(stage) + _NOISE * scale) / self.threshold  # of one step, in thresholds
        self.open: Tensor | None = None
        self.compared = self.near_ties = 0
        self.wrong = ""

    def follow(self, step: Step, t: int) -> None:
        """One step, and what differs in it, unless something did before."""
        given, drive = step.spikes[self.stage.name].double(), step.drive[self.stage.name].double()
        charge = self.stage.charge({k: v.double() for k, v in step.spikes.items()}) - self.leak
        off = (charge / self.threshold - drive).abs() > self.slack * (1 + drive.abs())
        self.v = self.v + charge
        s = ((self.v >= self.threshold) & (self.y < self.y_max)).double()
        s -= ((self.v <= -self.threshold) & (self.y > self.y_min)).double()
        near = (self.v.abs() / self.threshold - 1).abs() <= self.slack * (t + 1)
        differ = s != given
        if self.first_only:
            self.open = torch.ones_like(differ) if self.open is None else self.open
            differ = differ & self.open
            self.open = self.open & (given == 0) & ((s == 0) | near)
            off = off & torch.ones_like(differ)
        if not self.wrong:
            self.wrong = self._first(off, t, charge / self.threshold, drive, "a charge of {:.6g} thresholds")
        if not self.wrong:
            self.wrong = self._first(differ & ~near, t, s, given, "a spike of {:g}")
        self.compared += differ.numel() if self.open is None else int(self.open.sum())
        self.near_ties += int((differ & near).sum())
        self.v = self.v - given * self.threshold
        self.y = self.y + given

    def _first(self, where: Tensor, t: int, mine: Tensor, given: Tensor, what: str) -> str:
        if not bool(where.any()):
            return ""
        n, *neuron = where.nonzero()[0].tolist()
        a, b = (float(x.expand_as(where)[(n, *neuron)]) for x in (mine, given))
        place = f"image {n}, step {t}, neuron {tuple(neuron)}"
        return f"{what.format(a)} where the given network has {b:.6g} ({place})"


def _range(mine: CaLIFParameters, given: CaLIFParameters) -> str:
    for name in ("y_min", "y_max"):
        a, b = (np.clip(getattr(p, name), -_MOST, _MOST) for p in (mine, given))
        if (a != b).any():
            return f"{name} = {a.max():g} where the given neuron has {b.max():g}"
    return "" if mine.tie == given.tie else f"ties to {mine.tie} where the given neuron has {given.tie}"


def _rounding(stage: Stage) -> float:
    """How far off, in units of charge, the rounding of weights to whole numbers can be in a step.

    Weights are rounded only where the largest takes all bits there are; each by half a unit at most.
    """
    total = 0.0
    for synapse in stage.synapses:
        for k, op in enumerate(synapse.ops):
            weight = op.stored
            if weight is not None and weight.numel() and int(weight.abs().max()) >= 2**22:
                others = [o.gain for j, o in enumerate(synapse.ops) if j != k]
                total += 0.5 * weight[0].numel() * math.prod(others)
    return total
