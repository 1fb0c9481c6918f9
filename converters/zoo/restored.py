"""A quantised network of the zoo in floating point again: to train on, or to teach.

What a ``.safetensors`` file has is enough for that: with ``threshold = S_y / (S_w S_x)`` a layer's real weights are
``w S_y / (threshold S_x)``, and its real bias is ``bias S_y / threshold``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.files.kinds import LONGEST, kind_by_content
from converters.operations.contract import Shape
from converters.operations.moving import Flatten
from converters.operations.weights import Weighted
from converters.quantised import Layer, QuantGraph
from converters.zoo.named import find_checkpoint, load_checkpoint
from converters.zoo.networks import NETWORKS, build
from converters.zoo.norms import Linear, norms_behind
from converters.zoo.training_file import log_of

__all__ = ["Restored", "example_images", "load_integers", "names_quantised", "restored"]

_TODO = "give a .float.pt of calif train"
_EXAMPLE = 512


def names_quantised(which: Path) -> bool:
    """Whether that is a quantised network: by its ending; a file of another ending by what is in it; and what is no
    file, and has not the ending of a run's checkpoint, as a checkpoint's name."""
    name = which.name.lower()
    if name.endswith((".safetensors", ".safetensors.xz")):
        return True
    if name.endswith(".pt"):
        return False
    if not which.exists():
        return True
    if not which.is_file():
        return False
    with which.open("rb") as file:
        return kind_by_content(file.read(LONGEST)) == "quantised"


@dataclass(frozen=True, eq=False)
class Restored:
    """A quantised network in floating point.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode.
    dataset : str or None
        What it was trained on, where the file says it.
    log : list of dict
        A row for each epoch of that, where the file has them.
    about : str
        The file's name, its epochs and the beginning of its SHA-256.
    """

    model: nn.Module
    dataset: str | None
    log: list[dict[str, Any]]
    about: str


def restored(which: Path, about: Mapping[str, Any], *, network: str | None = None) -> Restored:
    """The float network of the weights in a file.

    Parameters
    ----------
    which : path
        A file of :func:`~converters.save_quantised`, or a checkpoint's name.
    about : mapping
        ``shape`` and ``classes`` that it must have.
    network : str, optional
        The zoo's network that it must be.

    Raises
    ------
    ConversionError
        If it is of other images, classes or network, or has other layers with weights than that network of the zoo.
    """
    file = find_checkpoint(str(which))
    path = str(file)
    q, notes = load_checkpoint(path)
    theirs = notes.get("network")
    wanted = tuple(about["shape"]), about["classes"]
    found = q.input.shape, q.output.shape[0]
    if theirs not in NETWORKS:
        raise ConversionError(path, f"a network of {theirs or 'no name'}, which is not in the zoo", _TODO)
    if len(q.inputs) > 1 or len(q.output_names) > 1 or len(found[0]) != 3:
        raise ConversionError(
            path, "several inputs or outputs, or no images", f"a network of the zoo is wanted; {_TODO}"
        )
    if notes.get("toolkit") == "brevitas":
        raise ConversionError(path, "a network of brevitas, whose layers have other names", _TODO)
    if network is not None and theirs != network:
        raise ConversionError(path, f"network {theirs} instead of {network}", "start from one of the same network")
    if found != wanted:
        theirs_said, mine = (f"{n} classes for images of {' x '.join(map(str, s))}" for s, n in (found, wanted))
        raise ConversionError(path, theirs_said, f"give a network of {mine}")
    model = build(theirs, wanted[0][0], wanted[1], wanted[0][-1]).eval()
    try:
        load_integers(model, q, path)
    except RuntimeError:  # of PyTorch, where the first dense layer has another size
        found_size = f"images of {' x '.join(map(str, wanted[0]))}, which {theirs} does not take"
        raise ConversionError(path, found_size, _TODO) from None
    log = log_of(notes.get("log"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return Restored(model, notes.get("dataset"), log, f"{which.name} after {len(log)} epochs, {digest}")


@torch.no_grad()
def load_integers(model: nn.Module, q: QuantGraph, where: str) -> None:
    """The real weights of a quantised network into the float one that it was made from, layer by layer by name.

    Batch norms, which are within the weights by then, get a mean of 0 and a variance of 1.

    Raises
    ------
    ConversionError
        If one of the two has a layer with weights that the other does not have, of another shape or with any other
        operation beside them, or if weights are not finite; the model is as it was then. What has no weights, such as a
        pool, is not compared.
    """
    layers = {layer.name: layer for layer in q.layers}
    scales = {spec.name: spec.scale for spec in q.inputs} | {layer.name: layer.scale for layer in q.layers}
    norms = norms_behind(model, torch.zeros(1, *q.input.shape))
    linear = {name: m for name, m in model.named_modules() if isinstance(m, Linear)}
    held = {id(p) for m in (*linear.values(), *norms.values()) for p in m.parameters()}
    others = [name for name, p in model.named_parameters() if id(p) not in held]
    unused = [name for name, layer in layers.items() if name not in linear and _weighted(layer)]
    missing = [name for name in linear if name not in layers]
    for names, what in ((others, "parameters"), (missing, "no layer"), (unused, "integers of")):
        if names:
            raise ConversionError(where, f"{what} {names[0]!r}, so that not all float weights follow", _TODO)
    found = {name: _real(layers[name], scales, tuple(m.weight.shape), where) for name, m in linear.items()}
    for name, (weight, bias) in found.items():
        if not bool(torch.isfinite(weight.float()).all() and torch.isfinite(bias.float()).all()):
            raise ConversionError(where, f"weights of {name!r} that float32 does not hold", _TODO)
    for name, m in linear.items():
        weight, bias = found[name]
        m.weight.copy_(weight)
        norm = norms.get(name)
        if norm is not None:
            norm.running_mean.zero_()  # type: ignore[union-attr]  # the zoo's norms have statistics
            norm.running_var.fill_(1.0)  # type: ignore[union-attr]
            norm.weight.fill_((1.0 + norm.eps) ** 0.5)
            norm.bias.copy_(bias)
        elif m.bias is not None:
            m.bias.copy_(bias)


def example_images(count: int, pixels: int = 1, images: int = _EXAMPLE) -> Tensor:
    """Which images batch norms see: so many of all, evenly, as data sets can be sorted by class; of more ``pixels``
    than 32 x 32 fewer, as they go through the network at once.

    >>> example_images(10, images=4), len(example_images(10_000, 128 * 128))
    (tensor([0, 3, 6, 9]), 32)
    """
    images = max(2, min(images, images * 32 * 32 // pixels))
    return torch.linspace(0, count - 1, min(count, images)).long()


def _weighted(layer: Layer) -> list[tuple[str, Weighted]]:
    return [(s.sources[0], op) for s in layer.synapses for op in s.ops if isinstance(op, Weighted)]


def _real(layer: Layer, scales: Mapping[str, float], shape: Shape, where: str) -> tuple[Tensor, Tensor]:
    """Weights of ``shape`` and bias ``(C,)`` of a layer with one synapse."""
    ops = [op for s in layer.synapses for op in s.ops if not isinstance(op, Flatten)]
    weighted = _weighted(layer)
    if len(ops) != 1 or len(weighted) != 1 or len(layer.synapses) != 1 or tuple(weighted[0][1].weight.shape) != shape:
        raise ConversionError(where, f"{layer!r}, where the network has weights of shape {shape}", _TODO)
    source, op = weighted[0]
    step = layer.scale / layer.threshold
    return op.weight.double() * (step / scales[source]).view(-1, *(1,) * (len(shape) - 1)), layer.bias * step
