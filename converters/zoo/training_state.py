"""The state of a phase of training, put back bit for bit: what ``state_dict`` holds, and what it does not.

Brevitas counts the batches that its quantisers have seen in a Python integer, and leaves their running statistics out
of ``state_dict`` (or puts them in the place of the scale that they will become). Both are kept beside it: every
parameter and buffer that ``state_dict`` does not hold as it is, and the counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.zoo.averaging import WeightMean
from converters.zoo.optimisers import Optimisers
from converters.zoo.training_file import Checkpoint, check_tensors, load_weights

__all__ = ["beyond_state_dict", "optimiser_state", "put_back_model", "put_back_optimiser"]

_COUNTER = "counter"  # of modules that go by how many batches they have seen
_ANOTHER = "use another --out, or delete it"


def beyond_state_dict(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Tensors and counters of a model that its ``state_dict`` does not hold; empty for most models.

    >>> beyond_state_dict(nn.BatchNorm2d(3))
    {}
    """
    held = model.state_dict()
    tensors = {name: t.detach() for name, t in _tensors(model).items() if not _is(held.get(name), t)}
    counters = {name: getattr(m, _COUNTER) for name, m in _counting(model).items()}
    return {"tensors": tensors, "counters": counters} if tensors or counters else {}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _counting(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if type(getattr(m, _COUNTER, None)) is int}


def _is(held: Tensor | None, value: Tensor) -> bool:
    return held is not None and held.shape == value.shape and held.data_ptr() == value.data_ptr()


def optimiser_state(optimiser: Optimisers, mean: WeightMean | None) -> dict[str, Any]:
    """What :func:`put_back_optimiser` takes as a checkpoint's ``optimiser``."""
    return optimiser.state_dict() | ({} if mean is None else {"mean": mean.state_dict()})


def put_back_model(path: Path, checkpoint: Checkpoint, model: nn.Module, finished: bool) -> None:
    """A phase's network, from its checkpoint into one that has just been made.

    Brevitas replaces its quantisers as they are loaded, parameters too: make the optimiser afterwards.

    Parameters
    ----------
    path : path
        Of the checkpoint, for messages.
    finished : bool
        Whether no epoch follows: then a checkpoint of an earlier version is as good.

    Raises
    ------
    ConversionError
        If the checkpoint holds the state of another network.
    """
    more = bool(beyond_state_dict(model))
    load_weights(model, checkpoint, path)
    beyond = checkpoint.beyond
    if beyond is None and more and not finished:
        found = "a checkpoint of an earlier version, without what the quantisers have counted"
        raise ConversionError(str(path), found, "delete it and train again")
    if beyond:
        tensors, counters = _entry(path, beyond, "tensors"), _entry(path, beyond, "counters")
        wanted, counting = _tensors(model), _counting(model)
        check_tensors(path, "a network", tensors, wanted, partly=True)
        bad = [n for n, c in counters.items() if n not in counting or type(c) is not int or not 0 <= c < 2**31]
        if bad:
            raise ConversionError(str(path), f"a count of {str(bad[0])[:80]!r} that makes no sense", _ANOTHER)
        with torch.no_grad():
            for name, value in tensors.items():
                wanted[name].copy_(value)
        for name, count in counters.items():
            setattr(counting[name], _COUNTER, count)


def put_back_optimiser(path: Path, checkpoint: Checkpoint, optimiser: Optimisers, mean: WeightMean | None) -> None:
    """A phase's optimiser and mean of weights, into those that have just been made for the same network.

    Raises
    ------
    ConversionError
        If the checkpoint holds the state of another optimiser.
    """
    for k, (member, _) in enumerate(optimiser.members):
        _put_back_member(path, _entry(path, checkpoint.optimiser, str(k)), member)
    if mean is not None:
        _put_back_mean(path, _entry(path, checkpoint.optimiser, "mean"), mean)


def _entry(path: Path, state: Mapping[str, Any], name: str) -> dict[Any, Any]:
    found = state.get(name)
    if not isinstance(found, dict):
        raise ConversionError(str(path), f"a checkpoint without {name!r}", _ANOTHER)
    return found


def _put_back_member(path: Path, state: dict[Any, Any], member: torch.optim.Optimizer) -> None:
    """The running values of each parameter; rates and the like stay those of the recipe."""
    own = member.state_dict()
    parameters = [p for group in member.param_groups for p in group["params"]]
    values = _entry(path, state, "state")
    if not values or not set(values) <= set(range(len(parameters))):  # none of what has never had a gradient
        raise ConversionError(str(path), f"an optimiser of {len(values)} tensors", _ANOTHER)
    for k, value in values.items():
        if not isinstance(value, dict):
            raise ConversionError(str(path), f"an optimiser without the state of tensor {k}", _ANOTHER)
        check_tensors(path, "an optimiser", value, {"momentum_buffer": parameters[k].detach()})
    member.load_state_dict({**own, "state": values})


def _put_back_mean(path: Path, state: dict[Any, Any], mean: WeightMean) -> None:
    numbers = [state.get("steps"), state.get("count")]
    values = state.get("values")
    if any(type(n) is not int or not 0 <= n < 2**53 for n in numbers) or type(values) is not list:
        raise ConversionError(str(path), "a mean of weights without its numbers", _ANOTHER)
    wanted = {str(k): value for k, value in enumerate(mean.values)}
    check_tensors(path, "a mean of weights", {str(k): value for k, value in enumerate(values)}, wanted)
    mean.load_state_dict(state)
