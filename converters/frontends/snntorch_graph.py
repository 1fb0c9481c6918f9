"""Layers of PyTorch and Ca-LIF neurons that follow each other, as a NIR graph."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import nir
import numpy as np
from torch import nn

from calif_plugins.snntorch import CaLIF as Neuron
from converters.errors import ConversionError
from converters.frontends.snntorch_batch_norm import folded
from converters.frontends.snntorch_chain import Chain
from converters.graphs.naming import Names
from converters.network import Network
from converters.nodes import CaLIF, SpikeEncoder
from converters.operations import Shape

__all__ = ["graph_of"]


def graph_of(
    modules: Sequence[tuple[str, nn.Module]],
    input_shape: Sequence[int],
    T: int,
    *,
    scale: float | None,
    levels: int | None,
    signed: bool,
) -> nir.NIRGraph:
    """The graph of modules that follow each other, each with the name that errors give it. It is not compared yet.

    Neurons keep their names, made safe and told apart (:class:`converters.graphs.naming.Names`).
    """
    levels = T if levels is None else levels
    scale = 1 / T if scale is None else scale
    shape = tuple(int(n) for n in input_shape)
    names = Names()
    modules = folded(modules)
    own = [names.take(path) if type(module) is Neuron else "" for path, module in modules]
    source, sink, before = names.take("image"), names.take("result"), names.take("input")
    nodes: dict[str, nir.NIRNode] = {source: nir.Input(input_type={"input": np.array(shape)})}
    nodes[before] = SpikeEncoder(np.array(shape), scale, -levels if signed else 0, levels, T)
    edges = [(source, before)]
    chain, last = Chain(shape), ""
    seen: dict[int, str] = {}
    for name, (path, module) in zip(own, modules, strict=True):
        if type(module) is not Neuron:
            chain.add(path, module)
            continue
        if id(module) in seen:
            raise ConversionError(
                path, f"the same neuron as {seen[id(module)]}, so that both share one state", "give each place its own"
            )
        seen[id(module)] = path
        for k, op in enumerate(chain.ops):
            here = names.take(f"{name}.s0.{k}_{type(op).__name__.lower()}")
            nodes[here] = op.to_node(shape)
            edges.append((before, here))
            before, shape = here, op.output_shape(shape)
        edges.append((before, name))
        nodes[name] = _neuron(path or "model", module, chain, shape, T)
        before, chain, last = name, Chain(shape), path or "model"
    if not last or chain.ops:
        raise ConversionError(chain.path or "model", "no Ca-LIF layer at the end", "end the model with one")
    nodes[sink] = nir.Output(output_type={"output": np.array(shape)})
    edges.append((before, sink))
    graph = nir.NIRGraph(nodes=nodes, edges=edges, metadata={}, type_check=False)
    Network.from_graph(graph)  # says now what would be wrong with it later
    return graph


def _neuron(path: str, module: Neuron, chain: Chain, shape: Shape, window: int) -> CaLIF:
    if not module.init_hidden:
        raise ConversionError(path, "a CaLIF that keeps no state between steps", "set its init_hidden to True")
    if module.window not in (None, window):
        raise ConversionError(path, f"a neuron that rounds after {module.window} steps", f"the window is {window}")
    if module.dense and len(shape) > 1:
        raise ConversionError(path, "a row of thresholds behind maps", "give them shape (C, 1, 1)")
    p = module.parameters_of_neuron()
    low, high = float(p.y_min.min()), float(p.y_max.max())
    if low != float(p.y_min.max()) or high != float(p.y_max.min()):
        raise ConversionError(path, "a calcium range per channel", "NIR's CaLIF has one for the layer")
    bias = chain.bias_of_rows.numpy()
    leaks = [Fraction(float(a)) - Fraction(float(b)) for a, b in np.broadcast(np.atleast_1d(p.leak), bias)]
    bound = 2**31 - 1  # no count comes near it
    return CaLIF(
        shape=np.array(shape),
        v_threshold=_in_units(p.threshold, chain.unit),
        leak=_in_units(leaks, chain.unit),
        v_init=_in_units(p.v_init, chain.unit),
        y_min=int(max(low, -bound)),
        y_max=int(min(high, bound)),
        tie=p.tie,
        window=window,
        scale=1.0,
    )


def _in_units(values: Any, unit: Fraction) -> np.ndarray:
    """Real values in units of charge: one exact division each, and one rounding to float64."""
    return np.array([float(Fraction(v) / unit) for v in np.atleast_1d(values).tolist()])
