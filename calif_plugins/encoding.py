"""Pixels to spike trains: ISI coding (Gao et al. 2023, section 4.1), direct charge, and the DoG filter before it.

Works on NumPy arrays. A train has the time axis first: ``(T, *shape)``, values in {-1, 0, 1}.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["direct_charge", "dog_filter", "isi_encode", "isi_spikes", "spike_counts"]


def spike_counts(pixels: Any, window: int, *, alpha: float = 1.0, pixel_max: float = 1.0) -> np.ndarray:
    """``N = floor(alpha * T * Pix / Pix_max)``, with the pixel's sign (section 4.1).

    ``pixels`` of any shape, ``|pixel| <= pixel_max``; ``0 < alpha <= 1``. Returns int64 of that shape.

    >>> spike_counts([0.0, 0.5, -1.0], 8)
    array([ 0,  4, -8])
    """
    given = np.asarray(pixels)
    own = np.finfo(given.dtype).eps if given.dtype.kind == "f" else 0.0
    pixels = given.astype(np.float64)
    window = _whole_window(window)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: expected 0 < alpha <= 1 (one spike per step at most), found {alpha}")
    if not pixel_max > 0:
        raise ValueError(f"pixel_max: expected a positive number, found {pixel_max}")
    if not np.isfinite(pixels).all():
        raise ValueError("pixels: must be finite, found NaN or infinity")
    if np.abs(pixels).max(initial=0) > pixel_max:
        raise ValueError(
            f"pixels: must lie within ±{pixel_max}, found {np.abs(pixels).max()}; set pixel_max to your data's maximum"
        )
    # a product such as 0.29 * 100 must not lose its spike to the last bit of the float, nor to that of a float32
    exact = alpha * window * np.abs(pixels) / pixel_max
    count = np.minimum(np.floor(exact * (1 + own) + 1e-9), window).astype(np.int64)
    return np.sign(pixels).astype(np.int64) * count


def isi_spikes(counts: Any, t: int, window: int) -> np.ndarray:
    """The signed spike at step ``t`` (from 0) of trains with ``counts`` spikes in ``window`` steps.

    The n-th spike comes at step ``floor(n * T / N)``, counted from 1 (section 4.1), in integers. So up
    to step t there are ``ceil((t + 1) N / T) - 1`` of them.
    """
    counts = np.asarray(counts)
    n = np.abs(counts)
    step = t + 1
    return np.sign(counts) * (_ceil_div((step + 1) * n, window) - _ceil_div(step * n, window))


def isi_encode(
    pixels: Any = None,
    window: int = 128,
    *,
    counts: Any = None,
    alpha: float = 1.0,
    pixel_max: float = 1.0,
) -> np.ndarray:
    """Spike trains in ISI coding, from pixels or straight from integers.

    Parameters
    ----------
    pixels : array of any shape
        Brightness within ``[-pixel_max, pixel_max]``; negative pixels give negative spikes.
    window : int
        ``T`` steps.
    counts : int array of any shape
        Signed spike counts, ``|N| <= T``, instead of pixels: a quantised network's input integers.
    alpha : float
        Spike rate factor, ``0 < alpha <= 1``.
    pixel_max : float
        The largest brightness (255 for 8-bit images).

    Returns
    -------
    int8 array of shape ``(T, *shape)``

    Examples
    --------
    >>> isi_encode(counts=[3, -1, 0], window=4).T
    array([[ 1,  1,  0,  1],
           [ 0,  0,  0, -1],
           [ 0,  0,  0,  0]], dtype=int8)
    >>> isi_encode([255.0], 4, pixel_max=255).ravel()
    array([1, 1, 1, 1], dtype=int8)
    """
    window = _whole_window(window)
    if (pixels is None) == (counts is None):
        raise ValueError("give either pixels or counts")
    if counts is None:
        counts = spike_counts(pixels, window, alpha=alpha, pixel_max=pixel_max)
    counts = np.asarray(counts)
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"counts: expected integers, found {counts.dtype}")
    counts = counts.astype(np.int64)  # the absolute value of int8's -128 is -128
    if np.abs(counts).max(initial=0) > window:
        raise ValueError(
            f"counts: at most one spike per step, found {np.abs(counts).max()} for a window of {window}; "
            "lengthen the window or use fewer levels"
        )
    return np.stack([isi_spikes(counts, t, window) for t in range(window)]).astype(np.int8)


def direct_charge(total: Any, t: int, window: int) -> np.ndarray:
    """The share of step ``t`` (from 0) when the integer ``total`` is injected evenly over the window.

    In whole quanta, ``floor((t+1) total / T) - floor(t total / T)``, so that the sum is exact.

    >>> [int(direct_charge(-7, t, 4)) for t in range(4)]
    [-2, -2, -2, -1]
    """
    total = np.asarray(total)
    return (t + 1) * total // window - t * total // window


def dog_filter(pixels: Any, *, inner: float = 1.0, outer: float = 2.0, size: int = 7) -> np.ndarray:
    """Difference of Gaussians of each channel: edges of both signs, 0 where an image is flat (table 1).

    The paper names the filter, not its widths; 7 x 7 pixels with sigma 1 and 2 are the usual choice in spiking
    vision (Kheradpisheh et al. 2018). Borders are mirrored.

    Parameters
    ----------
    pixels : float array ``(..., H, W)``
        Brightness within [0, 1].
    inner, outer : float
        Standard deviations of the centre and of the surround, in pixels.
    size : int
        Width of the window, odd.

    Returns
    -------
    float array of the same shape and type
        Within [-1, 1]: divided by the largest value that such pixels can reach.

    Examples
    --------
    >>> image = np.zeros((9, 9))
    >>> image[:, 5:] = 1.0
    >>> (dog_filter(image)[4].round(2) + 0.0).tolist()
    [0.0, 0.0, -0.16, -0.34, -0.22, 0.22, 0.34, 0.16, 0.0]
    """
    x = np.asarray(pixels)
    if size < 3 or size % 2 == 0 or not 0 < inner < outer:
        raise ValueError(f"dog_filter: expected 0 < inner < outer and an odd size, found {inner}, {outer}, {size}")
    if x.ndim < 2 or x.dtype.kind != "f" or min(x.shape[-2:]) <= size // 2:
        raise ValueError(
            f"pixels: expected floats of shape (..., H, W), H and W above {size // 2}; found {x.dtype} {x.shape}"
        )
    taps = np.arange(size) - size // 2
    rows = [np.exp(-(taps**2) / (2 * sigma**2)) for sigma in (inner, outer)]
    rows = [row / row.sum() for row in rows]
    kernel = np.outer(rows[0], rows[0]) - np.outer(rows[1], rows[1])
    largest = kernel[kernel > 0].sum()
    blurred = [_blur(_blur(x, row, -1), row, -2) for row in rows]
    return np.clip((blurred[0] - blurred[1]) / x.dtype.type(largest), -1, 1)


def _blur(x: np.ndarray, row: np.ndarray, axis: int) -> np.ndarray:
    """Convolution with a symmetric row along an axis, borders mirrored."""
    half, length = len(row) // 2, x.shape[axis]
    padding = [(0, 0)] * x.ndim
    padding[axis] = (half, half)
    padded = np.pad(x, padding, mode="reflect")
    total = np.zeros_like(x)
    for k, weight in enumerate(row):
        total += x.dtype.type(weight) * np.take(padded, range(k, k + length), axis=axis)
    return total


def _ceil_div(a: np.ndarray, b: int) -> np.ndarray:
    return -(-a // b)


def _whole_window(window: float) -> int:
    if not float(window).is_integer() or window < 1:
        raise ValueError(f"window: expected T >= 1 whole steps, found {window}")
    return int(window)
