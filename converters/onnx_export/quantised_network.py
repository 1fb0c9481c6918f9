"""A network as QDQ: quantisers and dequantisers around operations on real values in float32.

A level is ``round(x / scale)`` of a float32 sum, so where the exact quotient lies within that sum's rounding of a tie,
the level may be the one beside it; nowhere else. Ties to even are ONNX's own; a layer whose ties go up has no
quantiser there, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

from converters.errors import ConversionError
from converters.onnx_export import quantised_norms  # noqa: F401  it enters its operations
from converters.onnx_export.quantised_operations import QUANTISED, Real, Unit, by_channel, in_unit, single
from converters.onnx_export.writer import Writer, Written, naming
from converters.operations import Levels, Operation, Synapse
from converters.quantised import InputSpec, Layer, QuantGraph

__all__ = ["write_quantised"]

F = TensorProto.FLOAT
_TYPES: dict[Any, int] = {
    np.int8: TensorProto.INT8,
    np.uint8: TensorProto.UINT8,
    np.int16: TensorProto.INT16,
    np.uint16: TensorProto.UINT16,
}
_MAIN = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "RMSNormalization",
    "GroupNormalization", "InstanceNormalization", "LRN",
)  # fmt: skip
_JOINING = ("Add", "Mul", "Max", "Min")
_AROUND = ("QuantizeLinear", "DequantizeLinear", "Clip", "Relu", "Reshape", "Transpose", "Identity")
_CUT = (np.int8, np.uint8)  # the types whose Clip onnxruntime has


def write_quantised(w: Writer, q: QuantGraph) -> Written:
    """All layers of a network."""
    values: dict[str, Real] = {}
    found = Written(F, {})
    ranges = {spec.name: (spec.q_min, spec.q_max) for spec in q.inputs}
    ranges |= {layer.name: (layer.y_min, layer.y_max) for layer in q.layers}
    for spec in q.inputs:
        w.prefix = f"{spec.name}/"
        with naming(spec.name):
            values[spec.name] = _input(w, spec, found)
    for layer in q.layers:
        w.prefix = f"{layer.name}/"
        first = len(w.nodes)
        with naming(layer.name):
            values[layer.name] = _layer(w, layer, values, ranges, found)
        _entitle(w, w.nodes[first:], layer.name)
    found.real.update({name: values[name].name for name in q.output_names})
    return found


def _entitle(w: Writer, nodes: Sequence[onnx.NodeProto], layer: str) -> None:
    """Name one node as the layer, by which readers call it: its weights, or else what joins or makes its values."""

    def joins(node: onnx.NodeProto) -> bool:
        return node.op_type in _JOINING and sum(not w.is_constant(name) for name in node.input) > 1

    rest = [node for node in nodes if node.op_type not in _AROUND]
    main = [node for node in rest if node.op_type in _MAIN] or list(filter(joins, rest)) or rest or nodes
    for node in nodes:
        if node.name == layer:
            node.name = f"{layer}/levels"
    main[0].name = layer


def _input(w: Writer, spec: InputSpec, found: Written) -> Real:
    source = spec.name
    if spec.table is not None:
        rows = w.constant((spec.table.rows.numpy() * spec.scale).astype(np.float32))
        source = w.node("Gather", rows, spec.name, axis=0)
    given = Real(source, spec.shape, np.asarray(spec.scale))
    name = w.free(f"{spec.name}/integers")
    found.integers[spec.name], real = _quantised(w, given, name, spec.q_min, spec.q_max, rectify=False)
    return real


def _layer(
    w: Writer, layer: Layer, values: Mapping[str, Real], ranges: Mapping[str, tuple[int, int]], found: Written
) -> Real:
    unit = by_channel((layer.scale / layer.threshold).numpy(), layer.shape)
    whole = bool((layer.threshold == 1).all() and (layer.bias == layer.bias.round()).all())
    if layer.spiking and layer.tie == "up" and not whole:
        raise ConversionError(layer.name, "ties that go up, where ONNX rounds to even", "use exact=True")
    charges = [_charge(w, s, values, unit) for s in layer.synapses]
    total = charges[0]
    for charge in charges[1:]:
        total = w.node("Add", total, charge)
    if bool((layer.bias != 0).any()):
        bias = by_channel((layer.bias * layer.scale / layer.threshold).numpy(), layer.shape)
        total = w.biased(total, bias, layer.shape[0])
    if not layer.spiking:
        found.integers[layer.name] = (w.called(total, layer.name), F)
        return Real(layer.name, layer.shape, np.asarray(layer.scale))
    within = _stays_within(layer, values, ranges)
    real = Real(total, layer.shape, np.asarray(layer.scale))
    found.integers[layer.name], real = _quantised(w, real, layer.name, layer.y_min, layer.y_max, within)
    return real


def _charge(w: Writer, synapse: Synapse, values: Mapping[str, Real], unit: Unit) -> str:
    """The sum of one synapse in the layer's unit, and float32."""
    here, ops = [values[name] for name in synapse.sources], synapse.ops
    if any(type(op) is Levels for op in ops[:-1]):
        raise ConversionError("Levels", "an activation that no quantiser is right behind", "use exact=True")
    for k, op in enumerate(ops):
        here = [QUANTISED.of(op)(w, op, _goal(ops[k + 1 :], unit, op.output_shape(*(x.shape for x in here))), *here)]
    return in_unit(w, here[0], unit).name


