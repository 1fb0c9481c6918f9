"""The Ca-LIF neuron in NumPy: plain, slow, and the oracle that every other backend is held against.

State goes in and comes out of pure functions. Arrays may hold floats or exact rationals
(``fractions.Fraction`` in an object array): the arithmetic is the caller's, the rule is here.

The rule, one step (Gao et al. 2023, equation 2 and section 3.2), in this order::

    V <- V + charge - leak
    s <- +1 if V >=  Vth and y < y_max
         -1 if V <= -Vth and y > y_min        (y: the count before this step's spike)
    V <- V - s*Vth;  y <- y + s               (soft reset, both signs)

The theorem: after the phase ``settle``, whatever the order of the input spikes,
``y = clip(round(z / Vth), y_min, y_max)`` with ``z`` the net integration (equation 3b), and
``V = z - y*Vth``. :func:`closed_form` computes the right-hand side by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calif_plugins.parameters import PHASES, CaLIFParameters, Phase

__all__ = ["LayerTrace", "closed_form", "fire", "initial_state", "run", "run_network", "settle", "step"]


@dataclass(frozen=True)
class LayerTrace:
    """What one layer did.

    Attributes
    ----------
    spikes : int array of shape ``(steps, *shape)``
        Signed spikes in {-1, 0, 1}, those of the rounding phase included.
    v, y : arrays of shape ``(*shape)``
        Final membrane potential and signed count.
    extra_steps : int
        Steps after the window up to and including the last spike of the rounding phase.
    """

    spikes: np.ndarray
    v: np.ndarray
    y: np.ndarray
    extra_steps: int


def initial_state(shape: tuple[int, ...], p: CaLIFParameters) -> tuple[np.ndarray, np.ndarray]:
    """``(V, y)`` before the first step: ``V = v_init``, ``y = 0``.

    >>> initial_state((2,), CaLIFParameters())
    (array([0., 0.]), array([0, 0]))
    """
    v = np.broadcast_to(p.for_shape(shape).v_init, shape).copy()
    return v, np.zeros(shape, dtype=np.int64)


def fire(v: np.ndarray, y: np.ndarray, p: CaLIFParameters, *, half: bool = False) -> np.ndarray:
    """The signed spike of each neuron, given its membrane and its count so far.

    ``half`` selects the rounding phase: thresholds at ``Vth/2``, the tie rule, no strictness above it.
    Returns an int array of ``v``'s shape. Parameters are per channel along ``v``'s first axis.
    """
    q = p.for_shape(v.shape)
    may_rise, may_fall = y < q.y_max, y > q.y_min
    if not half:
        up, down = v >= q.threshold, v <= -q.threshold
    else:
        twice = 2 * v  # compared with Vth, so that no rational is halved and no float rounded
        up, down = twice > q.threshold, twice < -q.threshold
        if p.tie == "up":
            up = up | (twice == q.threshold)
        else:  # a tie fires towards 0 when the count is odd, and so ends on the even one
            odd = y % 2 == 1
            up = up | ((twice == q.threshold) & odd)
            down = down | ((twice == -q.threshold) & odd)
    return (up & may_rise).astype(np.int64) - (down & may_fall).astype(np.int64)


def step(
    v: np.ndarray, y: np.ndarray, charge: Any, p: CaLIFParameters, *, half: bool = False, leak: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of a layer.

    Parameters
    ----------
    v, y : arrays of shape ``(*shape)``
        Membrane potential and signed count (calcium) before the step.
    charge : array of shape ``(*shape)``
        ``sum_i w_i s_i(t)``, what arrived at this step.
    p : CaLIFParameters
        Per channel along the first axis of ``shape``.
    half : bool
        Thresholds at half their value (rounding phase).
    leak : bool
        Whether the leak acts; it does not after the window.

    Returns
    -------
    v, y, s : arrays of shape ``(*shape)``
        State after the step, and the signed spike.

    Examples
    --------
    >>> p = CaLIFParameters(threshold=2.0)
    >>> step(np.array([0.0, 0.0]), np.array([0, 0]), np.array([2.5, -2.5]), p)
    (array([ 0.5, -2.5]), array([1, 0]), array([1, 0]))
    """
    q = p.for_shape(np.shape(v))
    v = v + charge - q.leak if leak else v + charge
    s = fire(v, y, p, half=half)
    return v - s * q.threshold, y + s, s


