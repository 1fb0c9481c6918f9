"""A whole network of Ca-LIF neurons, image by image, in one compiled call. Imported with Numba only.

For small networks, whose layers take less time than a call of Python: an image goes through all layers, step by step,
until it is silent, and its neurons stay in the cache meanwhile. Charges are added up spike by spike, as in
:mod:`calif_plugins.multistep_kernels`, and neurons are narrow (:mod:`calif_plugins.multistep_narrow`).

``through(program, terms, clock, memory, places, sizes, last)`` runs ``len(last)`` images. ``last``, int64, takes for
each the number of steps up to its last spike, or -1 where it is not silent after ``steps`` of them. ``clock`` is
``(window, half_from, steps, settles)``: thresholds are half from step ``half_from`` on; ``steps`` are run, or with
``settles`` as many of them as it takes until nothing happens.

``memory`` has a row of bytes for each thread, in which the arrays of the image that it runs begin at ``places``, int64
``(8,)``: membranes, counts, how many fired in each row and in each layer, what is left to divide, charges of 32 bits
(all int32), charges of 16 bits, and spikes + 1, uint8. ``sizes`` are their lengths: ``(neurons, rows, bytes,
remainders, charges)``.

``program``, int64 ``(layers, len(COLUMNS))``, has a row for each input and layer, in order; all arrays go by their
addresses. Of every row:

* ``kind``; ``rows`` of ``width`` neurons each (an input has one row), channels last: ``channels`` at each place;
* ``spikes``, ``state``, ``fired``, ``scratch``: where its bytes, neurons, rows and remainders begin;
* ``totals``: int64 ``(3, N)``, which takes spikes upwards, downwards, and synaptic operations; ``fan_out``: int64, of
  each neuron;
* ``counts``: int32 ``(N, channels, places)``, or 0; ``v`` and ``count``: the narrow state at the end, or 0.

Of an input ``given``: int32 ``(N, width)``, the counts that it encodes (section 4.1). Of a layer ``even`` and the ten
narrow parameters, and what its kind takes:

* :data:`DIRECT`: ``given``, int64 ``(N, rows * width)``: all that arrives within the window, in equal portions;
* :data:`EVENTS`: the row ``source``, and the tables of ``event_scan``. Weights are of 8, 16 or 32 ``bits``, and sums
  of 16; of 32 with ``words``: of weights of 32, and where 16 hold ``most`` at a time;
* :data:`POOL`: ``source``, and of each of its ``places`` neurons the ``place`` of the one that adds it up, or -1;
* :data:`SUM`: ``terms[first:end]``, pairs of a row and a whole number.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.compiling import compiled
from calif_plugins.multistep_events import add_events, add_pooled, source_of
from calif_plugins.multistep_narrow import pointer
from calif_plugins.multistep_rows import narrow_or_silent
from calif_plugins.multistep_vectors import LANES

__all__ = ["COLUMNS", "DIRECT", "EVENTS", "INPUT", "LANES", "LONGEST", "POOL", "SUM", "through"]

LONGEST = 2**15 - 1  # narrow neurons count no further
INPUT, DIRECT, EVENTS, POOL, SUM = range(5)
PARAMETERS = ("threshold", "leak", "y_min", "y_max", "v_init", "shift", "close", "threshold64", "leak64", "v_init64")
COLUMNS = (
    "kind", "rows", "width", "channels", "spikes", "state", "fired", "scratch", "totals", "fan_out", "counts", "v",
    "count", "given", "even", *PARAMETERS, "source", "first", "end", "words", "bits", "source_channels", "places",
    "place", "line", "lines", "lines_size", "most", "kh", "size", "tall", "wide", "top", "side",
)  # fmt: skip
(
    KIND, ROWS, WIDTH, CHANNELS, SPIKES, STATE, FIRED, SCRATCH, TOTALS, FAN_OUT, COUNTS, V,
    COUNT, GIVEN, EVEN, *_TEN, SOURCE, FIRST, END, WORDS, BITS, SOURCE_CHANNELS, PLACES,
    PLACE, LINE, LINES, LINES_SIZE, MOST, KH, SIZE, TALL, WIDE, TOP, SIDE,
) = range(len(COLUMNS))  # fmt: skip
TEN = _TEN[0]


@numba.njit(inline="always")
def _int32(address, size):
    return numba.carray(pointer(address), (size,), np.int32)


@numba.njit(inline="always")
def _int64(address, size):
    return numba.carray(pointer(address), (size,), np.int64)


@numba.njit
def _encode(p, n, b, window, spikes, scratch):
    """The input's spikes of a step, and how many they are; what is left of the way to the next one stays behind."""
    width, out, here = p[WIDTH], p[SPIKES], p[SCRATCH]
    left = scratch[here : here + width]
    given, row = _int32(p[GIVEN] + 4 * n * width, width), spikes[out : out + width]
    if b >= window:
        row[:] = 1
        return np.int32(0)
    if b == 0:
        for k in range(width):
            size = np.int32(abs(given[k]))
            left[k] = window - size if size <= window else np.int32((-np.int64(size)) % window)
            if size == 0:
                left[k] = 0
    sent = np.int32(0)
    for k in range(width):
        sign = np.int32(given[k] > 0) - np.int32(given[k] < 0)
        after = left[k] - np.int32(abs(given[k]))
        fires = np.int32(after < 0)
        left[k] = after + fires * np.int32(window)
        row[k] = np.uint8(1 + fires * sign)
        sent += fires * abs(sign)
    return sent


