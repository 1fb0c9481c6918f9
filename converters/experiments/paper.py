"""What the papers report: numbers to stand beside measured ones, never among them.

All from Gao et al. 2023 (doi:10.3389/fnins.2023.1141701), tables 2 to 4; rows of other authors as that paper
quotes them. Accuracies in per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DATASETS", "NETWORKS", "PAPER", "TABLE2", "TABLE3", "TABLE4", "Reported", "reported_by_paper"]

PAPER = "Gao et al. 2023"
NETWORKS = {
    "lenet5": "LeNet-5",
    "lenet5x4": "LeNet-5, four times as wide",
    "vgg9": "VGG-9",
    "resnet11h": "ResNet-11H",
    "resnet18": "ResNet-18",
    "mobilenet20": "MobileNet-20",
    "vgg16": "VGG-16",
    "lenet5se": "LeNet-5 with max pools, PReLU and squeeze-excite",
    "vit6": "a vision transformer of six blocks",
    "vit6w": "a vision transformer of six blocks and a million weights",
}
DATASETS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "caltech101": "Caltech-101",
    "tinyimagenet": "Tiny-ImageNet",
    "digits": "digits",
}


@dataclass(frozen=True)
class Reported:
    """A row of table 2: spiking accuracy at ``steps``, and that of the full-precision network (None: not given)."""

    dataset: str
    source: str
    network: str
    neuron: str
    steps: int
    snn: float
    ann: float | None


def _rows(dataset: str, *rows: tuple[str, str, str, int, float, float | None]) -> tuple[Reported, ...]:
    return tuple(Reported(dataset, *row) for row in rows)


TABLE2: tuple[Reported, ...] = (
    *_rows(
        "mnist",
        ("Diehl et al. 2015", "LeNet-5", "IF, hard reset", 500, 99.12, 99.14),
        ("Sengupta et al. 2019", "LeNet-5", "IF, hard reset", 2500, 99.59, 99.57),
        ("Hu et al. 2021", "ResNet-8", "IF, soft reset", 350, 99.59, 99.59),
        (PAPER, "LeNet-5", "Ca-LIF", 128, 99.09, 99.07),
        (PAPER, "VGG-9", "Ca-LIF", 128, 99.62, 99.59),
        (PAPER, "ResNet-11H", "Ca-LIF", 128, 99.52, 99.48),
        (PAPER, "MobileNet-20", "Ca-LIF", 128, 99.54, 99.48),
    ),
    *_rows(
        "cifar10",
        ("Diehl et al. 2015", "ResNet-11", "IF, hard reset", 500, 90.98, 91.87),
        ("Sengupta et al. 2019", "ResNet-11", "IF, hard reset", 2500, 91.65, 91.87),
        ("Kundu et al. 2021", "ResNet-12", "LIF, soft reset", 100, 90.79, 92.04),
        ("Diehl et al. 2015", "VGG-9", "IF, hard reset", 500, 91.89, 91.98),
        ("Sengupta et al. 2019", "VGG-9", "IF, hard reset", 2500, 92.01, 91.98),
        ("Kundu et al. 2021", "VGG-11", "LIF, soft reset", 100, 89.84, 91.57),
        ("Sengupta et al. 2019", "ResNet-20", "IF, hard reset", 2500, 87.46, 89.10),
        ("Han et al. 2020", "ResNet-20", "IF, soft reset", 2048, 91.36, 91.47),
        ("Bu et al. 2022", "ResNet-20", "IF, soft reset", 64, 92.35, None),
        ("Deng and Gu 2021", "ResNet-20", "IF, soft reset", 128, 93.56, 92.31),
        ("Li et al. 2021a", "ResNet-20", "IF, soft reset", 128, 95.42, 95.46),
        ("Sengupta et al. 2019", "VGG-16", "IF, hard reset", 2500, 91.55, 91.70),
        ("Han et al. 2020", "VGG-16", "IF, soft reset", 2048, 93.63, 93.63),
        ("Bu et al. 2022", "VGG-16", "IF, soft reset", 32, 95.54, None),
        ("Deng and Gu 2021", "VGG-16", "IF, soft reset", 128, 92.24, 92.09),
        ("Li et al. 2021a", "VGG-16", "IF, soft reset", 128, 95.65, 95.72),
        ("Hu et al. 2021", "ResNet-110", "IF, soft reset", 350, 93.02, 93.47),
        ("Li et al. 2021a", "MobileNet", "IF, soft reset", 128, 91.70, 92.48),
        (PAPER, "LeNet-5", "Ca-LIF", 128, 78.44, 78.70),
        (PAPER, "VGG-9", "Ca-LIF", 128, 93.63, 93.71),
        (PAPER, "ResNet-11H", "Ca-LIF", 128, 93.58, 93.52),
        (PAPER, "MobileNet-20", "Ca-LIF", 128, 91.71, 92.20),
        (PAPER, "VGG-16", "Ca-LIF", 128, 93.68, 94.02),
    ),
    *_rows(
        "cifar100",
        ("Kundu et al. 2021", "ResNet-12", "LIF, soft reset", 120, 63.02, 63.52),
        ("Sengupta et al. 2019", "ResNet-20", "IF, hard reset", 2500, 64.09, 68.72),
        ("Han et al. 2020", "ResNet-20", "IF, soft reset", 2048, 67.82, 68.72),
        ("Deng and Gu 2021", "ResNet-20", "IF, soft reset", 128, 69.49, 67.08),
        ("Kundu et al. 2021", "VGG-11", "LIF, soft reset", 100, 64.98, 67.40),
        ("Sengupta et al. 2019", "VGG-16", "IF, hard reset", 2500, 70.77, 71.22),
        ("Han et al. 2020", "VGG-16", "IF, soft reset", 2048, 70.93, 71.22),
        ("Deng and Gu 2021", "VGG-16", "IF, soft reset", 128, 70.47, 70.62),
        ("Hu et al. 2021", "ResNet-110", "IF, soft reset", 350, 70.62, 72.03),
        ("Li et al. 2021a", "MobileNet", "IF, soft reset", 128, 71.02, 73.23),
        (PAPER, "VGG-9", "Ca-LIF", 128, 65.95, 67.48),
        (PAPER, "ResNet-11H", "Ca-LIF", 128, 69.36, 69.55),
        (PAPER, "MobileNet-20", "Ca-LIF", 128, 68.20, 69.25),
        (PAPER, "VGG-16", "Ca-LIF", 128, 72.85, 72.47),
    ),
    *_rows(
        "tinyimagenet",
        ("Kundu et al. 2021", "VGG-16", "LIF, soft reset", 150, 52.70, 57.00),
        (PAPER, "VGG-9", "Ca-LIF", 128, 52.80, 54.39),
        (PAPER, "ResNet-11H", "Ca-LIF", 128, 53.18, 54.26),
        (PAPER, "MobileNet-20", "Ca-LIF", 128, 59.70, 60.70),
    ),
)

# VGG-16; source: (full-precision accuracy, {T: spiking accuracy})
TABLE3: dict[str, tuple[float, dict[int, float]]] = {
    "Han et al. 2020": (93.63, {32: 60.30, 64: 90.35, 128: 92.41}),
    "Han and Roy 2020": (93.63, {64: 92.79, 128: 93.27}),
    "Ding et al. 2021": (92.82, {16: 57.90, 32: 85.40, 64: 91.15, 128: 92.51}),
    "Deng and Gu 2021": (92.09, {16: 92.29, 32: 92.29, 64: 92.22, 128: 92.24}),
    "Li et al. 2021a": (95.72, {32: 93.71, 64: 95.14, 128: 95.65}),
    "Bu et al. 2022": (95.52, {8: 94.95, 16: 95.40, 32: 95.54, 64: 95.55, 128: 95.59}),
    "Li et al. 2022b": (95.60, {8: 91.41, 16: 93.64, 32: 94.81}),
    PAPER: (94.02, {8: 80.28, 16: 90.35, 32: 93.10, 64: 93.32, 128: 93.68}),
}
TABLE4: dict[str, tuple[float, dict[int, float]]] = {
    "Han et al. 2020": (71.22, {128: 63.76}),
    "Han and Roy 2020": (71.22, {128: 69.86}),
    "Deng and Gu 2021": (70.49, {16: 65.94, 32: 69.80, 64: 70.35, 128: 70.47}),
    "Li et al. 2021a": (77.89, {32: 73.55, 64: 76.64, 128: 77.40}),
    "Bu et al. 2022": (76.28, {8: 73.96, 16: 76.24, 32: 77.01, 64: 77.10, 128: 77.05}),
    "Li et al. 2022b": (77.93, {8: 64.13, 16: 72.23, 32: 75.53}),
    PAPER: (72.47, {8: 58.58, 16: 66.32, 32: 71.71, 64: 72.68, 128: 72.85}),
}


def reported_by_paper(network: str, dataset: str, window: int = 128) -> float | None:
    """The paper's spiking accuracy of a network of the zoo, per cent, or None where it gives none.

    >>> reported_by_paper("vgg16", "cifar10", 8), reported_by_paper("vgg9", "cifar10", 8)
    (80.28, None)
    """
    short = {"cifar10": TABLE3, "cifar100": TABLE4}.get(dataset)
    if network == "vgg16" and short is not None and window in short[PAPER][1]:
        return short[PAPER][1][window]
    for row in TABLE2:
        same = row.dataset == dataset and row.network == NETWORKS.get(network) and row.steps == window
        if same and row.source == PAPER:
            return row.snn
    return None
