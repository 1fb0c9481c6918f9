"""Lowering: a Ca-LIF network in stock NIR nodes alone, which other simulators and chips know.

::

    s = converters.lower(g, target="chain")       # exact: Affine, Conv2d and LIF nodes, with feedback edges
    converters.write("stock.nir", s)              # nir.read in any simulator

Targets: ``chain`` and ``primitives`` are exact, with rounding phase, gate and ceiling; ``plain_if`` is one IF per
neuron, and loses what its report says. Maxima become pairs of layers (:mod:`converters.lowering.maxima`); other
operations that remember counts have no form in stock nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import nir

from converters.errors import ConversionError
from converters.lowering.lattice import LayerLattice, certify, with_lattice
from converters.lowering.maxima import spelled_out
from converters.network import Network

__all__ = ["TARGETS", "certify", "lattice_network", "lower"]

# name: (module, function (network, lattices) -> graph)
TARGETS: dict[str, tuple[str, str]] = {
    "chain": ("converters.lowering.chain", "chain"),
    "primitives": ("converters.lowering.primitives", "primitives"),
    "plain_if": ("converters.lowering.plain_if", "plain_if"),
}

_OWN = {"plain_if": {"r"}}


def lower(
    graph: nir.NIRGraph | Network, target: str = "chain", *, bits: int | dict[str, int] | None = None, **own: Any
) -> nir.NIRGraph:
    """A Ca-LIF network in stock NIR nodes.

    Parameters
    ----------
    graph : nir.NIRGraph
        From :func:`converters.to_nir` or :func:`converters.read`.
    target : {"chain", "primitives", "plain_if"}
    bits : int or dict of layer name to int, optional
        Fractional bits of the integer lattice; by default the fewest that can be certified, layer by layer.
        ``plain_if`` has none.
    **own
        Options of one target (``r`` of ``plain_if``).

    Returns
    -------
    nir.NIRGraph
        Of an exact target: fed with input spikes for T steps and with silence after that, it emits at every step
        the signed spikes of ``lattice_network(graph)``, whose final counts equal the graph's own. ``plain_if``
        loses what its ``calif_lost`` says. The ``metadata`` say how the graph was made: ``calif_target``,
        ``calif_window``, ``calif_precision`` (bits of the floats that hold it exactly: 32 or 64),
        ``calif_layers`` and ``calif_nodes`` (names of the layers, and of the nodes that emit their signed spikes,
        separated by commas).

    Raises
    ------
    ConversionError
        For an unknown target, or a layer that the target cannot hold: with its name, its channel and the bits needed.

    Examples
    --------
    >>> import converters, torch
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> w = Linear(torch.tensor([[1, 2]]))
    >>> y = b.layer("fc", [(x, w)], threshold=3.1, bias=1.3, y_min=0, y_max=4, scale=1.0)
    >>> stock = lower(converters.to_nir(b.build(y), T=4))
    >>> sorted({type(node).__name__ for node in stock.nodes.values()})
    ['Affine', 'Input', 'LIF', 'Output']
    """
    if target not in TARGETS:
        raise ConversionError("target", f"{target!r}", f"use one of {', '.join(TARGETS)}")
    module, name = TARGETS[target]
    function: Callable[[Network, dict[str, LayerLattice]], Any] = getattr(import_module(module), name)
    network = spelled_out(Network.from_graph(graph))
    if set(own) - _OWN.get(target, set()):
        raise ConversionError("options", f"{sorted(own)}", f"target {target} takes {sorted(_OWN.get(target, set()))}")
    if target == "plain_if":
        return function(network, {}, **own)
    lattices = certify(network, bits=bits)
    return function(with_lattice(network, lattices), lattices, **own)


def lattice_network(graph: nir.NIRGraph | Network, *, bits: int | dict[str, int] | None = None) -> Network:
    """The Ca-LIF network that a lowered one equals spike for spike: ``graph`` on its shortest certified lattice.

    Its final counts are those of ``graph``; single spikes inside the window may come at another step, since its
    thresholds and leaks are rounded, and maxima are sums of layers. :func:`converters.run` takes it like any graph.
    """
    network = spelled_out(Network.from_graph(graph))
    return with_lattice(network, certify(network, bits=bits))
