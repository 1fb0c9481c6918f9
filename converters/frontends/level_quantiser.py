"""Our own fake quantiser and range observer for torchao's PT2E: a range of levels, fixed in evaluation.

On an accelerator neither makes the CPU wait: a training step there is some hundred kernels, which are to be launched
while earlier ones run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver

from converters.errors import ConversionError, warn
from converters.frontends.level_rounding import round_to_levels
from converters.frontends.pt2e_channel_scales import TakenIn
from converters.frontends.range_search import best_range, moving_range
from converters.ports.input_range import SHARE

__all__ = ["LevelQuantiser", "RangeObserver", "bypassed", "in_memory_order", "sample_step"]


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
        low = 0.0 if self.qscheme == torch.per_tensor_affine else -1.0  # unsigned ranges and zero points are 0
        best = best_range(sample, int(self.quant_max), low)
        if self._before is None or self._largest is None:
            self._before = self.min_val.clone(), self.max_val.clone()
        else:
            best = torch.maximum(best, self._largest)
        self._largest = best
        for held, before, now in zip((self.min_val, self.max_val), self._before, (low * best, best), strict=True):
            held.copy_(moving_range(before, now.to(before.dtype), self.averaging_constant))
        return x


class _Switches:
    """What torchao keeps in tensors of one value away from the CPU, read again only after somebody has written there.

    To read one is to wait for all work that is under way.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Tensor, int, bool]] = {}

    def is_on(self, name: str, switch: Tensor) -> bool:
        known = self._known.get(name)
        if known is None or known[0] is not switch or known[1] != switch._version:
            known = self._known[name] = (switch, switch._version, bool(switch[0]))
        return known[2]

    def __reduce__(self) -> tuple[type[_Switches], tuple[()]]:
        return _Switches, ()  # a copy knows nothing: its switches are others


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
    taken_in : TakenIn, optional
        Of weights: the scales of the channels that they read, with which they are rounded.
    """

    scale: Tensor
    zero_point: Tensor
    path, bypassed, watching = "quantiser", False, False
    taken_in: TakenIn | None = None
    _looks = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._switches = _Switches()

    def forward(self, x: Tensor, again: bool = False) -> Tensor:
        """``x`` on the levels of the range; ``again`` where it has had another tensor in the same forward pass."""
        if self.bypassed:
            return x
        if self.training:
            self.activation_post_process.again = again
            by = None if self.taken_in is None else self.taken_in.of(x)
            result = self._observed(x) if by is None else self._observed(x * by) / by
        else:
            result = self.quantised(x) if bool(self.fake_quant_enabled[0]) else x
        if self.watching and self.quant_min == 0 and x.numel() and self._is_time_to_watch(x):
            self._watch(x.detach())
        return result

    def _observed(self, x: Tensor) -> Tensor:
        """The same values and gradients as torchao's, whose kernel takes numbers one by one on a CPU.

        On an accelerator torchao's asks some ten times a step for a number, and waits for all work that is under way.
        """
        accelerated = not self._is_near(x)
        if x.dtype == torch.float64 or (self.is_per_channel and not accelerated):
            return super().forward(x)
        if self._is_on("observer_enabled"):
            self.activation_post_process(x.detach())
            if accelerated:
                self._take_scale()
            else:
                self.scale.copy_(self.calculate_qparams()[0])
        if not self._is_on("fake_quant_enabled"):
            return x
        low, high = int(self.quant_min), int(self.quant_max)
        if not accelerated:
            return round_to_levels(x, float(self.scale), low, high)
        if self.is_per_channel:  # torch's own asks for the zero points
            axes = [-1 if k == self.ch_axis else 1 for k in range(x.ndim)]
            return round_to_levels(x, self.scale.view(axes), low, high)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, low, high)

    def _is_on(self, name: str) -> bool:
        switch: Tensor = getattr(self, name)
        return bool(switch[0]) if self._is_near(switch) else self._switches.is_on(name, switch)

    @torch.no_grad()
    def _take_scale(self) -> None:
        """The scale that torchao calculates; the zero point of both of our schemes is 0."""
        observer = self.activation_post_process
        low, high = observer.min_val.clamp(max=0), observer.max_val.clamp(min=0)
        unsigned = self.qscheme == torch.per_tensor_affine
        width = float(observer.quant_max - observer.quant_min)
        scale = (high - low) / width if unsigned else torch.maximum(-low, high) / (width / 2)
        scale = torch.maximum(scale, observer.eps).reshape(-1)
        if self.scale.shape != scale.shape:
            self.scale = torch.empty_like(scale)
            self.zero_point = torch.zeros_like(scale, dtype=self.zero_point.dtype)
        self.scale.copy_(scale)
        self.zero_point.zero_()

    def _is_time_to_watch(self, x: Tensor) -> bool:
        """Always on a CPU, and at every 64th batch of training elsewhere: a look waits for the accelerator.

        Steps that are replayed as a CUDA graph cannot look.
        """
        self._looks += 1
        if x.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        return self._is_near(x) or not self.training or self._looks % 64 == 1

    @staticmethod
    def _is_near(x: Tensor) -> bool:
        """Whether the CPU can read ``x`` without waiting."""
        return x.device.type == "cpu"

    def _watch(self, x: Tensor) -> None:
        cut = -float(self.scale[0]) / 2
        share = float((x < cut).double().mean()) if float(x.amin()) < cut else 0.0
        if share >= SHARE:
            self.watching = False
            warn(
                self.path,
                f"negative values, {100 * share:.1f} % of a batch, which become 0: the example of prepare_qat had none",
                "prepare the model anew with signed_input=True, or with an example of this data",
            )

    def quantised(self, x: Tensor) -> Tensor:
        """The values of ``x`` on the levels of the present range."""
        by = None if self.taken_in is None else self.taken_in.of(x)
        return self.rounded(x) if by is None else self.rounded(x * by) / by

    def rescaled(self, x: Tensor) -> Tensor:
        """Weights ``x`` times the scales that they take in: what :meth:`rounded` is for."""
        return x if self.taken_in is None else x * self.taken_in.of(x)

    def rounded(self, x: Tensor) -> Tensor:
        """The values of ``x`` on the levels of the present range, whatever it has been multiplied by."""
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
