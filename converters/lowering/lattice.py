"""The shortest integer lattice that a layer rounds right on, and a bound on every membrane there.

:mod:`converters.lattice` keeps as many fractional bits as float64 sums allow. A lowered network must live on
what a float32 simulator, or a chip with integers, adds exactly. So here the bits are as few as possible: for
every channel a threshold and a bias are searched for, on integers times ``2**-bits``, for which the smallest
integer input above every level is the one that the exact parameters give (the same certificate). The levels
bound a polygon in the (threshold, bias) plane; a lattice point in it is found by going through thresholds
near the exact one, each with the interval of biases that all levels allow.

The membrane's bound holds for any order of the input spikes: counts never leave their ranges, so no partial sum
of charges leaves the interval that these ranges span, and ``V = charge + bias so far - y Vth``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins.parameters import CaLIFParameters
from converters.errors import ConversionError
from converters.lattice import first_integers
from converters.lowering import sums
from converters.network import Network, Stage
from converters.operations import Scale, Synapse

__all__ = ["MAX_BITS", "LayerLattice", "certify", "charge_ranges", "with_lattice"]

MAX_BITS = 24
"""Fractional bits that are tried."""
_CANDIDATES = 2048  # thresholds tried on either side of the exact one
_MOST_BOUNDARIES = 1 << 24  # of a layer: eight arrays of int64
_ROOM = 52  # bits of a signed number that float64 holds


@dataclass(frozen=True, eq=False)
class LayerLattice:
    """A layer in integers; every array is int64 ``(C,)``, in units of ``2**-bits`` of the charge.

    Attributes
    ----------
    bits : int
        Fractional bits.
    threshold : array
        Even, so that half a threshold is on the lattice.
    leak, v_init : array
        ``v_init - T leak`` is the certified bias.
    ties : bool array
        Channels that an integer input can bring to exactly half a threshold, between two levels in range.
    charge : tuple of arrays
        Lowest and highest sum of charges at any time, in whole charges (not lattice units).
    lowest, highest : array
        Bounds of the membrane before its spike, whatever the order of the input spikes.
    boundaries : int
        Decision boundaries compared.
    weights : tuple of int, optional
        Shorter weights of a layer of identity synapses, one for each (an addition of branches of unequal scale):
        the sum is then in other units, and rounds alike for every combination of counts.
    """

    name: str
    bits: int
    threshold: np.ndarray
    leak: np.ndarray
    v_init: np.ndarray
    ties: np.ndarray
    charge: tuple[np.ndarray, np.ndarray]
    lowest: np.ndarray
    highest: np.ndarray
    boundaries: int
    weights: tuple[int, ...] | None = None

    @property
    def largest(self) -> np.ndarray:
        """Bound of ``|V| + Vth``, and of all partial sums on the way: what a comparator must hold. int64 ``(C,)``."""
        membrane = np.maximum(np.abs(self.lowest), np.abs(self.highest))
        return membrane + self.threshold + np.abs(self.leak) + np.abs(self.v_init)

    @property
    def membrane_bits(self) -> int:
        """Width of a signed integer that holds every membrane, in lattice units."""
        return _width(max(-int(self.lowest.min()), int(self.highest.max())))

    @property
    def threshold_bits(self) -> int:
        """Width of an unsigned integer that holds every threshold, in lattice units."""
        return int(self.threshold.max()).bit_length()

    @property
    def leak_bits(self) -> int:
        """Width of a signed integer that holds every leak, in lattice units."""
        return _width(int(np.abs(self.leak).max()))


def _width(largest: int) -> int:
    return largest.bit_length() + 1


def certify(network: Network, *, bits: Mapping[str, int] | int | None = None) -> dict[str, LayerLattice]:
    """The shortest lattice of every layer, by name, each proven to round as the layer's own parameters do.

    Parameters
    ----------
    network : Network
    bits : int or dict of layer name to int, optional
        Fractional bits to use instead of the fewest possible.

    Raises
    ------
    ConversionError
        Naming the layer, the channel and the bits needed, where there is no such lattice; or for bits that float64
        does not have.

    Examples
    --------
    >>> import converters, torch
    >>> from converters.operations import Linear
    >>> from converters.quantised import GraphBuilder
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> w = Linear(torch.tensor([[1, 2]]))
    >>> y = b.layer("fc", [(x, w)], threshold=3.1, bias=1.3, y_min=0, y_max=4, scale=1.0)
    >>> lattice = certify(Network.from_graph(converters.to_nir(b.build(y), T=4)))["fc"]
    >>> lattice.bits, lattice.threshold, lattice.membrane_bits  # 3.0 rounds all 13 inputs as 3.1 does
    (1, array([6]), 6)
    """
    for given in bits.values() if isinstance(bits, Mapping) else [bits]:
        if given is not None and not 0 <= given <= _ROOM:
            raise ConversionError("bits", f"{given}", f"use 0 to {_ROOM}")
    ranges = charge_ranges(network)
    result = {}
    for stage in network.stages:
        wanted = bits.get(stage.name) if isinstance(bits, Mapping) else bits
        result[stage.name] = _fit(stage, ranges[stage.name], network, wanted)
    return result


def with_lattice(network: Network, lattices: Mapping[str, LayerLattice]) -> Network:
    """The same network with these integers as its thresholds, leaks and initial membranes."""
    stages = []
    for stage in network.stages:
        k, p, unit = lattices[stage.name], stage.parameters, 2.0 ** -lattices[stage.name].bits
        moved = CaLIFParameters(k.threshold * unit, k.leak * unit, p.y_min, p.y_max, p.tie, k.v_init * unit)
        synapses = stage.synapses
        if k.weights is not None:
            synapses = tuple(_reweighted(s, w) for s, w in zip(synapses, k.weights, strict=True))
        stages.append(replace(stage, synapses=synapses, parameters=moved))
    return replace(network, stages=tuple(stages))


def _reweighted(synapse: Synapse, weight: int) -> Synapse:
    kept = tuple(op for op in synapse.ops if op.rewires)
    return Synapse(synapse.sources, (*kept, Scale(weight)))


# --- how far charges can go -----------------------------------------------------------------------


def charge_ranges(network: Network) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lowest and highest sum of charges that each channel of each layer can have received, at any time.

    Interval arithmetic over the counts' ranges: int64 arrays ``(C,)`` by layer name.
    """
    here = {name: (_full(e.shape, e.q_min), _full(e.shape, e.q_max)) for name, e in network.specs.items()}
    result = {}
    for stage in network.stages:
        low = high = torch.zeros(stage.shape, dtype=torch.float64)
        for synapse in stage.synapses:
            a, b = synapse.interval(*(here[name] for name in synapse.sources))
            low, high = low + a, high + b
        low, high = low.reshape(stage.shape[0], -1).amin(1), high.reshape(stage.shape[0], -1).amax(1)
        result[stage.name] = (low.numpy().astype(np.int64), high.numpy().astype(np.int64))
        p = stage.parameters.for_shape(stage.shape)
        y_min = torch.as_tensor(np.broadcast_to(p.y_min.astype(np.float64), stage.shape).copy())
        y_max = torch.as_tensor(np.broadcast_to(p.y_max.astype(np.float64), stage.shape).copy())
        here[stage.name] = (y_min, y_max)
    return result


