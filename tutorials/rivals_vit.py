"""The zoo's vision transformer, trained on MNIST: this package's conversion beside SpikingJelly's SpikeZIP recipe.

    calif train --network vit6 --dataset mnist --levels 15 --epochs 2 --qat-epochs 1 --out runs
    python tutorials/rivals_vit.py runs/vit6-mnist-15     # minutes on two cores

SpikingJelly's ``SpikeZIPTFQANNRecipe`` takes a quantised transformer with modules of certain names, which are built
here from the same trained weights, at as many levels: 8-bit weights, batch norms folded, activation ranges of least
squared error on training images, and quantisers wherever spikes are to pass. Compared are predictions with each
one's own quantised network, and every count.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import converters
from converters.files.quantised_file import load_quantised
from converters.results import compare_counts
from converters.zoo.datasets import load
from converters.zoo.networks import build
from converters.zoo.training_file import read_checkpoint

BITS = 8


class Quantiser(nn.Module):
    """As the recipe expects it: ``s``, ``sym``, ``pos_max``, ``neg_min``, ``level``; ties go up."""

    def __init__(self, levels: int, sym: bool) -> None:
        super().__init__()
        self.sym, self.level = sym, 2 * levels + 1 if sym else levels + 1
        self.s = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.register_buffer("pos_max", torch.tensor(float(levels)))
        self.register_buffer("neg_min", torch.tensor(-float(levels) if sym else 0.0))
        self.counts: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if float(self.s) == 0:
            self.s.data = self._best(x)
        self.counts = torch.floor(x / self.s + 0.5).clamp(float(self.neg_min), float(self.pos_max))
        return self.counts * self.s

    def _best(self, x: Tensor) -> Tensor:
        """The scale with the least squared error, of seventeen ranges.

        None is a round share of the largest value: of a sum whose operands both end there, many values would be ties.
        """
        steps = 0.9973 * float(x.abs().max()) * torch.linspace(0.2, 1.0, 17) / float(self.pos_max)
        low, high = float(self.neg_min), float(self.pos_max)
        errors = [(torch.floor(x / s + 0.5).clamp(low, high) * s - x).square().sum() for s in steps]
        return steps[int(torch.stack(errors).argmin())]


class Attention(nn.Module):
    """By the recipe's names."""

    def __init__(self, source: Any, levels: int) -> None:
        super().__init__()
        self.qkv, self.proj = source.qkv, source.proj
        self.num_heads, self.scale = source.heads, source.scale
        self.head_dim = source.proj.in_features // source.heads
        self.quan_q, self.quan_k, self.quan_v = (Quantiser(levels, True) for _ in range(3))
        self.attn_quan, self.after_attn_quan = Quantiser(levels, False), Quantiser(levels, True)
        self.quan_proj = Quantiser(levels, True)
        self.attn_drop, self.proj_drop = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        parts = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).movedim(-3, 0).transpose(-3, -2)
        q, k, v = self.quan_q(parts[0]), self.quan_k(parts[1]), self.quan_v(parts[2])
        a = self.attn_quan((q * self.scale @ k.transpose(-2, -1)).softmax(-1))
        mixed = self.after_attn_quan(a @ v)
        return self.quan_proj(self.proj(mixed.transpose(1, 2).reshape(n, tokens, width)))


class Block(nn.Module):
    def __init__(self, source: Any, levels: int) -> None:
        super().__init__()
        self.norm1, self.quan1, self.attn = source.norm1, Quantiser(levels, True), Attention(source.attn, levels)
        self.sum1 = Quantiser(levels, True)
        self.norm2, self.quan2 = source.norm2, Quantiser(levels, True)
        self.mlp = nn.Sequential(*source.mlp[:2], Quantiser(levels, False), source.mlp[2], Quantiser(levels, True))
        self.sum2 = Quantiser(levels, True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sum1(x + self.attn(self.quan1(self.norm1(x))))
        return self.sum2(x + self.mlp(self.quan2(self.norm2(x))))


class Transformer(nn.Module):
    """The zoo's network with its batch norm folded and weights of 8 bits, by the recipe's names."""

    def __init__(self, source: Any, levels: int) -> None:
        super().__init__()
        first, norm, relu, second = source.patch_embed
        self.patch_embed = nn.Sequential(
            nn.utils.fuse_conv_bn_eval(first.eval(), norm.eval()),
            relu,
            Quantiser(levels, False),
            second,
            Quantiser(levels, True),
        )
        self.cls_token, self.pos_embed = source.cls_token, source.pos_embed
        self.pos_drop = Quantiser(levels, True)
        self.blocks = nn.Sequential(*(Block(block, levels) for block in source.blocks))
        self.norm = nn.Sequential(source.norm, Quantiser(levels, True))
        self.head = source.head
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data = _in_bits(module.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(self.pos_drop(tokens)))[:, 0])


