"""A training run's quantised network as its toolkit has it: to be compared with what was made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.zoo.networks import NETWORKS, build
from converters.zoo.training import TOOLKITS
from converters.zoo.training_file import read_checkpoint
from converters.zoo.training_state import put_back_model

__all__ = ["trained_model"]

_EXAMPLE = 8
_LARGEST = {"shape": 4096, "classes": 1_000_000, "levels": 2**15, "weight_bits": 8, "input_levels": 2**15}


def trained_model(path: Path, images: Tensor | None = None) -> tuple[nn.Module, str, Tensor]:
    """The model of a ``.qat.pt`` of ``calif train``, its toolkit's name, and an example for it.

    Parameters
    ----------
    path : path
    images : float tensor ``(N, C, H, W)``, optional
        Of what it was trained on: they say whether pixels are signed. Pixels from 0 to 1 without.

    Raises
    ------
    ConversionError
        If it is no checkpoint of the quantised phase of a run, or the images have another shape.
    """
    found = read_checkpoint(path)
    about = found.about
    shape, toolkit = about.get("shape"), about.get("toolkit", "pt2e")
    numbers: dict[str, Any] = {k: about[k] for k in ("classes", "levels", "weight_bits", "input_levels") if k in about}
    sizes: list[tuple[str, Any]] = (
        [("shape", n) for n in shape] if type(shape) is list and len(shape) == 3 else [("shape", None)]
    )
    good = all(type(n) is int and 1 <= n <= _LARGEST[k] for k, n in (*sizes, *numbers.items()))
    good &= {"classes", "levels", "weight_bits"} <= set(numbers) and type(about.get("quantise_output")) is bool
    if not good or shape is None or about["network"] not in NETWORKS or toolkit not in TOOLKITS:
        raise ConversionError(str(path), "no quantised phase of a run", "give the .qat.pt of calif train")
    example = torch.rand(_EXAMPLE, *shape, generator=torch.Generator().manual_seed(0)) if images is None else images
    if tuple(example.shape[1:]) != tuple(shape):
        raise ConversionError("images", f"a batch of shape {tuple(example.shape)}", f"the network takes {shape}")
    example = example[:_EXAMPLE]
    model = build(about["network"], shape[0], numbers.pop("classes"), shape[-1])
    options: dict[str, Any] = {**numbers, "quantise_output": about["quantise_output"]}
    signed = bool((example < 0).any())
    qat = TOOLKITS[toolkit][0](model, example, signed_input=signed, **options)
    put_back_model(path, found, qat, True)
    return qat.eval(), toolkit, example
