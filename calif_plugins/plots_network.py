"""Pictures of layers and networks, from arrays and plain values; reached through :mod:`calif_plugins.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from calif_plugins.plots_style import GREY, NEGATIVE, POSITIVE, RIVAL, axes_or_new, text_colour, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ENERGY", "accuracy", "counts_against_integers", "graph", "layer_energy", "layer_spikes", "raster"]

ENERGY: Mapping[str, tuple[float, float]] = MappingProxyType({"FP32": (4.6, 0.9), "INT8": (0.23, 0.03)})
"""Picojoules of a multiply-accumulate and of an accumulate at 45 nm, by arithmetic."""


def raster(spikes: Any, *, window: int | None = None, ax: Axes | None = None) -> Axes:
    """Signed spike raster: positive spikes point up, negative ones down.

    Parameters
    ----------
    spikes : int array of shape ``(steps, *shape)``
        In {-1, 0, 1}; neurons are numbered in the order of the flattened shape.
    window : int, optional
        ``T``; the steps after it are shaded as the rounding phase.
    ax : Axes, optional

    Returns
    -------
    Axes
        x: steps from 1; y: neurons from 0.

    Raises
    ------
    ValueError
        If there are values other than -1, 0 and 1, or no neuron axis.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> raster(np.array([[1, 0], [-1, 1]])).get_ylabel()
    'neuron'
    """
    trains = np.asarray(spikes)
    if trains.ndim < 2 or not np.isin(trains, (-1, 0, 1)).all():
        raise ValueError(f"spikes: expected (steps, neurons) with values -1, 0 and 1, found shape {trains.shape}")
    trains = trains.reshape(len(trains), -1)
    ax = axes_or_new(ax, (7, 3))
    size = float(np.clip(300 / max(trains.shape), 1.5, 7))
    for sign, colour, marker, text in ((1, POSITIVE, "^", "positive"), (-1, NEGATIVE, "v", "negative")):
        step, neuron = np.nonzero(trains == sign)
        ax.plot(step + 1, neuron, marker, color=colour, markersize=size, linestyle="", label=f"{text} ({len(step):,})")
    steps = len(trains)
    if window is not None and steps > window:
        ax.axvspan(window + 0.5, steps + 0.5, color=GREY, alpha=0.15, linewidth=0, label="rounding phase")
    ax.set(xlabel="step", ylabel="neuron", xlim=(0.5, steps + 0.5), ylim=(-0.7, trains.shape[1] - 0.3))
    whole_numbers(ax.yaxis)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    return ax


def counts_against_integers(counts: Any, integers: Any, *, ax: Axes | None = None) -> Axes:
    """Each neuron's spike count against the quantised network's integer; the title says how many differ.

    Parameters
    ----------
    counts, integers : int arrays of one shape
    ax : Axes, optional

    Returns
    -------
    Axes
        A point's area grows with the number of neurons on it; those off the diagonal have another colour.

    Raises
    ------
    ValueError
        If the shapes differ or there is nothing to compare.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> counts_against_integers([0, 1, 3], [0, 1, 2]).get_title()
    '3 counts, 1 differs'
    """
    a, b = np.asarray(counts).ravel(), np.asarray(integers).ravel()
    if np.shape(counts) != np.shape(integers) or not a.size:
        raise ValueError(f"counts: expected two arrays of one shape, found {np.shape(counts)} and {np.shape(integers)}")
    ax = axes_or_new(ax, (4.5, 4.5))
    points, times = np.unique(np.stack([b, a]), axis=1, return_counts=True)
    equal = points[0] == points[1]
    area = 12 + 90 * np.sqrt(times / times.max())
    ends = [points.min(), points.max()]
    ax.plot(ends, ends, color=GREY, linewidth=0.8, zorder=0)
    draw: Any = ax.scatter
    for keep, colour, marker, text in ((equal, POSITIVE, "o", "equal"), (~equal, NEGATIVE, "X", "differs")):
        if keep.any():
            at = points[:, keep]
            size = area[keep] if text == "equal" else area[keep] + 30  # a single neuron must catch the eye
            draw(at[0], at[1], s=size, color=colour, marker=marker, alpha=0.75, linewidths=0, label=text)
    wrong = int((a != b).sum())
    ax.set(
        xlabel="integer of the quantised network", ylabel="signed spike count",
        title=f"{a.size:,} counts, {wrong:,} {'differs' if wrong == 1 else 'differ'}",
    )  # fmt: skip
    ax.set_aspect("equal")
    ax.legend(frameon=False, loc="upper left")
    return ax


def accuracy(
    windows: Sequence[int],
    series: Mapping[str, Sequence[float]],
    *,
    quantised: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against the length of the window.

    Parameters
    ----------
    windows : sequence of int, ``(n,)``
        ``T``, in steps; drawn on a logarithmic axis.
    series : mapping of names to sequences ``(n,)``
        Accuracies in [0, 1], such as one for each rounding phase.
    quantised : float, optional
        That of the quantised network, as a line.
    ax : Axes, optional

    Returns
    -------
    Axes
        y: per cent.

    Raises
    ------
    ValueError
        If a series has another length than ``windows``, or an accuracy is not within [0, 1].
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> axes = accuracy([4, 8], {"settle": [0.9, 0.95], "none": [0.2, 0.8]}, quantised=0.95)
    >>> len(axes.get_lines())
    3
    """
    for name, values in series.items():
        found = np.asarray(values, dtype=np.float64)
        if found.shape != (len(windows),) or not ((found >= 0) & (found <= 1)).all():
            raise ValueError(f"series {name!r}: expected {len(windows)} accuracies between 0 and 1, found {values!r}")
    ax = axes_or_new(ax, (5.5, 3.5))
    order = np.argsort(windows)
    styles = [
        (POSITIVE, "o", "-"),
        (NEGATIVE, "s", "--"),
        (RIVAL, "D", ":"),
        ("#009E73", "v", "-."),
        ("#000000", "P", "-"),
    ]
    for (name, values), (colour, marker, line) in zip(series.items(), styles * (1 + len(series) // 5), strict=False):
        y = 100 * np.asarray(values, dtype=np.float64)[order]
        ax.plot(np.asarray(windows)[order], y, marker=marker, color=colour, linestyle=line, label=name)
    if quantised is not None:
        ax.axhline(100 * quantised, color=GREY, linewidth=1, label="quantised network")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(windows)), [str(t) for t in sorted(set(windows))])
    ax.minorticks_off()
    ax.set(xlabel="window T (steps)", ylabel="accuracy (%)")
    ax.legend(frameon=False)
    return ax


