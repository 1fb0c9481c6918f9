"""Thresholds and leaks on a binary lattice, and the certificate that nothing rounds differently there.

A simulator adds up charges, leaks and thresholds thousands of times. On a lattice (integers times
``2**-bits``) all these sums are exact, in float64 as in integer hardware, so that "equal" can mean equal.
What has to be shown is that the lattice neuron rounds where the exact one rounds. Its input is an integer
``a``, and it ends at ``y + 1`` or more exactly if ``a`` lies above the boundary ``Vth (y + 1/2) - bias``
(or on it, when the tie goes up). So two neurons are the same function if, for every level, the smallest
integer above the boundary is the same. That is the certificate: computed for every channel and level,
with rationals wherever a float could be in doubt. A parameter that fails is moved by a few lattice units;
if that does not help, it is an error that says how many bits would.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from calif_plugins.parameters import TieRule
from converters.errors import ConversionError
from converters.quantised import Layer

__all__ = ["Certificate", "first_integers", "fit"]

MAX_BITS = 40
_NUDGES = sorted(product(range(-2, 3), repeat=2), key=lambda k: (abs(k[0]) + abs(k[1]), k))


@dataclass(frozen=True, eq=False)
class Certificate:
    """A layer's parameters on the lattice, proven to round as the exact ones.

    Attributes
    ----------
    bits : int
        Fractional bits: all parameters are integers times ``2**-bits``.
    threshold, bias : float64 arrays ``(C,)``
    boundaries : int
        Decision boundaries compared (channels times reachable levels).
    nudged : int
        Channels whose nearest lattice point would have rounded elsewhere.
    membrane_bits : int
        Bits of a signed integer that holds any membrane potential in lattice units.
    """

    bits: int
    threshold: np.ndarray
    bias: np.ndarray
    boundaries: int
    nudged: int
    membrane_bits: int


def first_integers(threshold: np.ndarray, bias: np.ndarray, levels: np.ndarray, tie: TieRule) -> np.ndarray:
    """The smallest integer input that ends above each level, exactly: int64 ``(C, len(levels))``.

    The count exceeds ``y`` if ``a > Vth (y + 1/2) - bias``, or equals it and the tie goes up.

    >>> first_integers(np.array([2.0, 2.5]), np.array([0.0, 0.1]), np.array([0, 1]), "even")
    array([[2, 3],
           [2, 4]])
    """
    # channels of one layer are often alike, those of a pool always, and there every other boundary is in doubt
    pairs, channel = np.unique(np.stack([threshold, bias]), axis=1, return_inverse=True)
    threshold, bias = pairs
    boundary = threshold[:, None] * (levels + 0.5) - bias[:, None]
    result = np.floor(boundary).astype(np.int64) + 1
    size = np.abs(threshold[:, None] * (levels + 0.5)) + np.abs(bias[:, None]) + 1
    for c, k in np.argwhere(np.abs(boundary - np.round(boundary)) <= size * 2.0**-44):
        y = int(levels[k])
        exact = Fraction(float(threshold[c])) * Fraction(2 * y + 1, 2) - Fraction(float(bias[c]))
        tie_goes_up = exact.denominator == 1 and (tie == "up" or y % 2 == 1)
        result[c, k] = exact.numerator if tie_goes_up else exact.numerator // exact.denominator + 1
    return result[channel.reshape(-1)]


def fit(layer: Layer, reach: int, *, bits: int | None = None) -> Certificate:
    """Put a layer's threshold and bias on a lattice, with the certificate.

    Parameters
    ----------
    layer : Layer
    reach : int
        Largest absolute value of its integer accumulator.
    bits : int, optional
        Fractional bits; by default the most that float64 sums allow, up to 40.

    Raises
    ------
    ConversionError
        Naming the channel and the bits it would need.
    """
    threshold, bias = layer.threshold.numpy(), layer.bias.numpy()
    # any membrane on the way: all charge and leak in, no threshold out; or as many thresholds as the range has
    span = reach + np.abs(bias).max() + threshold.max() * 2
    room = 51 - int(np.ceil(np.log2(span)))
    if bits is None:
        bits = min(MAX_BITS, room)
    if bits > room or bits < 0:
        raise ConversionError(
            layer.name,
            f"membranes up to {span:.3g} with {bits} fractional bits",
            "float64 holds 53 bits: use fewer levels or smaller weights",
        )
    certificate, failing = _attempt(layer, reach, span, bits)
    if certificate is None:
        need = next((k for k in range(bits + 1, room + 1) if _attempt(layer, reach, span, k)[0]), None)
        raise ConversionError(
            f"{layer.name}, channel {failing[0]}",
            f"a threshold of {threshold[failing[0]]} that {bits} fractional bits round elsewhere "
            f"({len(failing)} of {len(threshold)} channels)",
            f"it needs {need} bits" if need is not None else f"no lattice of up to {room} bits represents it",
        )
    return certificate


def _attempt(layer: Layer, reach: int, span: float, bits: int) -> tuple[Certificate | None, np.ndarray]:
    threshold, bias = layer.threshold.numpy(), layer.bias.numpy()
    unit = 2.0**-bits
    t = np.maximum(np.round(threshold / unit), 1) * unit
    b = np.round(bias / unit) * unit
    width = int(np.ceil(np.log2(2 * span))) + bits + 1  # charge out again below what spikes took: twice the span
    none = np.empty(0, dtype=np.int64)
    if not layer.spiking:
        return Certificate(bits, t, b, 0, 0, width), none
    limit = int(np.ceil((reach + np.abs(bias).max()) / threshold.min())) + 1  # no count beyond can be reached
    levels = np.arange(max(layer.y_min, -limit), min(layer.y_max, limit))

    def inside(first: np.ndarray) -> np.ndarray:  # all integers beyond the reach are alike
        return np.clip(first, -reach, reach + 1)

    wanted = inside(first_integers(threshold, bias, levels, layer.tie))
    failing = np.flatnonzero((inside(first_integers(t, b, levels, layer.tie)) != wanted).any(1))
    nudged = len(failing)
    for dt, db in _NUDGES:
        if not len(failing):
            return Certificate(bits, t, b, wanted.size, nudged, width), none
        tn, bn = np.maximum(t[failing] + dt * unit, unit), b[failing] + db * unit
        good = (inside(first_integers(tn, bn, levels, layer.tie)) == wanted[failing]).all(1)
        t[failing[good]], b[failing[good]] = tn[good], bn[good]
        failing = failing[~good]
    if len(failing):
        return None, failing
    return Certificate(bits, t, b, wanted.size, nudged, width), none
