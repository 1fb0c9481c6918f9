"""Weights that make up for what quantisation does to a network, layer by layer on the calibration images.

The float and the quantised network go through the graph side by side, operation by operation, all images at each. Where
they come to a layer with weights, its weights are fitted to give the float network's result from the quantised
network's input, and rounded so that their errors make up for one another
(:mod:`~converters.calibration.least_squares`); the layers behind see the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from converters.calibration.layers import WeightedLayer, weighted_layers
from converters.calibration.least_squares import Moments, fitted, rounded
from converters.calibration.patches import has_patches, in_groups, patches, places, results
from converters.calibration.ranges import weight_ranges
from converters.calibration.walking import Walk, as_it_is, quantised, set_range
from converters.frontends.aten import constants
from converters.frontends.examples import Example
from converters.frontends.pt2e_module import PreparedModel

__all__ = ["reconstruct"]

_MOST_INPUTS = 6144  # of one result: its covariances are 300 MB
_MOST_ROWS = 2**16  # of a layer, over all images


class _Passes:
    """The same network on several batches, an operation of all of them at a time."""

    def __init__(self, model: PreparedModel, at: Any, batches: list[Example]) -> None:
        self.fixed = constants(model.graph)
        self.walks = [Walk(model, at) for _ in batches]
        for walk, batch in zip(self.walks, batches, strict=True):
            walk.args_iter = iter(walk.graph.process_inputs(*batch.tensors))

    def step(self, node: fx.Node) -> None:
        """Do an operation; what depends on weights alone is computed once."""
        shared = node in self.fixed or (node.op == "call_module" and node.args[0] in self.fixed)
        for walk in self.walks:
            first = self.walks[0]
            walk.env[node] = first.env[node] if shared and walk is not first else walk.run_node(node)
        for walk in self.walks:
            for past in walk.user_to_last_uses.get(node, []):
                del walk.env[past]

    def values(self, node: fx.Node) -> list[Tensor]:
        """What each batch has at a node."""
        return [walk.env[node] for walk in self.walks]

    def put(self, node: fx.Node, values: list[Tensor]) -> None:
        for walk, value in zip(self.walks, values, strict=True):
            walk.env[node] = value


@torch.no_grad()
def reconstruct(
    model: PreparedModel,
    reference: PreparedModel,
    batches: Iterable[Example],
    *,
    weights: str,
    done: Callable[[int], None] = lambda layers: None,
) -> None:
    """Fit a quantised network's weights and biases to the float network's results, in place.

    Parameters
    ----------
    model : PreparedModel
        With all ranges set, in evaluation mode. Weights that several layers share, that are computed from others, or
        of which more than 6144 make one result, and those of transposed convolutions stay as they are.
    reference : PreparedModel
        A copy with the float network's own parameters.
    batches : iterable of Example
        Two images or more. What they are between two operations is held in memory, of both networks.
    weights : {"mse", "minmax"}
        How the scales of the fitted weights are chosen.
    done : callable
        Told of each layer that is done.
    """
    batches = list(batches)
    ours, theirs = _Passes(model, quantised, batches), _Passes(reference, as_it_is, batches)
    layers = weighted_layers(model)
    by_node, by_end = {layer.node: layer for layer in layers}, {layer.end: layer for layer in layers}
    factors: dict[fx.Node | None, Tensor] = {}
    wanted = {layer.factor for layer in layers}
    for node, twin in zip(model.graph.nodes, reference.graph.nodes, strict=True):
        if node.op == "output":
            break
        layer = by_node.get(node)
        if layer is None:
            theirs.step(twin)
        else:
            (weight,) = {id(w): w for w in theirs.values(twin.args[1])}.values()
            theirs.step(twin)
            if _is_fitted(layer, weight):
                _fit(model, layer, weight, factors.get(layer.factor), ours, theirs.values(twin), weights)
            done(1)
        ours.step(node)
        if node in wanted:
            factors[node] = ours.values(node)[0]
        if node in by_end and by_end[node].bias is not None:
            _move_bias(model, by_end[node], ours, theirs.values(twin))


def _is_fitted(layer: WeightedLayer, weight: Tensor) -> bool:
    return layer.weight is not None and has_patches(layer.node) and weight[0].numel() <= _MOST_INPUTS


def _fit(
    model: PreparedModel,
    layer: WeightedLayer,
    weight: Tensor,
    factor: Tensor | None,
    ours: _Passes,
    wanted: list[Tensor],
    how: str,
) -> None:
    """New weights for a layer, whose inputs ``ours`` has and whose results are to be ``wanted``."""
    node, source = layer.node, layer.node.all_input_nodes[0]
    quantiser: Any = model.get_submodule(str(layer.quantiser.target))
    by = quantiser.rescaled(torch.ones_like(weight))  # the scales that weights take in; what they read is over these
    moments = _moments(node, weight, in_groups(node, by)[:, :1], ours.values(source), wanted)
    rows = in_groups(node, weight * by).double()
    fit = fitted(rows, moments)
    largest = int(quantiser.quant_max)
    if quantiser.is_per_channel:
        set_range(quantiser, weight_ranges(fit.flatten(0, 1).float(), largest, how))
    step = quantiser.scale.double().expand(len(weight)).reshape(fit.shape[:2])
    integers = rounded(fit, step, largest, (moments[0] + moments[1]).xx)
    found = (integers * step[..., None]).reshape(weight.shape).to(weight) / by
    parameter = model.get_parameter(str(layer.weight))
    parameter.copy_(found if factor is None else found / factor)
    folded = parameter if factor is None else parameter * factor
    ours.put(layer.quantiser, [quantiser.quantised(folded)] * len(wanted))


def _moments(
    node: fx.Node, weight: Tensor, by: Tensor, inputs: list[Tensor], wanted: list[Tensor]
) -> tuple[Moments, Moments]:
    """Covariances over every second image, and over the others, of inputs over factors ``(groups, 1, K)``."""
    most = max(1, _MOST_ROWS // (2 * len(inputs)))
    found = []
    for half in (0, 1):
        sums = [torch.zeros((), dtype=torch.float64, device=weight.device)] * 4
        count = 0
        for x, y in zip(inputs, wanted, strict=True):
            x, y = x[half::2], y[half::2]
            at = places(node, y, most)
            rows, targets = patches(node, x, weight, at) / by, results(node, y, at)
            count += rows.shape[1]
            products = (rows.mT @ rows, targets.mT @ rows, rows.sum(1), targets.sum(1))
            sums = [s + p.double() for s, p in zip(sums, products, strict=True)]
        xx, yx, x_sum, y_sum = sums
        mean = x_sum / max(count, 1)
        found.append(Moments(xx - mean[:, :, None] * x_sum[:, None, :], yx - y_sum[:, :, None] * mean[:, None, :]))
    return found[0], found[1]


def _move_bias(model: PreparedModel, layer: WeightedLayer, ours: _Passes, wanted: list[Tensor]) -> None:
    """Give a layer's channels the float network's means (:mod:`~converters.calibration.biases`)."""
    values = ours.values(layer.end)
    found = [layer.correction(y, x) for y, x in zip(wanted, values, strict=True)]
    lacking, showing = (torch.stack(sums).sum(0) for sums in zip(*found, strict=True))
    shift = lacking / showing.clamp(min=1)
    bias = model.get_parameter(str(layer.bias))
    bias.add_(shift.to(bias))
    ours.put(layer.end, [layer.shifted(x, shift) for x in values])
