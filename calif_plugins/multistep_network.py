"""A whole network of Ca-LIF neurons, image by image, in one compiled call. Imported with Numba only.

For small networks, whose layers take less time than a call of Python: an image goes through all layers, step by step,
until it is silent, and its neurons stay in the cache meanwhile. Charges are added up spike by spike, as in
:mod:`calif_plugins.multistep_events`, and neurons are narrow (:mod:`calif_plugins.multistep_narrow`).

``through(program, terms, clock, start, memory, places, sizes, last)`` runs ``len(last)`` images. ``last``, int64, takes
for each the number of steps up to its last spike, or -1 where it is not silent after ``steps`` of them. ``clock`` is
``(window, half_from, steps, settles)``: thresholds are half from step ``half_from`` on; ``steps`` are run, or with
``settles`` as many of them as it takes until nothing happens.

``start``, int32 ``(neurons,)``, are the membranes in the beginning. ``memory`` has a row of bytes for each thread, in
which the arrays of the image that it runs begin at ``places``, int64 ``(9,)``: membranes, counts, what each row did in
the step before and what each layer did, how many of each layer fired, what is left to divide, charges of 32 bits (all
int32), charges of 16 bits, and spikes + 1, uint8. ``sizes`` are their lengths: ``(neurons, rows, bytes, remainders,
charges)``. What a row did is how many of it fired, with :data:`AGAIN` if it may fire though nothing arrives, and
``UNTOUCHED`` until its first step that is computed, which pays the leaks of those before; of a layer it is what all of
its rows did, in the bits that any of them has.

``program``, int64 ``(layers, len(COLUMNS))``, has a row for each input and layer, in order; all arrays go by their
addresses. Of every row:

* ``kind``; ``rows`` of ``width`` neurons each (an input has one row), channels last: ``channels`` at each place;
* ``spikes``, ``state``, ``fired``, ``scratch``: where its bytes, neurons, rows and remainders begin;
* ``totals``: int64 ``(3, N)``, which takes spikes upwards, downwards, and synaptic operations; behind that of the last
  row the operations of all are added up, int64 ``(N,)``; ``fan_out``: int32, of each neuron;
* ``counts``: int32 ``(N, channels, places)``, or 0; ``membranes``: float64 of that shape, or 0.

Of an input ``given``: int64 ``(N, stride)``, of which the first ``width`` are the counts that it encodes (section
4.1), spike ``k`` that of number ``order[k]``, int32, and ``fan_out`` in the order of the counts; an input whose address
is 0 says nothing. Of a layer ``even``, the ten narrow parameters, for how many steps it is ``silent`` if nothing
arrives, and what its kind takes:

* :data:`DIRECT`: ``given``, int64 ``(N, rows * width)``: all that arrives within the window, in equal portions;
* :data:`EVENTS`: the row ``source``, and the tables of ``add_events``. Weights are of 8, 16 or 32 ``bits``, and sums
  of 16; of 32 with ``words``: of weights of 32, and where 16 hold ``most`` at a time;
* :data:`POOL`: ``source``, and of each of its ``places`` neurons the ``place`` of the one that adds it up, or -1;
  windows side by side without margins may be added up whole: they are ``kh`` by ``kw``, ``kh`` being 0 for others, of
  lines of ``wide`` neurons;
* :data:`SUM`: ``terms[first:end]``, pairs of a row and a whole number.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.compiling import compiled
from calif_plugins.multistep_events import add_events, add_pooled, add_windows, source_of
from calif_plugins.multistep_narrow import AGAIN, half_row, narrow_row, pointer, settling_row
from calif_plugins.multistep_portions import divide, portion
from calif_plugins.multistep_vectors import LANES, all_zero

__all__ = ["COLUMNS", "DIRECT", "EVENTS", "INPUT", "LANES", "LONGEST", "POOL", "SUM", "through"]

LONGEST = 2**15 - 1  # narrow neurons count no further
INPUT, DIRECT, EVENTS, POOL, SUM = range(5)
PARAMETERS = ("threshold", "leak", "y_min", "y_max", "v_init", "shift", "close", "threshold64", "leak64", "v_init64")
COLUMNS = (
    "kind", "rows", "width", "channels", "spikes", "state", "fired", "scratch", "totals", "fan_out", "counts",
    "membranes", "given", "stride", "order", "even", "silent", *PARAMETERS, "source", "first", "end", "words", "bits",
    "source_channels", "places", "place", "line", "lines", "lines_size", "most", "kh", "kw", "size", "tall",
    "wide", "top", "side",
)  # fmt: skip
(
    KIND, ROWS, WIDTH, CHANNELS, SPIKES, STATE, FIRED, SCRATCH, TOTALS, FAN_OUT, COUNTS,
    MEMBRANES, GIVEN, STRIDE, ORDER, EVEN, SILENT, *_TEN, SOURCE, FIRST, END, WORDS, BITS,
    SOURCE_CHANNELS, PLACES, PLACE, LINE, LINES, LINES_SIZE, MOST, KH, KW, SIZE, TALL,
    WIDE, TOP, SIDE,
) = range(len(COLUMNS))  # fmt: skip
TEN = _TEN[0]
UNTOUCHED = 2**29
_FEW = 40  # neurons that are added up whole in the time that one spike takes


@numba.njit(inline="always")
def _int32(address, size):
    return numba.carray(pointer(address), (size,), np.int32)


@numba.njit(inline="always")
def _int64(address, size):
    return numba.carray(pointer(address), (size,), np.int64)


@numba.njit(inline="always")
def _float64(address, size):
    return numba.carray(pointer(address), (size,), np.float64)


@numba.njit
def _encode(p, n, b, window, spikes, scratch):
    """The input's spikes of a step, and how many they are; what is left of the way to the next one stays behind."""
    width, out, here = p[WIDTH], p[SPIKES], p[SCRATCH]
    row = spikes[out : out + width]
    if b >= window or not p[GIVEN]:
        row[:] = 1
        return np.int32(0)
    left, own = scratch[here : here + width], scratch[here + width : here + 2 * width]
    if b == 0:
        given, order = _int64(p[GIVEN] + 8 * n * p[STRIDE], width), _int32(p[ORDER], width)
        for k in range(width):
            own[k] = np.int32(given[order[k]])
        for k in range(width):  # a spike at the end of every interval: the first begins that much earlier
            size = abs(own[k])
            left[k] = (np.int32(window) - size) * np.int32(size > 0)
        for k in range(width):
            if left[k] < 0:
                left[k] = np.int32((-np.int64(abs(own[k]))) % window)
    sent = np.int32(0)
    for k in range(width):
        sign = np.int32(own[k] > 0) - np.int32(own[k] < 0)
        after = left[k] - np.int32(abs(own[k]))
        fires = np.int32(after < 0)
        left[k] = after + fires * np.int32(window)
        row[k] = np.uint8(1 + fires * sign)
        sent += fires * abs(sign)
    return sent


