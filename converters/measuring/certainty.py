"""After how many steps a class is certain: the exact rule to stop, by intervals.

By the theorem the final counts are functions of the input's integers alone. So whatever the neurons have sent by step
``t``, the class can still change if and only if two images whose spikes are the same up to ``t`` get different
classes: no rule that is exact can stop before that, and one that stops then loses nothing. Which integers an input can
still have follows from its coding, and the rest is interval arithmetic on the closed form, layer by layer: a sum of
counts within bounds is within bounds, and ``clip(round(z / Vth))`` never decreases. The intervals hold every network
result that is still possible, so a class whose lowest value is above the highest of all others is the final one. They
may hold more, so the rule may stop later than it could.

With the last step of the window the integers are known, and the intervals are points: the rule stops there at the
latest, and the rounding phase is saved. It has to be computed beside the network: two sums for each synapse, each time
that it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import nir
import torch
from torch import Tensor

from converters.backends.closed_form import final_counts, net_charge
from converters.errors import ConversionError
from converters.exact.sums import exact
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage
from converters.ports.inputs import Batches

__all__ = ["certain_after", "possible_outputs"]

Bounds = tuple[Tensor, Tensor]


@torch.no_grad()
@exact
def certain_after(
    graph: nir.NIRGraph | Network, images: Batches | None = None, *, integers: Batches | None = None
) -> tuple[Tensor, Tensor]:
    """After how many steps of the window each image's class cannot change any more, and the class.

    Parameters
    ----------
    graph : nir.NIRGraph or Network
        A classifier: its main output has a value for each class.
    images, integers
        As :func:`converters.run` takes them.

    Returns
    -------
    steps : int64 tensor ``(N,)``
        From 0, where it was certain before any spike, to the window's length.
    classes : int64 tensor ``(N,)``
        Arg-max of the main output after the rounding phase; of equal ones the first.

    Examples
    --------
    >>> import converters
    >>> from converters.operations import Linear
    >>> from converters.quantised import GraphBuilder
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=1.0, q_min=0, q_max=8)
    >>> y = b.layer("fc", [(x, Linear(torch.eye(2, dtype=torch.int8)))], threshold=1.0, y_min=0, y_max=8, scale=1.0)
    >>> g = converters.to_nir(b.build(y), T=8)
    >>> certain_after(g, integers=torch.tensor([[8, 0], [0, 1], [0, 0]]))
    (tensor([1, 8, 8]), tensor([0, 1, 0]))
    """
    network = Network.from_graph(graph)
    if len(network.output.shape) != 1 or network.output.size < 2:
        raise ConversionError(
            network.output.name, f"an output of shape {network.output.shape}", "give a network with a value for a class"
        )
    given = network.accept(images, integers)
    steps, classes = [], []
    for one in given.split(1):
        known = _Known(network, one)
        low, high = -1, network.window - 1
        while high - low > 1:  # what is certain stays certain
            middle = (low + high) // 2
            decided = _decided(*_outputs(network, known, middle)) is not None
            low, high = (low, middle) if decided else (middle, high)
        if high == 0 and _decided(*_outputs(network, known, -1)) is not None:
            high = -1
        last = _outputs(network, known, network.window - 1)
        steps.append(high + 1)
        classes.append(int(last[0].argmax()))
    return torch.tensor(steps, dtype=torch.int64), torch.tensor(classes, dtype=torch.int64)


@torch.no_grad()
@exact
def possible_outputs(graph: nir.NIRGraph | Network, integers: Tensor, steps: int) -> Bounds:
    """Bounds of the main output's final values, as far as one image's spikes of the first ``steps`` steps say.

    Counts, or the membrane over its threshold where the output does not spike: two float64 tensors of its shape.
    ``integers`` are int ``(1, *input shape)``.
    """
    network = Network.from_graph(graph)
    return _outputs(network, _Known(network, network.accept(None, integers)), steps - 1)


class _Known:
    """What the first steps say of an image's integers: bounds after every step, which only become narrower."""

    def __init__(self, network: Network, integers: Tensor) -> None:
        source = InputSpikes(network, integers, torch.float64)
        self.network, self.direct = network, source.charges
        t = torch.arange(1, network.window + 1)
        if source.coded_directly:
            self.by_stage = {name: _charges(total[0], t) for name, total in source.charges.items()}
            self.counts = None
        else:
            trains = torch.stack([source.at(k)[0] for k in range(network.window)])
            self.counts = _integers(trains.to(torch.int64).cumsum(0), t)

    def inputs(self, t: int) -> dict[str, Bounds]:
        """Bounds of the inputs' integers after step ``t`` (from 0; -1: before the first), without batch."""
        specs = self.network.specs
        whole = {name: (_full(s.shape, s.q_min), _full(s.shape, s.q_max)) for name, s in specs.items()}
        if self.counts is None or t < 0:
            return whole
        low, high = (self.network.by_input(bound[t][None]) for bound in self.counts)
        return {
            name: (torch.maximum(low[name][0].double(), a), torch.minimum(high[name][0].double(), b))
            for name, (a, b) in whole.items()
        }

    def charge(self, stage: str, t: int) -> Bounds | None:
        """Bounds of the charge that directly coded inputs bring to a stage in all; None where it is not known."""
        if stage not in self.direct or t < 0:
            return None
        low, high = self.by_stage[stage]
        return low[t].double(), high[t].double()


