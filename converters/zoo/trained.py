"""A training run's quantised network from its own checkpoint: as its toolkit has it, and converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.frontends.layer_levels import LayerLevels
from converters.quantised import QuantGraph
from converters.zoo.datasets import DATASETS
from converters.zoo.networks import NETWORKS, build
from converters.zoo.training import TOOLKITS
from converters.zoo.training_file import read_checkpoint
from converters.zoo.training_state import put_back_model

__all__ = ["quantised_run", "trained_model"]

_EXAMPLE = 8
_LARGEST = {"shape": 4096, "classes": 1_000_000, "levels": 2**15, "weight_bits": 8, "input_levels": 2**15}


def trained_model(path: Path, images: Tensor | None = None) -> tuple[nn.Module, str, Tensor]:
    """The model of a ``.qat.pt`` of ``calif train``, its toolkit's name, and an example for it.

    Parameters
    ----------
    path : path
    images : float tensor ``(N, C, H, W)``, optional
        Of what it was trained on. Noise without, of both signs where the run's pixels are.

    Raises
    ------
    ConversionError
        If it is no checkpoint of the quantised phase of a run, or the images have another shape.
    """
    found = read_checkpoint(path)
    about = found.about
    shape, toolkit = about.get("shape"), about.get("toolkit", "pt2e")
    levels = about.get("levels")
    numbers: dict[str, Any] = {k: about[k] for k in ("classes", "levels", "weight_bits", "input_levels") if k in about}
    if type(levels) is dict and toolkit == "pt2e":  # of each layer
        numbers["levels"] = LayerLevels.of(levels).largest
    sizes: list[tuple[str, Any]] = (
        [("shape", n) for n in shape] if type(shape) is list and len(shape) == 3 else [("shape", None)]
    )
    good = all(type(n) is int and 1 <= n <= _LARGEST[k] for k, n in (*sizes, *numbers.items()))
    good &= {"classes", "levels", "weight_bits"} <= set(numbers) and type(about.get("quantise_output")) is bool
    if not good or shape is None or about["network"] not in NETWORKS or toolkit not in TOOLKITS:
        todo = "give the .qat.pt of calif train; a .float.pt is quantised by calif quantise"
        raise ConversionError(str(path), "no quantised phase of a run", todo)
    example = _noise(tuple(shape), _signed(path, about)) if images is None else images
    if tuple(example.shape[1:]) != tuple(shape):
        raise ConversionError("images", f"a batch of shape {tuple(example.shape)}", f"the network takes {shape}")
    example = example[:_EXAMPLE]
    model = build(about["network"], shape[0], numbers.pop("classes"), shape[-1])
    options: dict[str, Any] = {**numbers, "levels": levels, "quantise_output": about["quantise_output"]}
    signed = bool((example < 0).any())
    qat = TOOLKITS[toolkit][0](model, example, signed_input=signed, **options)
    put_back_model(path, found, qat, True)
    return qat.eval(), toolkit, example


def quantised_run(path: Path) -> tuple[QuantGraph, dict[str, Any]]:
    """The quantised network of a ``.qat.pt`` of ``calif train``, as that command converts it, and notes of its run.

    Raises
    ------
    ConversionError
        As of :func:`trained_model`.
    """
    model, toolkit, example = trained_model(path)
    found = read_checkpoint(path)
    about = found.about
    notes = {k: about[k] for k in ("network", "weight_bits", "seed") if k in about} | {"toolkit": toolkit}
    notes |= LayerLevels.of(about["levels"]).notes
    dataset = _dataset_of(path, about)
    return TOOLKITS[toolkit][1](model, example), notes | ({"dataset": dataset} if dataset else {})


def _noise(shape: tuple[int, ...], signed: bool) -> Tensor:
    x = torch.rand(_EXAMPLE, *shape, generator=torch.Generator().manual_seed(0))
    return 2 * x - 1 if signed else x


def _signed(path: Path, about: dict[str, Any]) -> bool:
    """Whether pixels have both signs. Runs of earlier versions do not say so; then the name of the data does."""
    signed = about.get("signed", _dataset_of(path, about) == "caltech101")
    if type(signed) is not bool:
        raise ConversionError(str(path), f"signed: {str(signed)[:40]!r}", "it is true or false")
    return signed


def _dataset_of(path: Path, about: dict[str, Any]) -> str | None:
    """From the name that calif train gives its files, ``network-dataset-levels.qat.pt``; None of a file of another."""
    start, end = f"{about['network']}-", f"-{LayerLevels.of(about['levels']).name}"
    name = path.name.removesuffix(".pt").removesuffix(".qat")
    if not (name.startswith(start) and name.endswith(end)):
        return None
    dataset = name.removeprefix(start).removesuffix(end)
    return dataset if dataset in DATASETS else None
