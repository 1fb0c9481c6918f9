"""The checkpoints of a training run: tensors and text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from converters.atomic import atomic_path
from converters.errors import ConversionError

__all__ = ["load_weights", "read_checkpoint", "read_checkpoint_of", "whole_log", "write_checkpoint"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint; tensors and text only, nothing in it is executed."""
    if not path.is_file():
        raise ConversionError(str(path), "no such file", "give a .float.pt, .average.pt or .qat.pt of calif train")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # of junk, the unpickler raises a dozen kinds
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ConversionError(str(path), f"a damaged checkpoint ({reason})", "delete it and train again") from None
    try:
        texts = [json.loads(state[key]) for key in ("about", "log")] + [json.loads(state.get("before", "[]"))]
        known = [type(text) for text in texts] == [dict, list, list] and {"model", "optimiser"} <= set(state)
    except (AttributeError, LookupError, TypeError, ValueError):  # no dictionary, or what is no JSON in it
        known = False
    if not known:
        raise ConversionError(
            str(path), "a file that is no checkpoint of calif train", "use another --out, or delete it"
        )
    return state


def read_checkpoint_of(
    path: Path, about: dict[str, Any], keys: Iterable[str] | None, what: str, todo: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training checkpoint, and what it says it is of: ``keys`` (None: all) must be those of ``about``.

    Raises
    ------
    ConversionError
        If they are not, with the first four that differ; ``what`` names the file, ``todo`` the way out.
    """
    state = read_checkpoint(path)
    theirs = json.loads(state["about"])
    found = _differences(theirs, about, sorted(set(theirs) | set(about)) if keys is None else keys)
    if found:
        raise ConversionError(str(path), f"{what} with {found}", todo)
    return state, theirs


def _differences(theirs: dict[str, Any], mine: dict[str, Any], keys: Iterable[str]) -> str:
    """What a checkpoint was made for that is not what is wanted here, the first four; empty where all is the same.

    >>> _differences({"network": "vgg9", "seed": 0}, {"network": "lenet5", "seed": 0}, ("network", "seed"))
    'network vgg9 instead of lenet5'
    """
    found = [f"{k} {theirs.get(k)} instead of {mine.get(k)}" for k in keys if theirs.get(k) != mine.get(k)]
    return ", ".join(found[:4])


def whole_log(state: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per epoch of a checkpoint's run and of those that it started from."""
    return json.loads(state.get("before", "[]")) + json.loads(state["log"])


def load_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """The weights of a phase's checkpoint into a network of the same kind."""
    try:
        model.load_state_dict(state["model"])
    except RuntimeError:
        raise ConversionError(
            str(path), "a network with other layers or quantisers", "give the .float.pt of its float phase"
        ) from None


def write_checkpoint(
    path: Path,
    about: dict[str, Any],
    model: nn.Module,
    optimiser: dict[str, Any],
    log: list[dict[str, Any]],
    before: list[dict[str, Any]],
) -> None:
    """Atomically; the log also as text beside it, one JSON row per epoch. ``before``: rows of what it started from."""
    state = {
        "about": json.dumps(about, sort_keys=True),
        "model": model.state_dict(),
        "optimiser": optimiser,
        "log": json.dumps(log),
        "before": json.dumps(before),
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    with atomic_path(path.with_suffix(".jsonl")) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in log))
