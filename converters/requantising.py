"""A quantised network with fewer levels in some of its layers, without training: what sensitivity is measured with.

Levels ``L`` on the range ``r`` become fewer on the same range, or on a smaller one that clips. Where counts become
``f`` times as large, so does the charge that they bring; thresholds and biases follow, weights stay:

    threshold <- threshold * f_in ** degree / f_out        bias <- bias * f_in ** degree
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from converters.errors import ConversionError
from converters.operations import Levels, Synapse
from converters.operations.coarsening import coarsened_range
from converters.quantised import InputSpec, Layer, QuantGraph

__all__ = ["requantised", "sharing"]


def sharing(q: QuantGraph) -> tuple[tuple[str, ...], ...]:
    """The names of the inputs and of all layers that spike, in groups that share their scales, in graph order.

    Together are those that feed the same layer, since its weights are for one unit, and a maximum and what it chooses
    from.
    """
    group = {name: {name} for name in [*(spec.name for spec in q.inputs), *(k.name for k in q.layers if k.spiking)]}
    for layer in q.layers:
        met = [name for synapse in layer.synapses for name in synapse.sources]
        if _passes(layer):
            met.append(layer.name)
        together = set[str]().union(*(group[name] for name in met))
        for name in together:
            group[name] = together
    order = list(group)
    return tuple(tuple(n for n in order if n in group[name]) for name in order if name == _first(order, group[name]))


def requantised(q: QuantGraph, levels: Mapping[str, int], tops: Mapping[str, int] | None = None) -> QuantGraph:
    """The network with fewer levels in some layers, and in all that share their scales (:func:`sharing`).

    Parameters
    ----------
    q : QuantGraph
    levels : dict of int
        The largest level, by a layer's or an input's name.
    tops : dict of int, optional
        By the same names: the present count that becomes the largest level; larger ones are clipped. By default the
        layer's own largest level, which clips nothing.

    Raises
    ------
    ConversionError
        For an unknown name, a number of levels or a top that is not from 1 to what the layer has, two numbers for
        layers that share a scale, and an input with a top.

    Examples
    --------
    >>> from converters.zoo.named import load_checkpoint
    >>> q, _ = load_checkpoint("lenet5-mnist-127")
    >>> few = requantised(q, {"features.0": 7, "classifier.0": 15})
    >>> [layer.y_max for layer in few.layers]
    [7, 127, 127, 127, 15, 127, 127]
    """
    own = {spec.name: spec.levels for spec in q.inputs} | {k.name: max(-k.y_min, k.y_max) for k in q.layers}
    inputs = {spec.name for spec in q.inputs}
    factors: dict[str, Fraction] = dict.fromkeys(own, Fraction(1))
    caps: dict[str, int] = {}
    tops = tops or {}
    groups = sharing(q)
    _check_names([*levels, *tops], [name for group in groups for name in group])
    for group in groups:
        asked = {(levels[name], tops.get(name, max(own[n] for n in group))) for name in group if name in levels}
        if len(asked) > 1:
            raise ConversionError(group[0], f"two numbers of levels for {', '.join(group)}", "they share their scale")
        for number, top in asked:
            whole = max(own[name] for name in group)
            if not 1 <= number <= top <= whole:
                found = f"{number} levels on counts up to {top}"
                raise ConversionError(group[0], found, f"1 <= levels <= top <= {whole}, which it has")
            if top < whole and inputs & set(group):
                raise ConversionError(group[0], "a top for an input", "give it fewer levels on its whole range")
            if number < whole:
                factors |= dict.fromkeys(group, Fraction(number, top))
                caps |= dict.fromkeys(group, number)
    first, *more = (_input(spec, factors[spec.name]) for spec in q.inputs)
    layers = tuple(_layer(layer, factors, caps.get(layer.name)) for layer in q.layers)
    return replace(q, input=first, more_inputs=tuple(more), layers=layers, checked=None)


def _passes(layer: Layer) -> bool:
    """Whether its counts are its sources' own: a maximum."""
    alone = len(layer.synapses) == 1 and layer.synapses[0].passes
    return alone and bool((layer.threshold == 1).all()) and not layer.bias.any()


def _first(order: list[str], group: set[str]) -> str:
    return next(name for name in order if name in group)


def _check_names(given: list[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ConversionError(name, "a name that no input and no spiking layer has", f"use {', '.join(known)}")


def _input(spec: InputSpec, factor: Fraction) -> InputSpec:
    return spec if factor == 1 else spec.coarsened(factor)


def _layer(layer: Layer, factors: Mapping[str, Fraction], cap: int | None) -> Layer:
    """With the charge that its sources now bring, and counts ``factors[layer.name]`` times as large, up to ``cap``."""
    (before,) = {factors[name] for synapse in layer.synapses for name in synapse.sources}
    after = factors[layer.name]
    if before == after == 1 and cap is None:
        return layer
    low, high = coarsened_range(layer.y_min, layer.y_max, after)
    if cap is not None:
        low, high = max(low, -cap), min(high, cap)
    synapses = layer.synapses if before == 1 else tuple(s.coarsened(before) for s in layer.synapses)
    last = [s.ops[-1] if s.ops else None for s in synapses]
    if any(type(op) is Levels for op in last):  # its results are the layer's counts already
        synapses = tuple(_regridded(s, after / before, low, high) for s in synapses)
        threshold, bias = layer.threshold, layer.bias
    else:
        degrees = {s.degree for s in layer.synapses}
        if len(degrees) > 1 and before != 1:
            todo = "leave its sources as they are"
            raise ConversionError(layer.name, "charges that do not grow alike with their sources' counts", todo)
        grown = before ** min(degrees)
        by = grown / after
        threshold = layer.threshold * by.numerator / by.denominator
        bias = layer.bias * grown.numerator / grown.denominator
    return replace(
        layer,
        synapses=synapses,
        threshold=threshold,
        bias=bias,
        y_min=low,
        y_max=high,
        scale=layer.scale / float(after),
    )


def _regridded(synapse: Synapse, factor: Fraction, low: int, high: int) -> Synapse:
    """With an activation's table for levels that are ``1 / factor`` times as far apart, on another range."""
    *before, last = synapse.ops
    if type(last) is not Levels:
        raise ConversionError("synapse", "an activation beside other charges", "leave its layer as it is")
    return replace(synapse, ops=(*before, last.regridded(factor, low, high)))
