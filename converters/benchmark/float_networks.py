"""A network's layers in float32, for timing: as any simulator of floats would have them, and as the float network does.

A float network knows real values: counts times their scales. So a residual addition is an addition there, an average
pool an average, and an activation PyTorch's own function, and nothing is multiplied that the trained network does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.network import Network, Stage, float64
from converters.operations import (
    Conv1d,
    Conv2d,
    Conv3d,
    Levels,
    Linear,
    LocalResponse,
    MatMul,
    Normalise,
    Operation,
    Product,
    Softmax,
    Synapse,
)
from converters.operations.activations import activation
from converters.operations.counting import over_groups

__all__ = ["FloatNetwork", "Weights"]

_CLOSE = 1e-5  # factors this near to 1 are those of rounded scales: a float network does not have them
_WEIGHTED = (Linear, Conv1d, Conv2d, Conv3d)  # their weights' first axis is the channel


class Weights(nn.Module):
    """What the sources of a layer bring to it, in float32: ``module(values of the sources, in the order of sources)``.

    Charges of one step in units of the threshold, leak included, for integrate-and-fire neurons with a threshold of 1;
    with ``real`` the real values that the trained network computes in their place.

    Raises
    ------
    ConversionError
        Without ``real``, for an operation that remembers what has come: the neurons of other simulators do not.
    """

    def __init__(self, network: Network, stage: Stage, *, real: bool) -> None:
        super().__init__()
        p = stage.parameters
        threshold, leak = (float64(x).reshape(-1) for x in (p.threshold, p.leak))
        sizes = {name: spec.scale for name, spec in network.specs.items()} | {s.name: s.scale for s in network.stages}
        scale, steps = (stage.scale, network.window) if real else (1.0, 1)
        self.sources: list[tuple[str, ...]] = []
        self.chains = nn.ModuleList()
        bias = -leak * steps * scale / threshold
        for synapse in stage.synapses:
            if not (real or stage.relay or all(op.linear for op in synapse.ops)):
                kind = next(type(op).__name__ for op in synapse.ops if not op.linear)
                raise ConversionError(stage.name, f"a {kind}", "other simulators have no such neuron: see --only")
            chain = _chain(
                synapse, [sizes[n] if real else 1.0 for n in synapse.sources], scale / threshold, bias, stage
            )
            self.sources.append(synapse.sources)
            self.chains.append(chain)
            bias = torch.zeros_like(bias)

    def forward(self, *given: Tensor) -> Tensor:
        total: Any = None
        for sources, chain in zip(self.sources, self.chains, strict=True):
            part = chain(*given[: len(sources)])
            given = given[len(sources) :]
            total = part if total is None else total + part
        return total


class FloatNetwork(nn.Module):
    """The dense float network: a pass of it is what a step of any simulator that multiplies floats costs at least.

    Called as ``net(x)`` with the real values of the input, or ``net({name: values})`` for several; it ends with the
    main output's layer, in front of functions that stay in float anyway.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.names = [stage.name for stage in network.stages]
        self.inputs, self.output = list(network.specs), network.output.name
        self.weights = nn.ModuleList(Weights(network, stage, real=True) for stage in network.stages)
        self.rectified = [_rectified(stage) for stage in network.stages]
        self.eval()

    def forward(self, x: Any) -> Tensor:
        values: dict[str, Tensor] = dict(x) if isinstance(x, dict) else {self.inputs[0]: x}
        for name, weights, rectified in zip(self.names, self.weights, self.rectified, strict=True):
            layer: Any = weights
            out = layer(*(values[n] for sources in layer.sources for n in sources))
            # in place: another large tensor for each layer takes a pass twice as long, and flatters what is beside it
            values[name] = F.relu_(out) if rectified else out
        return values[self.output]


def _rectified(stage: Stage) -> bool:
    """Whether the float network has a ReLU there: pools and maxima of what is positive need none."""
    sums = len(stage.synapses) > 1 or any(op.stored is not None for s in stage.synapses for op in s.ops)
    return stage.linear and sums and bool((stage.parameters.y_min >= 0).all()) and not stage.readout


class _Chain(nn.Module):
    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *x: Tensor) -> Tensor:
        for part in self.parts:
            y = part(*x)
            x = y if isinstance(y, tuple) else (y,)
        return x[0]


class _Function(nn.Module):
    def __init__(self, act: Callable[..., Any]) -> None:
        super().__init__()
        self.act = act

    def forward(self, *x: Tensor) -> Any:
        return self.act(*x)


