"""Our own PT2E quantiser: any number of activation levels, and a scheme that Ca-LIF neurons can equal.

* Activations: ``0 .. levels`` with zero point 0 after a ReLU, ``-levels .. levels`` elsewhere; one number of levels for
  all layers, or numbers by module path (:mod:`~converters.frontends.layer_levels`).
* Weights: symmetric, 2 to 8 bits, per channel or per tensor.
* One quantiser per Ca-LIF layer (:mod:`~converters.frontends.pt2e_placement`): convolution or linear, batch norm and
  activation together; an addition and its ReLU. Inputs of an addition, a concatenation or a maximum share their scale.
* A norm has one scale, or, where only layers with weights read it and ``per_channel_norms`` is set, one for each
  channel, which these layers' weights take in (:mod:`~converters.frontends.pt2e_channel_scales`).
* An average pool has a quantiser of its own: with its input's, one quotient in four would be an exact tie,
  which the toolkit breaks by the noise of its float sums.
* A ``FakeQuantize`` (:mod:`~converters.frontends.level_quantiser`), not the fused one: that trains with another weight
  scale than it converts with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationSpec, Quantizer

from converters.errors import ConversionError
from converters.frontends.aten import check_nodes
from converters.frontends.layer_levels import LayerLevels, LevelNumbers, check_level
from converters.frontends.level_quantiser import LevelQuantiser, RangeObserver
from converters.frontends.pt2e_channel_scales import PerChannelRangeObserver
from converters.frontends.pt2e_placement import Placement
from converters.frontends.pt2e_tails import tails

__all__ = ["CaLIFQuantizer"]


class CaLIFQuantizer(Quantizer):
    """Annotates an exported network (see the module's text).

    Parameters
    ----------
    levels : int, or mapping of module path to int
        Largest activation level, 1 to 32767: of all layers, or of those in each path.
    weight_bits : int
        2 to 8.
    per_channel : bool
        One weight scale per output channel.
    signed_input : bool, or sequence of bool
        Whether input pixels can be negative: of each of several inputs.
    quantise_output : bool
        Whether the network's output gets levels too; else it is read from the membrane.
    input_levels : int, optional
        Largest level of the input, by default as the activations'.
    per_channel_norms : bool
        Whether norms that only layers with weights read have a scale for each channel.
    """

    def __init__(
        self,
        levels: LevelNumbers = 127,
        weight_bits: int = 8,
        per_channel: bool = True,
        signed_input: bool | Sequence[bool] = False,
        quantise_output: bool = True,
        input_levels: int | None = None,
        per_channel_norms: bool = False,
    ) -> None:
        super().__init__()
        self.levels = LayerLevels.of(levels)
        of_input = self.levels.rest if input_levels is None else check_level("input_levels", input_levels)
        if weight_bits not in range(2, 9):
            raise ConversionError("weight_bits", f"{weight_bits}", "use 2 to 8")
        self.quantise_output, self.per_channel_norms = quantise_output, per_channel_norms
        self.weight_bits, self.per_channel = weight_bits, per_channel
        signs = signed_input if isinstance(signed_input, Sequence) else (signed_input,)
        self.embedded = self.activation(of_input, True)
        self.inputs = [self.activation(of_input, sign) for sign in signs]

    def transform_for_annotation(self, model: fx.GraphModule) -> fx.GraphModule:
        return model

    def validate(self, model: fx.GraphModule) -> None:
        return None

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        behind = tails(model.graph)
        check_nodes(model, behind)
        placement = Placement(model.graph, self, behind)
        placement.run()
        self.levels.check_paths(placement.paths)
        return model

    def activation(self, levels: int, signed: bool) -> QuantizationSpec:
        """Of activations with so many levels, on both sides of 0 if signed."""
        return _activation_spec(levels, signed)

    def channels(self, levels: int, axis: int) -> QuantizationSpec:
        """Of activations with so many levels on both sides of 0, and a scale for each place of an axis."""
        return _activation_spec(levels, True, axis)

    def weight(self, axis: int) -> QuantizationSpec:
        """Of weights whose output channels lie along ``axis``."""
        return _weight_spec(self.weight_bits, axis if self.per_channel else None)


def _activation_spec(levels: int, signed: bool, axis: int | None = None) -> QuantizationSpec:
    kinds = (torch.int8, torch.int16) if signed else (torch.uint8, torch.int16)
    dtype = next(k for k in kinds if torch.iinfo(k).max >= levels)
    scheme = torch.per_tensor_symmetric if signed else torch.per_tensor_affine
    observer: dict[str, Any] = {"observer": RangeObserver}
    if axis is not None:
        scheme, observer = torch.per_channel_symmetric, {"observer": PerChannelRangeObserver, "ch_axis": axis}
    low = -levels if signed else 0
    return QuantizationSpec(
        dtype=dtype,
        observer_or_fake_quant_ctr=LevelQuantiser.with_args(**observer, averaging_constant=0.05),
        quant_min=low,
        quant_max=levels,
        qscheme=scheme,
        ch_axis=axis,
    )


def _weight_spec(bits: int, axis: int | None) -> QuantizationSpec:
    largest = 2 ** (bits - 1) - 1
    # torchao hands the axis on to classes with "PerChannel" in their names alone
    observer: dict[str, Any] = {"observer": MinMaxObserver}
    if axis is not None:
        observer = {"observer": PerChannelMinMaxObserver, "ch_axis": axis}
    return QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=LevelQuantiser.with_args(**observer),
        quant_min=-largest,
        quant_max=largest,
        qscheme=torch.per_tensor_symmetric if axis is None else torch.per_channel_symmetric,
        ch_axis=axis,
    )
