"""Pictures of one neuron and of its transfer function, with matplotlib (``pip install "calif-plugins[plot]"``).

Every function takes an ``Axes`` and returns it; without one it makes a figure of its own. Networks are drawn by
:mod:`calif_plugins.plots_network`, whose functions can be had from here too::

    from calif_plugins import CaLIFParameters, plots

    trace = plots.trace([3.0, 3.0, -5.0], CaLIFParameters(threshold=2.0))
    axes = plots.membrane(trace)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calif_plugins.parameters import CaLIFParameters, Phase
from calif_plugins.plots_network import (
    ENERGY,
    accuracy,
    counts_against_integers,
    graph,
    layer_energy,
    layer_spikes,
    raster,
)
from calif_plugins.plots_style import GREY, NEGATIVE, POSITIVE, RIVAL, axes_or_new, whole_numbers
from calif_plugins.reference import fire, initial_state, run, step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ENERGY",
    "NeuronTrace",
    "accuracy",
    "calcium",
    "counts_against_integers",
    "graph",
    "layer_energy",
    "layer_spikes",
    "membrane",
    "raster",
    "trace",
    "transfer",
]


@dataclass(frozen=True, eq=False)
class NeuronTrace:
    """What one neuron did, step by step; all arrays of shape ``(steps,)``.

    Attributes
    ----------
    before, after : float arrays
        Membrane potential when the thresholds are looked at, and after the reset.
    y : int array
        Signed count (calcium) after the step.
    spikes : int array
        In {-1, 0, 1}.
    refused : int array
        The spike that the calcium gate refused, in {-1, 0, 1}.
    threshold : float array
        ``Vth``, or half of it in the rounding phase.
    window : int
        ``T``.
    y_min, y_max : float
        The calcium range; may be infinite.
    """

    before: np.ndarray
    after: np.ndarray
    y: np.ndarray
    spikes: np.ndarray
    refused: np.ndarray
    threshold: np.ndarray
    window: int
    y_min: float
    y_max: float


def trace(
    charges: Sequence[float] | np.ndarray,
    p: CaLIFParameters,
    *,
    phase: Phase = "settle",
    settle_from: int | None = None,
) -> NeuronTrace:
    """Run one neuron with :mod:`calif_plugins.reference` and keep what a picture needs.

    Parameters
    ----------
    charges : array of shape ``(T,)``
        What arrives at each step of the window, in units of the membrane potential.
    p : CaLIFParameters
        Of one neuron: scalars, or one value each.
    phase : {"settle", "paper", "none"}
    settle_from : int, optional
        Step from which thresholds are half; the window's end by default.

    Raises
    ------
    ValueError
        If the charges are not one list of numbers, or the parameters are those of several channels.

    Examples
    --------
    >>> t = trace([3.0, 3.0, -5.0], CaLIFParameters(threshold=2.0))
    >>> t.spikes.tolist(), t.y.tolist(), t.refused.tolist()
    ([1, 1, -1, -1], [1, 2, 1, 0], [0, 0, 0, 0])
    """
    given = np.asarray(charges, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise ValueError(f"charges: expected the charge of one neuron at each step, found shape {given.shape}")
    if p.channels != 1:
        raise ValueError(f"p: expected the parameters of one neuron, found {p.channels} channels")
    window = len(given)
    spikes = run(given[:, None], p, phase=phase, settle_from=settle_from).spikes[:, 0]
    half_from = window if phase != "settle" or settle_from is None else settle_from
    q, free = p.for_shape((1,)), _without_range(p)
    v, y = initial_state((1,), p)
    rows = []
    for t, s in enumerate(spikes):
        half, leak = t >= half_from, t < window
        charge = given[t] if leak else 0.0
        peak = v + charge - (q.leak if leak else 0.0)
        wish = int(fire(peak, y, free, half=half)[0])
        v, y, _ = step(v, y, charge, p, half=half, leak=leak)
        threshold = float(q.threshold) / (2 if half else 1)
        rows.append((peak[0], v[0], y[0], s, wish - s, threshold))
    before, after, count, own_spikes, refused, thresholds = (np.array(c) for c in zip(*rows, strict=True))
    ranges = float(q.y_min), float(q.y_max)
    return NeuronTrace(before, after, count, own_spikes, refused, thresholds, window, *ranges)


def _without_range(p: CaLIFParameters) -> CaLIFParameters:
    return CaLIFParameters(p.threshold, p.leak, -np.inf, np.inf, p.tie, p.v_init)


def membrane(t: NeuronTrace, *, ax: Axes | None = None) -> Axes:
    """Membrane potential with both thresholds, the spikes by sign, and the spikes that the gate refused.

    Parameters
    ----------
    t : NeuronTrace
        From :func:`trace`.
    ax : Axes, optional

    Returns
    -------
    Axes
        x: steps from 1; y: membrane potential.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> axes = membrane(trace([3.0, 3.0, -5.0], CaLIFParameters(threshold=2.0)))
    >>> axes.get_xlabel()
    'step'
    """
    ax = axes_or_new(ax, (7, 3))
    steps = np.arange(1, len(t.before) + 1)
    # within a step: charge arrives, then the reset pulls the potential back
    x, path = np.repeat(steps, 2), np.stack([t.before, t.after], 1).ravel()
    edges = np.arange(0.5, len(steps) + 1)
    for sign in (1, -1):
        ax.stairs(
            sign * t.threshold, edges, baseline=None, color=GREY, linewidth=1.2, linestyle="--",
            label="thresholds" if sign == 1 else None,
        )  # fmt: skip
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.plot(x, path, color="black", linewidth=1.2, label="membrane potential V")
    for sign, colour, marker, text in ((1, POSITIVE, "^", "positive spike"), (-1, NEGATIVE, "v", "negative spike")):
        at = t.spikes == sign
        if at.any():
            ax.plot(steps[at], t.before[at], marker, color=colour, markersize=9, linestyle="", label=text)
    refused = t.refused != 0
    if refused.any():
        ax.plot(
            steps[refused], t.before[refused], "o", markersize=10, markerfacecolor="none", markeredgecolor=RIVAL,
            markeredgewidth=1.8, linestyle="", label="refused by the gate",
        )  # fmt: skip
    _mark_rounding(ax, t)
    ax.set(xlabel="step", ylabel="V", xlim=(0.5, len(steps) + 0.5))
    _legend_outside(ax)
    return ax


def calcium(t: NeuronTrace, *, ax: Axes | None = None) -> Axes:
    """Calcium, the signed count of output spikes, within its range.

    Parameters
    ----------
    t : NeuronTrace
        From :func:`trace`.
    ax : Axes, optional

    Returns
    -------
    Axes
        x: steps from 1; y: signed count.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    ax = axes_or_new(ax, (7, 2))
    steps = np.arange(1, len(t.y) + 1)
    edges = np.arange(0.5, len(steps) + 1)
    ax.stairs(t.y, edges, baseline=0, fill=True, color=POSITIVE, alpha=0.25)
    ax.stairs(t.y, edges, baseline=None, color=POSITIVE, linewidth=1.5, label="calcium y")
    reach = max(int(np.abs(t.y).max(initial=0)), 1)
    bounds = [b for b in (t.y_min, t.y_max) if np.isfinite(b) and abs(b) <= 2 * reach + 2]
    for k, bound in enumerate(bounds):
        ax.axhline(bound, color=RIVAL, linewidth=1.2, linestyle=":", label="calcium range" if k == 0 else None)
    refused = t.refused != 0
    if refused.any():
        ax.plot(
            steps[refused], t.y[refused], "o", markersize=10, markerfacecolor="none", markeredgecolor=RIVAL,
            markeredgewidth=1.8, linestyle="",
        )  # fmt: skip
    low, high = min(0, *t.y.tolist(), *bounds), max(1, *t.y.tolist(), *bounds)
    ax.set(xlabel="step", ylabel="y", xlim=(0.5, len(steps) + 0.5), ylim=(low - 0.5, high + 0.5))
    whole_numbers(ax.yaxis)
    _mark_rounding(ax, t)
    _legend_outside(ax)
    return ax


