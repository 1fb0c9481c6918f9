"""Ca-LIF graphs in other simulators, natively: each one's own node map and executor, and our neuron in it.

None of them has a public way to add a node to its map. What is private is used in the four functions at the end
of this file and nowhere else; ``tests/test_workarounds.py`` says when one of these names is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.interop.dialects import spell
from converters.interop.stock import DT, StockRun, run_module
from converters.nodes import CaLIF

__all__ = ["NATIVE", "native", "run_native"]

NodeMap = Callable[[Any], nn.Module | None]


def native(simulator: str, graph: nir.NIRGraph, *, batch: int = 1) -> tuple[nn.Module, dict[str, str]]:
    """A Ca-LIF graph as a module of one simulator.

    Parameters
    ----------
    simulator : {"snntorch", "norse", "spikingjelly", "sinabs"}
    graph : nir.NIRGraph
        From :func:`converters.to_nir` or :func:`converters.read`.
    batch : int
        Images at a time; only Sinabs wants to know.

    Returns
    -------
    module : nn.Module
        Called step by step, ``y, state = module(x, state)``, from ``state=None``; float64. ``x`` are the
        input spikes of one step, ``(batch, *input shape)``. The rounding phase begins by itself after the window.
    layers : dict
        Path of the submodule of each Ca-LIF layer, by the layer's name.

    Raises
    ------
    ConversionError
        For an unknown simulator, or a graph that is no Ca-LIF network.
    ImportError
        If the simulator is not installed.
    """
    if simulator not in NATIVE:
        raise ConversionError("simulator", f"{simulator!r}", f"use one of {', '.join(NATIVE)}")
    spelt, layers = spell(graph, simulator)
    return NATIVE[simulator](spelt, batch).to(torch.float64), layers


def run_native(simulator: str, graph: nir.NIRGraph, inputs: Tensor) -> StockRun:
    """Run a Ca-LIF graph natively.

    Parameters
    ----------
    simulator, graph
        As for :func:`native`.
    inputs : float tensor ``(steps, N, *input shape)``
        From :func:`converters.interop.feeding.expected`.

    Returns
    -------
    StockRun
        With the spikes of every Ca-LIF layer, by its name: int8 ``(steps, N, *layer shape)``.

    Raises
    ------
    CannotRun
        With the simulator's reason.
    ConversionError
        As for :func:`native`.
    """
    if simulator not in NATIVE:
        raise ConversionError("simulator", f"{simulator!r}", f"use one of {', '.join(NATIVE)}")
    _, layers = spell(graph, simulator)  # what is wrong with the graph is an error of ours
    batch = inputs.shape[1]
    result = run_module(
        simulator,
        simulator,
        lambda: native(simulator, graph, batch=batch)[0],
        inputs,
        list(layers.values()),
        dtype=torch.float64,
    )
    result.outputs = {name: result.outputs[path] for name, path in layers.items()}
    return result


def _joins(graph: nir.NIRGraph) -> bool:
    ends = [b for _, b in graph.edges]
    return len(set(ends)) != len(ends)


def _executor(graph: nir.NIRGraph, mapped: NodeMap) -> nn.Module:
    """nirtorch's older executor, which Norse and Sinabs use themselves; for graphs with joins its newer one.

    The older one walks depth first and would run a join before its second branch.
    """
    import nirtorch

    if not _joins(graph):
        return nirtorch.load(graph, mapped)
    kinds = {type(node) for node in graph.nodes.values()} - {nir.Input, nir.Output}
    return nirtorch.nir_to_torch(graph, dict.fromkeys(kinds, mapped), dtype=torch.float64)


def _snntorch(graph: nir.NIRGraph, _batch: int) -> nn.Module:
    import nirtorch
    from snntorch.import_nir import _nir_to_snntorch_module

    from calif_plugins.snntorch import CaLIF as Neuron

    stock = (nir.Affine, nir.Conv2d, nir.Flatten)  # of its importer's map; it leaves pools to nirtorch, as here
    node_map: dict[type, Callable[[Any], nn.Module]] = dict.fromkeys(stock, _nir_to_snntorch_module)
    node_map[CaLIF] = lambda n: Neuron.from_parameters(n.parameters, init_hidden=True, window=n.window)
    return nirtorch.nir_to_torch(graph, node_map, dtype=torch.float64)


def _norse(graph: nir.NIRGraph, _batch: int) -> nn.Module:
    from norse.torch.utils.import_nir import _import_norse_module

    from calif_plugins.norse import CaLIFCell

    def mapped(node: Any) -> nn.Module | None:
        return CaLIFCell(node.parameters, node.window) if type(node) is CaLIF else _import_norse_module(node)

    return _executor(graph, mapped)


def _spikingjelly(graph: nir.NIRGraph, _batch: int) -> nn.Module:
    import nirtorch
    from spikingjelly.activation_based.nir_exchange.from_nir import _NIRStatefulModule, _NodeMapper

    from calif_plugins.spikingjelly import CaLIFNode

    own = {CaLIF: lambda n: _NIRStatefulModule(CaLIFNode(n.parameters, n.window))}
    return nirtorch.nir_to_torch(graph, {**_NodeMapper(DT).map_dict, **own}, dtype=torch.float64)


def _sinabs(graph: nir.NIRGraph, batch: int) -> nn.Module:
    from sinabs.nir import _import_sinabs_module

    from calif_plugins.sinabs import CaLIFSqueeze

    def mapped(node: Any) -> nn.Module | None:
        if type(node) is CaLIF:
            return CaLIFSqueeze(node.parameters, node.window, batch_size=batch)
        return _import_sinabs_module(node, batch, None)

    return _executor(graph, mapped)


# simulator, which is also its distribution's name: function (spelt graph, batch) -> module
NATIVE: dict[str, Callable[[nir.NIRGraph, int], nn.Module]] = {
    "spikingjelly": _spikingjelly,
    "norse": _norse,
    "snntorch": _snntorch,
    "sinabs": _sinabs,
}
