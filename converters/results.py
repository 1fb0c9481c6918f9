"""What a run returns, whatever the backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from converters.brief import many, named_shapes, shown
from converters.errors import ConversionError
from converters.network import Network, Stage
from converters.ports.answers import predicted
from converters.ports.outputs import Output, leaves, mapped, returned

__all__ = [
    "RECORDS",
    "Emitted",
    "Mismatch",
    "RunResult",
    "compare_counts",
    "emitted",
    "empty_result",
    "make_result",
    "merge",
    "read_out",
]

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
        Final signed counts, rounding spikes included; only the outputs' with ``record="output"``.
    membranes : dict of float64 tensors ``(N, *layer shape)``
        Final membrane potentials: the outputs', and every layer's with ``record="spikes"``.
    logits : float64 tensor ``(N, *output shape)``
        Main output in real units: ``scale * count``, or the membrane of an output that does not spike.
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
    checked: int = 0
    check_mismatches: int = 0
    output_values: dict[str, Tensor] = field(default_factory=dict)
    """Each output layer in real units, float64 ``(N, *layer shape)``: what :attr:`outputs` is made of."""
    output_structure: Any = None

    def __repr__(self) -> str:
        checked = f"{many(self.checked, 'image')} computed twice, {self.check_mismatches:,} counts differ"
        facts = self.backend, many(len(self.logits), "image"), f"T = {self.window}", f"phase {self.phase}"
        kept = [f"counts of {named_shapes({name: x.shape[1:]})}" for name, x in self.counts.items()]
        more = checked if self.checked else "", "all spikes" if self.spikes is not None else ""
        return shown(type(self), *facts, *more, rows=kept)

    @property
    def outputs(self) -> Any:
        """What the model returns, in its structure: float64 tensors in real units.

        Functions behind the last quantiser (:mod:`converters.ports.tails`) have run on them, in float.
        """
        return self.logits if self.output_structure is None else returned(self.output_structure, self.output_values)

    @property
    def predictions(self) -> Tensor:
        """What the main output says (:func:`~converters.ports.answers.predicted`): the class of each image, int64
        ``(N,)``; of a map the class at each place, ``(N, *places)``."""
        if self.output_structure is None:
            return predicted(Output(self.output_name), self.logits)
        main = next(leaves(self.output_structure))
        return predicted(main, self.output_values[main.layer])

    @property
    def all_predictions(self) -> Any:
        """What every output says, in the structure that the model returns; of a single one, :attr:`predictions`."""
        if self.output_structure is None:
            return self.predictions
        return mapped(lambda output: predicted(output, self.output_values[output.layer]), self.output_structure)

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


class Emitted(NamedTuple):
    """What a layer, or the input, has sent: tensors ``(N,)``, one number for each image.

    Attributes
    ----------
    positive, negative : int64
        Spikes by sign.
    operations : float64 or int64
        Synaptic operations: each spike times the fan-out of its neuron.
    """

    positive: Tensor
    negative: Tensor
    operations: Tensor


def emitted(fired: Tensor, net: Tensor, fan_out: Tensor) -> Emitted:
    """Sum up how often each neuron ``fired``, with either sign, and its ``net`` count, both ``(N, *shape)``."""
    fired, net = fired.to(torch.float64), net.to(torch.float64)
    positive, negative = (((fired + sign * net) / 2).flatten(1).sum(1).to(torch.int64) for sign in (1, -1))
    return Emitted(positive, negative, (fired * fan_out.to(fired.device)).flatten(1).sum(1))


def make_result(
    network: Network,
    integers: Tensor,
    *,
    backend: str,
    phase: str,
    record: str,
    counts: Mapping[str, Tensor],
    membranes: Mapping[str, Tensor],
    sent: Mapping[str, Emitted],
    extra_steps: Tensor,
    sops: Tensor | None = None,
    spikes: dict[str, Tensor] | None = None,
    logits: Tensor | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> RunResult:
    """What a simulator of ``network`` returns for input ``integers`` ``(N, *input shape)``: the one constructor.

    Parameters
    ----------
    counts, membranes : dict of tensors ``(N, *layer shape)``
        Of all layers, at the end; what ``record`` does not ask for is left out of the result, and need not be given.
    sent : dict of Emitted
        Of all layers. The input's is worked out here, if it is not given: its spikes, or its multiplications if it is
        coded directly.
    extra_steps : int64 tensor ``(N,)``
    sops : float64 tensor ``(N,)``, optional
        The sum of all operations in ``sent``, which then has the input too, if it is known already.
    spikes : dict of int8 tensors ``(steps, N, *shape)``, optional
        Of the input and all layers, where ``record`` is ``"spikes"``.
    logits : tensor, optional
        The main output in real units, where it is not read as the network says.
    values : dict of tensors, optional
        The same of any outputs, by their layers' names.
    """
    out = network.output
    macs = torch.zeros(len(integers), dtype=torch.float64, device=integers.device)
    everything: dict[str, Emitted] = {}
    for name, given in network.by_input(integers).items():
        fan_out = network.fan_out[name].to(integers.device)
        if network.coding == "direct":
            macs = macs + ((given != 0) * fan_out).flatten(1).sum(1)
        elif name not in sent:
            everything[name] = emitted(given.abs(), given, fan_out)
    everything |= sent
    if sops is None:
        sops = torch.stack([e.operations.to(torch.float64) for e in everything.values()]).sum(0)
    read = network.output_stages
    kept = network.stages if record != "output" else read
    real = {s.name: read_out(s, counts[s.name], membranes[s.name]) for s in read} | dict(values or {})
    if logits is not None:
        real[out.name] = logits
    return RunResult(
        backend=backend,
        phase=phase,
        window=network.window,
        output_name=out.name,
        counts={s.name: counts[s.name].to(torch.int32) for s in kept if not s.readout},
        membranes={s.name: membranes[s.name] for s in (network.stages if record == "spikes" else read)},
        logits=real[out.name],
        positive={k: e.positive for k, e in everything.items()},
        negative={k: e.negative for k, e in everything.items()},
        extra_steps=extra_steps,
        sops=sops,
        macs=macs,
        spikes=spikes if record == "spikes" else None,
        output_values=real,
        output_structure=network.outputs,
    )


def empty_result(network: Network, integers: Tensor, *, backend: str, phase: str, record: str) -> RunResult:
    """What a run of no images returns."""
    none = {s.name: torch.zeros(0, *s.shape, dtype=torch.float64) for s in network.stages}
    silence = {k: torch.zeros(network.window, 0, *shape, dtype=torch.int8) for k, shape in network.shapes.items()}
    return make_result(
        network,
        integers,
        backend=backend,
        phase=phase,
        record=record,
        counts=none,
        membranes=none,
        sent={k: emitted(x, x, network.fan_out[k]) for k, x in none.items()},
        extra_steps=torch.zeros(0, dtype=torch.int64),
        spikes=silence,
    )


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


def merge(results: list[RunResult]) -> RunResult:
    """Results of consecutive batches of one run as one; trains are padded with silent steps.

    The list is emptied, and the results in it stay as they are: what nobody else keeps is given up layer by layer, so
    that parts and whole are not held twice.
    """
    if len(results) == 1:
        return results.pop()
    parts = [_own(part) for part in results]
    results.clear()
    first = parts[0]

    def joined(name: str) -> dict[str, Tensor]:
        return {k: together([getattr(p, name).pop(k) for p in parts]) for k in list(getattr(first, name))}

    def optional(name: str) -> Tensor | None:
        values = [getattr(p, name) for p in parts]
        return None if values[0] is None else torch.cat(values)

    spikes = None
    if first.spikes is not None:
        trains = [p.spikes or {} for p in parts]
        steps = max(len(t) for p in trains for t in p.values())
        spikes = {k: torch.cat([_padded(p.pop(k), steps) for p in trains], dim=1) for k in list(first.spikes)}
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
        output_values=joined("output_values"),
        output_structure=first.output_structure,
    )


def together(parts: list[Tensor]) -> Tensor:
    """The parts as one tensor: without a copy, if they lie behind one another in memory.

    >>> x = torch.tensor([[0, 1], [2, 3], [4, 5]])
    >>> together([x[:1], x[1:]]).data_ptr() == x.data_ptr(), together([x[1:], x[:1]]).tolist()
    (True, [[2, 3], [4, 5], [0, 1]])
    >>> together([x[:1, :1].T, x[:1, 1:].T]).tolist()
    [[0], [1]]
    """
    first, end = parts[0], parts[0].storage_offset()
    for x in parts:
        alike = x.shape[1:] == first.shape[1:] and x.dtype == first.dtype and x.is_contiguous()
        beside = x.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and x.storage_offset() == end
        if not (alike and beside):
            return torch.cat(parts)
        end += x.numel()
    flat = first.as_strided((end - first.storage_offset(),), (1,))  # an axis of length 1 has any stride
    return flat.view(sum(map(len, parts)), *first.shape[1:])


def _own(part: RunResult) -> RunResult:
    """The same tensors in dictionaries of their own, which can be emptied."""
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    own: dict[str, Any] = {name: dict(x) for name, x in values.items() if isinstance(x, dict)}
    return replace(part, **own)


def _padded(train: Tensor, steps: int) -> Tensor:
    return torch.cat([train, train.new_zeros(steps - len(train), *train.shape[1:])])


def read_out(stage: Stage, count: Tensor, membrane: Tensor) -> Tensor:
    """Output in real units, float64: of the count, or of the membrane where the layer does not spike."""
    if not stage.readout:
        return count.to(torch.float64) * stage.scale
    threshold = stage.threshold.to(membrane.device)
    return membrane / threshold.reshape(-1, *[1] * (membrane.ndim - 2)) * stage.scale
