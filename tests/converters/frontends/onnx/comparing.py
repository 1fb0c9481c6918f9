"""A converted model, compared with onnxruntime and run as spikes."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor

import converters
from converters.quantised import InputSpec

__all__ = ["converted", "noise"]


def converted(model: onnx.ModelProto, images: Any, *, backends: tuple[str, ...] = ("fast",)) -> converters.QuantGraph:
    """The network, whose counts in ``backends`` are its integers, all of them."""
    q = converters.from_onnx(model, images, check=images)
    assert q.checked is not None
    assert q.checked.model == "onnxruntime"
    assert q.checked.near_ties <= 0.002 * q.checked.integers + 1
    images = {spec.name: _within(spec, x) for spec, x in zip(q.inputs, given_by(images), strict=True)}
    images = images if len(images) > 1 else next(iter(images.values()))
    integers = q.at_window(16).execute(images)
    for backend in backends:
        r = converters.run(converters.to_nir(q, T=16), images, backend=backend)
        assert set(r.counts) >= {layer.name for layer in q.layers if layer.spiking}
        assert all(torch.equal(counts.long(), integers[name]) for name, counts in r.counts.items()), backend
    return q


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given_by(images: Any) -> list[Tensor]:
    return [images] if isinstance(images, Tensor) else list(images.values())


def _within(spec: InputSpec, x: Tensor) -> Tensor:
    """Images whose values are within the range of the input."""
    return x.clamp(spec.q_min * spec.scale, spec.q_max * spec.scale)
