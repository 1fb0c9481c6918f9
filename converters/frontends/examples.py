"""The example that a front-end is given: a batch for each tensor that the model's forward takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from converters.errors import ConversionError

__all__ = ["Example", "Given", "check_type", "each", "example_of", "is_tokens"]

Given: TypeAlias = "Tensor | Mapping[str, Tensor]"
"""Batches of a network's inputs: of one as it is, of several by their names, in order."""


@dataclass(frozen=True)
class Example:
    """Batches of equal length, as a forward takes them: in order, then by name; and what its parameters are called."""

    names: tuple[str, ...]
    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of ``names``."""
        return (*self.args, *self.kwargs.values())

    @property
    def given(self) -> Given:
        """One as it is; several by name."""
        return self.tensors[0] if len(self.names) == 1 else dict(zip(self.names, self.tensors, strict=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> Example:
        """With something else in place of each."""
        return self.replaced([function(x) for x in self.tensors])

    def replaced(self, tensors: Sequence[Tensor] | Given) -> Example:
        """With others in their places, in order or as :attr:`given` has them."""
        if isinstance(tensors, Tensor):
            tensors = (tensors,)
        new = list(tensors.values() if isinstance(tensors, Mapping) else tensors)
        kwargs = dict(zip(self.kwargs, new[len(self.args) :], strict=True))
        return Example(self.names, tuple(new[: len(self.args)]), kwargs)

    def arguments(self, model: nn.Module) -> dict[str, Any]:
        """They, by the parameters of forward."""
        return dict(inspect.signature(model.forward).bind(*self.args, **self.kwargs).arguments)

    def call(self, model: Callable[..., Any]) -> Any:
        """What a model makes of them."""
        return model(*self.args, **self.kwargs)


def each(given: Given, function: Callable[[Tensor], Tensor]) -> Given:
    """A function of every batch.

    >>> each({"a": torch.tensor(1), "b": torch.tensor(2)}, torch.neg)
    {'a': tensor(-1), 'b': tensor(-2)}
    """
    return function(given) if isinstance(given, Tensor) else {name: function(x) for name, x in given.items()}


def example_of(model: nn.Module, given: Any, *, tokens: bool = False) -> Example:
    """The example of a model: a float batch, or one for each parameter of its forward, in order or by name.

    With ``tokens`` a batch may also be of whole numbers, int64 or int32, for an embedding.

    Raises
    ------
    ConversionError
        If one is no float batch of finite values, their lengths differ, or forward takes others.

    >>> example_of(nn.Bilinear(2, 3, 1), {"input2": torch.zeros(4, 3), "input1": torch.zeros(4, 2)}).names
    ('input1', 'input2')
    """
    several = isinstance(given, Sequence | Mapping) and not isinstance(given, str)
    args = () if isinstance(given, Mapping) else tuple(given) if several else (given,)
    kwargs = {str(name): x for name, x in given.items()} if isinstance(given, Mapping) else {}
    if not args and not kwargs:
        raise ConversionError("example", "no tensor", "give one for each parameter of forward")
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        found = f"{len(args) + len(kwargs)} for forward ({error})"
        raise ConversionError(
            "example", found, "give a tensor for each of its parameters: a tuple in their order, or a dictionary"
        ) from None
    example = Example(_names(bound), bound.args, bound.kwargs)
    for name, x in zip(example.names, example.tensors, strict=True):
        _check("example" if not several else f"example of {name}", x, tokens)
    counts = {len(x) for x in example.tensors}
    if len(counts) > 1:
        found = ", ".join(f"{len(x)} of {name}" for name, x in zip(example.names, example.tensors, strict=True))
        raise ConversionError("example", found, "give as many of each; what all images share is a buffer of the module")
    return example


def check_type(model: nn.Module, example: Example) -> None:
    """Raise a ConversionError if a model has weights of one type, and a batch another."""
    types = {x.dtype for x in model.parameters() if x.is_floating_point()}
    for x in example.tensors:
        if len(types) == 1 and x.dtype not in types and not is_tokens(x):
            (dtype,) = types
            raise ConversionError("example", f"{x.dtype} for a model in {dtype}", f"give it as {dtype}")


def is_tokens(x: Any) -> bool:
    """Whether a batch is one of whole numbers, as embeddings take them.

    >>> is_tokens(torch.tensor([[3, 1]])), is_tokens(torch.tensor([[3.0, 1.0]]))
    (True, False)
    """
    return isinstance(x, Tensor) and x.dtype in (torch.int64, torch.int32) and x.ndim >= 1


def _names(bound: inspect.BoundArguments) -> tuple[str, ...]:
    """What an exported graph calls its inputs."""
    found: list[str] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found += [f"{name}_{k}" for k in range(len(value))]
        else:
            found += list(value) if kind is inspect.Parameter.VAR_KEYWORD else [name]
    return tuple(found)


def _check(where: str, x: Any, tokens: bool) -> None:
    if isinstance(x, Tensor) and x.ndim and not len(x):
        raise ConversionError(where, f"no images, a batch of shape {tuple(x.shape)}", "give at least one")
    if tokens and is_tokens(x):
        return
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        found = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ConversionError(where, found, "give a float batch of real images, (N, C, H, W) or (N, n)")
    if not bool(torch.isfinite(x).all()):
        raise ConversionError(where, "NaN or infinite pixels", "clean the data first")
