"""Wrong uses of the Python interface: each is one line that says where, what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import converters
from converters.errors import ConversionError, FileFormatError

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def spoilt(value: float) -> nn.Module:
    net = network()
    with torch.no_grad():
        net[3].weight[0, 0] = value
    return net


@pytest.fixture(scope="module")
def prepared() -> Any:
    m = converters.prepare_qat(network(), IMAGES, levels=8)
    m(IMAGES)
    return m


@pytest.fixture(scope="module")
def graph(prepared: Any) -> Any:
    return converters.to_nir(converters.from_pt2e(prepared), T=8)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.memory(x.flatten(1, 2))[0]


def prepare(model: Any = None, example: Any = IMAGES, **options: Any) -> Any:
    return converters.prepare_qat(network() if model is None else model, example, **options)


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "a state dict": (lambda: prepare(network().state_dict()), "model: found OrderedDict; load it into its module"),
    "a name": (lambda: prepare("resnet18"), "model: found str; give a torch.nn.Module"),
    "a class": (lambda: prepare(nn.Sequential), "model: found type; give a torch.nn.Module"),
    "a function": (lambda: prepare(torch.relu), "model: found builtin_function_or_method; give a torch.nn.Module"),
    "a traced module": (lambda: prepare(torch.jit.trace(network(), IMAGES)), "give the torch.nn.Module that it was"),
    "NaN weights": (lambda: prepare(spoilt(float("nan"))), "3.weight: found NaN or infinite values"),
    "infinite weights": (lambda: prepare(spoilt(float("inf"))), "3.weight: found NaN or infinite values"),
    "half precision": (lambda: prepare(network().half()), "example: found torch.float32 for a model in torch.float16"),
    "no values": (lambda: prepare(network().to("meta")), "0.weight: found a weight without values, on the meta device"),
    "recurrence": (lambda: prepare(Recurrent()), "memory: found the operation lstm"),
    "recurrence alone": (
        lambda: converters.prepare_qat(nn.GRU(4, 3), torch.rand(2, 5, 4)),
        "model: found a recurrent layer, GRU; use convolutions or matrix products over time: recurrence feeds on its",
    ),
    "recurrence, traced": (
        lambda: converters.from_torch_ao(nn.LSTM(4, 3), torch.rand(2, 5, 4)),
        "model: found a recurrent layer, LSTM; use convolutions or matrix products over time",
    ),
    "an unprepared model": (lambda: converters.from_pt2e(network()), "Sequential without fake quantisers"),
    "no image": (lambda: prepare(example=IMAGES[:0]), "example: found no images, a batch of shape (0, 1, 8, 8)"),
    "no batch axis": (lambda: prepare(example=IMAGES[0]), "example: found images of shape (8, 8), which forward"),
    "channels last": (
        lambda: prepare(example=IMAGES.movedim(1, -1)),
        "example: found images of shape (8, 8, 1), which",
    ),
    "bytes": (lambda: prepare(example=(IMAGES * 255).byte()), "example: found torch.uint8 of shape (4, 1, 8, 8)"),
    "an array": (lambda: prepare(example=IMAGES.numpy()), "example: found ndarray; give a float batch"),
    "no tensor": (lambda: prepare(example=[]), "example: found no tensor"),
    "NaN pixels": (lambda: prepare(example=IMAGES * float("nan")), "example: found NaN or infinite pixels"),
    "two tensors for one": (lambda: prepare(example=(IMAGES, IMAGES)), "example: found 2 for forward"),
    "no levels": (lambda: prepare(levels=0), "levels: found 0; use a whole number from 1 to 32767"),
    "half a level": (lambda: prepare(levels=7.5), "levels: found 7.5; use a whole number"),
    "levels as text": (lambda: prepare(levels="8"), "levels: found '8'; use a whole number"),
    "levels that are true": (lambda: prepare(levels=True), "levels: found True; use a whole number"),
    "wide weights": (lambda: prepare(weight_bits=16), "weight_bits: found 16; use 2 to 8"),
    "input levels as text": (lambda: prepare(input_levels="255"), "input_levels: found '255'; use a whole number"),
}
PREPARED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "prepared twice": (lambda m: prepare(m), "model: found one that is prepared already; give the float model"),
    "quantised without training": (lambda m: converters.quantise(m, IMAGES), "model: found one that is prepared"),
    "wrapped": (lambda m: converters.from_pt2e(nn.Sequential(m)), "Sequential around a prepared model; convert its 0"),
    "its weights": (lambda m: converters.from_pt2e(m.state_dict()), "model: found OrderedDict; give what prepare_qat"),
}
GRAPHS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no backend of that name": (lambda g: converters.run(g, IMAGES, backend="gpu"), "gpu"),
    "converted twice": (lambda g: converters.to_nir(g, T=8), "q: found NIRGraph; give a quantised network"),
    "images of another size": (
        lambda g: converters.run(g, IMAGES[..., :7]),
        "(4, 1, 8, 7); the network takes",
    ),
    "images as an array": (lambda g: converters.run(g, IMAGES.numpy()), "give"),
    "bytes": (lambda g: converters.run(g, (IMAGES * 255).byte()), "uint8"),
    "a graph of nothing": (lambda g: converters.run(None, IMAGES), "give"),
    "a model in a graph's place": (lambda g: converters.run(network(), IMAGES), "give"),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_prepared_and_trained(dtype: torch.dtype) -> None:
    """And converted as ``model.float()``."""
    m = prepare(network().to(dtype), IMAGES.to(dtype), levels=np.int64(8))
    m(IMAGES.to(dtype))
    with pytest.raises(ConversionError, match=r"0.weight: found weights of .*; convert a model in float32"):
        converters.from_pt2e(m)
    assert converters.from_pt2e(m.float()).levels == 8


def one_line(call: Callable[[], Any], words: str) -> None:
    with pytest.raises((ConversionError, FileFormatError)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert words in message, message
    assert "; " in message, "what to do"


@pytest.mark.parametrize("use", MODELS)
def test_of_a_model(use: str) -> None:
    one_line(*MODELS[use])


@pytest.mark.parametrize("use", PREPARED)
def test_of_a_prepared_model(use: str, prepared: Any) -> None:
    call, words = PREPARED[use]
    one_line(lambda: call(prepared), words)


@pytest.mark.parametrize("use", GRAPHS)
def test_of_a_graph(use: str, graph: Any) -> None:
    call, words = GRAPHS[use]
    one_line(lambda: call(graph), words)


def test_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "text.nir").write_text("not a network")
    for path in (tmp_path / "none.nir", tmp_path, tmp_path / "text.nir"):
        with pytest.raises((ConversionError, FileFormatError, OSError)) as caught:
            converters.read(path)
        assert path.name in str(caught.value)
