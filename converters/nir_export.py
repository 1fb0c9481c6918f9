"""QuantGraph to NIR: one CaLIF node per layer, stock nodes for its synapses (equations 4 to 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from converters.errors import ConversionError
from converters.lattice import Certificate, fit
from converters.nodes import CaLIF, SpikeEncoder
from converters.quantised import Layer, QuantGraph
from converters.synapses import Conv2d, Flatten, Linear, Op, Scale, Shape, SumPool2d

__all__ = ["certify", "op_node", "to_nir"]

_DT: Any = np.float32  # of weights: whole numbers, exact up to 2^24, and what other readers expect


def to_nir(q: QuantGraph, T: int | None = None, *, coding: str = "isi", bits: int | None = None) -> nir.NIRGraph:
    """The Ca-LIF network that ends on the quantised network's integers.

    Parameters
    ----------
    q : QuantGraph
    T : int, optional
        Window in steps; by default the number of levels, for coding ``direct`` of the layers alone. Below that,
        every scale grows by ``levels / T`` (see :meth:`QuantGraph.at_window`) and the counts equal that network's
        integers.
    coding : {"isi", "direct", "auto"}
        Input spikes, or the first layer's charge spread evenly over the window; ``auto``: spikes, unless the input
        has more levels than the window has steps and the layers have not.
    bits : int, optional
        Fractional bits of thresholds and leaks; by default as many as exact float64 sums allow.

    Returns
    -------
    nir.NIRGraph

    Raises
    ------
    ConversionError
        If T < 1, or a channel cannot be certified to round on the lattice as it does exactly.

    Examples
    --------
    >>> from converters.quantised import GraphBuilder
    >>> import torch
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=1.0, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.tensor([[1, 2]])))], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=1.0)
    >>> g = to_nir(b.build(y), T=4)
    >>> g.nodes["fc"].v_threshold, g.nodes["fc"].leak
    (array([3.]), array([-0.25]))
    """
    if coding == "auto":
        coding = q.coding_for(T)
    window = q.levels_of(coding) if T is None else T
    q = q.at_window(window, coding)
    window = int(window)
    nodes: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    image = _free("image", q)
    nodes[image] = nir.Input(input_type={"input": np.array(q.input.shape)})
    nodes[q.input.name] = SpikeEncoder(
        np.array(q.input.shape), q.input.scale, q.input.q_min, q.input.q_max, window, coding
    )
    edges.append((image, q.input.name))
    shapes = q.shapes
    certificates = certify(q, bits=bits)
    for layer in q.layers:
        for k, synapse in enumerate(layer.synapses):
            before, shape = synapse.source, shapes[synapse.source]
            for j, op in enumerate(synapse.ops):
                name = f"{layer.name}.s{k}.{j}_{type(op).__name__.lower()}"
                nodes[name] = op_node(op, shape)
                edges.append((before, name))
                before, shape = name, op.output_shape(shape)
            edges.append((before, layer.name))
        nodes[layer.name] = _neuron(layer, certificates[layer.name], window)
    result = _free("result", q)
    nodes[result] = nir.Output(output_type={"output": np.array(q.output.shape)})
    edges.append((q.output.name, result))
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata={}, type_check=False)  # its shapes are wrong for groups


def certify(q: QuantGraph, *, bits: int | None = None) -> dict[str, Certificate]:
    """The lattice certificate of every layer, by name (see :mod:`converters.lattice`)."""
    return {layer.name: fit(layer, q.reach(layer), bits=bits) for layer in q.layers}


def _neuron(layer: Layer, certificate: Certificate, window: int) -> CaLIF:
    unit = 2.0**-certificate.bits
    leak = np.round(-certificate.bias / window / unit) * unit
    return CaLIF(
        shape=np.array(layer.shape),
        v_threshold=certificate.threshold,
        leak=leak,
        v_init=certificate.bias + window * leak,  # what does not divide into T lattice steps
        y_min=layer.y_min,
        y_max=layer.y_max,
        tie=layer.tie,
        window=window,
        scale=layer.scale,
    )


def op_node(op: Op, shape: Shape) -> nir.NIRNode:
    """The stock NIR node of one linear operation on an input of ``shape``."""
    return _TO_NODE[type(op)](op, shape)


def _free(name: str, q: QuantGraph) -> str:
    while name in q.shapes:
        name = f"{name}_"
    return name


def _weights(op: Conv2d | Linear) -> np.ndarray:
    if op.weight.numel() and int(op.weight.abs().max()) >= 2**24:
        raise ConversionError(type(op).__name__, "weights of more than 24 bits", "float32 cannot hold them exactly")
    return op.weight.cpu().numpy().astype(_DT)


def _conv(op: Conv2d, shape: Shape) -> nir.NIRNode:
    return nir.Conv2d(
        input_shape=np.array(shape[1:]),
        weight=_weights(op),
        stride=np.array(op.stride),
        padding=np.array(op.padding),
        dilation=np.array(op.dilation),
        groups=op.groups,
        bias=np.zeros(op.weight.shape[0], dtype=_DT),
    )


def _pool(op: SumPool2d, shape: Shape) -> nir.NIRNode:
    return nir.SumPool2d(kernel_size=np.array(op.kernel), stride=np.array(op.stride), padding=np.array(op.padding))


_TO_NODE: dict[type, Callable[[Any, Shape], nir.NIRNode]] = {
    Conv2d: _conv,
    Linear: lambda op, shape: nir.Linear(weight=_weights(op)),
    SumPool2d: _pool,
    Flatten: lambda op, shape: nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1),
    Scale: lambda op, shape: nir.Scale(scale=np.full(shape, op.weight, dtype=np.float64)),
}