@numba.njit
def _portion(p, n, b, window, scratch, charge):
    """What step ``b`` brings to every neuron."""
    size, here = p[ROWS] * p[WIDTH], p[SCRATCH]
    each, rest = scratch[here : here + size], scratch[here + size : here + 2 * size]
    left = scratch[here + 2 * size : here + 3 * size]
    if b >= window:
        charge[:size] = 0
        return
    if b == 0:
        divide(_int64(p[GIVEN] + 8 * n * size, size), 0, window, each, rest, left)
    portion(window, each, rest, left, charge[:size])


@numba.njit(inline="always")
def _events(p, begin, spikes, shorts, words, read):
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
    if not heard and read:
        part[:] = 0
        whole[:] = 0
    return heard


@numba.njit(inline="always")
def _pool(p, begin, spikes, sent, charge, read):
    if p[KH] and sent * _FEW > p[PLACES]:
        window = p[KH], p[KW]
        add_windows(spikes, begin, p[WIDE], window, p[CHANNELS], p[ROWS], p[WIDTH], charge)
        return True
    own = charge[: p[ROWS] * p[WIDTH]]
    heard = add_pooled(spikes, begin, p[PLACES], _int32(p[PLACE], p[PLACES]), own)
    if not heard and read:
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
def _neurons(p, charge, heard, b, clock, v, count, did, spikes):
    """The layer's neurons through step ``b``: how many fire, and what its rows did. If not ``heard``, all charges
    are 0."""
    window, half_from, _steps, _settles = clock
    k = TEN
    parameters = (p[k], p[k + 1], p[k + 2], p[k + 3], p[k + 4], p[k + 5], p[k + 6], p[k + 7], p[k + 8], p[k + 9])
    state = (v.ctypes.data, count.ctypes.data)
    width, leaks = p[WIDTH], np.int64(min(b + 1, window))
    tie = np.int32(2 if p[EVEN] else 1)
    early, last = min(p[SILENT], window, half_from), max(window, half_from)
    settled, at_rest, half = b > last, b >= last, b >= half_from
    at, apart = np.int64(0), width
    if p[KIND] == EVENTS:
        at, apart = p[TOP] * p[WIDE] + p[SIDE], p[WIDE]
    total, all_of_it = np.int32(0), np.int32(0)
    for r in range(p[ROWS]):
        here, o, begin, row = p[STATE] + r * width, p[SPIKES] + r * width, at + r * apart, p[FIRED] + r
        leaking = np.int32(b < window)
        if did[row] & UNTOUCHED:
            if b < early and (not heard or all_zero(charge, begin, width)):
                all_of_it |= AGAIN
                continue
            leaking = np.int32(leaks)
        if settled and not did[row] & AGAIN and (not heard or all_zero(charge, begin, width)):
            if did[row]:
                spikes[o : o + width] = 1
                did[row] = 0
            continue
        if at_rest:  # no leak any more, and half thresholds in the next step too
            now = settling_row(charge, begin, width, state, here, parameters, leaks, leaking, tie, spikes, o)
        elif half:
            now = half_row(charge, begin, width, state, here, parameters, leaks, leaking, tie, spikes, o) | AGAIN
        else:
            none = np.int32(0)
            now = narrow_row(charge, begin, width, state, here, parameters, leaks, leaking, none, spikes, o) | AGAIN
        did[row] = now
        total += now & ~AGAIN
        all_of_it |= now
    return total, all_of_it


