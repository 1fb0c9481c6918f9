"""Functions behind a network's last quantiser: they run in float, on what the layers have put out, and never spike.

A softmax of the logits, a permutation of a map, the arg-max of a segmentation: none of it is a layer. Each is a name
and parameters out of one table, so that files say what is meant and carry no code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError, first_line

__all__ = ["TAILS", "Tail", "apply", "shape_behind"]

_LARGEST = 2**28  # values of one image
_BATCH = 2  # images of the trial that says what a function does to a shape


def _whole(value: Any) -> bool:
    return type(value) is int


def _wholes(value: Any) -> bool:
    return type(value) in (list, tuple) and all(map(_whole, value))


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")


def _flag(value: Any) -> bool:
    return type(value) is bool


def _optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _either(*checks: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(check(value) for check in checks)


@dataclass(frozen=True)
class _Known:
    """A function of a batch ``(N, ...)`` and its parameters: each its check, and those that may be left out."""

    run: Callable[..., Tensor]
    needed: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    optional: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)


def _reduced(function: Callable[..., Tensor]) -> _Known:
    return _Known(function, {"dim": _either(_whole, _wholes)}, {"keepdim": _flag})


def _pointwise(function: Callable[[Tensor], Tensor]) -> _Known:
    return _Known(function)


def _linear_clamp(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    return torch.clamp(x, min, max)


_MODES = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area")

TAILS: dict[str, _Known] = {
    "softmax": _Known(torch.softmax, {"dim": _whole}),
    "log_softmax": _Known(torch.log_softmax, {"dim": _whole}),
    "normalize": _Known(F.normalize, {}, {"p": _number, "dim": _whole, "eps": _number}),
    "argmax": _Known(torch.argmax, {"dim": _whole}, {"keepdim": _flag}),
    "argmin": _Known(torch.argmin, {"dim": _whole}, {"keepdim": _flag}),
    "amax": _reduced(torch.amax),
    "amin": _reduced(torch.amin),
    "mean": _reduced(torch.mean),
    "sum": _reduced(torch.sum),
    "sigmoid": _pointwise(torch.sigmoid),
    "logsigmoid": _pointwise(F.logsigmoid),
    "tanh": _pointwise(torch.tanh),
    "exp": _pointwise(torch.exp),
    "softplus": _pointwise(F.softplus),
    "relu": _pointwise(torch.relu),
    "hardsigmoid": _pointwise(F.hardsigmoid),
    "hardtanh": _pointwise(F.hardtanh),
    "abs": _pointwise(torch.abs),
    "neg": _pointwise(torch.neg),
    "clamp": _Known(_linear_clamp, {}, {"min": _optional(_number), "max": _optional(_number)}),
    "mul": _Known(torch.mul, {"other": _number}),
    "add": _Known(torch.add, {"other": _number}),
    "reshape": _Known(lambda x, shape: x.reshape(len(x), *shape), {"shape": _wholes}),
    "permute": _Known(lambda x, dims: x.permute(0, *(d + 1 for d in dims)), {"dims": _wholes}),
    "flatten": _Known(torch.flatten, {"start_dim": _whole}, {"end_dim": _whole}),
    "squeeze": _Known(torch.squeeze, {"dim": _either(_whole, _wholes)}),
    "unsqueeze": _Known(torch.unsqueeze, {"dim": _whole}),
    "interpolate": _Known(
        F.interpolate,
        {"size": _wholes, "mode": _MODES.__contains__},
        {"align_corners": _optional(_flag), "antialias": _flag},
    ),
}
"""Every function that may stand behind a network. Axes count the batch as 0, but for ``shape`` of ``reshape`` and
``dims`` of ``permute``, which leave it out."""


@dataclass(frozen=True, eq=True)
class Tail:
    """One function behind the last quantiser: its name in :data:`TAILS`, and its parameters by name.

    Raises
    ------
    ConversionError
        For a name that is not on the table, a parameter that the function does not have or that is missing, or a value
        that does not belong there.

    Examples
    --------
    >>> softmax = Tail("softmax", {"dim": 1})
    >>> print(softmax, softmax(torch.zeros(1, 2)).tolist())
    softmax(dim=1) [[0.5, 0.5]]
    >>> Tail("eval", {})
    Traceback (most recent call last):
    converters.errors.ConversionError: eval: found no function that may stand behind a network; known are softmax, ...
    """

    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = TAILS.get(self.function) if type(self.function) is str else None
        if known is None:
            name = str(self.function)[:60]
            raise ConversionError(name, "no function that may stand behind a network", f"known are {', '.join(TAILS)}")
        if not isinstance(self.parameters, Mapping):
            raise ConversionError(self.function, f"parameters of type {type(self.parameters).__name__}", "name them")
        takes = {**known.needed, **known.optional}
        missing, extra = set(known.needed) - set(self.parameters), set(self.parameters) - set(takes)
        if missing or extra:
            found = f"missing {sorted(missing)}, unexpected {sorted(str(k)[:60] for k in extra)}"
            raise ConversionError(self.function, found, f"it takes {', '.join(takes) or 'no parameters'}")
        for name, value in self.parameters.items():
            if not takes[name](value):
                raise ConversionError(
                    f"{self.function}.{name}", f"{str(value)[:60]!r}", "give what PyTorch takes there"
                )
        plain = {k: tuple(v) if type(v) is list else v for k, v in self.parameters.items()}
        object.__setattr__(self, "parameters", plain)

    def __call__(self, x: Tensor) -> Tensor:
        """The function of a batch ``(N, ...)``."""
        return TAILS[self.function].run(x, **self.parameters)

    def __str__(self) -> str:
        return f"{self.function}({', '.join(f'{k}={v}' for k, v in self.parameters.items())})"


def apply(tails: Sequence[Tail], x: Tensor) -> Tensor:
    """All of ``tails`` in their order, of a float64 batch."""
    for tail in tails:
        x = tail(x)
    return x


def _each(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def shape_behind(where: str, tails: Sequence[Tail], shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one image's result behind ``tails``, from ``shape`` in front of them; nothing is computed.

    Raises
    ------
    ConversionError
        If a function does not take what arrives there, or does not keep images apart along the first axis.

    >>> shape_behind("fc", [Tail("permute", {"dims": [1, 2, 0]}), Tail("argmax", {"dim": 3})], (5, 8, 4))
    (8, 4)
    """
    x = torch.zeros(_BATCH, *shape, dtype=torch.float64, device="meta")
    for tail in tails:
        axes = tail.parameters.get("dim", ())  # which not every function looks at before it has values
        if any(not -x.ndim <= d < x.ndim + (tail.function == "unsqueeze") for d in _each(axes)):
            raise ConversionError(
                where, f"{tail} of shape {tuple(x.shape[1:])}", "count axes from the batch, which is 0"
            )
        try:
            after = tail(x)
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            reason = first_line(error)
            raise ConversionError(
                where, f"{tail} of shape {tuple(x.shape[1:])} ({reason[:120]})", "correct it"
            ) from None
        if after.ndim < 1 or len(after) != _BATCH or after.numel() > _BATCH * _LARGEST:
            raise ConversionError(
                where, f"{tail}, which makes {tuple(after.shape)} of {tuple(x.shape)}", "keep images apart, and small"
            )
        x = after
    return tuple(x.shape[1:])