class _Affine(nn.Module):
    """Each channel times a factor, and plus another number, where there are such."""

    def __init__(self, factor: Tensor | None, term: Tensor | None, rank: int) -> None:
        super().__init__()
        view = (-1, *[1] * (rank - 1))
        self.factor = None if factor is None else nn.Parameter(factor.float().reshape(view))
        self.term = None if term is None else nn.Parameter(term.float().reshape(view))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.factor is None else x * self.factor
        return x if self.term is None else x + self.term


def _chain(synapse: Synapse, sizes: list[float], gain: Tensor, bias: Tensor, stage: Stage) -> nn.Module:
    """The operations of a synapse on values of which one whole number is ``sizes``, times ``gain``, plus ``bias``."""
    parts: list[nn.Module] = []
    ops = synapse.ops
    unequal = len(sizes) > 1 and not isinstance(ops[0], (Product, MatMul))
    if unequal and any(not math.isclose(s, sizes[0], rel_tol=_CLOSE) for s in sizes):
        factors = [s / sizes[0] for s in sizes]  # all in units of the first
        parts.append(_Function(lambda *x: tuple(v * f for v, f in zip(x, factors, strict=True))))
    size = math.prod(sizes) if ops and isinstance(ops[0], (Product, MatMul)) else sizes[0]
    for k, op in enumerate(ops):
        if type(op) is Levels:
            unit, offset = (torch.tensor(v, dtype=torch.float64) for v in (op.units, op.offsets))
            before = parts[-1] if parts and type(ops[k - 1]) in _WEIGHTED else None
            parts += _scaled(before, unit / size, offset, stage)
            parts.append(_function(op, stage))
            size = op.scale
        else:
            part, size = _module(op, size)
            parts.append(part)
    last = parts[-1] if ops and type(ops[-1]) in _WEIGHTED else None
    if hasattr(parts[-1] if parts else None, "divisor_override"):  # sums over windows, which a float network divides
        pool: Any = parts[-1]
        pool.divisor_override, gain = None, gain * ops[-1].gain
    parts += _scaled(last, gain / size, bias, stage)
    return _Chain(parts)


def _scaled(before: nn.Module | None, factor: Tensor, term: Tensor, stage: Stage) -> list[nn.Module]:
    """A factor and a term for each channel: in the weights in front where there are some, else as operations."""
    if before is not None:
        layer: Any = before
        with torch.no_grad():
            layer.weight.mul_(factor.to(layer.weight).reshape(-1, *[1] * (layer.weight.ndim - 1)))
            layer.bias = nn.Parameter(term.to(layer.weight).expand(len(layer.weight)).clone())
        return []
    multiplies, adds = bool(((factor - 1).abs() > _CLOSE).any()), bool(term.any())
    if not (multiplies or adds):
        return []
    return [_Affine(factor if multiplies else None, term if adds else None, len(stage.shape))]


def _function(op: Levels, stage: Stage) -> nn.Module:
    view = (1, -1, *[1] * (len(stage.shape) - 1))
    parameters = [torch.tensor(v).view(view) for v in op.parameters]
    act = activation(op.function)
    return _Function(lambda x: act(x, *parameters))


def _module(op: Operation, size: float) -> tuple[nn.Module, float]:
    """An operation on values of which one whole number is ``size``, and that of the result."""
    if isinstance(op, Normalise):
        return _Function(lambda x: _normalised(x, op, size)), 2.0**-op.bits
    if isinstance(op, Softmax):
        return _Function(lambda x: _softmax(x, op, op.scale / size)), 2.0**-op.bits
    if type(op) is LocalResponse:
        alpha = op.alpha / size**2
        return _Function(lambda x: F.local_response_norm(x, op.size, alpha, op.beta, op.k)), size * 2.0**-op.bits
    return op.module().float(), size


def _normalised(x: Tensor, op: Normalise, size: float) -> Tensor:
    eps = op.eps * size**2
    axes = tuple(a + 1 for a in op.axes)
    if op.centred and op.groups == 1 and axes == tuple(range(x.ndim - len(axes), x.ndim)):
        return F.layer_norm(x, x.shape[-len(axes) :], eps=eps)
    if op.centred and axes == tuple(range(1, x.ndim)):
        return F.group_norm(x, op.groups, eps=eps)

    def act(x: Tensor, axes: list[int]) -> Tensor:
        if not op.centred:
            return x * (x.square().mean(axes, keepdim=True) + eps).rsqrt()
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) * (variance + eps).rsqrt()

    return over_groups(x, op.axes, op.groups, act)


def _softmax(x: Tensor, op: Softmax, scale: float) -> Tensor:
    kept = getattr(op, "kept", None)
    x = x * scale
    if kept is not None:
        x = x.masked_fill(kept == 0, -math.inf)
    return torch.softmax(x, op.axis + 1)