@numba.njit(inline="always")
def _layer(k, n, b, program, terms, clock, v, count, did, whole, spikes, sent, scratch, shorts, words):
    """Row ``k`` of the program at step ``b``: how many fire."""
    p = program[k]
    kind, settled = p[KIND], b > max(clock[0], clock[1])
    if kind == INPUT:
        return _encode(p, n, b, clock[0], spikes, scratch)
    read = not settled or (whole[k] & AGAIN) != 0  # by rows at which nothing arrives, too
    if kind == SUM:
        heard = _sum(p, program, terms, spikes, sent, words)
    elif kind == DIRECT:
        _portion(p, n, b, clock[0], scratch, words)
        heard = b < clock[0]
    else:
        if not sent[p[SOURCE]] and settled and not whole[k]:
            return np.int32(0)
        begin = program[p[SOURCE], SPIKES]
        if kind == POOL:
            heard = _pool(p, begin, spikes, sent[p[SOURCE]], shorts, read)
        else:
            heard = _events(p, begin, spikes, shorts, words, read)
    if settled and not heard and not whole[k]:  # silent it stays, and its bytes say so
        return np.int32(0)
    if kind == POOL or (kind == EVENTS and not p[WORDS]):
        total, whole[k] = _neurons(p, shorts, heard, b, clock, v, count, did, spikes)
    else:
        total, whole[k] = _neurons(p, words, heard, b, clock, v, count, did, spikes)
    return total


@numba.njit
def _encoded(p, n, images):
    """Write what an input has sent: all of its counts. Returns the operations."""
    width, totals = p[WIDTH], _int64(p[TOTALS], 3 * images)
    up, down, operations = np.int64(0), np.int64(0), np.int64(0)
    if p[GIVEN]:
        given, fan_out = _int64(p[GIVEN] + 8 * n * p[STRIDE], width), _int32(p[FAN_OUT], width)
        for k in range(width):
            up += max(given[k], 0)
            down += max(-given[k], 0)
            operations += abs(given[k]) * np.int64(fan_out[k])
    totals[n], totals[images + n], totals[2 * images + n] = up, down, operations
    return operations


@numba.njit(inline="always")
def _net(word):
    return np.int32(np.int32(word << np.int32(16)) >> np.int32(16))


