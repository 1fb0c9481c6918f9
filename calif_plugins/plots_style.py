"""What the plots share: colours that colour-blind readers can tell apart, and axes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["GREY", "NEGATIVE", "POSITIVE", "RIVAL", "axes_or_new", "text_colour", "whole_numbers"]

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


def text_colour(background: str) -> str:
    """``"black"`` or ``"white"``, whichever is read more easily on a background.

    Contrast is that of WCAG 2.2: ``(L1 + 0.05) / (L2 + 0.05)`` of the two relative luminances. The better of the two
    has at least 4.5 on every colour, which WCAG asks of small text.

    Parameters
    ----------
    background : str
        ``#rrggbb``.

    >>> text_colour("#F0E442"), text_colour("#0072B2")
    ('black', 'white')
    """
    parts = (int(background[k : k + 2], 16) / 255 for k in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
