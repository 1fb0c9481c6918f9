"""The zoo's vision transformers, small: trained a little, converted, and run by every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import converters
from converters.quantised import QuantGraph
from converters.zoo.training import accuracy
from converters.zoo.transformers import ViT6, ViT6W


class Small(ViT6):
    width, heads, hidden, depth = 8, 2, 12, 2


class SmallW(ViT6W):
    width, heads, hidden, depth = 8, 2, 12, 2
    stem = (3, 5)


@pytest.fixture(scope="module", params=[Small, SmallW])
def converted(request: pytest.FixtureRequest) -> tuple[nn.Module, QuantGraph, Tensor]:
    torch.manual_seed(0)
    model: Any = request.param(1, 4, 8)
    nn.init.normal_(model.cls_token)
    x, labels = torch.rand(16, 1, 8, 8), torch.randint(0, 4, (16,))
    prepared = converters.prepare_qat(model, x, levels=15, quantise_output=False)
    optimiser = torch.optim.SGD(prepared.parameters(), 0.05)
    for _ in range(4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(prepared(x), labels).backward()
        optimiser.step()
    return prepared.eval(), converters.from_pt2e(prepared), x


def test_integers_are_the_trained_network_s(converted: tuple[nn.Module, QuantGraph, Tensor]) -> None:
    prepared, q, x = converted
    assert q.checked is not None
    real = prepared(x)
    assert torch.allclose(q.logits(q.execute(x)).float(), real, atol=1e-5)
    names = {type(op).__name__ for layer in q.layers for s in layer.synapses for op in s.ops}
    assert {"MatMul", "Softmax", "Normalise"} <= names


@pytest.mark.parametrize("backend", ["closed_form", "fast", "snntorch", "brian2"])
def test_every_count_of_every_backend(converted: tuple[nn.Module, QuantGraph, Tensor], backend: str) -> None:
    _, q, x = converted
    few = x[:1] if backend == "brian2" else x[:4]
    wanted = q.execute(few)
    r = converters.run(converters.to_nir(q, T=15), few, backend=backend)
    spiking = [layer.name for layer in q.layers if layer.spiking]
    assert {name: int((r.counts[name].long() != wanted[name]).sum()) for name in spiking} == dict.fromkeys(spiking, 0)
    assert torch.allclose(r.outputs, q.returned(wanted))


def test_accuracy_is_taken_in_evaluation(converted: tuple[nn.Module, QuantGraph, Tensor]) -> None:
    from converters.zoo.images import Images

    prepared, q, x = converted
    labels = q.predict(x)
    assert accuracy(prepared, Images(x, labels, 4)) == 1.0
