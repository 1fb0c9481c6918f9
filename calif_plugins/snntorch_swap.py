"""Ca-LIF into snnTorch models that already exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from calif_plugins.snntorch_citizen import enlist
from calif_plugins.snntorch_neuron import CaLIF
from calif_plugins.snntorch_obstacles import NEURONS, obstacle
from calif_plugins.torch_modules import attributes, copied, places

__all__ = ["SwapReport", "swap_neurons"]


@dataclass
class SwapReport:
    """What :func:`swap_neurons` did.

    Attributes
    ----------
    model : nn.Module
        The model with Ca-LIF neurons.
    replaced : list of (path, old type, note)
        One for every place; the note says what has no counterpart in a Ca-LIF neuron.
    skipped : list of (path, type, reason)
        The reason says what to do instead.
    notes : list of str
        What is to be known of the whole model.
    """

    model: nn.Module
    replaced: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"replaced {path} ({kind}): {note}" for path, kind, note in self.replaced]
        lines += [f"skipped {path} ({kind}): {reason}" for path, kind, reason in self.skipped]
        return "\n".join([*lines, *self.notes]) or "no snnTorch neuron found"


def swap_neurons(
    model: nn.Module,
    *,
    y_min: Any = 0.0,
    y_max: Any = float("inf"),
    leak: Any = 0.0,
    tie: str = "even",
    inplace: bool = False,
    check: bool = True,
) -> SwapReport:
    """Replace ``snn.Leaky`` and ``snn.Lapicque`` in a model by Ca-LIF neurons.

    Thresholds (learned ones too), surrogate gradients, ``init_hidden`` and ``output`` carry over. A decay ``beta`` does
    not: Ca-LIF leaks a constant. Neither does the state of a model that has run: the new neurons start at rest. In
    models that pass the state themselves (``spk, mem = self.lif(x, mem)``) the new neuron returns its membrane as
    ``mem``, with its counts on it (see ``packed`` of :class:`~calif_plugins.snntorch_neuron.CaLIF`).

    ``snntorch.utils.reset``, ``snntorch.backprop``, the losses of ``snntorch.functional`` and its probes work on the
    new model as on the old one.

    Parameters
    ----------
    model : nn.Module
    y_min, y_max, leak, tie
        Of every new neuron (see :class:`~calif_plugins.snntorch_neuron.CaLIF`).
    inplace : bool
        Change ``model`` itself instead of a copy.
    check : bool
        Compare each new neuron with the old one, for some milliseconds: driven by positive charge, without decay, leak
        and range, both fire at the same steps.

    Returns
    -------
    SwapReport
        With the model, every place where a neuron was replaced, and every one where it could not be, with the reason.

    Raises
    ------
    ValueError
        If the model cannot be copied, or a new neuron does not fire when the old one does.

    Examples
    --------
    >>> report = swap_neurons(nn.Sequential(nn.Linear(2, 2), snntorch.Leaky(beta=0.9, threshold=1.5, init_hidden=True)))
    >>> print(report)
    replaced 1 (Leaky): threshold 1.5; decay beta=0.9 is not carried over: Ca-LIF leaks a constant
    >>> report.model[1].threshold
    tensor(1.5000)
    """
    report = SwapReport(model if inplace else copied(model))
    shared = {"y_min": y_min, "y_max": y_max, "leak": leak, "tie": tie}
    elsewhere = {id(value): path for path, value in attributes(report.model) if _is_foreign(value)}
    done: dict[int, tuple[str, CaLIF | None]] = {}
    for place in list(places(report.model)):
        old = place.module
        if not _is_foreign(old):
            continue
        path, kind = place.path or type(old).__name__, type(old).__name__
        if id(old) not in done:
            reason = obstacle(old) or _held(elsewhere.pop(id(old), None))
            done[id(old)] = path, None if reason else _new(old, shared)
            new = done[id(old)][1]
            if new is None:
                report.skipped.append((path, kind, reason))
            elif check:
                _check(path, old, new)
            note = "" if new is None else _note(old)
        else:  # one neuron at two places stays one
            first, new = done[id(old)]
            note = f"the same neuron as {first}, with one state for both"
            if new is None:
                report.skipped.append((path, kind, note))
        if new is None:
            continue
        report.replaced.append((path, kind, note))
        if place.parent is None:
            report.model = new
        else:
            place.parent._modules[place.name] = new
    loose = [(path, v) for path, v in attributes(report.model) if _is_foreign(v) and id(v) not in done]
    report.skipped += [
        (path, type(v).__name__, "is in no module; use nn.ModuleList or nn.ModuleDict") for path, v in loose
    ]
    if not inplace:
        _enlist(report.model)
    if report.replaced:
        report.notes.extend(_notes(report.model))
    return report


def _enlist(model: nn.Module) -> None:
    """Into snnTorch's list of neurons, by which it resets them: it does not know copies."""
    for module in model.modules():
        if _is_foreign(module) and isinstance(module, snntorch.SpikingNeuron):
            enlist(module)