def _full(shape: tuple[int, ...], value: int) -> Tensor:
    return torch.full(shape, float(value), dtype=torch.float64)


# --- the search -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Problem:
    """What a layer's lattice must satisfy: at each level, the first integer that ends above it, and the last below."""

    threshold: np.ndarray
    bias: np.ndarray
    levels: np.ndarray
    first: np.ndarray  # (C, levels); above the highest charge where none ends above
    last: np.ndarray  # (C, levels); below the lowest charge where all do
    low: np.ndarray
    high: np.ndarray
    goes_up: np.ndarray  # (levels,): a tie at this boundary rounds up


def _fit(stage: Stage, charge: tuple[np.ndarray, np.ndarray], network: Network, bits: int | None) -> LayerLattice:
    p, window = stage.parameters, network.window
    channels = stage.shape[0]

    def per_channel(value: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (channels,))

    threshold = per_channel(p.threshold)
    bias = per_channel(p.v_init) - window * per_channel(p.leak)
    y_min, y_max = int(np.min(p.y_min)), int(np.max(p.y_max))
    low, high = charge
    # counts that can be reached, and one more on either side, which must stay out of reach with another threshold
    top = min(y_max, max(0, int(np.ceil(((high + bias) / threshold).max()))) + 1)
    bottom = max(y_min, min(0, int(np.floor(((low + bias) / threshold).min()))) - 1)
    if channels * (top - bottom) > _MOST_BOUNDARIES:
        raise ConversionError(
            stage.name,
            f"{top - bottom:,} counts that each of {channels} neurons can reach, more than are looked at one by one",
            "give them a range: y_min and y_max",
        )
    levels = np.arange(bottom, top)
    first = np.clip(first_integers(threshold, bias, levels, p.tie), low[:, None], high[:, None] + 1)
    goes_up = np.ones(len(levels), dtype=bool) if p.tie == "up" else levels % 2 == 1
    problem = _Problem(threshold, bias, levels, first, first - 1, low, high, goes_up)
    weights = None
    for short in sums.shorter(stage, network, first):
        scaled = threshold / short.unit, bias / short.unit
        tried = _Problem(*scaled, levels, short.first, short.last, *short.charge, goes_up)
        if _fewest(tried, 0) <= MAX_BITS:
            problem, weights = tried, short.weights
            break
    if bits is None:
        bits = min(_fewest(problem, 0), MAX_BITS)
    _require_room(stage, problem, bits)
    found, failing = _search(problem, range(channels), bits)
    if found is not None:
        return replace(_bounded(stage, problem, found, bits, window, y_min, y_max), weights=weights)
    need = _fewest(problem, bits + 1) if bits < MAX_BITS else MAX_BITS + 1
    raise ConversionError(
        f"{stage.name}, channel {failing[0]}",
        f"a threshold of {threshold[failing[0]]:.6g} that {bits} fractional bits round elsewhere "
        f"({len(failing)} of {channels} channels)",
        f"it needs {need} bits" if need <= MAX_BITS else f"no lattice of up to {MAX_BITS} bits represents it",
    )


