"""The parameters of a layer of Ca-LIF neurons, declared once for every simulator."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

TieRule = Literal["even", "up"]
Phase = Literal["settle", "paper", "none"]
TIE_RULES: tuple[str, ...] = get_args(TieRule)
PHASES: tuple[str, ...] = get_args(Phase)


@dataclass(frozen=True, eq=False)
class CaLIFParameters:
    """Parameters of one layer, each a scalar or one value per channel (the layer's first axis).

    Parameters
    ----------
    threshold : float or array of shape ``(C,)``
        ``Vth`` > 0, in units of the membrane potential (equation 5: ``S_y / (S_w S_x)``).
    leak : float or array of shape ``(C,)``
        ``lambda``, subtracted from the membrane at every step of the window; may be negative
        (equation 5: ``-b / (S_w S_x T)``).
    y_min, y_max : int or array of shape ``(C,)``
        The calcium range: the signed output count never leaves it. ``y_min = 0`` is the paper's gate
        ``y > 0`` (section 3.2); the ceiling ``y_max`` is the clamp of the quantiser, which the paper
        leaves out and without which a neuron cannot equal it. ``inf`` and ``-inf`` switch a bound off.
    tie : {"even", "up"}
        What an exact tie at half a threshold rounds to: to even as PyTorch's quantisers do, or up.
    v_init : float or array of shape ``(C,)``
        Membrane potential before the first step. Zero in the paper. A converter puts here what is left
        of the total leak when it is divided into ``T`` equal steps on a binary lattice.

    Raises
    ------
    ValueError
        If a value is not finite where it must be, a threshold is not positive, the range is empty or
        does not contain 0 or is not whole, shapes disagree, or the tie rule is unknown.

    Examples
    --------
    >>> p = CaLIFParameters(threshold=[2.0, 4.0], leak=-0.5, y_max=127)
    >>> p.channels
    2
    >>> p.threshold
    array([2., 4.])
    >>> p.for_shape((2, 3, 3)).threshold.shape
    (2, 1, 1)
    """

    threshold: Any = 1.0
    leak: Any = 0.0
    y_min: Any = 0
    y_max: Any = np.inf
    tie: TieRule = "even"
    v_init: Any = 0.0

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            object.__setattr__(self, name, _read_only(name, getattr(self, name)))
        sizes = {getattr(self, n).shape[0] for n in _ARRAYS if getattr(self, n).ndim} - {1}
        if len(sizes) > 1:
            raise ValueError(f"parameters disagree on the number of channels: {sorted(sizes)}")
        for name in ("threshold", "leak", "v_init"):
            array = getattr(self, name)
            if array.dtype != object and not np.isfinite(array).all():
                raise ValueError(f"{name}: must be finite, found {array}")
        if not np.all(self.threshold > 0):
            raise ValueError(f"threshold: must be > 0, found {self.threshold}; flip the sign of the weights instead")
        self._check_range()
        if self.tie not in TIE_RULES:
            raise ValueError(f"tie: expected one of {', '.join(TIE_RULES)}, found {self.tie!r}")

    def _check_range(self) -> None:
        for name in ("y_min", "y_max"):
            bound = getattr(self, name).astype(float)
            if np.isnan(bound).any():
                raise ValueError("y_min, y_max: must not be NaN")
            if not np.array_equal(bound, np.floor(bound)):
                raise ValueError(f"{name}: expected whole counts, found {bound}")
        if not (np.all(self.y_min <= 0) and np.all(self.y_max >= 0)):
            raise ValueError(
                f"the calcium range must contain 0, where the count starts; found [{self.y_min}, {self.y_max}]"
            )

    @property
    def channels(self) -> int:
        """Number of channels; 1 where every parameter is a scalar."""
        return max((getattr(self, n).shape[0] for n in _ARRAYS if getattr(self, n).ndim), default=1)

    def for_shape(self, shape: tuple[int, ...]) -> CaLIFParameters:
        """The same parameters, shaped so that they broadcast against a layer of this ``shape``.

        ``shape`` is the layer's own, without batch or time: ``(n,)`` or ``(C, H, W)``.
        """
        if self.channels > 1 and (not shape or shape[0] != self.channels):
            raise ValueError(f"parameters for {self.channels} channels do not fit a layer of shape {shape}")
        changes = {}
        for name in _ARRAYS:
            array = getattr(self, name)
            if array.ndim and array.shape[0] > 1:
                changes[name] = array.reshape((-1,) + (1,) * (len(shape) - 1))
            else:
                changes[name] = array.reshape(())
        return CaLIFParameters(tie=self.tie, **changes)


_ARRAYS = tuple(f.name for f in fields(CaLIFParameters) if f.name != "tie")


def _read_only(name: str, value: Any) -> np.ndarray:
    """A parameter as an array: a scalar, or one value per channel."""
    array = np.asarray(value)
    if array.dtype != object:  # objects: exact rationals, which the proofs use
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name}: expected a number or one per channel, found {value!r}") from None
    elif not all(isinstance(v, Real) for v in array.flat):
        raise ValueError(f"{name}: expected a number or one per channel, found {value!r}")
    if not array.size:
        raise ValueError(f"{name}: expected a number or one per channel, found none")
    if array.ndim > 1 and max(array.shape[1:]) > 1:
        raise ValueError(
            f"{name}: expected a scalar or one value per channel, found shape {array.shape}; "
            "give one value for each entry of the layer's first axis"
        )
    array = array.copy()
    array.flags.writeable = False
    return array
