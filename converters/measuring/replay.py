"""What a layer received and became, step by step, from recorded spike trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from converters.backends.charges import Charges
from converters.exact.sums import add_up
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage, float64

__all__ = ["charges", "outputs_by_step"]


def charges(
    network: Network, stage: Stage, trains: Mapping[str, Tensor], integers: Tensor, steps: int
) -> Iterator[Tensor]:
    """The charge that arrives at a layer in each of ``steps`` steps: float64 ``(N, *stage.shape)``.

    Parameters
    ----------
    network : Network
    stage : Stage
        One of its layers.
    trains : dict of int8 tensors ``(steps, N, *shape)``
        Spikes of all that feed it, by name.
    integers : int tensor ``(N, *input shape)``
        The input's integers, for an input that is coded directly.
    steps : int
    """
    arriving = Charges(network, stage, "float64", integers.device)
    source = InputSpikes(network, integers)
    feeding = {name for synapse in stage.synapses for name in synapse.sources}
    for t in range(steps):
        charge = arriving({name: trains[name][t] for name in feeding})
        direct = source.direct(stage.name, t)
        yield charge if direct is None else add_up((charge, direct), stage.name)


def outputs_by_step(network: Network, trains: Mapping[str, Tensor], integers: Tensor) -> Tensor:
    """The network's output after each step, ``(steps, N, *output shape)``.

    Counts, int64; or, of an output that does not spike, the membrane over its threshold, float64. Arguments are those
    of :func:`charges`.
    """
    stage = network.output
    if not stage.readout:
        return trains[stage.name].to(torch.int64).cumsum(0)
    p = stage.parameters.for_shape(stage.shape)
    threshold, leak = (float64(x, integers.device) for x in (p.threshold, p.leak))
    v = float64(p.v_init, integers.device).expand(len(integers), *stage.shape)
    rows = []
    steps = max(len(x) for x in trains.values())
    for t, charge in enumerate(charges(network, stage, trains, integers, steps)):
        v = v + charge - leak if t < network.window else v + charge
        rows.append(v / threshold)
    return torch.stack(rows)
