"""Biases that make up for the mean error of a quantised layer.

Rounded weights and clipped activations move the mean of a layer's values, and what follows sees it in every image. The
difference of the means on calibration images is added to the bias, layer by layer, each behind those that were
corrected before it (`Nagel et al. 2019 <https://arxiv.org/abs/1906.04721>`_, section 4.2 and appendix D).

There the means are taken in front of a ReLU. A quantised network's values are less wide, negative ones too, so that
such means come from values that nobody sees: where levels are few, wide layers were better off without. Here what is
negative in both networks takes no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx

from converters.calibration.layers import WeightedLayer, weighted_layers
from converters.calibration.walking import Walk, as_it_is, quantised
from converters.frontends.examples import Example
from converters.frontends.pt2e_module import PreparedModel

__all__ = ["correct_biases"]


@torch.no_grad()
def correct_biases(
    model: PreparedModel,
    reference: PreparedModel,
    batches: Iterable[Example],
    done: Callable[[int], None] = lambda images: None,
) -> None:
    """Correct the biases of a quantised network, in place, in one pass over the images.

    Each batch corrects the layers in order, and the network behind a layer sees it corrected; what is kept is the mean
    of the batches' corrections. Layers that share their bias, or have neither a bias nor a batch norm, keep what they
    have.

    Parameters
    ----------
    model : PreparedModel
        With all ranges set, in evaluation mode.
    reference : PreparedModel
        A copy with the float network's own parameters.
    batches : iterable of Example
    done : callable
        Told the number of images of each batch.
    """
    layers = [layer for layer in weighted_layers(model) if layer.bias is not None]
    twins = dict(zip(model.graph.nodes, reference.graph.nodes, strict=True))
    seen = 0
    for batch in batches:
        size = len(batch.tensors[0])
        seen += size
        wanted: dict[fx.Node, Tensor] = {}
        keepers = {twins[layer.end]: _keeper(twins[layer.end], wanted) for layer in layers}
        Walk(reference, as_it_is, keepers).run(*batch.tensors)
        movers = {layer.end: _mover(model, layer, wanted, twins[layer.end], size / seen) for layer in layers}
        Walk(model, quantised, movers).run(*batch.tensors)
        done(size)


def _keeper(node: fx.Node, kept: dict[fx.Node, Tensor]) -> Callable[[Tensor], Tensor]:
    def keep(values: Tensor) -> Tensor:
        kept[node] = values
        return values

    return keep


def _mover(
    model: PreparedModel, layer: WeightedLayer, wanted: dict[fx.Node, Tensor], twin: fx.Node, rate: float
) -> Callable[[Tensor], Tensor]:
    def move(values: Tensor) -> Tensor:
        lacking, showing = layer.correction(wanted.pop(twin), values)
        shift = rate * lacking / showing.clamp(min=1)
        bias = model.get_parameter(str(layer.bias))
        bias.add_(shift.to(bias))
        return layer.shifted(values, shift)

    return move