def _goal(rest: tuple[Operation, ...], unit: Unit, shape: tuple[int, ...]) -> Unit | None:
    """The unit in which what stands in front of ``rest`` would need no other; None where that is not known."""
    if not rest:
        return unit
    if type(rest[0]) is Levels:
        return by_channel(rest[0].units, shape)
    moved = all(op.linear and op.passes for op in rest)
    return unit if moved and unit.ndim == 0 else None


def _stays_within(layer: Layer, given: Mapping[str, Real], ranges: Mapping[str, tuple[int, int]]) -> bool:
    """Whether its levels lie between its ends anyway: maxima, moves and averages of counts that do."""
    if any(op.stored is not None or not (op.linear or op.passes) for s in layer.synapses for op in s.ops):
        return False  # weights are there for another range, and a function's levels are cut by its table
    low = high = 0.0
    for synapse in layer.synapses:
        ends = [
            tuple(torch.full(given[name].shape, float(k), dtype=torch.float64) for k in ranges[name])
            for name in synapse.sources
        ]
        found = synapse.interval(*ends)  # type: ignore[arg-type]  # two of each
        low, high = low + float(found[0].min()), high + float(found[1].max())
    sums = torch.tensor([low, high]).reshape(2, *[1] * len(layer.shape)).expand(2, *layer.shape)
    levels = layer.quotient(sums).round()
    return bool(levels.min() >= layer.y_min and levels.max() <= layer.y_max)


def _quantised(
    w: Writer, x: Real, name: str, low: int, high: int, within: bool = False, rectify: bool = True
) -> tuple[tuple[str, int], Real]:
    """A quantiser, its range where its type has more, and a dequantiser: the integers' name and type, and the value.

    ``within`` says that nothing lies beyond the range; ``rectify`` lets a ReLU be the lower end.
    """
    kind = next((t for t in _TYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max), None)
    if kind is None:
        raise ConversionError(name, f"levels from {low} to {high}", "ONNX quantises to 16 bits: use exact=True")
    ends = np.iinfo(kind).min, np.iinfo(kind).max
    real, cut = x.name, not within and (low, high) != ends
    if cut and rectify and low == 0 and high == ends[1]:
        real, cut = w.node("Relu", real), False
    if cut and kind not in _CUT:
        real, cut = w.node("Clip", real, *(single(w, k * x.unit) for k in (low, high))), False
    scale, zero = single(w, x.unit, "scale"), w.constant(kind(0), "zero")
    levels = w.node("QuantizeLinear", real, scale, zero, name=None if cut else name)
    if cut:
        levels = w.node("Clip", levels, *(w.constant(kind(k)) for k in (low, high)), name=name)
    back = w.node("DequantizeLinear", levels, scale, zero)
    return (levels, _TYPES[kind]), Real(back, x.shape, x.unit)
