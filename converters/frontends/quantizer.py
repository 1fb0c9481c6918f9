"""Our own PT2E quantiser: any number of activation levels, and a scheme that Ca-LIF neurons can equal.

* Activations: ``0 .. levels`` with zero point 0 after a ReLU, ``-levels .. levels`` elsewhere; one number of levels for
  all layers, or numbers by module path (:mod:`~converters.frontends.layer_levels`).
* Weights: symmetric, 2 to 8 bits, per channel or per tensor.
* One quantiser per Ca-LIF layer (:mod:`~converters.frontends.pt2e_placement`): convolution or linear, batch norm and
  activation together; an addition and its ReLU. Inputs of an addition, a concatenation or a maximum share their scale.
* An average pool has a quantiser of its own: with its input's, one quotient in four would be an exact tie,
  which the toolkit breaks by the noise of its float sums.
* A ``FakeQuantize``, not the fused one: that trains with another weight scale than it converts with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e import (
    FakeQuantize,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import QuantizationSpec, Quantizer

from converters.errors import ConversionError, warn
from converters.frontends.aten import check_nodes
from converters.frontends.layer_levels import LayerLevels, LevelNumbers, check_level
from converters.frontends.level_rounding import round_to_levels
from converters.frontends.pt2e_placement import Placement
from converters.frontends.pt2e_tails import tails
from converters.ports.input_range import SHARE

__all__ = ["CaLIFQuantizer", "LevelQuantiser", "RangeObserver", "bypassed", "in_memory_order", "sample_step"]


def sample_step(values: int, size: int) -> int:
    """The distance from one to the next of about ``size`` samples: it shares no divisor with the number of values.

    A step such as 512 would meet one column of a 32 x 32 map, always the same.

    >>> sample_step(128 * 32 * 32, 8192), sample_step(100, 8192)
    (17, 1)
    """
    step = max(1, values // size)
    while math.gcd(step, values) > 1:
        step += 1
    return step


def in_memory_order(x: Tensor) -> Tensor:
    """All values, flat, without a copy of a tensor in channels-last; images stay one after the other."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return (x.detach().permute(0, 2, 3, 1) if last else x.detach()).flatten()


def _every_kth(x: Tensor, size: int) -> Tensor:
    flat = in_memory_order(x)
    return flat[:: sample_step(flat.numel(), size)]


class RangeObserver(MovingAverageMinMaxObserver):
    """Moving average of the range with the least squared quantisation error, of a sample of each batch.

    With 127 levels that is nearly the minimum and maximum; with few, a range that clips outliers. ``sampler`` takes
    the sample: a caller whose batch lies on several processes sets its own.

    Branches that meet share one observer, which sees each of them in a forward pass. The range moves once in a pass,
    towards the largest of theirs: towards their mean, the larger branch would be clipped.

    Attributes
    ----------
    again : bool
        Whether what comes next belongs to the same forward pass as what came last.
    """

    sampler: Callable[[Tensor, int], Tensor] = staticmethod(_every_kth)
    again = False
    # no buffers: state_dict is as it was, and between two passes they mean nothing
    _before: tuple[Tensor, Tensor] | None = None
    _largest: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.again:
            self._before = self._largest = None
        sample = self.sampler(x, 8192)
        if sample.numel() == 0:
            return x
        top = sample.abs().max()
        if self.qscheme == torch.per_tensor_affine:  # unsigned: the range starts at 0, and so the zero point is 0
            sample = sample.clamp(min=0)
            low, levels = 0.0, self.quant_max
        else:
            low, levels = -1.0, self.quant_max
        ranges = top * torch.linspace(0.2, 1.0, 17, device=x.device, dtype=x.dtype)
        step = (ranges / levels).clamp(min=torch.finfo(x.dtype).tiny)[:, None]
        error = (torch.round(sample / step).clamp(low * levels, levels) * step - sample).square().sum(1)
        best = ranges[error.argmin()]
        if self._before is None or self._largest is None:
            self._before = self.min_val.clone(), self.max_val.clone()
        else:
            self.min_val.copy_(self._before[0])
            self.max_val.copy_(self._before[1])
            best = torch.maximum(best, self._largest)
        self._largest = best
        super().forward(torch.stack([low * best, best]))
        return x