@numba.njit
def _portion(p, n, b, window, scratch, charge):
    """``floor((b + 1) c / T) - floor(b c / T)`` for every neuron's ``c``."""
    size, here = p[ROWS] * p[WIDTH], p[SCRATCH]
    each, rest = scratch[here : here + size], scratch[here + size : here + 2 * size]
    left = scratch[here + 2 * size : here + 3 * size]
    if b >= window:
        charge[:size] = 0
        return
    if b == 0:
        whole = _int64(p[GIVEN] + 8 * n * size, size)
        for k in range(size):  # a quotient of whole numbers below 2**31 rounds to no whole number that it is not
            each[k] = np.int32(np.floor(np.float64(whole[k]) / np.float64(window)))
            rest[k] = np.int32(whole[k]) - each[k] * np.int32(window)
            left[k] = 0
    for k in range(size):
        after = left[k] + rest[k]
        more = np.int32(after >= window)
        left[k] = after - more * np.int32(window)
        charge[k] = each[k] + more


@numba.njit(inline="always")
def _events(p, begin, spikes, shorts, words):
    places = p[PLACES]
    source, place, line = source_of(p[SOURCE_CHANNELS], places), _int32(p[PLACE], places), _int64(p[LINE], places)
    lines, kh, size, wide, most = pointer(p[LINES]), p[KH], p[SIZE], p[WIDE], p[MOST]
    own = p[TALL] * wide + size
    part, whole = shorts[:own], words[:own]
    if p[BITS] == 8:
        bytes = numba.carray(lines, (p[LINES_SIZE],), np.int8)
        heard = add_events(spikes, begin, source, place, line, bytes, most, kh, size, wide, part, whole)
    elif p[BITS] == 16:
        of_two = numba.carray(lines, (p[LINES_SIZE],), np.int16)
        heard = add_events(spikes, begin, source, place, line, of_two, most, kh, size, wide, part, whole)
    else:
        of_four = numba.carray(lines, (p[LINES_SIZE],), np.int32)
        heard = add_events(spikes, begin, source, place, line, of_four, 0, kh, size, wide, whole, whole)
    if not heard:
        part[:] = 0
        whole[:] = 0
    return heard


@numba.njit(inline="always")
def _pool(p, begin, spikes, charge):
    own = charge[: p[ROWS] * p[WIDTH]]
    heard = add_pooled(spikes, begin, p[PLACES], _int32(p[PLACE], p[PLACES]), own)
    if not heard:
        own[:] = 0
    return heard


@numba.njit(inline="always")
def _sum(p, program, terms, spikes, sent, charge):
    size = p[ROWS] * p[WIDTH]
    charge[:size] = 0
    heard = False
    for k in range(p[FIRST], p[END]):
        source, factor = terms[k, 0], np.int32(terms[k, 1])
        if sent[source]:
            heard = True
            begin = program[source, SPIKES]
            for c in range(size):
                charge[c] += (np.int32(spikes[begin + c]) - np.int32(1)) * factor
    return heard


@numba.njit
def _neurons(p, charge, b, clock, v, count, fired, spikes):
    """The layer's neurons through step ``b``, and how many fire."""
    window, half_from, _steps, _settles = clock
    k = TEN
    parameters = (p[k], p[k + 1], p[k + 2], p[k + 3], p[k + 4], p[k + 5], p[k + 6], p[k + 7], p[k + 8], p[k + 9])
    state = (v.ctypes.data, count.ctypes.data)
    width, leaks = p[WIDTH], np.int64(min(b + 1, window))
    leaking, tie = np.int32(-1 if b < window else 0), np.int32(2 if p[EVEN] else 1)
    settled, half = b > max(window, half_from), b >= half_from
    at, apart = np.int64(0), width
    if p[KIND] == EVENTS:
        at, apart = p[TOP] * p[WIDE] + p[SIDE], p[WIDE]
    total = np.int32(0)
    for r in range(p[ROWS]):
        here, o, begin, row = p[STATE] + r * width, p[SPIKES] + r * width, at + r * apart, p[FIRED] + r
        still = settled and not fired[row]
        fired[row] = narrow_or_silent(
            charge, begin, width, state, here, parameters, leaks, leaking, half, tie, still, spikes, o
        )  # fmt: skip
        total += fired[row]
    return total


