"""A network in whole numbers: every layer rounds one quotient of float64, and none of them can come out wrong.

A layer's threshold and bias are those of its lattice (:mod:`converters.lattice`), so what it divides and what it
divides by are whole numbers of one unit, below 2^52 of it. Sums of such numbers are exact in float64. A quotient
``a / v`` that is no tie is at least ``1 / (2 v)`` away from one, which is more than half of a unit of float64's last
place there, as ``a < 2^52``; and a tie is a float64 itself. So rounding the quotient to float64 never reaches or
crosses a tie, and rounding the result to a level is that of the exact quotient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from converters.lattice import Certificate, fit
from converters.onnx_export import whole_convolutions, whole_counting  # noqa: F401  they enter their operations
from converters.onnx_export.whole_operations import WHOLE, Whole
from converters.onnx_export.writer import Writer, Written, naming
from converters.operations import Synapse
from converters.quantised import InputSpec, Layer, QuantGraph

__all__ = ["write_whole"]

D = TensorProto.DOUBLE


def write_whole(w: Writer, q: QuantGraph) -> Written:
    """All layers of a network."""
    values: dict[str, Whole] = {}
    for spec in q.inputs:
        w.prefix = f"{spec.name}/"
        values[spec.name] = Whole(_input(w, spec), spec.shape, spec.levels)
    for layer in q.layers:
        w.prefix = f"{layer.name}/"
        with naming(layer.name):
            values[layer.name] = _layer(w, layer, values, fit(layer, q.reach(layer)))
    found = Written(D, {name: (x.name, D) for name, x in values.items()})
    for layer in q.layers:
        if layer.name in q.output_names:
            w.prefix = f"{layer.name}/"
            found.real[layer.name] = _real(w, layer, values[layer.name].name)
    return found


def _input(w: Writer, spec: InputSpec) -> str:
    """As :meth:`InputSpec.quantise`: times the inverse scale in float32, to the nearest, ties to even; or rows."""
    if spec.table is not None:
        rows = w.constant(spec.table.rows.numpy().astype(np.float64))
        return w.node("Gather", rows, spec.name, name=w.free(f"{spec.name}/integers"), axis=0)
    levels = w.node("Mul", spec.name, w.constant(np.float32(1) / np.float32(spec.scale)))
    cut = w.node("Clip", w.node("Round", levels), *(w.constant(np.float32(n)) for n in (spec.q_min, spec.q_max)))
    return w.node("Cast", cut, name=w.free(f"{spec.name}/integers"), to=D)


def _layer(w: Writer, layer: Layer, values: Mapping[str, Whole], on: Certificate) -> Whole:
    charges = [_charge(w, s, values) for s in layer.synapses]
    total = charges[0]
    for charge in charges[1:]:
        total = w.node("Add", total, charge)
    if not layer.spiking:
        return Whole(w.node("Identity", total, name=layer.name), layer.shape, 0)
    up = layer.tie == "up"
    bias = on.bias + on.threshold / 2 if up else on.bias
    if bool(bias.any()):
        total = w.node("Add", total, _by_channel(w, bias, layer))
    if bool((on.threshold != 1).any()):
        total = w.node("Div", total, _by_channel(w, on.threshold, layer))
    if up or bool((on.threshold != 1).any() or (on.bias != np.rint(on.bias)).any()):
        total = w.node("Floor" if up else "Round", total)
    ends = (w.constant(np.float64(n)) for n in (layer.y_min, layer.y_max))
    name = w.node("Clip", total, *ends, name=layer.name)
    return Whole(name, layer.shape, max(-layer.y_min, layer.y_max))


def _charge(w: Writer, synapse: Synapse, values: Mapping[str, Whole]) -> str:
    here = [values[name] for name in synapse.sources]
    for op in synapse.ops:
        shape = op.output_shape(*(x.shape for x in here))
        largest = op.reach(*(x.largest for x in here))
        here = [Whole(WHOLE.of(op)(w, op, *here), shape, largest)]
    return here[0].name


def _by_channel(w: Writer, values: Any, layer: Layer) -> str:
    """One number, or one for each channel, as it broadcasts to a layer's batch."""
    array = np.asarray(values, dtype=np.float64)
    one = bool((array == array[0]).all())
    return w.constant(array[0] if one else array.reshape(1, -1, *[1] * (len(layer.shape) - 1)))


def _real(w: Writer, layer: Layer, name: str) -> str:
    """As :meth:`Layer.real`, operation by operation."""
    if not layer.spiking:
        name = w.node("Add", name, _by_channel(w, layer.bias, layer))
        name = w.node("Div", name, _by_channel(w, layer.threshold, layer))
    return w.node("Mul", name, w.constant(np.float64(layer.scale)))
