"""What a run returns, whatever the backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.network import Stage, float64

__all__ = ["RECORDS", "Mismatch", "RunResult", "compare_counts", "merge", "read_out"]

RECORDS = ("output", "counts", "spikes")


@dataclass(eq=False)
class RunResult:
    """Counts, spikes and latency of ``N`` images.

    Attributes
    ----------
    backend, phase : str
    window : int
        ``T``, in steps.
    counts : dict of int32 tensors ``(N, *layer shape)``
        Final signed counts, rounding spikes included; only the output's with ``record="output"``.
    membranes : dict of float64 tensors ``(N, *layer shape)``
        Final membrane potentials: the output's, and every layer's with ``record="spikes"``.
    logits : float64 tensor ``(N, *output shape)``
        Output in real units: ``scale * count``, or the membrane of an output that does not spike.
    positive, negative : dict of int64 tensors ``(N,)``
        Spikes by sign that each layer and the input emitted, rounding spikes included.
    extra_steps : int64 tensor ``(N,)`` or None
        Steps after the window up to and including the last spike of each image.
    sops : float64 tensor ``(N,)`` or None
        Synaptic operations: every spike counts once for each synapse that leaves its neuron.
    macs : float64 tensor ``(N,)`` or None
        Multiplications of a directly coded first layer; 0 with spikes as input.
    spikes : dict of int8 tensors ``(steps, N, *layer shape)`` or None
        Spike trains, with ``record="spikes"``: the window, then the rounding phase.
    exact_from : str
        ``"simulation"``, or ``"closed form"`` where counts were computed and no spike was simulated.
    route : str
        ``"fast"`` or ``"step loop"``: how backend ``snntorch`` got there. The numbers are the same.
    checked, check_mismatches : int
        Images that were computed in another way too (option ``check`` of :func:`converters.run`), and how many of
        their counts differ: simulations by the closed form, where a difference is an error, and closed forms by
        simulation.
    """

    backend: str
    phase: str
    window: int
    output_name: str
    counts: dict[str, Tensor]
    membranes: dict[str, Tensor]
    logits: Tensor
    positive: dict[str, Tensor] = field(default_factory=dict)
    negative: dict[str, Tensor] = field(default_factory=dict)
    extra_steps: Tensor | None = None
    sops: Tensor | None = None
    macs: Tensor | None = None
    spikes: dict[str, Tensor] | None = None
    exact_from: str = "simulation"
    route: str = ""
    checked: int = 0
    check_mismatches: int = 0

    @property
    def predictions(self) -> Tensor:
        """Arg-max class of each image, int64 ``(N,)``."""
        return self.logits.flatten(1).argmax(1)

    @property
    def latency(self) -> Tensor | None:
        """Steps until the network is quiet: T plus the extra steps, int64 ``(N,)``."""
        return None if self.extra_steps is None else self.extra_steps + self.window

    @property
    def spikes_per_image(self) -> float | None:
        """Mean number of spikes, of both signs, of all layers and the input."""
        if not self.positive:
            return None
        total = sum(t.sum() for t in (*self.positive.values(), *self.negative.values()))
        return float(total) / max(len(self.logits), 1)


@dataclass(frozen=True)
class Mismatch:
    """How many counts of a layer were compared, and how many differ."""

    layer: str
    compared: int
    differing: int


def compare_counts(result: RunResult, expected: Mapping[str, Tensor]) -> list[Mismatch]:
    """Counts of every recorded layer against a quantised network's integers, neuron for neuron.

    ``expected`` is what :meth:`QuantGraph.execute` returns for the same images and window. A layer that
    does not spike is left out: it has no counts.

    Raises
    ------
    ConversionError
        If a recorded layer is missing there, or has another shape.
    """
    rows = []
    for name, counts in result.counts.items():
        if name not in expected or expected[name].shape != counts.shape:
            found = "nothing" if name not in expected else f"shape {tuple(expected[name].shape)}"
            raise ConversionError(name, f"{found} to compare {tuple(counts.shape)} counts with", "use the same network")
        differing = int((counts.to(torch.int64) != expected[name].to(counts.device)).sum())
        rows.append(Mismatch(name, counts.numel(), differing))
    return rows


def merge(parts: Sequence[RunResult]) -> RunResult:
    """Results of consecutive batches of one run as one; trains are padded with silent steps."""
    first = parts[0]
    if len(parts) == 1:
        return first

    def joined(name: str) -> dict[str, Tensor]:
        return {k: torch.cat([getattr(p, name)[k] for p in parts]) for k in getattr(first, name)}

    def optional(name: str) -> Tensor | None:
        values = [getattr(p, name) for p in parts]
        return None if values[0] is None else torch.cat(values)

    spikes = None
    if first.spikes is not None:
        trains = [p.spikes or {} for p in parts]
        steps = max(len(t) for p in trains for t in p.values())
        spikes = {k: torch.cat([_padded(p[k], steps) for p in trains], dim=1) for k in first.spikes}
    return RunResult(
        backend=first.backend,
        phase=first.phase,
        window=first.window,
        output_name=first.output_name,
        counts=joined("counts"),
        membranes=joined("membranes"),
        logits=torch.cat([p.logits for p in parts]),
        positive=joined("positive"),
        negative=joined("negative"),
        extra_steps=optional("extra_steps"),
        sops=optional("sops"),
        macs=optional("macs"),
        spikes=spikes,
        exact_from=first.exact_from,
        route=first.route,
    )


def _padded(train: Tensor, steps: int) -> Tensor:
    return torch.cat([train, train.new_zeros(steps - len(train), *train.shape[1:])])


def read_out(stage: Stage, count: Tensor, membrane: Tensor) -> Tensor:
    """Output in real units, float64: of the count, or of the membrane where the layer does not spike."""
    if not stage.readout:
        return count.to(torch.float64) * stage.scale
    view = (1, -1) + (1,) * (membrane.ndim - 2)
    threshold = float64(stage.parameters.threshold, membrane.device)
    return membrane / threshold.reshape(-1).expand(stage.shape[0]).view(view) * stage.scale
