"""What a lowered network is fed, step by step, and what its output spikes must be."""

from __future__ import annotations

from dataclasses import dataclass

import nir
import torch
from torch import Tensor

from converters.backends import run
from converters.errors import ConversionError
from converters.input_spikes import InputSpikes
from converters.lowering.metadata import layer_nodes
from converters.network import Network

__all__ = ["Expected", "expected", "input_spikes", "layer_nodes"]


@dataclass(frozen=True, eq=False)
class Expected:
    """What the reference simulation says, for N images.

    Attributes
    ----------
    inputs : float32 tensor ``(steps, N, *input shape)``
        Input spikes in {-1, 0, 1}: T steps, then silence until the network is quiet, and one step more.
    spikes : dict of int8 tensors ``(steps, N, *layer shape)``
        Signed spikes of every layer that fires, by its name.
    counts : dict of int32 tensors ``(N, *layer shape)``
    logits : float64 tensor ``(N, *output shape)``
    window : int
    """

    inputs: Tensor
    spikes: dict[str, Tensor]
    counts: dict[str, Tensor]
    logits: Tensor
    window: int

    @property
    def negative(self) -> int:
        """Negative spikes among them."""
        return sum(int((s < 0).sum()) for s in self.spikes.values())

    @property
    def positive(self) -> int:
        """Positive spikes."""
        return sum(int((s > 0).sum()) for s in self.spikes.values())


def input_spikes(graph: nir.NIRGraph | Network, integers: Tensor, steps: int) -> Tensor:
    """Input spikes of ``steps`` steps: float32 ``(steps, N, *input shape)``, silent after the window."""
    network = Network.from_graph(graph)
    if network.encoder.coding != "isi":
        raise ConversionError(network.encoder_name, "coding 'direct'", "lowered networks take spikes: use coding isi")
    source = InputSpikes(network, integers)
    return torch.stack([source.at(t) for t in range(steps)])


def expected(
    network: nir.NIRGraph | Network, images: Tensor | None = None, *, integers: Tensor | None = None
) -> Expected:
    """Run the step loop, which is exact, and say what a lowered network is to be fed and to answer.

    Give it ``lattice_network(graph)`` to compare with ``lower(graph)``.

    >>> import converters, torch
    >>> from converters.lowering import lattice_network
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> w = Linear(torch.tensor([[1, 2]]))
    >>> y = b.layer("fc", [(x, w)], threshold=3.1, bias=1.3, y_min=0, y_max=4, scale=1.0)
    >>> e = expected(lattice_network(converters.to_nir(b.build(y), T=4)), torch.tensor([[1.0, 0.5]]))
    >>> e.inputs[:, 0].tolist()
    [[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    >>> e.spikes["fc"][:, 0, 0].tolist()
    [0, 1, 1, 1, 0]
    """
    net = Network.from_graph(network)
    given = net.spec.quantise(images) if images is not None else integers
    if given is None:
        raise ConversionError("images", "neither images nor integers", "give one of them")
    r = run(net, integers=given, backend="snntorch", record="spikes")
    assert r.spikes is not None
    steps = len(r.spikes[net.encoder_name]) + 1
    spikes = {}
    for stage in net.stages:
        if not stage.readout:
            train = r.spikes[stage.name]
            spikes[stage.name] = torch.cat([train, train.new_zeros(1, *train.shape[1:])])
    return Expected(input_spikes(net, given, steps), spikes, r.counts, r.logits, net.window)