@numba.njit(inline="always")
def _layer(k, n, b, program, terms, clock, v, count, fired, spikes, sent, scratch, shorts, words):
    """Row ``k`` of the program at step ``b``: how many fire."""
    p = program[k]
    kind, settled = p[KIND], b > max(clock[0], clock[1])
    if kind == INPUT:
        return _encode(p, n, b, clock[0], spikes, scratch)
    if kind == SUM:
        heard = _sum(p, program, terms, spikes, sent, words)
    elif kind == DIRECT:
        _portion(p, n, b, clock[0], scratch, words)
        heard = b < clock[0]
    else:
        if not sent[p[SOURCE]] and settled and not sent[k]:
            return np.int32(0)
        begin = program[p[SOURCE], SPIKES]
        if kind == POOL:
            heard = _pool(p, begin, spikes, shorts)
        else:
            heard = _events(p, begin, spikes, shorts, words)
    if settled and not heard and not sent[k]:  # silent it stays, and its bytes say so
        return np.int32(0)
    if kind == POOL or (kind == EVENTS and not p[WORDS]):
        return _neurons(p, shorts, b, clock, v, count, fired, spikes)
    return _neurons(p, words, b, clock, v, count, fired, spikes)


@numba.njit
def _encoded(p, n, images):
    """Write what an input has sent: all of its counts."""
    width = p[WIDTH]
    given, fan_out, totals = (
        _int32(p[GIVEN] + 4 * n * width, width),
        _int64(p[FAN_OUT], width),
        _int64(p[TOTALS], 3 * images),
    )
    up, down, operations = np.int64(0), np.int64(0), np.int64(0)
    for k in range(width):
        up += max(given[k], 0)
        down += max(-given[k], 0)
        operations += np.int64(abs(given[k])) * fan_out[k]
    totals[n], totals[images + n], totals[2 * images + n] = up, down, operations


@numba.njit
def _emitted(p, n, images, count):
    """Write what a layer has sent, and where it is wanted its counts."""
    size, channels = p[ROWS] * p[WIDTH], p[CHANNELS]
    here, fan_out, totals = count[p[STATE] : p[STATE] + size], _int64(p[FAN_OUT], size), _int64(p[TOTALS], 3 * images)
    spikes, net, operations = np.int64(0), np.int64(0), np.int64(0)
    for k in range(size):
        y = np.int32(np.int32(here[k] << np.int32(16)) >> np.int32(16))
        fired = np.int64(np.int32(here[k] - y) >> np.int32(16))
        net += y
        spikes += fired
        operations += fired * fan_out[k]
    totals[n], totals[images + n], totals[2 * images + n] = (spikes + net) // 2, (spikes - net) // 2, operations
    if p[COUNTS]:
        places = size // channels
        out = _int32(p[COUNTS] + 4 * n * size, size)
        for c in range(channels):
            for q in range(places):
                word = here[q * channels + c]
                out[c * places + q] = np.int32(np.int32(word << np.int32(16)) >> np.int32(16))


@numba.njit(inline="always")
def _begin(program, v):
    for k in range(len(program)):
        p = program[k]
        if p[KIND] != INPUT:
            start = _int32(p[TEN + 4], p[WIDTH])
            for r in range(p[ROWS]):
                v[p[STATE] + r * p[WIDTH] : p[STATE] + (r + 1) * p[WIDTH]] = start


@numba.njit(inline="always")
def _end(program, n, images, v, count):
    for k in range(len(program)):
        p = program[k]
        if p[KIND] == INPUT:
            _encoded(p, n, images)
            continue
        _emitted(p, n, images, count)
        own, first = p[ROWS] * p[WIDTH], p[STATE]
        if p[V]:
            _int32(p[V] + 4 * n * own, own)[:] = v[first : first + own]
            _int32(p[COUNT] + 4 * n * own, own)[:] = count[first : first + own]


@numba.njit
def _image(n, images, program, terms, clock, own, sizes):
    window, half_from, steps, settles = clock
    neurons, rows, spikes_size, remainders, charges = sizes
    v, count, fired = _int32(own[0], neurons), _int32(own[1], neurons), _int32(own[2], rows)
    sent, scratch = _int32(own[3], len(program)), _int32(own[4], remainders)
    words = _int32(own[5], charges)
    shorts = numba.carray(pointer(own[6]), (charges,), np.int16)
    spikes = numba.carray(pointer(own[7]), (spikes_size,), np.uint8)
    for k in range(neurons):
        count[k] = 0
    for k in range(rows):
        fired[k] = 1
    for k in range(spikes_size):
        spikes[k] = 1
    for k in range(len(program)):
        sent[k] = 1
    _begin(program, v)
    last, quiet = np.int64(0), False
    for b in range(steps):
        active = False
        for k in range(len(program)):
            sent[k] = _layer(k, n, b, program, terms, clock, v, count, fired, spikes, sent, scratch, shorts, words)
            active |= sent[k] > 0 and program[k, KIND] != INPUT
        if active:
            last = np.int64(b + 1)
        elif settles and b >= max(window, half_from):
            quiet = True
            break
    _end(program, n, images, v, count)
    return last if quiet or not settles else np.int64(-1)


@compiled
def through(program, terms, clock, memory, places, sizes, last):
    for n in numba.prange(len(last)):
        own = memory.ctypes.data + numba.get_thread_id() * memory.shape[1] + places
        last[n] = _image(n, len(last), program, terms, clock, own, sizes)
