"""The training view computes what torchao's prepared network computes, and is trained in its place."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx
from torchao.quantization.pt2e import disable_fake_quant, disable_observer

import converters
from converters.frontends.aten import BATCH_NORM, CONV
from converters.frontends.pt2e import prepare_qat
from converters.frontends.pt2e_training import training_view
from converters.zoo.networks import build


def prepared(name: str, levels: int = 127) -> tuple[fx.GraphModule, fx.GraphModule, torch.Tensor]:
    """A network, its twin's training view, and images."""
    torch.manual_seed(3)
    x = torch.rand(8, 3, 16, 16)
    model = prepare_qat(build(name, 3, 10, 16).train(), x, levels=levels)
    model(x)
    twin = copy.deepcopy(model)
    return model, twin, x


@pytest.mark.parametrize("name", ["vgg9", "resnet11h", "mobilenet20"])
def test_same_function_and_gradients(name: str) -> None:
    """In float64, and without rounding to levels, which would amplify a last bit to a whole one."""
    model, twin, x = prepared(name)
    for m in (model, twin):
        m.apply(disable_fake_quant)
        m.apply(disable_observer)
        m.double()
    x = x.double()
    view = training_view(twin)
    expected, got = model(x), view(x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    expected.square().sum().backward()
    got.square().sum().backward()
    for (where, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert a.grad is not None
        scale = float(a.grad.abs().max())
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-6 * scale, msg=where)
    for (where, kept), (_, stored) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(stored, kept, rtol=1e-9, atol=1e-9, msg=where)


@pytest.mark.parametrize("name", ["vgg9", "resnet11h", "mobilenet20"])
def test_no_division_of_activations_is_left(name: str) -> None:
    model, _, _ = prepared(name)
    view = training_view(model)

    def norms_of_convolutions(graph: fx.Graph) -> list[bool]:
        return [n.args[0].target in CONV for n in graph.nodes if n.target in BATCH_NORM and n.users]

    assert not any(norms_of_convolutions(model.graph))
    assert all(norms_of_convolutions(view.graph))
    assert len(norms_of_convolutions(view.graph)) == sum(
        isinstance(m, torch.nn.BatchNorm2d) for m in build(name).modules()
    )


def test_a_step_of_the_view_trains_the_model() -> None:
    """Weights, running statistics and ranges are the same tensors; what comes out converts, spike for integer."""
    _, model, x = prepared("resnet11h", levels=7)
    view = training_view(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    view(x).square().sum().backward()
    optimiser.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "scale", "max_val"):
        assert any(k.endswith(kind) for k in moved), kind
    q = converters.from_pt2e(model)
    integers = q.execute(x[:2])
    result = converters.run(converters.to_nir(q, T=7), x[:2])
    assert all(torch.equal(counts.long(), integers[name]) for name, counts in result.counts.items())


def test_a_network_without_batch_norms_is_left() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 1, 32, 32)
    model = prepare_qat(build("lenet5").train(), x)
    view = training_view(model)
    assert [n.target for n in view.graph.nodes] == [n.target for n in model.graph.nodes]
    assert torch.equal(view(x), model(x))
