"""From a user's own snnTorch model with Ca-LIF layers to a NIR graph that every backend runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import nir
import numpy as np
import snntorch
import torch
from torch import Tensor, nn

from calif_plugins.snntorch import CaLIF as Neuron
from converters.errors import ConversionError
from converters.network import Network
from converters.nir_export import op_node
from converters.nodes import CaLIF, SpikeEncoder
from converters.synapses import Conv2d, Flatten, Linear, Op, Shape, SumPool2d

__all__ = ["from_snntorch"]

_BITS = 23  # of a weight, besides its sign: what float32 holds of the largest


def from_snntorch(
    model: nn.Module,
    input_shape: Sequence[int],
    T: int,
    *,
    scale: float = 1.0,
    levels: int | None = None,
    signed: bool = False,
) -> nir.NIRGraph:
    """The NIR graph of an ``nn.Sequential`` of synapses and :class:`calif_plugins.snntorch.CaLIF` layers.

    Parameters
    ----------
    model : nn.Sequential
        ``Linear``, ``Conv2d``, ``AvgPool2d``, ``Flatten``, ``Dropout``, ``Identity``, and ``CaLIF``; nested
        ``Sequential`` too. The last one is a ``CaLIF``.
    input_shape : sequence of int
        Of one image, without batch: ``(C, H, W)`` or ``(n,)``.
    T : int
        Window in steps.
    scale : float
        Real value of one input count: pixels are encoded as ``round(pixel / scale)`` spikes.
    levels : int, optional
        Largest input count; ``T`` by default.
    signed : bool
        Whether pixels may be negative.

    Returns
    -------
    nir.NIRGraph
        Weights in units of a power of two, per layer, so that they are whole numbers: exactly yours where yours have
        at most 23 bits below the largest one's leading bit, else rounded there. Biases join the leaks.

    Raises
    ------
    ConversionError
        Naming the module that has no place in such a network, and the way out.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), Neuron(threshold=1.0, y_max=4, init_hidden=True))
    >>> g = from_snntorch(net, (2,), T=4, scale=0.25)
    >>> sorted(g.nodes)
    ['_1', '_1.s0.0_linear', 'image', 'input', 'result']
    """
    levels = T if levels is None else levels
    shape = tuple(int(n) for n in input_shape)
    nodes: dict[str, nir.NIRNode] = {"image": nir.Input(input_type={"input": np.array(shape)})}
    nodes["input"] = SpikeEncoder(np.array(shape), scale, -levels if signed else 0, levels, T)
    edges = [("image", "input")]
    before, chain, last = "input", _Chain(), ""
    for path, module in _flat(model, ""):
        if type(module) is not Neuron:
            chain.add(path, module)
            continue
        name = path if path[:1].isalpha() else f"_{path}"
        for k, op in enumerate(chain.ops):
            here = f"{name}.s0.{k}_{type(op).__name__.lower()}"
            nodes[here] = op_node(op, shape)
            edges.append((before, here))
            before = here
            try:
                shape = op.output_shape(shape)
            except ConversionError as error:
                raise ConversionError(path, error.found, error.todo) from None
        edges.append((before, name))
        nodes[name] = _neuron(path, module, chain, shape, T)
        before, chain, last = name, _Chain(), path
    if not last or chain.ops:
        raise ConversionError(chain.path or "model", "no Ca-LIF layer at the end", "end the model with one")
    nodes["result"] = nir.Output(output_type={"output": np.array(shape)})
    edges.append((before, "result"))
    graph = nir.NIRGraph(nodes=nodes, edges=edges, metadata={}, type_check=False)
    Network.from_graph(graph)  # says now what would be wrong with it later
    return graph


class _Chain:
    """Synapses on their way to a neuron: whole-number operations, and the real value of one unit of charge."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.unit = 1.0
        self.bias: Tensor | None = None
        self.path = ""

    def add(self, path: str, module: nn.Module) -> None:
        self.path = path
        handler = _SYNAPSES.get(type(module))
        if handler is None:
            found = type(module).__name__
            todo = "use Linear, Conv2d, AvgPool2d, Flatten and CaLIF in an nn.Sequential"
            if isinstance(module, snntorch.SpikingNeuron):
                todo = "replace it with swap_neurons(model) first"
            raise ConversionError(path or "model", f"a {found}", todo)
        if self.bias is not None and handler is not _same:
            raise ConversionError(
                path, "a layer behind a bias, without neurons between them", "put a CaLIF between them"
            )
        handler(self, path, module)

    def weigh(self, path: str, weight: Tensor, make: Callable[[Tensor], Op]) -> None:
        w = weight.detach().double().cpu()
        if not bool(torch.isfinite(w).all()):
            raise ConversionError(path, "weights that are not finite", "check the training run")
        largest = float(w.abs().max()) if w.numel() else 0.0
        unit = 2.0 ** (int(np.floor(np.log2(largest))) + 1 - _BITS) if largest else 1.0
        whole = torch.round(w / unit).to(torch.int64)
        while bool((whole % 2 == 0).all()) and bool(whole.any()):  # as small as they can be
            whole, unit = whole // 2, unit * 2
        self.ops.append(make(whole.to(torch.int32)))
        self.unit *= unit