def settle(v: np.ndarray, y: np.ndarray, p: CaLIFParameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rounding phase of one layer whose input has ended: half thresholds until nothing fires.

    Returns ``(v, y, spikes)`` with ``spikes`` of shape ``(steps, *shape)``; the silent step that ends
    the phase is not among them.

    >>> v, y, spikes = settle(np.array([1.2, -3.0]), np.array([0, 4]), CaLIFParameters(threshold=2.0))
    >>> y, len(spikes)
    (array([1, 2]), 2)
    """
    train: list[np.ndarray] = []
    while True:
        v, y, s = step(v, y, 0, p, half=True, leak=False)
        if not s.any():
            return v, y, np.array(train, dtype=np.int64).reshape(-1, *np.shape(v))
        train.append(s)


def closed_form(z: Any, p: CaLIFParameters) -> np.ndarray:
    """``clip(round(z / Vth), y_min, y_max)``: the count that the rounding phase ``settle`` ends on.

    ``z`` is the net integration, ``v_init`` included (equation 3b): an array of shape ``(*shape)``.
    Written with its own arithmetic, so that it can serve as an oracle for :func:`run`.

    >>> closed_form(np.array([3.0, 5.0, -9.0]), CaLIFParameters(threshold=2.0, y_max=127))
    array([2, 2, 0])
    >>> closed_form(np.array([3.0, 5.0, -9.0]), CaLIFParameters(threshold=2.0, y_min=-127, tie="up"))
    array([ 2,  3, -4])
    """
    z = np.asarray(z)
    if z.dtype != object and not np.isfinite(z).all():
        raise ValueError("z: must be finite, found NaN or infinity")
    q = p.for_shape(z.shape)
    ratio = z / q.threshold
    below = np.asarray(ratio // 1)
    rest = ratio - below
    tie_goes_up = (rest * 2 == 1) & ((below % 2 == 1) if p.tie == "even" else True)
    rounded = below + np.where((rest * 2 > 1) | tie_goes_up, 1, 0)
    return np.minimum(np.maximum(rounded, q.y_min), q.y_max).astype(np.int64)


def run(
    charges: np.ndarray,
    p: CaLIFParameters,
    *,
    phase: Phase = "settle",
    settle_from: int | None = None,
) -> LayerTrace:
    """One layer over a window, and its rounding phase.

    Parameters
    ----------
    charges : array of shape ``(T, *shape)``
        What arrives at each step of the window.
    p : CaLIFParameters
    phase : {"settle", "paper", "none"}
        ``settle``: half thresholds until quiet (exact). ``paper``: one rounding spike (section 3.2).
    settle_from : int, optional
        Step from which thresholds are half; the window's end by default. Same final counts.

    Examples
    --------
    >>> trace = run(np.array([[3.0], [3.0], [-5.0]]), CaLIFParameters(threshold=2.0))
    >>> trace.spikes.ravel().tolist(), trace.y.tolist(), trace.v.tolist()
    ([1, 1, -1, -1], [0], [1.0])
    """
    charges = np.asarray(charges)
    if charges.ndim < 2 or not len(charges):
        raise ValueError(f"charges: expected an array of shape (T, *shape) with T >= 1, found {charges.shape}")
    if charges.dtype != object and not np.isfinite(charges).all():
        raise ValueError("charges: must be finite, found NaN or infinity")
    shape = charges.shape[1:]
    return run_network([_Given(charges)], [p], [shape], len(charges), phase=phase, settle_from=settle_from)[0]


def run_network(
    charge: Sequence[Callable[[int, list[np.ndarray]], Any]],
    parameters: Sequence[CaLIFParameters],
    shapes: Sequence[tuple[int, ...]],
    window: int,
    *,
    phase: Phase = "settle",
    settle_from: int | None = None,
) -> list[LayerTrace]:
    """A feed-forward network of Ca-LIF layers, all stepping within the same time step, in graph order.

    ``charge[k](t, spikes)`` gives the charge that layer ``k`` receives at step ``t`` (from 0), from the
    spikes that layers ``0 .. k-1`` emitted at this very step (zero synaptic delay). After the window it
    is still called, with ``t >= window``: an encoder must be silent then.
    """
    if phase not in PHASES:
        raise ValueError(f"phase: expected one of {', '.join(PHASES)}, found {phase!r}")
    if window < 1:
        raise ValueError(f"window: expected T >= 1, found {window}")
    start = window if settle_from is None else settle_from
    if not 0 <= start <= window:
        raise ValueError(f"settle_from: expected a step between 0 and T = {window}, found {settle_from}")
    if phase != "settle":
        start = window
    states = [initial_state(shape, p) for p, shape in zip(parameters, shapes, strict=True)]
    trains: list[list[np.ndarray]] = [[] for _ in parameters]
    last_step = {"settle": None, "paper": window + 1, "none": window}[phase]
    t = extra = 0
    while last_step is None or t < last_step:
        spikes: list[np.ndarray] = []
        for k, p in enumerate(parameters):
            v, y, s = step(*states[k], charge[k](t, spikes), p, half=t >= start, leak=t < window)
            states[k] = v, y
            spikes.append(s)
        active = any(s.any() for s in spikes)
        if t >= window and not active:
            break
        for train, s in zip(trains, spikes, strict=True):
            train.append(s)
        t += 1
        extra = t - window if t > window and active else extra
    return [LayerTrace(np.array(train), v, y, extra) for train, (v, y) in zip(trains, states, strict=True)]


class _Given:
    """Charges that were computed beforehand; nothing after the window."""

    def __init__(self, charges: np.ndarray) -> None:
        self.charges = charges

    def __call__(self, t: int, spikes: list[np.ndarray]) -> Any:
        return self.charges[t] if t < len(self.charges) else 0
