"""A written network in onnxruntime, without any optimisation; and what it gives, by the layers' names."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor

import converters
from converters import QuantGraph
from converters.frontends.checking import Comparison, Shown, check_layers
from converters.ports.outputs import mapped

__all__ = ["differing", "near_ties", "outputs_of", "session"]


def session(model: onnx.ModelProto, level: str = "ORT_DISABLE_ALL") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs_of(model: onnx.ModelProto, q: QuantGraph, images: Any) -> dict[str, Tensor]:
    """All outputs of a model by name; images as ``execute`` takes them."""
    run = session(model)
    given = [images] if isinstance(images, Tensor) else list(images)
    fed = {spec.name: x.numpy() for spec, x in zip(q.inputs, given, strict=True)}
    names = [output.name for output in run.get_outputs()]
    return {name: torch.from_numpy(x) for name, x in zip(names, run.run(None, fed), strict=True)}


def _integers(q: QuantGraph, found: dict[str, Tensor]) -> dict[str, Tensor]:
    inputs = {spec.name: found[f"{spec.name}/integers"] for spec in q.inputs}
    return inputs | {layer.name: found[layer.name] for layer in q.layers}


def differing(q: QuantGraph, images: Any) -> dict[str, int]:
    """Of the network in whole numbers: how many integers of each layer, and real outputs, are not the executor's."""
    found = outputs_of(converters.to_onnx(q, exact=True, integers=True), q, images)
    wanted = q.execute(images)
    counts = {name: int((x != wanted[name]).sum()) for name, x in _integers(q, found).items()}
    assert set(counts) == set(wanted)
    return {name: n for name, n in counts.items() if n}


def near_ties(q: QuantGraph, images: Any, model: onnx.ModelProto | None = None) -> Comparison:
    """The network as QDQ against its executor, layer by layer; an error where a difference is no near-tie."""
    found = outputs_of(model or converters.to_onnx(q, integers=True), q, images)
    scales = {x.name: x.scale for x in (*q.inputs, *(layer for layer in q.layers if layer.spiking))}
    values = [(name, x.double() * scales.get(name, 1.0)) for name, x in _integers(q, found).items()]
    returned = iter(found.values())
    by_name = images if isinstance(images, Tensor) else dict(zip((s.name for s in q.inputs), images, strict=True))
    shown = Shown(values, mapped(lambda _: next(returned), q.outputs))
    return check_layers(q, by_name, shown, dtype=torch.float32)