class LevelQuantiser(FakeQuantize):
    """torchao's fake quantiser, whose range stays where it is in evaluation mode.

    torchao's own goes on observing there, so that each evaluation moves what it measures.

    Attributes
    ----------
    path : str
        Where in the network it stands, for people.
    bypassed : bool
        Lets values through as they are, and observes nothing.
    watching : bool
        Set for the network's input: warns, once, of negative values where there are no negative levels.
    """

    scale: Tensor
    path, bypassed, watching = "quantiser", False, False

    def forward(self, x: Tensor, again: bool = False) -> Tensor:
        """``x`` on the levels of the range; ``again`` where it has had another tensor in the same forward pass."""
        if self.bypassed:
            return x
        if self.training:
            self.activation_post_process.again = again
            result = self._observed(x)
        else:
            result = self.quantised(x) if bool(self.fake_quant_enabled[0]) else x
        if self.watching and self.quant_min == 0 and x.numel():
            self._watch(x.detach())
        return result

    def _observed(self, x: Tensor) -> Tensor:
        """The same values and gradients as torchao's, whose kernel takes numbers one by one on a CPU."""
        if self.is_per_channel or x.device.type != "cpu" or x.dtype == torch.float64:
            return super().forward(x)
        if bool(self.observer_enabled[0]):
            self.activation_post_process(x.detach())
            self.scale.copy_(self.calculate_qparams()[0])
        if not bool(self.fake_quant_enabled[0]):
            return x
        return round_to_levels(x, float(self.scale), int(self.quant_min), int(self.quant_max))

    def _watch(self, x: Tensor) -> None:
        cut = -float(self.scale[0]) / 2
        share = float((x < cut).double().mean()) if float(x.amin()) < cut else 0.0
        if share >= SHARE:
            self.watching = False
            warn(
                self.path,
                f"negative values, {share:.1%} of a batch, which become 0: the example of prepare_qat had none",
                "prepare the model anew with signed_input=True, or with an example of this data",
            )

    def quantised(self, x: Tensor) -> Tensor:
        """The values of ``x`` on the levels of the present range."""
        if not self.has_seen_data():
            raise ConversionError(
                self.path,
                "a quantiser that has seen no data",
                "train the model, or run images through it in training mode: ranges do not move in evaluation",
            )
        low, high = self.activation_post_process.quant_min, self.activation_post_process.quant_max
        if self.is_per_channel:
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.ch_axis, low, high)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, low, high)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LevelQuantiser:
        """A network that is cast to another precision keeps its scales, which torch takes in float32 only."""
        scale = self.scale
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:
            self.scale = scale.to(self.scale.device)
        return self

    def has_seen_data(self) -> bool:
        """Whether its range comes from data."""
        low = self.activation_post_process.min_val
        return bool(low.numel()) and bool(torch.isfinite(low).all())


@contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Within it, the quantisers of a model let values through as they are, and observe nothing."""
    quantisers = [m for m in model.modules() if isinstance(m, LevelQuantiser)]
    for quantiser in quantisers:
        quantiser.bypassed = True
    try:
        yield
    finally:
        for quantiser in quantisers:
            quantiser.bypassed = False


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
    """

    def __init__(
        self,
        levels: LevelNumbers = 127,
        weight_bits: int = 8,
        per_channel: bool = True,
        signed_input: bool | Sequence[bool] = False,
        quantise_output: bool = True,
        input_levels: int | None = None,
    ) -> None:
        super().__init__()
        self.levels = LayerLevels.of(levels)
        of_input = self.levels.rest if input_levels is None else check_level("input_levels", input_levels)
        if weight_bits not in range(2, 9):
            raise ConversionError("weight_bits", f"{weight_bits}", "use 2 to 8")
        self.quantise_output = quantise_output
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

    def weight(self, axis: int) -> QuantizationSpec:
        """Of weights whose output channels lie along ``axis``."""
        return _weight_spec(self.weight_bits, axis if self.per_channel else None)


def _activation_spec(levels: int, signed: bool) -> QuantizationSpec:
    kinds = (torch.int8, torch.int16) if signed else (torch.uint8, torch.int16)
    dtype = next(k for k in kinds if torch.iinfo(k).max >= levels)
    scheme = torch.per_tensor_symmetric if signed else torch.per_tensor_affine
    low = -levels if signed else 0
    return QuantizationSpec(
        dtype=dtype,
        observer_or_fake_quant_ctr=LevelQuantiser.with_args(observer=RangeObserver, averaging_constant=0.05),
        quant_min=low,
        quant_max=levels,
        qscheme=scheme,
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