def _require_room(stage: Stage, q: _Problem, bits: int) -> None:
    """The search adds in int64, which would wrap around without a word."""
    charge = np.maximum(-q.low, q.high + 1) + np.abs(q.bias) + q.threshold * (np.abs(q.levels).max(initial=0) + 1)
    wide = int(np.argmax(charge))
    width = int(charge[wide]).bit_length() + bits + 1
    if width > 62:
        raise _too_wide(stage, wide, width)


def _too_wide(stage: Stage, channel: int, width: int) -> ConversionError:
    return ConversionError(
        f"{stage.name}, channel {channel}",
        f"membranes of {width} bits",
        f"float64 adds {_ROOM + 1} exactly: use fewer levels or smaller weights, or fewer fractional bits",
    )


def _fewest(q: _Problem, bits: int) -> int:
    """The fewest bits, from ``bits`` on, that all channels can live with; or one more than the most tried."""
    channels = list(range(len(q.low)))
    while bits <= MAX_BITS:
        failing = next((c for c in channels if _search(q, [c], bits)[0] is None), None)
        if failing is None:
            return bits
        channels.remove(failing)
        channels.insert(0, failing)  # the one that decided is the first to be asked again
        bits += 1
    return MAX_BITS + 1


def _search(q: _Problem, channels: Any, bits: int) -> tuple[tuple[np.ndarray, np.ndarray] | None, np.ndarray]:
    """Half thresholds and biases in lattice units, or the channels for which there are none."""
    size = 1 << bits
    halves, biases = np.zeros_like(q.low), np.zeros_like(q.low)
    odd = 2 * q.levels + 1
    failing = []
    for c in channels:
        exact = q.threshold[c] * size / 2
        middle = max(1, round(exact))
        tries = np.arange(max(1, middle - _CANDIDATES), middle + _CANDIDATES + 1)
        tries = tries[np.argsort(np.abs(tries - exact), kind="stable")]
        point = None
        # near the exact threshold first: most channels need only a few tries
        for part in (tries[:8], tries[8:64], tries[64:]):
            point = _biases(q, c, part, odd, size)
            if point is not None:
                break
        if point is None:
            failing.append(c)
        else:
            halves[c], biases[c] = point
    return (None if failing else (halves, biases)), np.array(failing, dtype=np.int64)


