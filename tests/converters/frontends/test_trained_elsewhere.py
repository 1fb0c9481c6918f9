"""Networks of the shapes that people bring: small look-alikes of a pitch tracker and of a cascade of face detectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import converters
from converters.operations import Levels, MaxPool
from converters.ports.outputs import described, places
from converters.quantised import QuantGraph
from converters.results import compare_counts


class Pitch(nn.Module):
    """Padded on one side more than on the other, a batch norm behind each ReLU, a sigmoid for each pitch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, (16, 1), (4, 1)), nn.BatchNorm2d(6, eps=0.001)
        self.conv2, self.norm2 = nn.Conv2d(6, 4, (8, 1)), nn.BatchNorm2d(4, eps=0.001)
        self.classifier = nn.Linear(16, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        x = F.max_pool2d(self.norm1(F.relu(self.conv1(F.pad(x, (0, 0, 6, 6))))), (2, 1), (2, 1))
        x = F.max_pool2d(self.norm2(F.relu(self.conv2(F.pad(x, (0, 0, 3, 4))))), (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 16)))


class Proposals(nn.Module):
    """Fully convolutional: any size of picture; a slope per channel, a pool in ceil mode, two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 4, 3), nn.PReLU(4)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(4, 6, 3), nn.PReLU(6)
        self.face, self.box = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.prelu2(self.conv2(self.pool1(self.prelu1(self.conv1(x)))))
        return self.box(x), F.softmax(self.face(x), dim=1)


class Refined(nn.Module):
    """As :class:`Proposals` for pictures of one size, read column by column into dense layers; three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.prelu = nn.Conv2d(3, 5, 3), nn.PReLU(5)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.dense, self.prelu4 = nn.Linear(80, 8), nn.PReLU(8)
        self.face, self.box, self.points = nn.Linear(8, 2), nn.Linear(8, 4), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.pool(self.prelu(self.conv(x))).permute(0, 3, 2, 1).contiguous()
        x = self.prelu4(self.dense(x.view(x.shape[0], -1)))
        return self.box(x), self.points(x), F.softmax(self.face(x), dim=1)


def randomised(net: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics, gains of both signs and slopes as a training leaves them."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(0, 0.5, generator=g)
                module.running_var.uniform_(0.1, 0.5, generator=g)
                module.weight.uniform_(-1, 1.5, generator=g)
                module.bias.uniform_(-0.5, 0.5, generator=g)
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(-0.3, 0.5, generator=g)
    return net.eval()


CASES: dict[str, tuple[type[nn.Module], tuple[int, ...], list[str]]] = {
    "pitch": (Pitch, (64,), ["classifier -> sigmoid()"]),
    "proposals": (Proposals, (3, 11, 12), ["0: box", "1: face -> softmax(dim=1)"]),
    "refined": (Refined, (3, 10, 10), ["0: box", "1: points", "2: face -> softmax(dim=1)"]),
}


def calibrated(net: nn.Module, images: Tensor) -> Any:
    model = converters.prepare_qat(net, images, levels=15, quantise_output=False)
    model.train()
    with torch.no_grad():
        model(images)
    return model.eval()


def layers_of(q: QuantGraph, kind: type) -> list[str]:
    return [layer.name for layer in q.layers if any(type(op) is kind for s in layer.synapses for op in s.ops)]


@pytest.mark.parametrize("name", CASES)
def test_brought_without_training(name: str) -> None:
    make, shape, returned = CASES[name]
    torch.manual_seed(0)
    net, images = randomised(make()), torch.randn(6, *shape)
    model = calibrated(net, images)
    q = converters.from_pt2e(model)
    assert q.checked is not None
    assert q.checked.integers > 1000
    assert described(q.outputs) == returned
    weighted = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(layer.name for layer in q.layers if layer.name not in layers_of(q, MaxPool)) == sorted(weighted)
    assert len(layers_of(q, Levels)) == sum(isinstance(m, nn.BatchNorm2d | nn.PReLU) for m in net.modules())

    graph, expected = converters.to_nir(q), q.execute(images[:3])
    with torch.no_grad():
        theirs = model(images[:3])
    for backend in ("fast", "snntorch", "closed_form"):
        r = converters.run(graph, images[:3], backend=backend)
        rows = compare_counts(r, expected)
        assert sum(row.compared for row in rows) > 100
        assert not any(row.differing for row in rows)
        for (_, found), (_, wanted) in zip(places(r.outputs), places(theirs), strict=True):
            torch.testing.assert_close(found, wanted.double(), rtol=1e-4, atol=1e-4)


def test_several_sizes_of_one_set_of_ranges() -> None:
    """Ranges and weights of a fully convolutional network go from one size to another as a state."""
    torch.manual_seed(0)
    net, large = randomised(Proposals()), torch.randn(4, 3, 17, 14)
    one = calibrated(net, large)
    small = large[..., :9, :11]
    other = converters.prepare_qat(net, small, levels=15, quantise_output=False).eval()
    other.load_state_dict(one.state_dict())
    a, b = (converters.from_pt2e(m) for m in (one, other))
    assert [k.scale for k in a.layers] == [k.scale for k in b.layers]
    assert (a.input.scale, b.shapes["input"]) == (b.input.scale, (3, 9, 11))
    found, whole = b.execute(small), a.execute(large)
    for layer in ("conv1", "conv2"):  # valid convolutions: what lies at a corner sees that corner alone
        height, width = (n - 1 for n in found[layer].shape[2:])
        assert torch.equal(found[layer][..., :height, :width], whole[layer][..., :height, :width])
    r = converters.run(converters.to_nir(b), small)
    assert not any(row.differing for row in compare_counts(r, found))
