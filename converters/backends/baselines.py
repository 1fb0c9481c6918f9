"""Other neurons on the same quantised weights: what conversion costs with each of them.

Every baseline gets the network as it is: the quantised network's integers as weights, its thresholds, its bias as
the constant current ``-lambda`` per step, the same input spikes, all layers within one time step. Only the neuron
differs. Two readings favour the baselines, and are the custom of the field: layers of a signed range (a branch
before an addition, the logits) use the rule mirrored, with negative spikes too, where a purely positive neuron
would lose half of the values; and the prediction is the last layer's net charge, not its spikes.

Stepped by a clock, the LIF of equation 2 is the soft-reset IF whose bias is a current: one row, ``if_soft``. The row
``lif`` takes the equation by its word: the membrane is looked at when a spike arrives, so that a neuron without
input stays silent, whatever its bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nir
import torch
from torch import Tensor

from converters.backends.charges import Charges
from converters.errors import ConversionError
from converters.exact.sums import add_up, exact
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage, float64
from converters.operations import Synapse
from converters.ports.inputs import Batches
from converters.results import RunResult, emitted, make_result, merge

__all__ = ["BASELINES", "Baseline", "run_baseline"]


class _State:
    """Membranes ``v``, signed counts ``y`` and emitted spikes of one layer, in float64."""

    def __init__(self, network: Network, stage: Stage, start: float, n: int, device: torch.device) -> None:
        p = stage.parameters.for_shape(stage.shape)
        self.stage = stage
        self.threshold, self.leak = float64(p.threshold, device), float64(p.leak, device)
        self.y_min, self.y_max = float64(p.y_min, device), float64(p.y_max, device)
        self.signed = self.y_min < 0
        self.z = float64(p.v_init, device).expand(n, *stage.shape).contiguous()  # net charge
        self.v = self.z + start * self.threshold
        self.y = torch.zeros_like(self.v)
        self.fired = torch.zeros(n, *stage.shape, dtype=torch.float32, device=device)
        self.charges = Charges(network, stage, "float32", device)


def _soft(s: _State) -> tuple[Tensor, Tensor]:
    spikes = _whole(s)
    return spikes, s.v - spikes * s.threshold


def _hard(s: _State) -> tuple[Tensor, Tensor]:
    spikes = _whole(s)
    return spikes, torch.where(spikes != 0, 0.0, s.v)


def _whole(s: _State) -> Tensor:
    return (s.v >= s.threshold).double() - ((s.v <= -s.threshold) & s.signed).double()


def _half(s: _State) -> tuple[Tensor, Tensor]:
    spikes = (s.v >= s.threshold).double() - ((s.v < 0) & s.signed).double()
    return spikes, s.v - spikes * s.threshold


def _tracked(s: _State) -> tuple[Tensor, Tensor]:
    up, down = (s.v >= s.threshold) & (s.y < s.y_max), (s.v < 0) & (s.y > s.y_min)
    spikes = up.double() - down.double()
    return spikes, s.v - spikes * s.threshold


@dataclass(frozen=True)
class Baseline:
    """A neuron.

    Attributes
    ----------
    title, source : str
        For tables.
    fire : callable
        State after this step's charge, to spikes in {-1, 0, 1} and the membrane after the reset.
    start : float
        Membrane before the first step, in thresholds.
    on_events : bool
        The threshold is looked at only in steps that bring a spike (equation 2); the leak acts at all of them.
    until_quiet : bool
        Go on after the window, without input and leak, until no neuron fires.
    """

    title: str
    source: str
    fire: Callable[[_State], tuple[Tensor, Tensor]]
    start: float = 0.0
    on_events: bool = False
    until_quiet: bool = False


BASELINES: dict[str, Baseline] = {
    "if_hard": Baseline("IF, hard reset", "Diehl et al. 2015", _hard),
    "if_soft": Baseline("IF, soft reset (RMP)", "Han et al. 2020", _soft),
    "lif": Baseline("LIF of equation 2, event by event", "Gao et al. 2023, section 2.3", _soft, on_events=True),
    "qcfs": Baseline("IF, soft reset, start at half a threshold (QCFS)", "Bu et al. 2022", _half, start=0.5),
    "stbif": Baseline("signed IF with memory (ST-BIF), stopped at T", "You et al. 2024", _tracked, start=0.5),
    "stbif_quiet": Baseline(
        "signed IF with memory (ST-BIF), until quiet", "You et al. 2024", _tracked, start=0.5, until_quiet=True
    ),
}


@exact
def run_baseline(
    graph: nir.NIRGraph | Network,
    images: Batches | None = None,
    *,
    name: str,
    integers: Batches | None = None,
    batch: int | None = None,
) -> RunResult:
    """Run a converted network with another neuron in every layer.

    Parameters
    ----------
    graph : nir.NIRGraph
    images : float tensor ``(N, *input shape)``
    name : str
        One of :data:`BASELINES`.
    integers : int tensor, optional
        The input's integers instead of images.
    batch : int, optional
        Images at a time.

    Returns
    -------
    RunResult
        Counts of all spiking layers; ``logits`` and ``outputs`` from the net charge of the layers that they are.

    Raises
    ------
    ConversionError
        For an unknown name, or images of another shape.

    Examples
    --------
    >>> import converters
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((1,), scale=0.25, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.tensor([[1]])))], threshold=2.0, y_min=0, y_max=4, scale=1.0)
    >>> g, image = converters.to_nir(b.build(y), T=4), torch.tensor([[0.75]])  # a net charge of 1.5 thresholds
    >>> [int(run_baseline(g, image, name=n).counts["fc"]) for n in ("if_soft", "qcfs")]
    [1, 2]
    """
    if name not in BASELINES:
        raise ConversionError("baseline", f"{name!r}", f"use one of {', '.join(BASELINES)}")
    network = Network.from_graph(graph)
    values = network.accept(images, integers)
    size = batch or max(1, min(256, 1_000_000 // max(network.neurons, 1)))
    with torch.no_grad():
        parts = [_simulate(network, part, name) for part in (values.split(size) if len(values) else [values])]
    return merge(parts)


def _simulate(network: Network, integers: Tensor, name: str) -> RunResult:
    baseline = BASELINES[name]
    n, window, device = len(integers), network.window, integers.device
    source = InputSpikes(network, integers)
    states = [_State(network, stage, baseline.start, n, device) for stage in network.stages]
    structures = {s.name: _structures(network, s) for s in network.stages if baseline.on_events}
    extra = torch.zeros(n, dtype=torch.int64, device=device)
    t = 0
    while t < window or baseline.until_quiet:
        spikes = source.spikes(t)
        active = torch.zeros(n, dtype=torch.bool, device=device)
        for s in states:
            stage = s.stage
            charge = s.charges(spikes)
            direct = source.direct(stage.name, t)
            if direct is not None:
                charge = add_up((charge, direct), stage.name)
            if t < window:
                charge = charge - s.leak
            s.v, s.z = s.v + charge, s.z + charge
            out, after = (torch.zeros_like(s.v), s.v) if stage.readout else baseline.fire(s)
            if baseline.on_events and direct is None:
                arrived = (k(*(spikes[name].abs().double() for name in k.sources)) for k in structures[stage.name])
                event = add_up(arrived, stage.name)
                out, after = out * (event > 0), torch.where(event > 0, after, s.v)
            s.v, s.y = after, s.y + out
            spikes[stage.name] = out.to(torch.float32)
            s.fired += spikes[stage.name].abs()
            active |= out.flatten(1).any(1)
        if t >= window:
            if not bool(active.any()):
                break
            extra[active] = t + 1 - window
        t += 1
    return _result(network, integers, name, states, extra)


def _structures(network: Network, stage: Stage) -> list[Synapse]:
    return [k.structure(*(network.shapes[name] for name in k.sources)) for k in stage.synapses]


def _result(network: Network, integers: Tensor, name: str, states: list[_State], extra: Tensor) -> RunResult:
    read = {s.name for s in network.output_stages}
    return make_result(
        network,
        integers,
        backend="baseline",
        phase=name,
        record="counts",
        counts={s.stage.name: s.y for s in states},
        membranes={s.stage.name: s.v for s in states},
        sent={s.stage.name: emitted(s.fired, s.y, network.fan_out[s.stage.name]) for s in states},
        extra_steps=extra,
        values={s.stage.name: s.z / s.threshold * s.stage.scale for s in states if s.stage.name in read},
    )
