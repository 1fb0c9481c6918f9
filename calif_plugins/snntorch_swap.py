"""Ca-LIF into snnTorch models that already exist."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from calif_plugins.snntorch_neuron import CaLIF

__all__ = ["SwapReport", "swap_neurons"]


@dataclass
class SwapReport:
    """What :func:`swap_neurons` did.

    Attributes
    ----------
    model : nn.Module
        The model with Ca-LIF neurons.
    replaced : list of (path, old type, note)
        The note says what has no counterpart in a Ca-LIF neuron.
    skipped : list of (path, type, reason)
    """

    model: nn.Module
    replaced: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"replaced {path} ({kind}): {note}" for path, kind, note in self.replaced]
        lines += [f"skipped {path} ({kind}): {reason}" for path, kind, reason in self.skipped]
        return "\n".join(lines) or "no snnTorch neuron found"


def swap_neurons(
    model: nn.Module,
    *,
    y_min: Any = 0.0,
    y_max: Any = float("inf"),
    leak: Any = 0.0,
    tie: str = "even",
    inplace: bool = False,
) -> SwapReport:
    """Replace ``snn.Leaky`` and ``snn.Lapicque`` in a model by Ca-LIF neurons.

    Thresholds (learned ones too), surrogate gradients, ``init_hidden`` and ``output`` carry over. A decay
    ``beta`` does not: Ca-LIF leaks a constant. In models that pass the state themselves
    (``spk, mem = self.lif(x, mem)``) the new neuron packs ``v`` and ``y`` into that one state.

    Parameters
    ----------
    model : nn.Module
    y_min, y_max, leak, tie
        Of every new neuron (see :class:`~calif_plugins.snntorch_neuron.CaLIF`).
    inplace : bool
        Change ``model`` itself instead of a copy.

    Returns
    -------
    SwapReport
        With the model, every neuron replaced, and every one that could not be, with the reason.

    Examples
    --------
    >>> report = swap_neurons(nn.Sequential(nn.Linear(2, 2), snntorch.Leaky(beta=0.9, threshold=1.5, init_hidden=True)))
    >>> print(report)
    replaced 1 (Leaky): threshold 1.5; decay beta=0.9 is not carried over: Ca-LIF leaks a constant
    >>> report.model[1].threshold
    tensor(1.5000)
    """
    report = SwapReport(model if inplace else copy.deepcopy(model))
    done: dict[int, nn.Module | None] = {}
    shared = {"y_min": y_min, "y_max": y_max, "leak": leak, "tie": tie}
    for path, parent, name, neuron in list(_neurons(report.model)):
        if id(neuron) not in done:  # one neuron used at two places stays one
            done[id(neuron)] = _swap(path or type(neuron).__name__, neuron, shared, report)
        new = done[id(neuron)]
        if new is None:
            continue
        if parent is None:
            report.model = new
        else:
            parent._modules[name] = new
    return report


def _neurons(model: nn.Module) -> Iterator[tuple[str, nn.Module | None, str, snntorch.SpikingNeuron]]:
    if isinstance(model, snntorch.SpikingNeuron):
        yield "", None, "", model
    for path, parent in model.named_modules():
        for name, child in parent.named_children():
            if isinstance(child, snntorch.SpikingNeuron) and type(child) is not CaLIF:
                yield f"{path}.{name}".lstrip("."), parent, name, child


def _swap(path: str, old: Any, shared: dict[str, Any], report: SwapReport) -> CaLIF | None:
    kind = type(old).__name__
    reason = _obstacle(old)
    if reason:
        report.skipped.append((path, kind, reason))
        return None
    threshold = old.threshold.detach()
    new = CaLIF(
        threshold=threshold.reshape(-1) if threshold.numel() > 1 else threshold,
        spike_grad=old.spike_grad,
        surrogate_disable=old.surrogate_disable,
        init_hidden=old.init_hidden,
        output=old.output,
        learn_threshold=isinstance(old.threshold, nn.Parameter),
        packed=True,
        **shared,
    ).to(threshold.device, threshold.dtype if threshold.is_floating_point() else None)
    new.train(old.training)
    notes = [f"threshold {_shown(threshold)}"]
    if bool((torch.as_tensor(old.beta) != 1).any()):
        notes.append(f"decay beta={_shown(old.beta)} is not carried over: Ca-LIF leaks a constant")
    if old.reset_mechanism != "subtract":
        notes.append(f"reset {old.reset_mechanism!r} became subtraction")
    report.replaced.append((path, kind, "; ".join(notes)))
    return new


def _obstacle(old: Any) -> str:
    """Why a neuron cannot be replaced; empty where it can."""
    if type(old) not in _REPLACEABLE:
        return "has dynamics that Ca-LIF lacks (synaptic current, recurrence or gates); swap it for a Leaky first"
    if old.inhibition:
        return "lets only one neuron fire (inhibition), which Ca-LIF has no counterpart of"
    if old.state_quant:
        return "quantises its membrane; remove state_quant first"
    if getattr(old, "graded_spikes_factor", None) is not None and bool((old.graded_spikes_factor != 1).any()):
        return "scales its spikes; fold graded_spikes_factor into the next layer's weights first"
    threshold = old.threshold
    if bool((threshold <= 0).any()):
        return "has a threshold that is not positive"
    if threshold.numel() > 1 and max(threshold.shape[1:], default=1) > 1:
        return f"has one threshold per neuron (shape {tuple(threshold.shape)}); Ca-LIF has one per channel"
    return ""


_REPLACEABLE: dict[type, Callable[..., Any]] = {snntorch.Leaky: CaLIF, snntorch.Lapicque: CaLIF}


def _shown(value: Any) -> str:
    t: Tensor = torch.as_tensor(value).detach()
    return f"{t.item():g}" if t.numel() == 1 else f"of shape {tuple(t.shape)}"
