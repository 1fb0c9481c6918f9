"""ResNet-18 with its own max pool, trained a little on CIFAR-10: this package's conversion beside SpikingJelly's.

    CALIF_DATA=... python tutorials/rivals_resnet18.py     # about 20 minutes on two cores; keeps its weights in runs/

Float training, then a quantised epoch at 15 levels. Ours converts the quantised network; SpikingJelly's ``ann2snn``
(rate coding) converts the float one, calibrated on 512 training images, which is what it is for. Compared are
predictions with the network that each started from, accuracy, and, where there are integers to compare with, every
count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision.models as zoo
from torch import Tensor, nn

import converters
from converters.results import compare_counts
from converters.zoo.datasets import load

T = 15
RUNS = Path("runs/rivals_resnet18")


def fit(net: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    total = epochs * (len(x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=total)
    net.train()
    for step in range(total):
        k = step % (len(x) // 128)
        if k == 0:
            order = torch.randperm(len(x), generator=generator)
        rows = order[128 * k : 128 * k + 128]
        images = x[rows]
        if torch.rand((), generator=generator) < 0.5:
            images = images.flip(3)
        loss = nn.functional.cross_entropy(net(images), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(f"  step {step} of {total}, loss {float(loss):.3f}", flush=True)


def predictions(net: nn.Module, x: Tensor) -> Tensor:
    net.eval()
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in x.split(250)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    torch.manual_seed(0)
    train, test = load("cifar10", "train"), load("cifar10", "test")
    x, y = train.pixels, train.labels
    images, labels = test.pixels[: given.images], test.labels[: given.images]
    RUNS.mkdir(parents=True, exist_ok=True)
    model = zoo.resnet18(weights=None, num_classes=10)
    kept = RUNS / f"float-{given.epochs}.pt"
    if kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
    else:
        fit(model, x, y, given.epochs, 0.05, 1)
        torch.save(model.state_dict(), kept)
    float_says = predictions(model, images)

    print(f"float ResNet-18: accuracy {same(float_says, labels)}", flush=True)
    from spikingjelly.activation_based import ann2snn, functional

    loader = [(x[k : k + 128], y[k : k + 128]) for k in range(0, 512, 128)]
    for mode in ("Max", "99.9%"):
        recipe = ann2snn.RateCodingRecipe(dataloader=loader, mode=mode)
        snn = ann2snn.Converter(recipe=recipe, device="cpu").convert(model)
        seen: dict[int, list[Tensor]] = {16: [], 64: [], 256: []}
        with torch.no_grad():
            for part in images[:200].split(100):
                functional.reset_net(snn)
                total = torch.zeros(len(part), 10)
                for t in range(1, max(seen) + 1):
                    total += snn(part)
                    if t in seen:
                        seen[t].append(total.argmax(1))
        for t, found in seen.items():
            says = torch.cat(found)
            print(f"SpikingJelly, mode {mode}, T = {t}, 200 images: accuracy {same(says, labels)}", end=", ")
            print(f"agrees with its float network on {same(says, float_says)}", flush=True)
    m = converters.prepare_qat(model.train(), x[:4], levels=T)
    fit(m, x, y, 1, 0.01, 2)
    q = converters.from_pt2e(m)
    g = converters.to_nir(q, T=T)
    expected = q.execute(images)
    quantised_says = q.logits(expected).argmax(1)
    print(f"quantised ResNet-18, {T} levels: accuracy {same(quantised_says, labels)}", flush=True)
    for backend, n in (("closed_form", given.images), ("fast", 200)):
        r = converters.run(g, images[:n], backend=backend, record="counts")
        rows = compare_counts(r, {k: v[:n] for k, v in expected.items()})
        differ, compared = sum(row.differing for row in rows), sum(row.compared for row in rows)
        print(f"ours, {backend}, T = {T}, {n} images: {compared:,} counts, {differ} differ", end=", ")
        print(f"agrees with its quantised network on {same(r.predictions, quantised_says)}", end=", ")
        print(f"with the float one on {same(r.predictions, float_says)}", end="")
        print("" if r.extra_steps is None else f", {float(r.extra_steps.double().mean()):.1f} extra steps", flush=True)


def same(says: Tensor, others: Tensor) -> str:
    """How many of the first of ``others`` are the same."""
    return f"{100 * float((says == others[: len(says)]).double().mean()):.2f} %"


if __name__ == "__main__":
    main()
