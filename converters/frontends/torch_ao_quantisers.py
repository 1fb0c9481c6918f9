"""The fake-quantisers of torch.ao, as the walker meets them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.torch_ao_trace import toolkit
from converters.frontends.tracing import where_is
from converters.frontends.verbs import Grid, Weight, describe
from converters.frontends.walker import Walker
from converters.quantised import Value

__all__ = ["TorchAoWalker", "fake_quantise", "quantise_weight"]

_ATTACHED = ".activation_post_process"


class TorchAoWalker(Walker):
    """A walker that knows what is wrong with observers and with converted models."""

    advice: ClassVar[dict[str, str]] = {
        "activation": "give it a qconfig, or a QuantStub after it (and a DeQuantStub before it, for the toolkit's "
        "convert)",
        "input": "put a torch.ao.quantization.QuantStub before it",
    }

    def refuse(self, node: fx.Node, key: Any, what: str, home: str) -> None:
        if isinstance(key, type) and issubclass(key, toolkit().observer):
            raise ConversionError(
                where_is(node),
                f"the observer {what}, which rounds nothing",
                "prepare with prepare_qat, not prepare",
            )
        if ".quantized" in home or what == "quantize_per_tensor":
            raise ConversionError(where_is(node), f"the converted {what}", "give the prepared model, before convert")


def fake_quantise(walker: Walker, node: fx.Node, fake: Any, x: Any) -> Value | Weight:
    """Handler of a fake-quantiser."""
    if isinstance(x, Tensor):
        return quantise_weight(where_is(node), fake, x)
    path = where_is(node)  # in FX mode a mere number: better the name of what is quantised
    functional = type(walker.traced.modules.get(str(node.target).removesuffix(_ATTACHED))) in toolkit().functionals
    # an operation of a FloatFunctional has no module path of its own; its quantiser tells
    name = path.removesuffix(_ATTACHED) if path.endswith(_ATTACHED) and (functional or type(x) is Value) else None
    return walker.quantise(node, read_grid(path, fake), x, lambda bound: _level(bound, fake), name)


def read_grid(where: str, fake: Any) -> Grid:
    """Scale and range of an activation's fake-quantiser, as its kernel applies them."""
    if fake.scale.numel() != 1:
        raise ConversionError(where, "an activation quantised per channel", "use a per-tensor qscheme")
    zero = int(fake.zero_point)
    bounds = fake.activation_post_process
    return Grid(float(fake.scale), int(bounds.quant_min) - zero, int(bounds.quant_max) - zero)


@torch.no_grad()
def quantise_weight(where: str, fake: Any, weight: Tensor) -> Weight:
    """The integers to which the toolkit's own fake-quantiser rounds ``weight``."""
    if type(fake) not in toolkit().fakes:
        raise ConversionError(where, f"weights quantised by {describe(fake)}", "use a FakeQuantize")
    rounded = fake(weight.detach()).double()
    scale = fake.scale.detach().double().reshape(-1).cpu()  # read after the call, which may have refreshed it
    if scale.numel() > 1 and fake.ch_axis != 0:
        raise ConversionError(where, f"weights quantised along axis {fake.ch_axis}", "quantise them along axis 0")
    integers = torch.round(rounded.cpu() / scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    if not bool(torch.isfinite(integers).all()):
        raise ConversionError(where, "weights that are not finite", "check the training run")
    fits = integers.numel() == 0 or float(integers.abs().max()) < 128
    return Weight(integers.to(torch.int8 if fits else torch.int32), scale)


def _level(x: float, fake: Any) -> int:
    # in float32, with the inverse, as the kernel does: 6 / S may lie next to a tie
    return int(torch.round(torch.tensor(x, dtype=torch.float32) * (1.0 / fake.scale.detach().float().cpu())))
