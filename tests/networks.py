"""Small plain PyTorch networks: what front-ends must be able to quantise and convert."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and average pools, for 32 x 32 images; ``small`` for 12 x 12."""

    def __init__(self, classes: int = 10, small: bool = False) -> None:
        super().__init__()
        c1, c2, k, f1, f2, side = (3, 4, 3, 16, 12, 1) if small else (6, 16, 5, 120, 84, 5)
        self.features = nn.Sequential(
            nn.Conv2d(1, c1, k), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(c1, c2, k), nn.ReLU(), nn.AvgPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(c2 * side * side, f1),
            nn.ReLU(),
            nn.Linear(f1, f2),
            nn.ReLU(),
            nn.Linear(f2, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Residual(nn.Module):
    """Batch norm, an identity shortcut, a strided block with a 1 x 1 shortcut, global average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.conv1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.conv3 = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6))
        self.short = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.relu(self.conv2(self.conv1(x)) + x)
        x = self.relu(self.conv3(x) + self.short(x))
        return self.fc(torch.flatten(self.pool(x), 1))


class Depthwise(nn.Module):
    """Depthwise separable convolutions with ReLU6, stride, dilation, groups; pool by mean over the axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU6())
        self.dw = nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(4), nn.ReLU6())
        self.pw = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.grouped = nn.Sequential(nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=2), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.pw(self.dw(self.first(x))))
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    """Two branches concatenated; functional calls, dropout, nested modules, view."""

    class Branch(nn.Module):
        def __init__(self, out: int, k: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, out, k, padding=k // 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = self.Branch(3, 3), self.Branch(2, 1)
        self.merge = nn.Conv2d(5, 4, 3)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(4 * 5 * 5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        x = F.avg_pool2d(F.relu(self.merge(x)), 2)
        return self.fc(self.drop(x.view(x.shape[0], -1)))


class Signed(nn.Module):
    """Pixels of both signs, and a convolution without ReLU before another one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3)
        self.fc = nn.Linear(3 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.b(self.a(x))).flatten(1))


# name: (factory, shape of one image, pixels of both signs)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], bool]] = {
    "lenet5": (lambda: LeNet5(small=True), (1, 12, 12), False),
    "residual": (Residual, (2, 8, 8), False),
    "depthwise": (Depthwise, (3, 8, 8), False),
    "concat": (Concat, (1, 12, 12), False),
    "signed": (Signed, (2, 8, 8), True),
}


def pixels(n: int, shape: tuple[int, ...], signed: bool = False, seed: int = 0) -> Tensor:
    """Random images in [0, 1] or [-1, 1]."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return 2 * x - 1 if signed else x


def make(name: str, seed: int = 0) -> nn.Module:
    """A network with random weights, and batch norms of both signs of gamma."""
    torch.manual_seed(seed)
    net = NETWORKS[name][0]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.5)
            with torch.no_grad():
                module.weight[0] *= -1  # a negative gamma turns the weight row round
    return net


def short_training(model: nn.Module, name: str, steps: int = 8, lr: float = 0.05) -> None:
    """A few steps on random data, so that scales, biases and statistics are those of a trained network."""
    _, shape, signed = NETWORKS[name]
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for k in range(steps):
        x = pixels(16, shape, signed, seed=100 + k)
        out = model(x)
        labels = torch.randint(0, out.shape[1], (len(x),), generator=torch.Generator().manual_seed(k))
        loss = F.cross_entropy(out, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
