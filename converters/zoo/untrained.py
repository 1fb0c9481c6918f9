"""A network by name as a toolkit quantises it, with random weights: what a front-end can be looked at with at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.zoo.networks import build
from converters.zoo.training import TOOLKITS

__all__ = ["untrained"]

_BATCH = 64


def untrained(
    network: str, toolkit: str, images: Tensor, *, levels: int = 127, weight_bits: int = 8, seed: int = 0
) -> nn.Module:
    """A model in evaluation mode, its ranges and batch norms' statistics from ``images``, in training mode.

    Parameters
    ----------
    network : str
        A name that :func:`converters.zoo.networks.build` knows.
    toolkit : {"pt2e", "brevitas"}
    images : float tensor ``(N, C, H, W)``
    levels, weight_bits : int
    seed : int
        Of the weights. The caller's random state is left as it is.

    Raises
    ------
    ConversionError
        For an unknown network or toolkit.

    Examples
    --------
    >>> type(untrained("lenet5", "pt2e", torch.rand(4, 1, 32, 32))).__name__
    'PreparedModel'
    """
    if toolkit not in TOOLKITS:
        raise ConversionError("--toolkit", f"{toolkit!r}", f"use one of {', '.join(TOOLKITS)}")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = build(network, images.shape[1], size=images.shape[-1])
        options = {"levels": levels, "weight_bits": weight_bits, "quantise_output": False}
        signed = bool((images < 0).any())
        found = TOOLKITS[toolkit][0](model, images[:_BATCH], signed_input=signed, **options).train()
        with torch.no_grad():
            for part in images.split(_BATCH):
                found(part)
    return found.eval()
