"""Target ``plain_if``: one stock IF per neuron, as a naive export would write it. Lossy, and says what is lost.

Weights and leak are divided by the threshold, which becomes 1. What a stock IF has no field for is gone, and what the
rest means differs between simulators; :data:`LOST` says it in words, and
:func:`converters.interop.losses.plain_if_losses` measures it on images.
"""

from __future__ import annotations

import nir
import numpy as np

from converters.lowering.lattice import LayerLattice
from converters.lowering.metadata import numbered, output_nodes, stock_metadata
from converters.lowering.rows import DT, Rows
from converters.lowering.syn import network_shape, require_spikes, synapse_nodes
from converters.network import Network

__all__ = ["LOST", "LOST_IN", "plain_if"]

LOST = (
    "no negative spikes, so no correction of early ones",
    "no ceiling of the count",
    "no rounding phase: what is left in the membrane at the end of the window is lost",
    "the leak does not end with the window",
)
"""What a stock IF cannot say, in any simulator."""
LOST_IN = {
    "spikingjelly": "hard reset: a spike also throws away what lies above the threshold",
    "norse": "hard reset, as in spikingjelly; fires above the threshold, not at it",
    "sinabs": "soft reset, but several spikes in one step, and membranes are cut off at minus the threshold",
    "snntorch": "an IF becomes a Leaky that forgets a tenth of its membrane at every step",
}
"""What the importer of each simulator makes of an IF, beyond that."""


def plain_if(network: Network, _lattices: dict[str, LayerLattice], *, r: float = 1 / DT) -> nir.NIRGraph:
    """One IF per neuron.

    ``r`` is the resistance of every IF: ``1 / dt`` adds the input once per step, as SpikingJelly demands;
    snnTorch demands 1; others ignore it.
    """
    require_spikes(network)
    maps = len(network.spec.shape) == 3
    shape = network_shape(network.spec.shape, maps)
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input(input_type={"input": np.array(shape)})}
    edges: list[tuple[str, str]] = []
    outputs, shapes = {network.encoder_name: "input"}, {network.encoder_name: shape}
    for k, stage in enumerate(network.stages):
        prefix, p, channels = numbered("l", k, len(network.stages), least=3), stage.parameters, stage.shape[0]
        threshold = np.broadcast_to(p.threshold, (channels,))
        bias = -(np.broadcast_to(p.leak, (channels,)) - np.broadcast_to(p.v_init, (channels,)) / network.window)
        shape = network_shape(stage.shape, maps)
        syn = synapse_nodes(
            f"{prefix}_a",
            stage,
            outputs,
            shapes,
            network.shapes,
            Rows({"v": channels}),
            1 / threshold,
            bias / threshold,
            exact=False,
        )
        nodes |= syn.nodes
        edges += syn.edges
        outputs[stage.name], shapes[stage.name] = f"{prefix}_i_if", shape
        if stage.readout:  # the reader adds the charges up
            one = np.eye(channels, dtype=np.float32)
            nodes[f"{prefix}_i_if"] = (
                nir.Conv2d(shape[1:], one[:, :, None, None], (1, 1), (0, 0), (1, 1), 1, np.zeros(channels, np.float32))
                if maps
                else nir.Affine(one, np.zeros(channels, np.float32))
            )
        else:
            nodes[f"{prefix}_i_if"] = nir.IF(
                r=np.full(shape, float(r)), v_threshold=np.ones(shape), v_reset=np.zeros(shape)
            )
        edges += [(end, f"{prefix}_i_if") for end in syn.ends]
    output_nodes(network, outputs, shapes, nodes, edges)
    metadata = stock_metadata("plain_if", network, 32, outputs) | {"calif_lost": "; ".join(LOST)}
    return nir.NIRGraph(nodes={n: nodes[n] for n in sorted(nodes)}, edges=edges, metadata=metadata, type_check=False)
