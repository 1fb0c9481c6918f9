"""Modules as they are used: one at two places twice, those that no module tree holds, and copies in mid-computation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["Place", "attributes", "copied", "places"]


class Place(NamedTuple):
    """Where a module stands: its path, the module that holds it (None for the model itself), and its name there."""

    path: str
    parent: nn.Module | None
    name: str
    module: nn.Module


def places(model: nn.Module) -> Iterator[Place]:
    """Every place in the module tree, in order; a module at two of them comes twice, as its path says.

    >>> fc = nn.Linear(1, 1)
    >>> [place.path for place in places(nn.Sequential(fc, nn.Sequential(fc), fc))]
    ['', '0', '1', '1.0', '2']
    """

    def walk(place: Place) -> Iterator[Place]:
        yield place
        for name, child in list(place.module._modules.items()):
            if child is not None:
                yield from walk(Place(f"{place.path}.{name}".lstrip("."), place.module, name, child))

    return walk(Place("", None, "", model))


def attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the modules of a model hold beside parameters and submodules, with its path: in lists and mappings too."""

    def walk(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
        if isinstance(value, list | tuple) and depth:
            for k, v in enumerate(value):
                yield from walk(f"{path}[{k}]", v, depth - 1)
        elif isinstance(value, dict) and depth:
            for k, v in value.items():
                yield from walk(f"{path}[{k!r}]", v, depth - 1)
        else:
            yield path, value

    for path, module in model.named_modules():
        for name, value in (*vars(module).items(), *module._buffers.items()):
            if name not in ("_modules", "_parameters", "_buffers"):
                yield from walk(f"{path}.{name}".lstrip("."), value, 3)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model, also of one that has run: ``copy.deepcopy`` refuses state that hangs on a gradient.

    Such state is copied without its history.

    Raises
    ------
    ValueError
        Where the model cannot be copied.

    >>> import torch
    >>> neuron = nn.Module()
    >>> neuron.mem = 2 * torch.ones(1, requires_grad=True)
    >>> copied(neuron).mem
    tensor([2.])
    """
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for _, value in attributes(model)
        if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"model: cannot be copied ({reason}); remove what it holds of the last run") from None
