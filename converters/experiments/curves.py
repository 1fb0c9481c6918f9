"""Figures 2 and 3: output against input of ReLU, LIF, quantised ReLU and Ca-LIF; and the same on a real network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from calif_plugins.parameters import CaLIFParameters
from calif_plugins.reference import closed_form
from converters.backends import run
from converters.backends.baselines import run_baseline
from converters.experiments.session import Available, Outcome, Session
from converters.network import Network
from converters.nir_export import to_nir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fig2", "fig3"]

_IMAGES = 20  # behind figure 3's real neurons


def _series(window: int, inhibition: float) -> dict[str, list[float]]:
    """The lines of :func:`calif_plugins.plots.transfer`, and the quantiser's."""
    from calif_plugins.plots import transfer

    lines = {str(x.get_label()): x for x in transfer(window=window, inhibition=inhibition).get_lines()}
    z = np.asarray(lines["ReLU"].get_xdata(), dtype=np.float64)
    found = {"z": z.tolist()}
    found |= {name: np.asarray(x.get_ydata(), dtype=np.float64).tolist() for name, x in lines.items()}
    found["quantised ReLU"] = closed_form(z, CaLIFParameters(threshold=1.0, y_max=window)).astype(float).tolist()
    return found


def fig2(session: Session) -> Outcome:
    """ReLU, basic LIF, quantised ReLU; and Ca-LIF, with charge that comes evenly."""
    window = 8
    series = _series(window, 0.0)
    same = series["Ca-LIF"] == series["quantised ReLU"]
    data = {"T": window, "series": series, "calif_equals_quantised": same}
    return Outcome("Input and output of one neuron", data, None, lambda: _panels(series, window), int(not same))


def _panels(series: dict[str, list[float]], window: int) -> Figure:
    from matplotlib.figure import Figure

    from calif_plugins.plots_style import GREY, NEGATIVE, POSITIVE, RIVAL

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    shown = [("ReLU", GREY), ("LIF", RIVAL), ("quantised ReLU", NEGATIVE), ("Ca-LIF", POSITIVE)]
    for k, (name, colour) in enumerate(shown):
        ax = figure.add_subplot(1, 4, k + 1)
        ax.plot(series["z"], series["ReLU"], color=GREY, alpha=0.5, linewidth=1, linestyle=":")
        ax.plot(series["z"], series[name], color=colour, linewidth=1.8)
        label = "z" if name == "ReLU" else "z / Vth"
        ax.set(title=f"({'ABCD'[k]}) {name}", xlabel=label, ylim=(-0.4, window + 0.4))
        ax.spines[["top", "right"]].set_visible(False)
        if k == 0:
            ax.set_ylabel("output")
    return figure


def fig3(session: Session) -> Outcome:
    """With inhibition that comes late; and on the neurons of a real network."""
    window = 12
    series = _series(window, 4.0)
    same = series["Ca-LIF"] == series["quantised ReLU"]
    real = None
    chosen = session.want("lenet5", "mnist", 127) or next(iter(session.checkpoints), None)
    if chosen is not None:
        real = _real(session, chosen)
    data: dict[str, Any] = {"T": window, "inhibition": 4.0, "series": series, "calif_equals_quantised": same}
    if real is not None:
        data["network"] = real
    wrong = int(not same) + (real["wrong"]["Ca-LIF"] if real is not None else 0)
    return Outcome(
        "Late inhibition: LIF misses, Ca-LIF does not", data, None, lambda: _two(series, window, real), wrong
    )


def _real(session: Session, c: Available) -> dict[str, Any] | None:
    """Counts of LIF and of Ca-LIF against the integers, in the layer that LIF gets most wrong."""
    images = session.data(c)
    if images is None:
        return None
    t = 128 if c.levels == 127 else c.levels
    network = Network.from_graph(to_nir(c.q, T=t, coding=c.codings[0]))
    pixels = images.first(_IMAGES).pixels
    expected = c.q.at_window(t, c.codings[0]).execute(pixels)
    # stepped by a clock, LIF is the soft-reset IF with its leak as current
    lif, ours = run_baseline(network, pixels, name="if_soft"), run(network, pixels)
    names = [s.name for s in network.stages if s.parameters.y_min.min() == 0 and s.name in ours.counts]
    worst = max(names, key=lambda n: float((lif.counts[n] != expected[n]).double().mean()))
    truth = expected[worst]
    off = {"LIF": lif.counts[worst] - truth, "Ca-LIF": ours.counts[worst] - truth}
    return {
        "checkpoint": c.name,
        "layer": worst,
        "T": t,
        "images": len(pixels),
        "compared": truth.numel(),
        "wrong": {k: int((v != 0).sum()) for k, v in off.items()},
        "differences": {k: _histogram(v) for k, v in off.items()},
    }


def _histogram(x: Tensor) -> dict[int, int]:
    values, counts = x.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _two(series: dict[str, list[float]], window: int, real: dict[str, Any] | None) -> Figure:
    from matplotlib.figure import Figure

    from calif_plugins.plots_style import GREY, NEGATIVE, POSITIVE, RIVAL, whole_numbers

    figure = Figure(figsize=(10 if real else 5.4, 4.2), layout="constrained")
    ax = figure.add_subplot(1, 2 if real else 1, 1)
    ax.plot(series["z"], series["ReLU"], color=GREY, linewidth=4, alpha=0.5, label="ReLU")
    ax.plot(series["z"], series["LIF"], color=RIVAL, linewidth=1.6, linestyle="--", label="LIF")
    ax.plot(series["z"], series["quantised ReLU"], color=NEGATIVE, linewidth=3.5, alpha=0.5, label="quantised ReLU")
    ax.plot(series["z"], series["Ca-LIF"], color=POSITIVE, linewidth=1.4, label="Ca-LIF")
    ax.set(xlabel="net charge z / Vth", ylabel="output (spike count)", title=f"one neuron, T = {window}")
    ax.legend(frameon=False)
    axes = [ax]
    if real:
        ax = figure.add_subplot(1, 2, 2)
        for k, (name, colour) in enumerate((("LIF", RIVAL), ("Ca-LIF", POSITIVE))):
            off = sorted(real["differences"][name].items())
            share = [100 * n / real["compared"] for _, n in off]
            label = f"{name}: {100 * real['wrong'][name] / real['compared']:.3g} % wrong"
            ax.bar([d + 0.4 * k - 0.2 for d, _ in off], share, 0.38, color=colour, label=label)
        ax.set(
            xlabel="spike count − integer of the quantised network", ylabel="neurons (%)",
            title=f"{real['checkpoint']}, layer {real['layer']}, T = {real['T']}",
        )  # fmt: skip
        whole_numbers(ax.xaxis)
        ax.legend(frameon=False)
        axes.append(ax)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure
