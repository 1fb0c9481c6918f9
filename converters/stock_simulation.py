"""NIR files of other tools, with stock neurons: run as NIR defines them, or refused with the reason.

NIR fixes equations, not a simulation. What is left open is decided here, and said: one explicit Euler step of
length ``dt`` per time step; all nodes act within the same step, in graph order; then a neuron above its threshold
(strictly, as NIR has it) fires and is set to ``v_reset``. A file does not hold its ``dt``. For IF nodes alone it
follows from ``r dt = 1``, which both conventions of exporters mean: one unit of input adds one to the membrane.
A LIF node needs to be told.

What tools do with a file can differ from this: SpikingJelly and Sinabs fire on ``>=`` (``strict=False``),
Sinabs subtracts the threshold instead of resetting, snnTorch's importer reads an IF as a leaky neuron.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["StockResult", "simulate_stock", "stock_neurons"]


@dataclass(eq=False)
class StockResult:
    """What a stock network did.

    Attributes
    ----------
    outputs : float64 tensor ``(steps, N, *output shape)``
        What arrived at the Output node.
    spikes : dict of float64 tensors ``(steps, N, *shape)``
        Of every IF, LIF and Threshold node.
    dt : float
        Seconds per step that was used.
    """

    outputs: Tensor
    spikes: dict[str, Tensor]
    dt: float


def stock_neurons(graph: nir.NIRGraph) -> list[str]:
    """Names of the stock nodes that spike."""
    return [name for name, node in graph.nodes.items() if type(node) in _SPIKING]


def simulate_stock(graph: nir.NIRGraph, inputs: Tensor, *, dt: float | None = None, strict: bool = True) -> StockResult:
    """Run a feed-forward NIR graph of stock nodes.

    Parameters
    ----------
    graph : nir.NIRGraph
        Of ``Affine``, ``Linear``, ``Conv2d``, ``AvgPool2d``, ``SumPool2d``, ``Flatten``, ``Scale``, ``IF``, ``LIF``,
        ``LI``, ``I`` and ``Threshold`` nodes, with one Input and one Output.
    inputs : tensor ``(steps, N, *input shape)``
        Input at each step: spikes, or currents.
    dt : float, optional
        Seconds per step; can be left out where only IF nodes have time in them.
    strict : bool
        Fire above the threshold, as NIR defines it; or, with False, at the threshold too.

    Raises
    ------
    ConversionError
        Naming the node whose meaning is not clear, with the reason and the way out.

    Examples
    --------
    >>> one = np.ones(1)
    >>> g = nir.NIRGraph.from_list(nir.Linear(weight=np.array([[0.5]])), nir.IF(r=one, v_threshold=one))
    >>> simulate_stock(g, torch.ones(7, 1, 1)).outputs.flatten().tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """
    order, before = _order(graph)
    dt = _step(graph) if dt is None else float(dt)
    if not (np.isfinite(dt) and dt > 0):
        raise ConversionError("dt", f"{dt}", "give seconds per step, above 0")
    source, sink = order[0], order[-1]
    expected = tuple(int(n) for n in graph.nodes[source].input_type["input"])
    if tuple(inputs.shape[2:]) != expected:
        wanted = ", ".join(str(n) for n in expected)
        raise ConversionError("inputs", f"shape {tuple(inputs.shape)}", f"give (steps, N, {wanted})")
    nodes = {name: _make(name, graph.nodes[name], dt, strict, inputs.device) for name in order[1:-1]}
    trains: dict[str, list[Tensor]] = {name: [] for name in (*stock_neurons(graph), sink)}
    for x in inputs.to(torch.float64):
        values = {source: x}
        for name in order[1:]:
            parts = [values[a] for a in before[name]]
            if any(p.shape != parts[0].shape for p in parts):
                raise ConversionError(
                    name, f"inputs of shapes {[tuple(p.shape[1:]) for p in parts]}", "they must agree"
                )
            total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
            if name != sink:
                try:
                    total = nodes[name](total)
                except RuntimeError as error:
                    raise ConversionError(
                        name, f"an input of shape {tuple(total.shape[1:])} ({error})", "fix the graph"
                    ) from None
            values[name] = total
            if name in trains:
                trains[name].append(total)
    stacked = {name: torch.stack(train) for name, train in trains.items()}
    return StockResult(stacked.pop(sink), stacked, dt)


def _order(graph: nir.NIRGraph) -> tuple[list[str], dict[str, list[str]]]:
    """Names in an order to run in, Input first and Output last; and what feeds each."""
    for name, node in graph.nodes.items():
        if type(node) not in _MAKE and type(node) not in (nir.Input, nir.Output):
            raise ConversionError(
                name, f"a {type(node).__name__} node", _REASONS.get(type(node), "no meaning is known for it here")
            )
    ends = [[n for n, node in graph.nodes.items() if type(node) is kind] for kind in (nir.Input, nir.Output)]
    if [len(e) for e in ends] != [1, 1]:
        raise ConversionError(
            "graph", f"{len(ends[0])} inputs and {len(ends[1])} outputs", "give a graph with one of each"
        )
    (source,), (sink,) = ends
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        before[b].append(a)
    order: list[str] = [source]
    waiting = [n for n in graph.nodes if n not in (source, sink)]
    while waiting:
        ready = [n for n in waiting if before[n] and all(a in order for a in before[n])]
        if not ready:
            raise ConversionError(
                waiting[0], "a cycle of edges, or no input", "NIR does not say what delay a feedback edge has; cut it"
            )
        order += ready
        waiting = [n for n in waiting if n not in ready]
    return [*order, sink], before


def _step(graph: nir.NIRGraph) -> float:
    """The time step that the nodes imply."""
    for name, node in graph.nodes.items():
        if type(node) in (nir.LIF, nir.LI, nir.I):
            raise ConversionError(
                name,
                f"a {type(node).__name__} node, whose time step no file says",
                "give dt: snnTorch and SpikingJelly export for 1e-4, Norse for 1e-3",
            )
    found = {float(r) for node in graph.nodes.values() if type(node) is nir.IF for r in np.unique(node.r)}
    if len(found) > 1 or min(found, default=1.0) <= 0:
        raise ConversionError("IF nodes", f"resistances {sorted(found)[:5]}", "give dt: no single step makes r dt = 1")
    return 1 / found.pop() if found else 1.0


def _tensor(value: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float64)).to(device)


Node = Callable[[Tensor], Tensor]


def _make(name: str, node: Any, dt: float, strict: bool, device: torch.device) -> Node:
    return _MAKE[type(node)](name, node, dt, strict, device)


def _affine(_name: str, node: Any, _dt: float, _strict: bool, device: torch.device) -> Node:
    weight = _tensor(node.weight, device)
    bias = _tensor(node.bias, device) if type(node) is nir.Affine else None
    return lambda x: F.linear(x, weight, bias)


def _conv(_name: str, node: Any, _dt: float, _strict: bool, device: torch.device) -> Node:
    weight, bias = _tensor(node.weight, device), _tensor(node.bias, device)
    stride, dilation = _pair(node.stride), _pair(node.dilation)
    padding = node.padding if isinstance(node.padding, str) else _pair(node.padding)
    groups = int(np.asarray(node.groups).reshape(-1)[0])
    return lambda x: F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _pool(_name: str, node: Any, _dt: float, _strict: bool, device: torch.device) -> Node:
    kernel, stride, padding = _pair(node.kernel_size), _pair(node.stride), _pair(node.padding)
    size = kernel[0] * kernel[1] if type(node) is nir.SumPool2d else 1
    return lambda x: F.avg_pool2d(x, kernel, stride, padding) * size


def _flatten(_name: str, node: Any, _dt: float, _strict: bool, _device: torch.device) -> Node:
    start, end = (int(d) + 1 if int(d) >= 0 else int(d) for d in (node.start_dim, node.end_dim))  # NIR has no batch
    return lambda x: x.flatten(start, end)


def _scale(_name: str, node: Any, _dt: float, _strict: bool, device: torch.device) -> Node:
    scale = _tensor(node.scale, device)
    return lambda x: x * scale


def _threshold(_name: str, node: Any, _dt: float, strict: bool, device: torch.device) -> Node:
    threshold = _tensor(node.threshold, device)
    return lambda x: (x > threshold if strict else x >= threshold).to(x.dtype)


def _integrator(_name: str, node: Any, dt: float, _strict: bool, device: torch.device) -> Node:
    return _Membrane(r=_tensor(node.r, device) * dt)


def _leaky(name: str, node: Any, dt: float, _strict: bool, device: torch.device) -> Node:
    k = _decay(name, node, dt, device)
    return _Membrane(r=_tensor(node.r, device) * k, decay=k, rest=_tensor(node.v_leak, device))


def _if(_name: str, node: Any, dt: float, strict: bool, device: torch.device) -> Node:
    return _Membrane(
        r=_tensor(node.r, device) * dt,
        threshold=_tensor(node.v_threshold, device),
        reset=_tensor(node.v_reset, device),
        strict=strict,
    )


def _lif(name: str, node: Any, dt: float, strict: bool, device: torch.device) -> Node:
    k = _decay(name, node, dt, device)
    return _Membrane(
        r=_tensor(node.r, device) * k,
        decay=k,
        rest=_tensor(node.v_leak, device),
        threshold=_tensor(node.v_threshold, device),
        reset=_tensor(node.v_reset, device),
        strict=strict,
    )


def _decay(name: str, node: Any, dt: float, device: torch.device) -> Tensor:
    tau = _tensor(node.tau, device)
    if not bool((tau > 0).all()) or bool((dt > tau * (1 + 1e-6)).any()):
        raise ConversionError(
            name,
            f"a time constant of {float(tau.min()):g} s with steps of {dt:g} s",
            "Euler steps must be shorter; give dt",
        )
    return dt / tau


class _Membrane:
    """``v <- v + decay (rest - v) + r x``; with a threshold it fires and resets, without it is read."""

    def __init__(
        self,
        r: Tensor,
        decay: Tensor | None = None,
        rest: Tensor | None = None,
        threshold: Tensor | None = None,
        reset: Tensor | None = None,
        strict: bool = True,
    ) -> None:
        self.r, self.decay, self.rest = r, decay, rest
        self.threshold, self.reset, self.strict = threshold, reset, strict
        self.v: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        if self.decay is not None and self.rest is not None:
            v = v + self.decay * (self.rest - v)
        v = v + self.r * x
        if v.shape != x.shape:
            raise RuntimeError(f"its parameters have shape {tuple(self.r.shape)}")
        if self.threshold is None or self.reset is None:
            self.v = v
            return v
        fires = v > self.threshold if self.strict else v >= self.threshold
        self.v = torch.where(fires, self.reset.expand_as(v), v)
        return fires.to(x.dtype)


def _pair(value: Any) -> tuple[int, int]:
    array = np.broadcast_to(np.asarray(value).reshape(-1), (2,))
    return int(array[0]), int(array[1])


_SPIKING = (nir.IF, nir.LIF, nir.Threshold)
_MAKE: dict[type, Callable[[str, Any, float, bool, torch.device], Node]] = {
    nir.Affine: _affine,
    nir.Linear: _affine,
    nir.Conv2d: _conv,
    nir.AvgPool2d: _pool,
    nir.SumPool2d: _pool,
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    nir.Threshold: _threshold,
    nir.I: _integrator,
    nir.LI: _leaky,
    nir.IF: _if,
    nir.LIF: _lif,
}
_TWO_STATES = "tools disagree on whether current or membrane moves first in a step; use IF or LIF"
_REASONS: dict[type, str] = {
    nir.CubaLIF: _TWO_STATES,
    nir.CubaLI: _TWO_STATES,
    nir.Delay: "delays of a fraction of a step have no agreed meaning; use a feed-forward graph without them",
    nir.NIRGraph: "graphs within graphs are recurrent layers, whose feedback delay NIR does not fix",
}
