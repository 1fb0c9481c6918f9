"""A network that is no classifier: a U-Net that labels every pixel, trained for about a minute and converted.

    python tutorials/unet.py

Pictures of 32 x 32 show four handwritten digits of scikit-learn's set on a cluttered ground; every pixel is ground,
part of an even digit, or part of an odd one. One level of the U-Net goes up by a transposed convolution, the other by
nearest neighbours; both join what came down by concatenation, and it goes down by max pools.
"""

from __future__ import annotations

import os
import platform

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import converters
from converters.results import compare_counts

LEVELS = T = 15


class Down(nn.Sequential):
    def __init__(self, inp: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(inp, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """Two levels down, two up; ``(N, 1, 32, 32)`` to scores ``(N, 3, 32, 32)``."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.bottom = Down(1, 12), Down(12, 24), Down(24, 32)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 24, 2, stride=2), nn.ReLU())
        self.second = Down(48, 24)
        self.nearest = nn.Upsample(scale_factor=2, mode="nearest")
        self.first = Down(36, 12)
        self.head = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(self.pool(one))
        bottom = self.bottom(self.pool(two))
        up = self.second(torch.cat([self.up(bottom), two], 1))
        return self.head(self.first(torch.cat([self.nearest(up), one], 1)))


def scenes(n: int, digits: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``n`` pictures, float ``(n, 1, 32, 32)`` within [0, 1], and their classes, int64 ``(n, 32, 32)``."""
    which = torch.randint(len(digits), (n, 2, 2), generator=generator)
    big = nn.functional.interpolate(digits[which.flatten()][:, None], size=13, mode="bilinear", align_corners=False)
    pictures, classes = torch.zeros(n, 1, 32, 32), torch.zeros(n, 32, 32, dtype=torch.int64)
    for k, picture in enumerate(big[:, 0].unflatten(0, (n, 4)).unbind(1)):
        top, left = (int(v) for v in torch.randint(0, 4, (2,), generator=generator))
        rows, columns = (
            slice(16 * (k // 2) + top, 16 * (k // 2) + top + 13),
            slice(16 * (k % 2) + left, 16 * (k % 2) + left + 13),
        )
        pictures[:, 0, rows, columns] = picture
        kind = 1 + labels[which.flatten(1)[:, k]] % 2
        classes[:, rows, columns] = torch.where(picture > 0.35, kind[:, None, None], 0)
    clutter = torch.rand(pictures.shape, generator=generator)
    return (0.8 * pictures + 0.3 * clutter).clamp(0, 1), classes


def fit(net: nn.Module, steps: int, rate: float, data: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    weight = torch.tensor([0.4, 1.0, 1.0])
    net.train()
    for _ in range(steps):
        x, y = scenes(32, *data, generator)
        loss = nn.functional.cross_entropy(net(x), y, weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def score(maps: Tensor, classes: Tensor) -> str:
    """Share of the pixels that are right, and the mean intersection over union of the two digit classes."""
    found = maps.argmax(1)
    overlap = [((found == k) & (classes == k)).sum() / ((found == k) | (classes == k)).sum() for k in (1, 2)]
    right = 100 * float((found == classes).double().mean())
    return f"{right:.2f} % of pixels, IoU {float(torch.stack(overlap).mean()):.3f}"


def main() -> None:
    torch.manual_seed(0)
    found = load_digits()
    digits, labels = torch.tensor(found.images / 16, dtype=torch.float32), torch.tensor(found.target)
    train, test = (digits[:1400], labels[:1400]), (digits[1400:], labels[1400:])
    x, y = scenes(100, *test, torch.Generator().manual_seed(2))
    net = UNet()
    fit(net, 500, 0.004, train)
    net.eval()
    with torch.no_grad():
        print("float:     ", score(net(x), y))
    m = converters.prepare_qat(net.train(), x[:4], levels=LEVELS, quantise_output=False)
    fit(m, 150, 0.002, train)
    q = converters.from_pt2e(m)
    g = converters.to_nir(q, T=T)
    expected = q.execute(x)
    print("quantised: ", score(q.logits(expected), y))
    for backend, n in (("closed_form", 100), ("fast", 100), ("snntorch", 4)):
        r = converters.run(g, x[:n], backend=backend, record="counts")
        rows = compare_counts(r, {k: v[:n] for k, v in expected.items()})
        differ, compared = sum(row.differing for row in rows), sum(row.compared for row in rows)
        print(f"{backend:12}{score(r.logits, y[:n])}; {compared:,} counts, {differ} differ", end="; ")
        apart = float((r.logits - q.logits(expected)[:n]).abs().max())  # of membranes in other units
        extra = r.extra_steps
        late = "" if extra is None else f", quiet {float(extra.double().mean()):.1f} steps after T = {T}"
        print(f"maps within {apart:.1g}{late}")
    print(f"({os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__})")


if __name__ == "__main__":
    main()