def layer_spikes(
    names: Sequence[str], positive: Sequence[float], negative: Sequence[float], *, ax: Axes | None = None
) -> Axes:
    """Spikes of each layer, positive ones to the right and negative ones to the left.

    Parameters
    ----------
    names : sequence of str, ``(n,)``
    positive, negative : sequences of numbers, ``(n,)``
        Spikes per image, both as numbers >= 0.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the lengths differ or a number is negative.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> layer_spikes(["conv", "fc"], [120.0, 9.0], [3.0, 0.0]).get_xlabel()
    'spikes per image'
    """
    _same_length(names, positive, negative)
    ax = axes_or_new(ax, (6, 0.7 + 0.4 * len(names)))
    y = np.arange(len(names))
    ax.barh(y, positive, color=POSITIVE, label="positive")
    ax.barh(y, [-n for n in negative], color=NEGATIVE, label="negative")
    widest = max([*positive, *negative, 1])
    for k, (up, down) in enumerate(zip(positive, negative, strict=True)):
        ax.text(up + 0.01 * widest, k, f"+{up:,.0f}  −{down:,.0f}", va="center", fontsize="small")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(y, names)
    ax.invert_yaxis()
    ax.set(xlabel="spikes per image", xlim=(-1.1 * max([*negative, 0.02 * widest]), 1.3 * widest))
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    return ax


def layer_energy(
    names: Sequence[str],
    sops: Sequence[float],
    macs: Sequence[float],
    *,
    arithmetic: str = "INT8",
    ax: Axes | None = None,
) -> Axes:
    """Energy of each layer's synapses: accumulations of spikes, against one pass of the dense network.

    An estimate of arithmetic alone, at 45 nm (:data:`ENERGY`): no memory, no neuron updates.

    Parameters
    ----------
    names : sequence of str, ``(n,)``
    sops : sequence of numbers, ``(n,)``
        Synaptic operations per image that each layer receives.
    macs : sequence of numbers, ``(n,)``
        Multiply-accumulates of the dense layer for one image.
    arithmetic : {"INT8", "FP32"}
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the lengths differ, a number is negative or the arithmetic is unknown.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> layer_energy(["conv", "fc"], [1e6, 2e4], [1e5, 1e4]).get_title()
    'spiking 30.6 nJ, dense 25.3 nJ (INT8)'
    """
    _same_length(names, sops, macs)
    if arithmetic not in ENERGY:
        raise ValueError(f"arithmetic: expected one of {', '.join(ENERGY)}, found {arithmetic!r}")
    mac, add = ENERGY[arithmetic]
    spiking, dense = 1e-6 * add * np.asarray(sops, dtype=float), 1e-6 * mac * np.asarray(macs, dtype=float)
    unit, factor = ("µJ", 1) if max(spiking.sum(), dense.sum()) >= 1 else ("nJ", 1000)
    spiking, dense = factor * spiking, factor * dense
    ax = axes_or_new(ax, (6, 0.9 + 0.5 * len(names)))
    y = np.arange(len(names))
    ax.barh(y - 0.2, spiking, 0.38, color=POSITIVE, label="spiking (SOPs)")
    ax.barh(y + 0.2, dense, 0.38, color=GREY, label="dense (MACs)")
    ax.set_yticks(y, names)
    ax.invert_yaxis()
    ax.set(
        xlabel=f"{unit} per image, arithmetic at 45 nm",
        title=f"spiking {spiking.sum():.3g} {unit}, dense {dense.sum():.3g} {unit} ({arithmetic})",
    )
    ax.legend(frameon=False, fontsize="small")
    return ax


