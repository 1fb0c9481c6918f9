"""QuantGraph to NIR: one CaLIF node per layer, stock nodes for its synapses (equations 4 to 6)."""

from __future__ import annotations

import json
from dataclasses import replace

import nir
import numpy as np

from converters.errors import ConversionError
from converters.graphs.naming import LONGEST, Names
from converters.lattice import Certificate, fit
from converters.nodes import CaLIF, SpikeEncoder
from converters.operations import Scale
from converters.ports.metadata import ports_metadata
from converters.ports.outputs import places
from converters.quantised import Layer, QuantGraph

__all__ = ["certificates", "to_nir"]


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
    >>> import torch
    >>> from converters.operations import Linear
    >>> from converters.quantised import GraphBuilder
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=1.0, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.tensor([[1, 2]])))], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=1.0)
    >>> g = to_nir(b.build(y), T=4)
    >>> g.nodes["fc"].v_threshold, g.nodes["fc"].leak
    (array([3.]), array([-0.25]))
    """
    if not isinstance(q, QuantGraph):
        raise ConversionError("q", type(q).__name__, "give a quantised network, as from_pt2e returns it")
    if coding == "auto":
        coding = q.coding_for(T)
    window = q.levels_of(coding) if T is None else T
    q = q.at_window(window, coding)
    window = int(window)
    nodes: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    names = Names(q.shapes)  # layers keep theirs, whatever the nodes between them would be called
    for spec in q.inputs:
        image = names.new("image" if len(q.inputs) == 1 else f"image.{spec.name}")
        nodes[image] = nir.Input(input_type={"input": np.array(spec.shape)})
        table = None if spec.table is None else spec.table.rows.numpy()
        nodes[spec.name] = SpikeEncoder(np.array(spec.shape), spec.scale, spec.q_min, spec.q_max, window, coding, table)
        edges.append((image, spec.name))
    shapes = q.shapes
    certified = certificates(q, bits=bits)
    for layer in q.layers:
        direct: set[str] = set()
        for k, synapse in enumerate(layer.synapses):
            before, here = synapse.sources, tuple(shapes[name] for name in synapse.sources)
            ops = synapse.ops
            if not ops and before[0] in direct:  # edges are a set: a source that comes twice would come once
                ops = (Scale(1),)
            elif not ops:
                direct.add(before[0])
            for j, op in enumerate(ops):
                name = names.new(f"{layer.name[: LONGEST - 40]}.s{k}.{j}_{type(op).__name__.lower()}")
                nodes[name] = op.to_node(*here)
                if len(before) > 1:
                    nodes[name] = replace(nodes[name], sources=json.dumps(before))
                edges += [(source, name) for source in dict.fromkeys(before)]
                before, here = (name,), (op.output_shape(*here),)
            edges.append((before[0], layer.name))
        nodes[layer.name] = _neuron(layer, certified[layer.name], window)
    seen: set[str] = set()
    for place, output in places(q.outputs):
        if output.layer not in seen:  # one node for each layer that is read
            seen.add(output.layer)
            result = names.take(".".join(["result", *map(str, place)]))
            nodes[result] = nir.Output(output_type={"output": np.array(shapes[output.layer])})
            edges.append((output.layer, result))
    # NIR's own check of shapes is wrong for groups
    metadata = ports_metadata([spec.name for spec in q.inputs], q.outputs)
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)


def certificates(q: QuantGraph, *, bits: int | None = None) -> dict[str, Certificate]:
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