def _mark_rounding(ax: Axes, t: NeuronTrace) -> None:
    if len(t.before) > t.window:
        ax.axvspan(t.window + 0.5, len(t.before) + 0.5, color=GREY, alpha=0.15, linewidth=0, label="rounding phase")


def _legend_outside(ax: Axes) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")


def transfer(
    *,
    window: int = 12,
    inhibition: float = 0.0,
    points: int = 241,
    tie: str = "even",
    ax: Axes | None = None,
) -> Axes:
    """Output against input of ReLU, of the basic LIF neuron and of Ca-LIF (the paper's figures 2 and 3).

    The net charge ``z`` and the output are in units of the threshold. The ReLU's clamp is ``T``, as the quantiser's
    is. LIF fires at a whole threshold, resets by subtraction, and knows no negative spike.

    Parameters
    ----------
    window : int
        ``T``, in steps.
    inhibition : float
        Charge that comes late: the first half of the window brings ``z + inhibition``, the second takes
        ``inhibition`` away. At 0 the charge is spread evenly.
    points : int
        Values of ``z``.
    tie : {"even", "up"}
    ax : Axes, optional

    Returns
    -------
    Axes
        With the lines ``ReLU``, ``LIF`` and ``Ca-LIF``.

    Raises
    ------
    ValueError
        If the window is shorter than 2 steps or the inhibition negative.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> axes = transfer(window=4, points=9)
    >>> [line.get_label() for line in axes.get_lines()]
    ['ReLU', 'LIF', 'Ca-LIF']
    """
    if window < 2 or inhibition < 0:
        raise ValueError(f"transfer: expected window >= 2 and inhibition >= 0, found {window} and {inhibition}")
    z = np.linspace(-2.0, window + 2.0, points)
    early = window // 2
    charges = np.empty((window, points))
    if inhibition:
        charges[:early], charges[early:] = (z + inhibition) / early, -inhibition / (window - early)
    else:
        charges[:] = z / window
    p = CaLIFParameters(threshold=1.0, y_min=0, y_max=window, tie=tie)  # type: ignore[arg-type]
    ax = axes_or_new(ax, (5, 4))
    ax.plot(z, np.clip(z, 0, window), color=GREY, linewidth=4, alpha=0.6, label="ReLU")
    ax.plot(z, _lif_counts(charges), color=RIVAL, linewidth=1.6, linestyle="--", label="LIF")
    ax.plot(z, run(charges, p).y, color=POSITIVE, linewidth=1.8, label="Ca-LIF")
    ax.set(xlabel="net charge z / Vth", ylabel="output (spike count)")
    ax.legend(frameon=False)
    return ax


def _lif_counts(charges: np.ndarray) -> Any:
    """Spike counts of a basic LIF neuron of threshold 1 (equation 3a): positive spikes only, no rounding phase."""
    v, count = np.zeros(charges.shape[1:]), np.zeros(charges.shape[1:], dtype=np.int64)
    for charge in charges:
        v = v + charge
        fired = v >= 1
        v, count = v - fired, count + fired
    return count
