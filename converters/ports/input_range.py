"""A warning where images leave the range of a network's input: what is beyond it is cut, and looks like any image."""

from __future__ import annotations

from torch import Tensor

from converters.errors import warn

__all__ = ["SHARE", "warn_of_cut"]

SHARE = 0.01
"""Share of a batch from which on what is cut is no noise."""
BEYOND = 3
"""How many times its end a value must be to be none of those that a range with the least error cuts."""


def warn_of_cut(name: str, levels: Tensor, q_min: int, q_max: int) -> bool:
    """Warn if an input's levels, not yet clamped, are cut to ``q_min .. q_max`` in earnest; and whether it did.

    Parameters
    ----------
    name : str
        The input's.
    levels : float tensor
        ``round(x / scale)`` of a batch.
    q_min, q_max : int
        The input's range.
    """
    if not levels.numel():
        return False
    low, high = (float(x) for x in levels.aminmax())
    if q_min == 0 and low < 0:
        share = float((levels < 0).double().mean())
        if share >= SHARE:
            warn(
                name,
                f"negative values, {100 * share:.1f} % of a batch, for an input whose levels are 0 to {q_max}: they "
                "become 0",
                "give images as in training, or train with a signed input (signed_input=True of prepare_qat)",
            )
            return True
    if low < BEYOND * q_min or high > BEYOND * q_max:
        share = float(((levels < q_min) | (levels > q_max)).double().mean())
        far = float(((levels < BEYOND * q_min) | (levels > BEYOND * q_max)).double().mean())
        if far >= SHARE:
            times = max(high / q_max, low / q_min if q_min else 0.0)
            warn(
                name,
                f"values up to {times:.3g} times the largest that the input takes; {100 * share:.1f} % of a batch "
                "is cut",
                "scale images as in training",
            )
            return True
    return False
