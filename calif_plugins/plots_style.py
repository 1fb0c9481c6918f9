"""What the plots share: colours that colour-blind readers can tell apart, and axes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["GREY", "NEGATIVE", "POSITIVE", "RIVAL", "axes_or_new", "whole_numbers"]

# Okabe and Ito's palette; signs are told apart by the marker's shape too
POSITIVE, NEGATIVE, RIVAL, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """``ax`` itself, or the axes of a new figure of ``size`` inches that no global state holds on to.

    Raises
    ------
    ImportError
        Without matplotlib, with what to install.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib; install it: pip install "calif-plugins[plot]"') from error
    if ax is not None:
        return ax
    ax = Figure(figsize=size, layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone: an axis of counts."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
