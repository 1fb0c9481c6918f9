"""Plots show the numbers that the neuron, the closed form and the quantised network give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from calif_plugins import CaLIFParameters, plots
from calif_plugins.parameters import Phase
from calif_plugins.reference import closed_form, run

ROOT = Path(__file__).resolve().parents[1]
rng = np.random.default_rng(0)


def line(axes: Axes, label: str) -> Any:
    return next(a for a in axes.get_lines() if a.get_label() == label)


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


GATED = CaLIFParameters(threshold=1.5, y_min=0, y_max=2)
CHARGES = [-1.6, -1.2, 3.5, 2.0, 1.9, 1.4, -4.0, -2.2, -3.0, 0.4, 0.8, 3.2]


@pytest.mark.parametrize("phase", ["settle", "paper", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_trace_is_the_reference(phase: Phase, seed: int) -> None:
    gen = np.random.default_rng(seed)
    p = CaLIFParameters(threshold=2.0, leak=0.25, y_min=-3, y_max=4, tie="up" if seed % 2 else "even", v_init=0.5)
    charges = gen.integers(-4, 6, 12).astype(float)
    expected = run(charges[:, None], p, phase=phase)
    t = plots.trace(charges, p, phase=phase)
    np.testing.assert_array_equal(t.spikes, expected.spikes[:, 0])
    assert t.after[-1] == expected.v[0]
    assert t.y[-1] == expected.y[0] == t.spikes.sum()
    # conservation: what came in is what stayed and what left as spikes
    assert t.after[-1] == 0.5 + charges.sum() - 12 * 0.25 - 2.0 * t.spikes.sum()
    if phase == "settle":
        assert t.y[-1] == closed_form(np.array([0.5 + charges.sum() - 3.0]), p)[0]


def test_settle_from_changes_the_way_and_not_the_count() -> None:
    late, early = plots.trace(CHARGES, GATED), plots.trace(CHARGES, GATED, settle_from=4)
    assert late.y[-1] == early.y[-1]
    assert late.threshold[:12].tolist() == [1.5] * 12
    assert early.threshold[:6].tolist() == [1.5] * 4 + [0.75] * 2


def test_refused_spikes_are_those_of_the_gate() -> None:
    t = plots.trace(CHARGES, GATED)
    low, high = t.before <= -t.threshold, t.before >= t.threshold
    y_before = np.concatenate([[0], t.y[:-1]])
    inside = slice(0, t.window)
    np.testing.assert_array_equal(t.refused[inside] == -1, (low & (y_before == 0))[inside])
    np.testing.assert_array_equal(t.refused[inside] == 1, (high & (y_before == 2))[inside])
    assert (t.refused == -1).any()
    assert (t.refused == 1).any()


def test_membrane_draws_the_trace(ax: Axes) -> None:
    t = plots.trace(CHARGES, GATED)
    assert plots.membrane(t, ax=ax) is ax
    for sign, label in ((1, "positive spike"), (-1, "negative spike")):
        drawn = line(ax, label)
        np.testing.assert_array_equal(drawn.get_xdata(), np.nonzero(t.spikes == sign)[0] + 1)
        np.testing.assert_array_equal(drawn.get_ydata(), t.before[t.spikes == sign])
    np.testing.assert_array_equal(line(ax, "refused by the gate").get_xdata(), np.nonzero(t.refused)[0] + 1)
    path = line(ax, "membrane potential V").get_ydata()
    np.testing.assert_array_equal(path, np.stack([t.before, t.after], 1).ravel())
    assert "rounding phase" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_calcium_draws_counts_and_range(ax: Axes) -> None:
    t = plots.trace(CHARGES, GATED)
    assert plots.calcium(t, ax=ax) is ax
    outline: Any = next(p for p in ax.patches if p.get_label() == "calcium y")
    np.testing.assert_array_equal(outline.get_data().values, t.y)
    drawn = [np.unique(np.asarray(lines.get_ydata())) for lines in ax.get_lines()]
    assert {values[0] for values in drawn if len(values) == 1} >= {0, 2}


def test_unbounded_range_has_no_line(ax: Axes) -> None:
    plots.calcium(plots.trace([3.0, 3.0], CaLIFParameters(threshold=2.0, y_min=-np.inf)), ax=ax)
    assert not [a for a in ax.get_lines() if a.get_linestyle() == ":"]


def test_transfer_is_the_rounded_relu_whatever_the_order(ax: Axes) -> None:
    for inhibition in (0.0, 4.0, 9.5):
        axes = plots.transfer(window=8, inhibition=inhibition, points=101, ax=Figure().add_subplot())
        z = line(axes, "Ca-LIF").get_xdata()
        tie = np.isclose(z % 1, 0.5)  # the float sum of the charges may fall to either side
        expected = closed_form(z, CaLIFParameters(y_max=8))
        np.testing.assert_array_equal(line(axes, "Ca-LIF").get_ydata()[~tie], expected[~tie])
        np.testing.assert_allclose(line(axes, "ReLU").get_ydata(), np.clip(z, 0, 8))
    # the tempting neuron is wrong: it floors, and late inhibition cannot take its spikes back
    even = line(plots.transfer(window=8, points=21, ax=ax), "LIF").get_ydata()
    late = line(plots.transfer(window=8, inhibition=4.0, points=21), "LIF").get_ydata()
    assert (late >= even).all()
    assert late[0] > 0


def test_raster_draws_each_spike_once(ax: Axes) -> None:
    spikes = rng.integers(-1, 2, (9, 2, 3))
    assert plots.raster(spikes, window=6, ax=ax) is ax
    flat = spikes.reshape(9, 6)
    for sign, name in ((1, "positive"), (-1, "negative")):
        drawn = line(ax, f"{name} ({(flat == sign).sum()})")
        back = np.zeros_like(flat)
        back[drawn.get_xdata().astype(int) - 1, drawn.get_ydata().astype(int)] = sign
        np.testing.assert_array_equal(back, np.where(flat == sign, sign, 0))
    (shaded,) = [p for p in ax.patches[:1] if isinstance(p, Rectangle)]
    assert shaded.get_x() == 6.5


def test_counts_against_integers(ax: Axes) -> None:
    integers = rng.integers(0, 9, (4, 50))
    counts = integers.copy()
    counts[0, :3] += 1
    assert plots.counts_against_integers(counts, integers, ax=ax).get_title() == "200 counts, 3 differ"
    equal, wrong = ax.collections
    assert (equal.get_offsets()[:, 0] == equal.get_offsets()[:, 1]).all()
    assert {tuple(p) for p in np.asarray(wrong.get_offsets())} == {(n, n + 1) for n in integers[0, :3]}


def test_accuracy_is_sorted_by_window_and_in_per_cent(ax: Axes) -> None:
    plots.accuracy([32, 4, 8], {"settle": [0.99, 0.5, 0.75]}, quantised=0.98, ax=ax)
    np.testing.assert_allclose(line(ax, "settle").get_xydata(), [[4, 50], [8, 75], [32, 99]])
    assert line(ax, "quantised network").get_ydata()[0] == 98
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4", "8", "32"]


def test_layer_bars(ax: Axes) -> None:
    plots.layer_spikes(["a", "b"], [10, 4], [1, 0], ax=ax)
    assert [p.get_width() for p in ax.patches if isinstance(p, Rectangle)] == [10, 4, -1, 0]
    axes = plots.layer_energy(["a", "b"], [1e6, 3e6], [2e5, 1e5], arithmetic="FP32")
    widths = [p.get_width() for p in axes.patches if isinstance(p, Rectangle)]
    np.testing.assert_allclose(widths, [0.9, 2.7, 0.92, 0.46])
    assert axes.get_title() == "spiking 3.6 µJ, dense 1.38 µJ (FP32)"


def test_graph_puts_nodes_below_what_feeds_them(ax: Axes) -> None:
    kinds = {"in": "Input", "a": "CaLIF", "b": "CaLIF", "sum": "CaLIF", "out": "Output"}
    edges = [("in", "a"), ("a", "b"), ("a", "sum"), ("b", "sum"), ("sum", "out"), ("sum", "b")]
    plots.graph(kinds, edges, ax=ax)
    y = {t.get_text().split()[0]: t.get_position()[1] for t in ax.texts if t.get_text()}
    assert set(y) == set(kinds)
    assert all(y[a] > y[b] for a, b in edges[:-1])
    arrows = [t.arrow_patch for t in ax.texts if isinstance(t, Annotation) and t.arrow_patch and not t.get_text()]
    assert [a.get_linestyle() for a in arrows].count("--") == 1  # the feedback


def test_a_deep_graph_and_a_cycle_without_entrance() -> None:
    chain = {str(k): "Affine" for k in range(3000)}
    plots.graph(dict(list(chain.items())[:50]), [(str(k), str(k + 1)) for k in range(49)])
    plots.graph({"a": "X", "b": "X"}, [("a", "b"), ("b", "a")])
    from calif_plugins.plots_network import _ranks

    ranks = _ranks(list(chain)[:1500], [(str(k), str(k + 1)) for k in range(1499)])  # deeper than the call stack
    assert ranks["1499"] == 1499


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.trace([], GATED), "charges"),
        (lambda: plots.trace([[1.0]], GATED), "charges"),  # type: ignore[list-item]
        (lambda: plots.trace([1.0], CaLIFParameters(threshold=[1.0, 2.0])), "one neuron, found 2"),
        (lambda: plots.transfer(window=1), "window >= 2"),
        (lambda: plots.raster([[2]]), "values -1, 0 and 1"),
        (lambda: plots.raster([1, 0]), "expected .steps, neurons."),
        (lambda: plots.counts_against_integers([1, 2], [1]), r"found \(2,\) and \(1,\)"),
        (lambda: plots.accuracy([4], {"a": [98.0]}), "between 0 and 1"),
        (lambda: plots.accuracy([4, 8], {"a": [0.9]}), "expected 2 accuracies"),
        (lambda: plots.layer_spikes(["a"], [1], [-1]), ">= 0"),
        (lambda: plots.layer_energy(["a"], [1], [1], arithmetic="FP8"), "FP32, INT8, found 'FP8'"),
        (lambda: plots.layer_energy(["a"], [1], []), "as many numbers as names"),
        (lambda: plots.graph({"a": "X"}, [("a", "z")]), "'z'"),
    ],
)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_without_matplotlib_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from calif_plugins import CaLIFParameters, plots\n"
        "t = plots.trace([3.0], CaLIFParameters())\n"
        "try:\n    plots.membrane(t)\n"
        "except ImportError as error:\n    sys.stdout.write(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == 'plots need matplotlib; install it: pip install "calif-plugins[plot]"'


def test_figures_come_out_as_files(tmp_path: Path) -> None:
    for k, axes in enumerate((plots.membrane(plots.trace(CHARGES, GATED)), plots.transfer(), plots.raster([[1, -1]]))):
        axes.figure.savefig(tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").stat().st_size > 2000
