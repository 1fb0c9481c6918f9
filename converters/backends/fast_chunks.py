"""How many images and steps the fast simulator takes at a time: so many that memory stays within a fixed bound."""

from __future__ import annotations

import torch

from converters.network import Network

__all__ = ["BLOCK", "TAIL", "images_at_a_time", "steps_at_a_time"]

BLOCK = 32  # steps per call within the window
TAIL = 8  # and in the rounding phase, which is short
_CHUNK_BYTES = 16 * 2**20  # of the largest layer's charges in one block
# (an image's share, times as much for images of that share at most): starting threads costs more than the cache
_MORE = ((2**20, 4), (2**23, 2))


def images_at_a_time(network: Network) -> int:
    """So many that memory stays within a fixed bound, whatever the batch and the window."""
    one = min(steps_at_a_time(network), max(network.window, TAIL)) * _charges(network)
    some = max(1, next((times for share, times in _MORE if one <= share), 1) * _CHUNK_BYTES // one)
    threads = torch.get_num_threads()  # share out images
    return some if some < threads else some // threads * threads


def steps_at_a_time(network: Network) -> int:
    """Of a single image's charges that are larger than that, fewer steps."""
    return max(1, min(BLOCK, _CHUNK_BYTES // _charges(network)))


def _charges(network: Network) -> int:
    """Bytes of the largest layer's charges for an image, in a step."""
    return 4 * max(s.size for s in network.stages)
