"""Target ``primitives``: Ca-LIF in I, Threshold, Scale and Affine (or Conv2d) nodes, exact.

Every signal of a layer is a node of the layer's own shape, and sums are edges that meet, so beside its synapses a
layer of n neurons costs a few times n numbers, not n squared (its constants come from an Affine with zero
weights: NIR has no source). The soft reset and the count are feedback edges, which executors delay by one step.
Names sort in the order of computation. Per layer::

    a  synapses: the charge, minus the leak            g  V: an I, which the reset (q) feeds back into
    b  a constant 1, and c its I: the layer's clock    j  V against the thresholds, both signs
    d  "not the first step", "the window is over"      k  y: an I of the spikes before; m: the gate
    f  leak and initial membrane, undone by d          n  the AND of j and m: positive, negative spike
    i  thresholds halved by d                          p  the signed spike, the layer's output

``I`` integrates ``r x`` with ``r dt = 1``; ``Threshold`` is 1 above its threshold, 0 below; all thresholds lie halfway
between the whole numbers that are compared. NIRTorch runs such a graph with a map of four entries
(:func:`torch_map`), since its own map for ``Affine`` loses the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from converters.lowering.lattice import LayerLattice
from converters.lowering.metadata import numbered, output_nodes, stock_metadata
from converters.lowering.rows import DT, RowMap, Rows
from converters.lowering.syn import network_shape, require_spikes, synapse_nodes
from converters.network import Network, Stage

__all__ = ["primitives", "torch_map"]


def primitives(network: Network, lattices: dict[str, LayerLattice]) -> nir.NIRGraph:
    """The network in stock nodes (see the module's text)."""
    require_spikes(network)
    most = max(int(k.largest.max()) for k in lattices.values())
    builder = _Builder(network, lattices)
    for k, stage in enumerate(network.stages):
        builder.layer(numbered("l", k, len(network.stages), least=3), stage)
    return builder.finish(32 if most < 2**23 else 64)


class _Builder:
    def __init__(self, network: Network, lattices: dict[str, LayerLattice]) -> None:
        self.network, self.lattices = network, lattices
        spec = network.spec
        self.maps = len(spec.shape) == 3
        shape = network_shape(spec.shape, self.maps)
        self.nodes: dict[str, nir.NIRNode] = {"input": nir.Input(input_type={"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.outputs, self.shapes = {network.encoder_name: "input"}, {network.encoder_name: shape}

    def layer(self, prefix: str, stage: Stage) -> None:
        k, window = self.lattices[stage.name], self.network.window
        shape = network_shape(stage.shape, self.maps)
        rows = Rows({"v": stage.shape[0]})
        syn = synapse_nodes(
            f"{prefix}_a", stage, self.outputs, self.shapes, self.network.shapes, rows, 2.0**k.bits, k.v_init - k.leak
        )
        self.nodes |= syn.nodes
        self.edges += syn.edges

        def full(value: Any) -> np.ndarray:  # one value for each neuron
            value = np.asarray(value, dtype=np.float64)
            return np.broadcast_to(value.reshape(-1, *(1,) * (len(shape) - 1)), shape).copy()

        def put(name: str, node: nir.NIRNode, *sources: str) -> None:
            self.nodes[f"{prefix}_{name}"] = node
            self.edges += [(s if s in syn.ends else f"{prefix}_{s}", f"{prefix}_{name}") for s in sources]

        def scale(name: str, value: Any, *sources: str) -> None:
            put(name, nir.Scale(scale=full(value)), *sources)

        def above(name: str, value: Any, *sources: str) -> None:
            put(name, nir.Threshold(threshold=full(value)), *sources)

        def integral(name: str, *sources: str) -> None:
            put(name, nir.I(r=full(1 / DT)), *sources)

        one = RowMap(rows, rows)
        one.add("v", 1)
        put("b_one", one.node(f"{prefix}_b_one", shape), syn.ends[0])
        integral("c_clock", "b_one")
        above("d_late", 1.5, "c_clock")
        above("d_over", window + 0.5, "c_clock")
        scale("f_start", -k.v_init, "d_late")  # the initial membrane stays at the first step alone
        scale("f_leak", k.leak, "d_over")
        charge = [*syn.ends, "f_start", "f_leak"]
        if stage.readout:
            integral("g_v", *charge)
            scale("p_out", 2.0**-k.bits, "g_v")
        else:
            integral("g_v", *charge, "q_reset")
            self._fire(stage, k, scale, above, integral)
            scale("q_reset", -k.threshold, "p_out")
        self.outputs[stage.name], self.shapes[stage.name] = f"{prefix}_p_out", shape

    def _fire(
        self,
        stage: Stage,
        k: LayerLattice,
        scale: Callable[..., None],
        above: Callable[..., None],
        integral: Callable[..., None],
    ) -> None:
        p = stage.parameters
        even = bool(k.ties.any()) and p.tie == "even"
        half = k.threshold // 2
        scale("h_minus", -1, "g_v")
        if even or p.tie == "up":
            scale("i_half", half, "d_over")
        scale("i_strict", half - 1, "d_over")  # strictly more than half a threshold
        integral("k_y", "n_up", "o_minus")
        scale("l_minus", -1, "k_y")
        above("m_up", -(float(np.min(p.y_max)) - 0.5), "l_minus")
        above("m_down", float(np.min(p.y_min)) + 0.5, "k_y")
        for side, v in (("up", "g_v"), ("down", "h_minus")):
            takes_tie = p.tie == "up" and side == "up"
            above(f"j_{side}", k.threshold - 0.5, v, "i_half" if takes_tie else "i_strict")
            if not even:
                above(f"n_{side}", 1.5, f"j_{side}", f"m_{side}")
                continue
            above(f"j_{side}_tie", k.threshold - 0.5, v, "i_half")
            scale(f"m_{side}_twice", 2, f"m_{side}")
            above(f"n_{side}", 3.5, f"j_{side}", f"j_{side}_tie", "k_odd", f"m_{side}_twice")
            above(f"n_{side}_odd", 2.5, f"j_{side}_tie", "k_odd", f"m_{side}")
            scale(f"o_{side}_odd", -2, f"n_{side}_odd")
        if even:
            integral("k_odd", "n_up", "n_down", "o_up_odd", "o_down_odd")
        scale("o_minus", -1, "n_down")
        scale("p_out", 1, "n_up", "o_minus")

    def finish(self, precision: int) -> nir.NIRGraph:
        output_nodes(self.network, self.outputs, self.shapes, self.nodes, self.edges)
        metadata = stock_metadata("primitives", self.network, precision, self.outputs)
        nodes = {name: self.nodes[name] for name in sorted(self.nodes)}
        return nir.NIRGraph(nodes=nodes, edges=self.edges, metadata=metadata, type_check=False)


# --- the map of four entries ----------------------------------------------------------------------


class _Integrator(torch.nn.Module):
    """``state + r dt x``."""

    step: Tensor

    def __init__(self, node: nir.I, dt: float) -> None:
        super().__init__()
        self.register_buffer("step", torch.from_numpy(np.asarray(node.r) * dt))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = self.step * x if state is None else state + self.step * x
        return state, state


class _Elementwise(torch.nn.Module):
    value: Tensor

    def __init__(self, value: Any, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("value", torch.from_numpy(np.asarray(value)))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.value)


def _affine(node: nir.Affine) -> torch.nn.Linear:
    module = torch.nn.Linear(node.weight.shape[1], node.weight.shape[0])
    module.weight.data, module.bias.data = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    return module


def torch_map(dt: float = DT) -> dict[type, Callable[[Any], torch.nn.Module]]:
    """What ``nirtorch.nir_to_torch`` needs to run target ``primitives``: one module for each of four nodes.

    Examples
    --------
    >>> import converters, nirtorch, torch
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> w = Linear(torch.tensor([[1, 2]]))
    >>> y = b.layer("fc", [(x, w)], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=1.0)
    >>> stock = converters.lower(converters.to_nir(b.build(y), T=4), target="primitives")
    >>> net, state, spikes = nirtorch.nir_to_torch(stock, torch_map()), None, []
    >>> for step in ([1, 0], [1, 1], [1, 0], [1, 1], [0, 0], [0, 0]):
    ...     out, state = net(torch.tensor([step], dtype=torch.float32), state)
    ...     spikes.append(int(out))
    >>> spikes  # round((1*4 + 2*2 + 1) / 3) of them
    [0, 1, 1, 1, 0, 0]
    """
    return {
        nir.Affine: _affine,
        nir.I: lambda node: _Integrator(node, dt),
        nir.Threshold: lambda node: _Elementwise(node.threshold, lambda x, value: (x > value).to(x.dtype)),
        nir.Scale: lambda node: _Elementwise(node.scale, torch.mul),
    }
