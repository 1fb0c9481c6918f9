"""Section 4.2's five networks, two relatives of LeNet-5, ResNet-18 and two transformers, for any input and classes.

They are plain PyTorch modules. The paper's have average pools throughout, and the deep ones batch norm and ReLU after
every convolution. The transformers are in :mod:`converters.zoo.transformers`.
What the sources fix is theirs; what they leave open is said in each docstring.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.zoo.transformers import ViT6, ViT6W

__all__ = [
    "NETWORKS",
    "VGG9",
    "VGG16",
    "LeNet5",
    "LeNet5SE",
    "LeNet5x4",
    "MobileNet20",
    "ResNet11H",
    "ResNet18",
    "ViT6",
    "ViT6W",
    "build",
]


def _block(inp: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class _Classifier(nn.Module):
    """Features, flatten, dense layers."""

    features: nn.Module
    classifier: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class LeNet5(_Classifier):
    """LeNet-5 (LeCun et al. 1998) with ReLU and average pools: C(5,6)-pool-C(5,16)-pool-120-84-classes.

    Expects images of 32 x 32 in the source (28 x 28 padded by 2); any other size changes the first dense layer.
    """

    width = 1

    def __init__(self, in_channels: int = 1, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        first, second, third, fourth = (self.width * n for n in (6, 16, 120, 84))
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        side = ((size - 4) // 2 - 4) // 2
        self.classifier = nn.Sequential(
            nn.Linear(second * side * side, third),
            nn.ReLU(),
            nn.Linear(third, fourth),
            nn.ReLU(),
            nn.Linear(fourth, classes),
        )


class LeNet5x4(LeNet5):
    """LeNet-5 with four times as many channels and hidden neurons: C(5,24)-pool-C(5,64)-pool-480-336-classes.

    Not one of the paper's five by name. LeCun's widths, meant for digits, underfit CIFAR-10; the paper does not give
    its own.
    """

    width = 4


class _SqueezeExcite(nn.Module):
    """Channels times a gate between 0 and 1 that their means decide (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(channels // reduction, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.relu(self.reduce(self.squeeze(x)))))


class LeNet5SE(LeNet5):
    """LeNet-5's sizes with what it has not: max pools, PReLU, and a squeeze-excite block behind the convolutions.

    Not one of the paper's networks: it has an operation of each kind that remembers counts (maximum, table, product).
    """

    def __init__(self, in_channels: int = 1, classes: int = 10, size: int = 32) -> None:
        super().__init__(in_channels, classes, size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),
            nn.PReLU(6),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.PReLU(16),
            _SqueezeExcite(16),
            nn.MaxPool2d(2),
        )


class VGG9(_Classifier):
    """VGG-9 (Lee et al. 2020): 2 x C(3,64), 2 x C(3,128), 3 x C(3,256), each with a pool; 1024; classes."""

    def __init__(self, in_channels: int = 3, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        self.features = _vgg(in_channels, [64, 64, 0, 128, 128, 0, 256, 256, 256, 0])
        side = size // 8
        self.classifier = nn.Sequential(nn.Linear(256 * side * side, 1024), nn.ReLU(), nn.Linear(1024, classes))


class VGG16(_Classifier):
    """VGG-16 in its usual CIFAR form: thirteen convolutions and five pools. One hidden layer of 512 is our choice."""

    def __init__(self, in_channels: int = 3, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        plan = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]
        self.features = _vgg(in_channels, plan)
        side = max(1, size // 32)
        self.classifier = nn.Sequential(nn.Linear(512 * side * side, 512), nn.ReLU(), nn.Linear(512, classes))


def _vgg(channels: int, plan: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out in plan:
        layers.append(_block(channels, out) if out else nn.AvgPool2d(2))
        channels = out or channels
    return nn.Sequential(*layers)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 shortcut; ReLU after the addition."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = _block(inp, out)
        self.second = _block(out, out, stride=stride, relu=False)
        self.shortcut = _block(inp, out, kernel=1, stride=stride, relu=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet11H(_Classifier):
    """ResNet-11 (Lee et al. 2020) with half of the channels of every convolution, as the paper has it.

    C(3,32)-pool-four residual blocks (64; 128, stride 2; 256, stride 2; 256, stride 2)-1024-classes. That the
    second convolution and the shortcut carry the stride is the source's; the shape of the classifier too.
    """

    def __init__(self, in_channels: int = 3, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(in_channels, 32),
            nn.AvgPool2d(2),
            _Residual(32, 64, 1),
            _Residual(64, 128, 2),
            _Residual(128, 256, 2),
            _Residual(256, 256, 2),
        )
        side = -(-(size // 2) // 8)
        self.classifier = nn.Sequential(nn.Linear(256 * side * side, 1024), nn.ReLU(), nn.Linear(1024, classes))


class _Basic(nn.Module):
    """Two 3 x 3 convolutions beside their input, or beside a 1 x 1 convolution where size or channels change."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = _block(inp, out, stride=stride)
        self.second = _block(out, out, relu=False)
        self.shortcut = nn.Identity() if inp == out else _block(inp, out, kernel=1, stride=stride, relu=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet18(_Classifier):
    """ResNet-18 (He et al. 2016) in the form that papers on CIFAR use: a 3 x 3 convolution of stride 1 at the front.

    C(3,64)-2 x 64-2 x 128-2 x 256-2 x 512, each second pair with stride 2, a mean over what is left, and classes.
    Not one of the paper's five: it is what conversions are compared on.
    """

    def __init__(self, in_channels: int = 3, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        plan = [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
        layers: list[nn.Module] = [_block(in_channels, 64)]
        channels = 64
        for out, stride in plan:
            layers.append(_Basic(channels, out, stride))
            channels = out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, classes)


class MobileNet20(_Classifier):
    """MobileNetV1 (Howard et al. 2017) without its 16th to 23rd convolutions: 19 convolutions, one dense layer.

    For images of up to 64 pixels the first convolution and the first strided pair keep their size (our
    choice: with all five strides 32 x 32 would end on one pixel).
    """

    def __init__(self, in_channels: int = 3, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        early = 1 if size <= 64 else 2
        pairs = [(64, 1), (128, early), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (1024, 2), (1024, 1)]
        layers: list[nn.Module] = [_block(in_channels, 32, stride=early)]
        channels = 32
        for out, stride in pairs:
            layers += [_block(channels, channels, stride=stride, groups=channels), _block(channels, out, kernel=1)]
            channels = out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, classes)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": LeNet5,
    "lenet5se": LeNet5SE,
    "lenet5x4": LeNet5x4,
    "vgg9": VGG9,
    "resnet11h": ResNet11H,
    "resnet18": ResNet18,
    "mobilenet20": MobileNet20,
    "vgg16": VGG16,
    "vit6": ViT6,
    "vit6w": ViT6W,
}


def build(name: str, in_channels: int = 1, classes: int = 10, size: int = 32) -> nn.Module:
    """A network by name.

    >>> sum(p.numel() for p in build("lenet5").parameters())
    61706
    """
    if name not in NETWORKS:
        raise ConversionError("network", f"{name!r}", f"use one of {', '.join(NETWORKS)}")
    return NETWORKS[name](in_channels, classes, size)