@numba.njit
def _emitted(p, n, images, count):
    """Write what a layer has sent, and where it is wanted its counts. Returns the operations."""
    size, channels = p[ROWS] * p[WIDTH], p[CHANNELS]
    here, fan_out, totals = count[p[STATE] : p[STATE] + size], _int32(p[FAN_OUT], size), _int64(p[TOTALS], 3 * images)
    spikes, net, operations = np.int64(0), np.int64(0), np.int64(0)
    for k in range(size):
        y = _net(here[k])
        fired = np.int32(here[k] - y) >> np.int32(16)
        net += y
        spikes += fired
        operations += np.int64(fired) * np.int64(fan_out[k])
    totals[n], totals[images + n], totals[2 * images + n] = (spikes + net) // 2, (spikes - net) // 2, operations
    if p[COUNTS]:
        places = size // channels
        out = _int32(p[COUNTS] + 4 * n * size, size)
        for c in range(channels):
            for q in range(places):
                out[c * places + q] = _net(here[q * channels + c])
    return operations


@numba.njit
def _left(p, n, window, v, count, did):
    """Write the membranes in float64, exactly, as ``multistep_totals.widen`` does."""
    width, size, channels = p[WIDTH], p[ROWS] * p[WIDTH], p[CHANNELS]
    places, k, first = size // channels, TEN, p[STATE]
    unit, leak_unit, init_unit = _int32(p[k], width), _int32(p[k + 1], width), _int32(p[k + 4], width)
    threshold, leak, init = _float64(p[k + 7], width), _float64(p[k + 8], width), _float64(p[k + 9], width)
    out = _float64(p[MEMBRANES] + 8 * n * size, size)
    for i in range(size):
        c, y = i % width, np.int64(_net(count[first + i]))
        paid = 0 if did[p[FIRED] + i // width] & UNTOUCHED else window
        charge = np.int64(v[first + i]) - init_unit[c] + paid * np.int64(leak_unit[c]) + y * np.int64(unit[c])
        exact = np.float64(charge >> p[k + 5]) + init[c] - window * leak[c] - y * threshold[c]
        out[i % channels * places + i // channels] = exact


@numba.njit(inline="always")
def _end(program, n, images, window, v, count, did):
    operations = np.int64(0)
    for k in range(len(program)):
        p = program[k]
        if p[KIND] == INPUT:
            operations += _encoded(p, n, images)
            continue
        operations += _emitted(p, n, images, count)
        if p[MEMBRANES]:
            _left(p, n, window, v, count, did)
    _int64(program[len(program) - 1, TOTALS] + 24 * images, images)[n] = operations


@numba.njit
def _image(n, images, program, terms, clock, start, own, sizes):
    window, half_from, steps, settles = clock
    neurons, rows, spikes_size, remainders, charges = sizes
    v, count, did = _int32(own[0], neurons), _int32(own[1], neurons), _int32(own[2], rows)
    whole, sent = _int32(own[3], len(program)), _int32(own[4], len(program))
    scratch, words = _int32(own[5], remainders), _int32(own[6], charges)
    shorts = numba.carray(pointer(own[7]), (charges,), np.int16)
    spikes = numba.carray(pointer(own[8]), (spikes_size,), np.uint8)
    v[:] = start
    count[:] = 0
    did[:] = AGAIN | UNTOUCHED
    spikes[:] = 1
    whole[:] = AGAIN
    sent[:] = 1
    last, quiet = np.int64(0), False
    for b in range(steps):
        active = False
        for k in range(len(program)):
            sent[k] = _layer(k, n, b, program, terms, clock, v, count, did, whole, spikes, sent, scratch, shorts, words)
            active |= sent[k] > 0 and program[k, KIND] != INPUT
        if active:
            last = np.int64(b + 1)
        elif settles and b >= max(window, half_from):
            quiet = True
            break
    _end(program, n, images, window, v, count, did)
    return last if quiet or not settles else np.int64(-1)


@compiled
def through(program, terms, clock, start, memory, places, sizes, last):
    for n in numba.prange(len(last)):
        own = memory.ctypes.data + numba.get_thread_id() * memory.shape[1] + places
        last[n] = _image(n, len(last), program, terms, clock, start, own, sizes)