def _same_length(names: Sequence[str], *columns: Sequence[float]) -> None:
    if not names or any(len(c) != len(names) for c in columns):
        raise ValueError(f"expected as many numbers as names ({len(names)}), found {[len(c) for c in columns]}")
    if any(x < 0 for c in columns for x in c):
        raise ValueError("expected numbers >= 0: the sign of a spike is told by its column")


def graph(
    kinds: Mapping[str, str],
    edges: Sequence[tuple[str, str]],
    *,
    ax: Axes | None = None,
) -> Axes:
    """A network's nodes and edges from top to bottom, such as those of a NIR graph; feedback edges are dashed.

    Parameters
    ----------
    kinds : mapping of node names to what they are
        ``{name: type(node).__name__ for name, node in nir_graph.nodes.items()}``.
    edges : sequence of pairs of names
    ax : Axes, optional

    Raises
    ------
    ValueError
        If an edge joins a node that is not there, or there is none.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> axes = graph({"in": "Input", "fc": "CaLIF", "out": "Output"}, [("in", "fc"), ("fc", "out")])
    >>> [t.get_text() for t in axes.texts if t.get_text()]
    ['in  ·  Input', 'fc  ·  CaLIF', 'out  ·  Output']
    """
    unknown = {n for e in edges for n in e} - set(kinds)
    if unknown or not kinds:
        raise ValueError(f"edges: expected names of nodes, found {sorted(unknown)}" if unknown else "kinds: no nodes")
    rank = _ranks(list(kinds), edges)
    rows: dict[int, list[str]] = {}
    for name in kinds:
        rows.setdefault(rank[name], []).append(name)
    place = {n: (k - (len(r) - 1) / 2, -float(level)) for level, r in rows.items() for k, n in enumerate(r)}
    width = max(len(r) for r in rows.values())
    ax = axes_or_new(ax, (2.6 * width + 1, 0.62 * len(rows) + 0.4))
    for a, b in edges:
        back = rank[b] <= rank[a]
        bend = 0.35 if rank[b] - rank[a] != 1 else 0.0
        edge = 0.0 if back else 0.22  # from the lower edge of one box to the upper edge of the next
        (xa, ya), (xb, yb) = place[a], place[b]
        ax.annotate(
            "", xy=(xb, yb + edge), xytext=(xa, ya - edge),
            arrowprops={
                "arrowstyle": "-|>", "color": RIVAL if back else GREY, "shrinkA": 11 if back else 0,
                "shrinkB": 11 if back else 0, "linestyle": "--" if back else "-", "connectionstyle": f"arc3,rad={bend}",
            },
        )  # fmt: skip
    for name, kind in kinds.items():
        colour = POSITIVE if kind in ("CaLIF", "LIF", "IF", "LI", "Threshold") else "#eeeeee"
        ax.text(
            *place[name], name if name.lower() == kind.lower() else f"{name}  ·  {kind}", ha="center", va="center",
            fontsize=8, color=text_colour(colour),
            bbox={"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "none"},
        )  # fmt: skip
    ax.set(xlim=(-width / 2 - 0.1, width / 2 + 0.1), ylim=(-max(rank.values()) - 0.6, 0.6))
    ax.axis("off")
    return ax


def _ranks(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest distance from a source, edges that close a cycle left out."""
    after: dict[str, list[str]] = {n: [] for n in names}
    for a, b in edges:
        after[a].append(b)
    order: list[str] = []
    state = dict.fromkeys(names, 0)  # 1 while on the path, 2 when done
    forward: list[tuple[str, str]] = []
    heads = [n for n in names if not any(b == n for _, b in edges)] or [names[0]]
    for head in [*heads, *names]:
        if state[head]:
            continue
        state[head] = 1
        stack = [(head, iter(after[head]))]
        while stack:
            node, rest = stack[-1]
            for b in rest:
                if state[b] != 1:
                    forward.append((node, b))
                if not state[b]:
                    state[b] = 1
                    stack.append((b, iter(after[b])))
                    break
            else:
                state[node] = 2
                order.append(node)
                stack.pop()
    rank = dict.fromkeys(names, 0)
    for node in reversed(order):
        for a, b in forward:
            if a == node:
                rank[b] = max(rank[b], rank[node] + 1)
    return rank