def _in_bits(w: Tensor) -> Tensor:
    largest = 2 ** (BITS - 1) - 1
    scale = w.flatten(1).abs().amax(1).clamp(min=1e-12).view(-1, *[1] * (w.ndim - 1)) / largest
    return (w / scale).round() * scale


@torch.no_grad()
def spikezip(network: Transformer, images: Tensor, labels: Tensor, looks: list[int]) -> None:
    """SpikingJelly's conversion, step by step, beside the quantised network that it was made from."""
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.ann2snn import ModuleConverter, SpikeZIPTFQANNRecipe
    from spikingjelly.activation_based.neuron import STBIFNode

    logits = network(images)
    says = logits.argmax(1)
    integers = [module.counts for module in network.modules() if isinstance(module, Quantiser)]
    print(f"its quantised network, {len(images)} images: accuracy {_share(says == labels)}", flush=True)
    recipe = SpikeZIPTFQANNRecipe(time_steps=max(looks), model_family="vit")
    snn = ModuleConverter(recipe=recipe, device="cpu").convert(network).eval()
    functional.set_step_mode(snn, "s")
    functional.reset_net(snn)
    nodes = [module for module in snn.modules() if isinstance(module, STBIFNode)]
    total, quiet = torch.zeros_like(logits), 0
    for t in range(1, max(looks) + 1):
        total += snn(images if t == 1 else torch.zeros_like(images))
        if any(bool((node.cur_output != 0).any()) for node in nodes):
            quiet = t
        if t in looks:
            wrong = sum(int((node.acc_q.round() != n).sum()) for node, n in zip(nodes, integers, strict=True))
            of = sum(n.numel() for n in integers if n is not None)
            found = total.argmax(1)
            print(f"SpikingJelly, T = {t}: accuracy {_share(found == labels)}", end=", ")
            print(f"agrees with its quantised network on {_share(found == says)}", end="; ")
            print(f"{wrong:,} of {of:,} counts differ", end="; ")
            print(f"largest difference of logits {float((total - logits).abs().max()):.3g}", end="; ")
            print(f"last spike at step {quiet}", flush=True)


def ours(path: Path, images: Tensor, labels: Tensor, levels: int) -> None:
    q = load_quantised(path)
    g = converters.to_nir(q, T=levels)
    expected = q.execute(images)
    says = q.logits(expected).argmax(1)
    for backend in ("closed_form", "fast"):
        r = converters.run(g, images, backend=backend)
        rows = compare_counts(r, expected)
        differ, compared = sum(row.differing for row in rows), sum(row.compared for row in rows)
        right = _share(r.predictions == labels)
        print(f"ours, {backend}, T = {levels}, {len(images)} images: accuracy {right}", end=", ")
        print(f"agrees with its quantised network on {_share(r.predictions == says)}", end="; ")
        print(f"{differ:,} of {compared:,} counts differ", end="")
        print("" if r.extra_steps is None else f"; {float(r.extra_steps.double().mean()):.1f} extra steps", flush=True)


def images_of(n: int) -> tuple[Tensor, Tensor]:
    test = load("mnist", "test").first(n)
    return test.pixels, test.labels


def _share(right: Tensor) -> str:
    return f"{100 * float(right.double().mean()):.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run of calif train: runs/vit6-mnist-15")
    parser.add_argument("--levels", type=int, default=15)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--double", action="store_true", help="float64 for SpikingJelly, whose own type is float32")
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 31, 64, 128])
    given = parser.parse_args()
    source = build("vit6")
    weights = read_checkpoint(given.run.with_suffix(".qat.pt")).model
    missing = source.load_state_dict({k: v for k, v in weights.items() if k in source.state_dict()}, strict=False)
    absent = [name for name in missing.missing_keys if not name.endswith("num_batches_tracked")]
    if absent:
        raise SystemExit(f"{given.run}: no weights {absent[:3]}")
    network = Transformer(source.eval(), given.levels).eval()
    with torch.no_grad():
        network(load("mnist", "train").first(256).pixels)  # ranges
    images, labels = images_of(given.images)
    levels = (images * given.levels).round() / given.levels  # as ours sees them
    dtype = torch.float64 if given.double else torch.float32
    spikezip(network.to(dtype), levels.to(dtype), labels, given.steps)
    ours(given.run.with_suffix(".safetensors"), images, labels, given.levels)


if __name__ == "__main__":
    main()