def _held(path: str | None) -> str:
    return f"is held by {path} too, where no swap reaches; use nn.ModuleList or ModuleDict" if path else ""


def _notes(model: nn.Module) -> Iterator[str]:
    """What to know of a model that has Ca-LIF neurons now."""
    for place in places(model):
        if type(place.module) in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d):
            yield (
                f"{place.path} ({type(place.module).__name__}): a max pool drops negative spikes that stand beside "
                "others, and is nothing that converters.from_snntorch can export: put an average pool, train again"
            )
    if not any(type(m) is CaLIF for m in model.children()):
        yield "snntorch.utils.reset sees direct children alone, here are none: use calif_plugins.snntorch.reset(model)"


def _is_foreign(value: Any) -> bool:
    return isinstance(value, NEURONS) and type(value) is not CaLIF


def _new(old: Any, shared: dict[str, Any]) -> CaLIF:
    threshold = old.threshold.detach()
    new = CaLIF(
        threshold=threshold if threshold.numel() > 1 else threshold.reshape(()),
        spike_grad=old.spike_grad,
        surrogate_disable=old.surrogate_disable,
        init_hidden=old.init_hidden,
        output=old.output,
        learn_threshold=isinstance(old.threshold, nn.Parameter),
        packed=True,
        **shared,
    ).to(threshold.device)
    if threshold.ndim == 1 and threshold.numel() > 1:
        new.dense = (
            True  # a row of thresholds is the last axis' in snnTorch, the channels' here: the same in (N, C) alone
        )
    new.threshold.requires_grad_(old.threshold.requires_grad)
    return new.train(old.training)


def _note(old: Any) -> str:
    notes = [f"threshold {_shown(old.threshold)}"]
    if type(old) is snntorch.Lapicque:
        gain = (old.time_step / old.C).detach()
        notes.append(f"its input gain of {_shown(gain)} is not carried over: scale the weights before it")
    if bool((torch.as_tensor(old.beta) != 1).any()):
        notes.append(f"decay beta={_shown(old.beta)} is not carried over: Ca-LIF leaks a constant")
    if old.reset_mechanism != "subtract":
        notes.append(f"reset {old.reset_mechanism!r} became subtraction")
    if (old.output or not old.init_hidden) and getattr(old, "reset_delay", True):
        notes.append("the membrane is returned after its reset, not before")
    if old._forward_hooks or old._forward_pre_hooks or old._backward_hooks:
        notes.append("its hooks stay behind: set them again")
    return "; ".join(notes)


def _check(path: str, old: Any, new: CaLIF, steps: int = 16) -> None:
    """Positive charge, no decay, no leak, no range: a spike at every step at which the old threshold is passed."""
    threshold = old.threshold.detach().double().cpu()
    shape = (2, threshold.numel(), *[1] * (threshold.ndim - 1)) if threshold.numel() > 1 else (2, 3)
    charges = torch.rand(steps, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * threshold
    mine: Any = copied(new).double().cpu()
    mine.init_hidden, mine.output = True, False
    for name, value in (("leak", 0.0), ("y_min", -torch.inf), ("y_max", torch.inf)):
        getattr(mine, name).detach().fill_(value)
    theirs = snntorch.Leaky(beta=torch.tensor(1.0, dtype=torch.float64), threshold=threshold, init_hidden=True)
    snntorch.SpikingNeuron.instances.remove(theirs)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for step, charge in enumerate(charges):
            a, b = mine(charge), theirs(charge)
            if not torch.equal(a, b) and bool(((theirs.mem - threshold).abs()[a != b] > 1e-9 * threshold.max()).any()):
                raise ValueError(
                    f"{path}: at step {step} the new neuron fires otherwise than the old one; please report it"
                )


def _shown(value: Any) -> str:
    t: Tensor = torch.as_tensor(value).detach()
    return f"{t.item():g}" if t.numel() == 1 else f"of shape {tuple(t.shape)}"
