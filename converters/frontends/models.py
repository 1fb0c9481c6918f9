"""What a front-end is given as a model, before anything is done with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from converters.errors import ConversionError

__all__ = ["NO_RECURRENCE", "check_finite", "check_float_model", "check_model", "check_recurrence"]

NO_RECURRENCE = "use convolutions or matrix products over time: recurrence feeds on its own output"


def check_model(model: Any) -> None:
    """Raise a ConversionError unless this is a module of ordinary weights, all of them finite."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ConversionError("model", type(model).__name__, "give the torch.nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        todo = "load it into its module, and give that" if isinstance(model, dict) else "give a torch.nn.Module"
        raise ConversionError("model", type(model).__name__, todo)
    for name, value in model.named_parameters():
        if value.is_meta:
            raise ConversionError(name, "a weight without values, on the meta device", "load the weights first")
    check_finite(model)


def check_float_model(model: Any) -> None:
    """Raise a ConversionError unless this is a module that fake quantisers can go into, as it has none."""
    check_model(model)
    if any(hasattr(m, "fake_quant_enabled") for m in model.modules()):
        raise ConversionError("model", "one that is prepared already", "give the float model that it was made from")


@torch.no_grad()
def check_finite(model: nn.Module) -> None:
    """Raise a ConversionError if a weight is not finite: as an integer it would look like any other."""
    for name, value in model.named_parameters():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ConversionError(name, "NaN or infinite values", "train with a lower rate, or from an earlier state")


def check_recurrence(model: nn.Module) -> None:
    """Raise a ConversionError that names the first recurrent layer, where there is one: its loop over time is what
    exporters and tracers stumble over, and say otherwise."""
    for path, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            raise ConversionError(path or "model", f"a recurrent layer, {type(module).__name__}", NO_RECURRENCE)