def _integers(sent: Tensor, t: Tensor) -> Bounds:
    """Bounds of ``N`` from the signed counts ``sent`` ``(T, ...)`` up to each step: ``ceil((t + 1) |N| / T) - 1`` of
    them have come after ``t`` steps, if there is one at all (section 4.1)."""
    window = len(t)
    t = (t + 1).reshape(-1, *[1] * (sent.ndim - 1))
    size = sent.abs()
    least = torch.where(size > 0, size * window // t + 1, 0).cummax(0).values
    most = ((size + 1) * window // t).cummin(0).values
    sign = sent.sign()
    low = torch.where(sign > 0, least, -most)
    high = torch.where(sign < 0, -least, most)
    return low, high


def _charges(total: Tensor, t: Tensor) -> Bounds:
    """Bounds of a charge ``c`` ``(...)`` of which ``floor(t c / T)`` has come after ``t`` steps."""
    window = len(t)
    t = t.reshape(-1, *[1] * total.ndim)
    sent = torch.div(t * total, window, rounding_mode="floor")
    low = -torch.div(-sent * window, t, rounding_mode="floor")
    high = -torch.div(-(sent + 1) * window, t, rounding_mode="floor") - 1
    return low.cummax(0).values, high.cummin(0).values


def _outputs(network: Network, known: _Known, t: int) -> Bounds:
    """Bounds of the main output's values after step ``t``."""
    bounds = known.inputs(t)
    for stage in network.stages:
        low, high = _arriving(network, stage, bounds, known.charge(stage.name, t))
        if stage is network.output and stage.readout:
            (z, threshold), (top, _) = net_charge(network, stage, low[None]), net_charge(network, stage, high[None])
            return (z / threshold)[0], (top / threshold)[0]
        ends = tuple(final_counts(network, stage, bound[None])[0].double() for bound in (low, high))
        bounds[stage.name] = ends[0], ends[1]
        if stage is network.output:
            break
    return bounds[network.output.name]


def _arriving(network: Network, stage: Stage, bounds: Mapping[str, Bounds], direct: Bounds | None) -> Bounds:
    """Bounds of the whole charge of a stage."""
    low = high = torch.zeros(stage.shape, dtype=torch.float64)
    if direct is not None:
        low, high = direct
    for synapse in stage.synapses:
        own = [bounds[name] for name in synapse.sources]
        if direct is not None and set(synapse.sources) <= set(network.specs):
            continue
        if all(torch.equal(a, b) for a, b in own):
            point = synapse(*(a[None] for a, _ in own))[0].double()
            low, high = low + point, high + point
        else:
            a, b = synapse.interval(*own)
            low, high = low + a, high + b
    return low, high


def _decided(low: Tensor, high: Tensor) -> int | None:
    """The class that is the arg-max whatever the values within their bounds; of equal ones the first wins."""
    best = int(low.argmax())
    before, behind = high[:best], high[best + 1 :]
    certain = bool((low[best] > before).all()) and bool((low[best] >= behind).all())
    return best if certain else None


def _full(shape: tuple[int, ...], value: int) -> Tensor:
    return torch.full(shape, float(value), dtype=torch.float64)
