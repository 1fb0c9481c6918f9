"""Faults planted in the verbs, and so in every front-end at once: each with the network that it is sought in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from converters.frontends import weighted_verbs
from converters.frontends.verbs import Grid, Verbs
from converters.graph_builder import GraphBuilder
from converters.operations import Conv2d, Linear
from tests.converters.frontends.planting import Patch, argument, keywords, result, wrap

__all__ = ["TOOLKITS", "VERB_FAULTS", "VerbFault"]

TOOLKITS = ("brevitas", "eager", "fx", "pt2e")


@dataclass(frozen=True)
class VerbFault:
    """``net`` is a name in the toolkits' own tables of networks; ``kinds`` are the toolkits that can express it."""

    name: str
    net: str
    plant: Patch
    kinds: tuple[str, ...] = TOOLKITS


# --- weighted layers --------------------------------------------------------------------------------------------------


def weighing(change: Callable[[Any, Tensor, Tensor | None], tuple[Any, Tensor, Tensor | None]]) -> Patch:
    """Another operation, scale or bias of a layer with weights."""
    return argument(Verbs, "weigh", lambda s, n, x, op, scale, bias: (s, n, x, *change(op, scale, bias)))


def geometry(**change: Callable[[Any], Any]) -> Patch:
    def other(op: Any) -> Any:
        return replace(op, **{k: c(getattr(op, k)) for k, c in change.items()}) if type(op) is Conv2d else op

    return weighing(lambda op, scale, bias: (other(op), scale, bias))


def integers(change: Callable[[Tensor], Tensor]) -> Patch:
    return weighing(lambda op, scale, bias: (op.with_weight(change(op.weight)), scale, bias))


def scales(change: Callable[[Tensor], Tensor]) -> Patch:
    return weighing(lambda op, scale, bias: (op, change(scale), bias))


def biases(change: Callable[[Tensor | None], Tensor | None]) -> Patch:
    return weighing(lambda op, scale, bias: (op, scale, change(bias)))


def channels_last(w: Tensor) -> Tensor:
    """A flattened 4x4x4 map read with its channels last."""
    return w.reshape(len(w), 4, 4, 4).permute(0, 2, 3, 1).reshape(len(w), -1) if w.shape[1:] == (64,) else w


def in_another_order(op: Any, scale: Tensor, bias: Tensor | None) -> tuple[Any, Tensor, Tensor | None]:
    return (Linear(channels_last(op.weight)) if type(op) is Linear else op), scale, bias


# --- batch norms ------------------------------------------------------------------------------------------------------


def norm(**change: Callable[[Any], Any]) -> Patch:
    """Other statistics or parameters of a batch norm."""

    def planted(s: Any, n: str, x: Any, mean: Any, variance: Any, eps: float, gamma: Any, beta: Any) -> tuple[Any, ...]:
        given = {"mean": mean, "variance": variance, "eps": eps, "gamma": gamma, "beta": beta}
        given |= {k: c(given[k]) for k, c in change.items()}
        return s, n, x, *given.values()

    return argument(Verbs, "batch_norm", planted)


def without_square_root(s: Any, n: str, x: Any, mean: Any, variance: Any, eps: float, *rest: Any) -> tuple[Any, ...]:
    return s, n, x, mean, (variance + eps) ** 2 - eps, eps, *rest


# --- pools, sums, clamps ----------------------------------------------------------------------------------------------


def first_twice(s: Any, n: str, *terms: Any) -> tuple[Any, ...]:
    return s, n, *(terms[0] for _ in terms)


def factors(change: Callable[[float], float]) -> Patch:
    return argument(Verbs, "add", lambda s, n, x, y: (s, n, x, (y[0], change(y[1]))))


def one_scale_for_all(s: Any, n: str, inputs: Any) -> tuple[Any, ...]:
    first = inputs[0][0].scale
    return s, n, [(replace(v, scale=first), f) for v, f in inputs]


def no_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verbs, "rectify", lambda self, name, x, high=0.0: x)


def at_five(s: Any, n: str, x: Any, high: float = torch.inf) -> tuple[Any, ...]:
    return s, n, x, 5.0 if high == 6.0 else high


# --- moves, maxima, activations ---------------------------------------------------------------------------------------


def slope(s: Any, n: str, x: Any, name: str, parameters: Any = ()) -> tuple[Any, ...]:
    return s, n, x, name, [p * 1.5 for p in parameters]


# --- quantisers, outputs ----------------------------------------------------------------------------------------------


