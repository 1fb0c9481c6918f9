"""What no front-end converts, all of them refuse in the same words, and PT2E's before training as after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.frontends import pt2e
from converters.frontends.examples import example_of
from converters.frontends.pt2e_reader import read_prepared
from converters.frontends.quantizer import CaLIFQuantizer
from tests.converters.frontends.test_fx_frontends import SHAPE, Layers, convert, prepared
from tests.networks import pixels

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
]

X = pixels(4, SHAPE, seed=2)
TOOLKITS = ("brevitas", "eager", "fx", "pt2e, before training", "pt2e, after it")


@dataclass(frozen=True)
class Refused:
    """What is done with a quantised map of shape (4, 4, 4), and what is said of it."""

    forward: Callable[[Any, Tensor], Tensor]
    found: str
    todo: str
    layer: Callable[[], nn.Module] = nn.Identity
    kinds: tuple[str, ...] = TOOLKITS
    where: str = ""


def module(make: Callable[[], nn.Module], found: str, todo: str, kinds: tuple[str, ...] = TOOLKITS) -> Refused:
    return Refused(lambda net, x: net.layer(x), found, todo, make, kinds, "layer")


_IMAGES = "leave the axis of the images alone"

REFUSED = {
    "mean over images": Refused(lambda net, x: x.mean(0), "a mean over the axes [0]", _IMAGES),
    "mean over images and rows": Refused(lambda net, x: x.mean([0, -2]), "a mean over the axes [0, -2]", _IMAGES),
    "concatenation of images": Refused(
        lambda net, x: net.cat([x, x], 0), "a concatenation along axis 0", _IMAGES),
    "padding with a number": Refused(
        lambda net, x: F.pad(x, (1, 0), value=2.0), "a padding with another value than 0", "pad with zeros",
        kinds=("brevitas", "eager")),
}  # fmt: skip


class Plain(nn.Module):
    """The same steps in PyTorch's own words."""

    def __init__(self, case: Refused) -> None:
        super().__init__()
        self.case = case
        self.conv, self.layer, self.q = nn.Conv2d(2, 4, 3), case.layer(), nn.Identity()

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def cat(self, tensors: list[Tensor], axis: int) -> Tensor:
        return torch.cat(tensors, axis)

    def forward(self, x: Tensor) -> Tensor:
        return self.case.forward(self, F.relu(self.conv(x)))


def _concatenated(net: Any, tensors: list[Tensor], axis: int) -> Tensor:
    return net.functions.cat(tensors, axis) if net.functional else torch.cat(tensors, axis)


def read(model: nn.Module) -> None:
    """What from_pt2e does with a model that was trained all the same."""
    ready = pt2e._prepared(pt2e._exported(model.train(), example_of(model, X)), CaLIFQuantizer())
    ready(X)
    read_prepared(ready)


def refusal(kind: str, case: Refused) -> ConversionError:
    """The error of a conversion without its comparison; for PT2E, that of the model's preparation or of its reader."""
    if kind.startswith("pt2e"):
        with pytest.raises(ConversionError) as error:
            read(Plain(case)) if kind.endswith("after it") else pt2e.prepare_qat(Plain(case), X)
        return error.value

    def build(layers: Layers) -> dict[str, Any]:
        return {"conv": layers.conv(2, 4), "relu": layers.relu(), "layer": case.layer(), "q": layers.quantise()}

    def forward(net: Any, x: Tensor) -> Tensor:
        net.cat = lambda tensors, axis: _concatenated(net, tensors, axis)
        return case.forward(net, net.relu(net.conv(x)))

    model = prepared(kind, build, forward, fuse=[["conv", "relu"]])
    with pytest.raises(ConversionError) as error:
        convert(kind, model, X, check=False)
    return error.value


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, case in REFUSED.items() for kind in case.kinds]
)  # fmt: skip
def test_all_say_the_same(name: str, kind: str) -> None:
    case = REFUSED[name]
    error = refusal(kind, case)
    assert (error.found, error.todo) == (case.found, case.todo)
    assert "\n" not in str(error)
    assert error.where == case.where if case.where else error.where
