"""Depthwise convolutions of stride 1 with steps left out, against the strided ones: values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from converters.frontends.pt2e import prepare_qat
from converters.zoo.depthwise import DenseDepthwise
from converters.zoo.networks import build


@pytest.mark.parametrize(("stride", "size"), [(2, 7), (2, 8), ((1, 2), 9), (3, 10), ([2], 6), (1, 5)])
def test_values_and_gradients(stride: int | tuple[int, int] | list[int], size: int) -> None:
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, size, size, dtype=torch.float64, generator=gen, requires_grad=True)
    w = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=gen, requires_grad=True)
    b = torch.randn(4, dtype=torch.float64, generator=gen, requires_grad=True)
    plain = F.conv2d(x, w, b, stride, 1, 1, 4)
    with DenseDepthwise():
        dense = F.conv2d(x, w, b, stride=stride, padding=1, groups=4)
    torch.testing.assert_close(dense, plain, rtol=1e-13, atol=1e-13)
    grad = torch.randn(plain.shape, dtype=torch.float64, generator=gen)
    got, wanted = (torch.autograd.grad(y, (x, w, b), grad) for y in (dense, plain))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_other_convolutions_are_left_alone() -> None:
    x, full, grouped = torch.rand(1, 4, 6, 6), torch.rand(2, 4, 3, 3), torch.rand(4, 2, 3, 3)
    with DenseDepthwise():
        assert torch.equal(F.conv2d(x, full, stride=2), F.conv2d(x, full, None, 2))
        assert F.conv2d(x, grouped, stride=2, groups=2).is_contiguous()
        assert F.conv2d(x, full, stride=2).is_contiguous()


def test_a_network_and_its_exported_graph() -> None:
    torch.manual_seed(0)
    net, x = build("mobilenet20", 1, 3, 16), torch.rand(4, 1, 16, 16)
    exported = prepare_qat(net, x, levels=7)
    exported.train()  # a second pass moves running statistics, but the values of a batch are its own
    switches = [m.fake_quant_enabled for m in exported.modules() if hasattr(m, "fake_quant_enabled")]
    assert switches
    for switch in switches:
        switch.zero_()  # rounding would make a whole level of a last bit
    for model in (net.eval(), exported):
        with torch.no_grad():
            before = model(x)
            with DenseDepthwise():
                after = model(x)
        assert float(before.abs().max()) > 0
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