def grids(change: Callable[[Grid], Grid]) -> Patch:
    return argument(Verbs, "quantise", lambda s, n, x, grid, *rest: (s, n, x, change(grid), *rest))


def below_its_bound(s: Any, n: str, x: Any, grid: Grid, levels: Any, *rest: Any) -> tuple[Any, ...]:
    return s, n, x, grid, lambda bound: levels(bound) * 3 // 4, *rest


def scales_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each quantiser takes the scale of the one before it."""
    plain = Verbs.quantise
    last: list[float] = []

    def planted(self: Any, name: str, x: Any, grid: Grid, *rest: Any) -> Any:
        last.append(grid.scale)
        return plain(self, name, x, replace(grid, scale=last[max(0, len(last) - 2)]), *rest)

    monkeypatch.setattr(Verbs, "quantise", planted)


def never_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second quantiser does is taken for nothing."""
    monkeypatch.setattr(Verbs, "on_grid", lambda self, value, grid: True)


def readout(f: Callable[..., Any]) -> Callable[..., Any]:
    """A last layer, read from its membrane, without its bias."""
    return lambda self, x, grid, *, spiking: f(self, x if spiking else replace(x, bias=0.0), grid, spiking=spiking)


def weights_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each convolution has the weights of the one before it, where that has the same shape."""
    plain = Verbs.weigh
    before: list[Any] = []

    def planted(self: Any, name: str, x: Any, op: Any, scale: Tensor, bias: Tensor | None) -> Any:
        before.append(op.weight)
        other = before[max(0, len(before) - 2)]
        return plain(self, name, x, op.with_weight(other) if other.shape == op.weight.shape else op, scale, bias)

    monkeypatch.setattr(Verbs, "weigh", planted)


_TRACED, _FOLDS = ("brevitas", "eager", "fx"), ("brevitas", "pt2e")
_MOVED = ("brevitas", "eager")
_CHANNELS = ("brevitas", "pt2e")  # torch.ao is prepared with one scale for all channels here

VERB_FAULTS = [
    VerbFault("padding, off by one", "conv", geometry(padding=lambda p: (p[0], p[1] + 1))),
    VerbFault("stride of the other axis", "conv", geometry(stride=lambda s: s[::-1])),
    VerbFault("dilation forgotten, and padding with it", "conv",
              geometry(dilation=lambda d: (1, 1), padding=lambda p: (1, 1))),
    VerbFault("groups exchanged", "conv", geometry(weight=lambda w: w.roll(len(w) // 2, 0))),
    VerbFault("kernel transposed", "conv", geometry(weight=lambda w: w.transpose(2, 3))),
    VerbFault("kernel turned round, as in a true convolution", "conv", geometry(weight=lambda w: w.flip(2, 3))),
    VerbFault("features in another order", "norm", weighing(in_another_order)),
    VerbFault("a bias lost", "conv", biases(lambda b: None)),
    VerbFault("a bias twice", "conv", biases(lambda b: b if b is None else b * 2)),
    VerbFault("biases of other channels", "conv", biases(lambda b: b if b is None else b.flip(0))),
    VerbFault("scales of other channels", "per channel", scales(lambda s: s.flip(0)), _CHANNELS),
    VerbFault("the first channel's scale for all", "per channel", scales(lambda s: s[:1]), _CHANNELS),
    VerbFault("weights' largest integers clamped", "per channel", integers(lambda w: w.clamp(-126, 126)), _CHANNELS),
    VerbFault("weights rounded down", "conv", integers(lambda w: w - (w > 0).to(w.dtype))),
    VerbFault("weights of the layer before", "sum", weights_exchanged),
    VerbFault("eps forgotten", "norm", norm(eps=lambda e: 0.0), _FOLDS),
    VerbFault("a square root forgotten", "norm", argument(Verbs, "batch_norm", without_square_root), _FOLDS),
    VerbFault("the mean with the wrong sign", "norm", norm(mean=lambda m: -m), _FOLDS),
    VerbFault("the mean lost", "norm", norm(mean=torch.zeros_like), _FOLDS),
    VerbFault("beta lost", "norm", norm(beta=lambda b: None), _FOLDS),
    VerbFault("gamma lost", "norm", norm(gamma=lambda g: None), _FOLDS),
    VerbFault("the sign of gamma lost", "norm", norm(gamma=torch.abs), _FOLDS),
    VerbFault("a row not turned round", "norm",
              argument(weighted_verbs, "times", lambda x, factor: (x, factor.abs())), ("brevitas",)),
    VerbFault("a division forgotten", "norm", wrap(Verbs, "divide", lambda f: lambda s, n, x, by: x), ("pt2e",)),
    VerbFault("a constant forgotten", "biased norm", wrap(Verbs, "shift", lambda f: lambda s, n, x, c: x), ("pt2e",)),
    VerbFault("a pool divided by its width", "pool", result(Verbs, "average_pool", lambda p: replace(p, area=3))),
    VerbFault("a pool's stride of the other axis", "pool",
              argument(Verbs, "average_pool", lambda s, n, x, k, by, *r: (s, n, x, k, by[::-1], *r))),
    VerbFault("a mean that is a sum", "mean", result(Verbs, "mean", lambda p: replace(p, area=1))),
    VerbFault("an operand twice", "sum", argument(Verbs, "add", first_twice)),
    VerbFault("branches of unequal scale added as if it were one", "sum",
              argument(GraphBuilder, "requantise", one_scale_for_all), _TRACED),
    VerbFault("a sum whose second operand counts twice", "sum", factors(lambda f: 2 * f)),
    VerbFault("a subtraction that adds", "difference", factors(abs), ("brevitas",)),
    VerbFault("alpha forgotten", "difference", factors(lambda f: f / abs(f)), ("brevitas",)),
    VerbFault("a subtraction turned round", "difference",
              argument(Verbs, "add", lambda s, n, x, y: (s, n, (y[0], x[1]), (x[0], y[1]))), ("brevitas",)),
    VerbFault("a move forgotten", "curved",
              argument(Verbs, "move", lambda s, n, x, f, *r: (s, n, x, lambda t: t, *r)), _MOVED),
    VerbFault("a move along another axis", "curved",
              argument(Verbs, "move", lambda s, n, x, f, *r: (s, n, x, lambda t: f(t.mT).mT, *r)), _MOVED),
    VerbFault("another slope", "curved", argument(Verbs, "activate", slope), _MOVED),
    VerbFault("another function", "curved",
              argument(Verbs, "activate", lambda s, n, x, name, *r: (s, n, x, "silu", ())), _MOVED),
    VerbFault("windows of a max pool, one aside", "curved",
              argument(Verbs, "max_pool", lambda s, n, x, *r: (s, n, s.move(n, x, lambda t: t.roll(1, 3)), *r)),
              _MOVED),
    VerbFault("a concatenation turned round", "cat",
              argument(Verbs, "concatenate", lambda s, n, x, *r: (s, n, x[::-1], *r))),
    VerbFault("a ReLU forgotten", "in place", no_clamp),
    VerbFault("a ReLU6 that clamps at five", "six", argument(Verbs, "rectify", at_five), ("brevitas", "fx", "pt2e")),
    VerbFault("a clamp at three quarters of its bound", "six", argument(Verbs, "quantise", below_its_bound),
              ("brevitas", "fx", "pt2e")),
    VerbFault("a clamp one level too high", "conv", grids(lambda g: replace(g, y_max=g.y_max + 1)), _TRACED),
    VerbFault("a clamp one level too high", "six", grids(lambda g: replace(g, y_max=g.y_max + 1)), ("pt2e",)),
    VerbFault("a clamp one level too low", "conv", grids(lambda g: replace(g, y_max=g.y_max - 1))),
    VerbFault("a clamp forgotten", "conv", grids(lambda g: replace(g, y_min=-9999, y_max=9999))),
    VerbFault("a symmetric range for the toolkit's", "conv",
              grids(lambda g: replace(g, y_min=max(g.y_min, -g.y_max))), ("brevitas",)),
    VerbFault("a range without its negative half", "conv", grids(lambda g: replace(g, y_min=0))),
    VerbFault("a scale off by a thousandth", "conv", grids(lambda g: replace(g, scale=g.scale * 1.001))),
    VerbFault("the scale of the quantiser before", "conv", scales_exchanged),
    VerbFault("a second quantiser dropped", "coarse", never_moved, ("brevitas",)),
    VerbFault("the input's largest level forgotten", "sum", keywords(GraphBuilder, "input", q_max=lambda q: q - 1)),
    VerbFault("the input's scale off by a thousandth", "sum",
              keywords(GraphBuilder, "input", scale=lambda s: s * 1.001)),
    VerbFault("an output's bias lost", "norm", wrap(Verbs, "_summed", readout), ("brevitas",)),
    VerbFault("ties that go up", "round",
              wrap(GraphBuilder, "layer", lambda f: lambda *a, **k: f(*a, **k | {"tie": "up"})), ("brevitas",)),
]  # fmt: skip