def _linear(chain: _Chain, path: str, m: Any) -> None:
    chain.weigh(path, m.weight, Linear)
    chain.bias = m.bias


def _conv(chain: _Chain, path: str, m: Any) -> None:
    if m.padding_mode != "zeros" or isinstance(m.padding, str):
        raise ConversionError(path, f"padding {m.padding!r}, {m.padding_mode!r}", "pad with zeros, in numbers")
    chain.weigh(path, m.weight, lambda w: Conv2d(w, m.stride, m.padding, m.dilation, m.groups))
    chain.bias = m.bias


def _pool(chain: _Chain, path: str, m: Any) -> None:
    kernel, stride, padding = (_pair(v) for v in (m.kernel_size, m.stride, m.padding))
    if m.ceil_mode or (padding != (0, 0) and not m.count_include_pad) or m.divisor_override:
        raise ConversionError(path, "a pool whose windows have different divisors", "use the plain one")
    chain.ops.append(SumPool2d(kernel, stride, padding))
    chain.unit /= kernel[0] * kernel[1]


def _flatten(chain: _Chain, path: str, m: Any) -> None:
    if m.start_dim != 1 or m.end_dim != -1:
        raise ConversionError(path, f"a flatten from {m.start_dim} to {m.end_dim}", "flatten all but the batch")
    chain.ops.append(Flatten())


def _same(chain: _Chain, path: str, m: Any) -> None:
    """Nothing to do when the network runs."""


_SYNAPSES: dict[type, Callable[[_Chain, str, Any], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.AvgPool2d: _pool,
    nn.Flatten: _flatten,
    nn.Dropout: _same,
    nn.Dropout2d: _same,
    nn.Identity: _same,
}


def _flat(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    if type(model) is nn.Sequential:
        return [pair for name, child in model.named_children() for pair in _flat(child, f"{path}.{name}".lstrip("."))]
    return [(path, model)]


def _neuron(path: str, module: Neuron, chain: _Chain, shape: Shape, window: int) -> CaLIF:
    p = module.parameters_of_neuron()
    leak = p.leak if chain.bias is None else p.leak - chain.bias.detach().double().cpu().numpy()
    low, high = float(p.y_min.min()), float(p.y_max.max())
    if low != float(p.y_min.max()) or high != float(p.y_max.min()):
        raise ConversionError(path, "a calcium range per channel", "NIR's CaLIF has one for the layer")
    bound = 2**31 - 1  # no count comes near it
    return CaLIF(
        shape=np.array(shape),
        v_threshold=p.threshold / chain.unit,
        leak=leak / chain.unit,
        v_init=p.v_init / chain.unit,
        y_min=int(max(low, -bound)),
        y_max=int(min(high, bound)),
        tie=p.tie,
        window=window,
        scale=1.0,
    )


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, tuple | list) else (int(value), int(value))