def _biases(q: _Problem, c: int, halves: np.ndarray, odd: np.ndarray, size: int) -> tuple[int, int] | None:
    """The first of these half thresholds that some bias goes with, and the bias nearest to the exact one.

    The boundary ``m (2y + 1) - b`` must lie in ``(last, first]`` if ties go up there, in ``[last, first)`` if not,
    in lattice units; without touching an end if possible, since then no input is a tie.
    """
    if not len(halves):
        return None
    target = round(q.bias[c] * size)
    first, last = q.first[c], q.last[c]
    for open_ends in (True, False):
        middle = halves[:, None] * odd
        lower = middle - first * size + np.where(open_ends | ~q.goes_up, 1, 0)
        upper = middle - last * size - np.where(open_ends | q.goes_up, 1, 0)
        # beyond the charges that exist there is nothing to round
        lower = np.where(first > q.high[c], np.iinfo(np.int64).min, lower).max(1, initial=np.iinfo(np.int64).min)
        upper = np.where(last < q.low[c], np.iinfo(np.int64).max, upper).min(1, initial=np.iinfo(np.int64).max)
        good = np.flatnonzero(lower <= upper)
        if len(good):
            k = good[0]
            return int(halves[k]), int(min(max(target, int(lower[k])), int(upper[k])))
    return None


def _bounded(
    stage: Stage, q: _Problem, found: tuple[np.ndarray, np.ndarray], bits: int, window: int, y_min: int, y_max: int
) -> LayerLattice:
    halves, bias = found
    size = 1 << bits
    threshold = 2 * halves
    leak = np.round(-bias / window).astype(np.int64)
    # a leak is a constant of float32 in the file; what it cannot hold goes into the initial membrane
    coarse = 2 ** max(0, int(np.abs(leak).max()).bit_length() - 24)
    leak = leak // coarse * coarse
    v_init = bias + window * leak
    start = v_init - leak  # after the first step's leak; the last one's leaves the bias
    least, most = q.low * size + np.minimum(start, bias), q.high * size + np.maximum(start, bias)
    # a count of k needs k - 1/2 thresholds to have come in
    lowest = least - threshold * np.clip(-(-most // threshold), 0, y_max)
    highest = most - threshold * np.clip(least // threshold, y_min, 0)
    odd = 2 * q.levels + 1
    boundary = halves[:, None] * odd - bias[:, None]
    inside = (boundary >= q.low[:, None] * size) & (boundary <= q.high[:, None] * size)
    ties = (inside & (boundary % size == 0)).any(1)
    lattice = LayerLattice(
        stage.name, bits, threshold, leak, v_init, ties, (q.low, q.high), lowest, highest, q.first.size
    )
    wide = int(np.argmax(lattice.largest))
    if int(lattice.largest[wide]) >= 2**_ROOM:
        raise _too_wide(stage, wide, int(lattice.largest[wide]).bit_length() + 1)
    return lattice
