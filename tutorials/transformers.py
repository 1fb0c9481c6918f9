"""Torchvision's transformers with random weights, from the float module to spikes: differing counts, seconds, memory.

    python tutorials/transformers.py                     # ViT-B/16 and Swin-T (v1, v2) at 64 x 64, then at 224 x 224
    python tutorials/transformers.py --only swin_t --side 64 --window 16
    python tutorials/transformers.py --parity            # the small ViT's integers against PyTorch's

At 64 x 64 every spike is simulated, at 224 x 224 the closed form is taken. Each network runs in a process of its own,
so that its memory is its own. Rows are kept in ``docs/results/transformers.json`` as they come, and found there by the
next run; ``docs/results/transformers.md`` is the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from classifiers import HERE, Clock, machine

ROWS = (
    ("vit_b_16", 64, 16), ("vit_b_16", 64, 32), ("swin_t", 64, 16), ("swin_t", 64, 32),
    ("vit_b_16", 224, 16), ("swin_t", 224, 16), ("swin_v2_t", 64, 16),
)  # fmt: skip
PARITY = [(data, levels, double) for data in ("mnist", "cifar10") for levels in (15, 127) for double in (False, True)]
STEPS = ("prepare", "observe", "convert", "in float64", "to_nir", "integers", "closed form", "every spike")
ABOUT = (
    "*Prepare* is `prepare_qat`, *observe* one batch in training mode for the ranges, *convert* `from_pt2e` with",
    "its check, *in float64* the same of the model in float64, *integers* a run of the quantised network. The last",
    "two are the first runs of backends `closed_form` and `fast`. Memory is the peak of the process up to there.",
    "",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--side", type=int, default=0, help="64 or 224; both by default")
    parser.add_argument("--window", type=int, default=0, help="16 or 32; both by default")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are kept")
    parser.add_argument("--parity", action="store_true", help="calif parity of vit6 on test images, nothing else")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.only[0], given.side, given.window)))
        return
    kept = HERE / "transformers.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    if given.parity:
        rows["parity"] = [parity(*one) for one in PARITY]
        kept.write_text(json.dumps(rows, indent=1) + "\n")
        (HERE / "transformers.md").write_text(page(rows))
        return
    for name, side, window in ROWS:
        asked = (not given.only or name in given.only) and given.side in (0, side) and given.window in (0, window)
        key = f"{name} {side} {window}"
        if not asked or (key in rows and not given.again):
            continue
        command = [sys.executable, str(Path(__file__).resolve()), "--child", "--only", name]
        command += ["--side", str(side), "--window", str(window)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{key}: {(done.stderr.strip().splitlines() or ['killed'])[-1]}", flush=True)
            continue
        rows[key] = json.loads(done.stdout.strip().splitlines()[-1])
        print(key, rows[key], flush=True)
        kept.write_text(json.dumps(rows, indent=1) + "\n")
        (HERE / "transformers.md").write_text(page(rows))


def model_of(name: str, side: int) -> Any:
    """Random weights; the heads, which some begin with as zeros, too."""
    import torch
    import torchvision.models as zoo

    torch.manual_seed(0)
    model = zoo.vit_b_16(image_size=side) if name == "vit_b_16" else getattr(zoo, name)(weights=None)
    for module in list(model.modules())[::-1]:
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, module.in_features**-0.5)
            break
    return model.train()


def measure(name: str, side: int, window: int) -> dict[str, Any]:
    """One network: statistics of one batch of noise, then all the way to its last spike."""
    import copy

    import torch

    import converters
    from converters.network import Network
    from converters.results import compare_counts

    warnings.simplefilter("ignore")
    n = 2 if side == 64 else 1
    model = model_of(name, side)
    x = torch.randn(2 * n, 3, side, side)
    clock = Clock()
    with clock("prepare"):
        m = converters.prepare_qat(model, x, levels=window - 1)
    with clock("observe"), torch.no_grad():
        m(x)
        m.eval()
    del model
    with clock("convert"):
        q = converters.from_pt2e(m, check=x[:n])
    row: dict[str, Any] = {"T": window, "images": n, "layers": len(q.layers), **compared("float32", q)}
    with clock("in float64"):
        row |= compared("float64", converters.from_pt2e(copy.deepcopy(m).double(), check=x[:n].double()))
    with clock("to_nir"):
        g = converters.to_nir(q, T=window)
    del m
    row["neurons"] = Network.from_graph(g).neurons
    with clock("integers"):
        expected = q.at_window(window).execute(x[:n])
    backends = {"closed form": "closed_form"} | ({"every spike": "fast"} if side == 64 else {})
    for step, backend in backends.items():
        with clock(step):
            result = converters.run(g, x[:n], backend=backend, record="counts", check=False)
        found = compare_counts(result, expected)
        row["counts"] = sum(r.compared for r in found)
        row[f"differ, {step}"] = sum(r.differing for r in found)
    if result.extra_steps is not None:
        row |= {"extra_mean": float(result.extra_steps.double().mean()), "extra_max": int(result.extra_steps.max())}
    return row | {"seconds": clock.seconds, "memory_mb": clock.memory, "machine": machine(torch.__version__)}


def command_of(data: str, levels: int, double: bool) -> list[str]:
    """What ``calif`` is told for a row of the table of the small ViT."""
    asked = ["parity", "vit6", "--toolkit", "pt2e", "--dataset", data, "--images", "32", "--levels", str(levels)]
    return [*asked, "--double"] if double else asked


def parity(data: str, levels: int, double: bool) -> dict[str, Any]:
    """One row of it: the small ViT with random weights, its ranges from the images, which are test images."""
    command = [sys.executable, "-m", "converters.cli", *command_of(data, levels, double), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    row: dict[str, Any] = {"data": data, "levels": levels, "precision": "float64" if double else "float32"}
    row |= {k: report[k] for k in ("images", "integers", "differing", "near_ties", "wrong")}
    return row | {k: max(layer[k] for layer in report["layers"]) for k in ("furthest", "share")}


def compared(precision: str, q: Any) -> dict[str, Any]:
    """What the comparison with the prepared model says; a difference that is no near-tie is an error before that."""
    return {precision: {"integers": q.checked.integers, "near_ties": q.checked.near_ties}}


def page(rows: dict[str, Any]) -> str:
    """The Markdown page of all rows."""
    small = rows.get("parity", [])
    rows = {key: r for key, r in rows.items() if key != "parity"}
    first = next(iter(rows.values()))
    lines = [
        "# Torchvision's transformers, equal count for count",
        "",
        "`python tutorials/transformers.py`: random weights, T − 1 levels, noise (two images at 64 x 64, one at",
        f"224 x 224), {first['machine']}. Every count of every layer is compared with the quantised network's integer:",
        "in closed form, and at 64 x 64 with every spike simulated. Attention is matrix products of counts, a softmax",
        "on integers, and moves; the class token and position embeddings are bias; the windows of Swin are moves, and",
        "its masks leave positions out of the softmax. Other work ran on the machine while the seconds were taken.",
        "",
        "| network | side | T | layers | neurons | counts an image | differ: closed form | every spike | "
        "extra steps: mean | largest |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for key, r in rows.items():
        spikes, extra = r.get("differ, every spike", ""), r.get("extra_max", "")
        mean = f"{r['extra_mean']:.1f}" if "extra_mean" in r else ""
        lines.append(
            f"| {' | '.join(key.split())} | {r['layers']} | {r['neurons']:,} | {r['counts'] // r['images']:,} | "
            f"{r['differ, closed form']} | {spikes} | {mean} | {extra} |"
        )
    lines += [
        "",
        "## Integers against the toolkit's own",
        "",
        "The prepared PyTorch model's fake-quantised values, layer by layer, each on the toolkit's own inputs, on the",
        "same images. A *near-tie* is one level aside, where the exact value lies as near to a tie as the rounding of",
        "the toolkit's float sums reaches; any other difference would be an error, and there was none. In float64 the",
        "sums are; torch's fake quantisers divide by their scales in float32 all the same.",
        "",
        "| network | side | T | integers | near-ties, float32 | near-ties, float64 |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for key, r in rows.items():
        one, two = r["float32"], r["float64"]
        lines.append(
            f"| {' | '.join(key.split())} | {one['integers']:,} | {one['near_ties']:,} | {two['near_ties']:,} |"
        )
    lines += _small(small) if small else []
    for what, title, form in (("seconds", "Seconds", "{:.1f}"), ("memory_mb", "Peak memory so far, MB", "{:,}")):
        head = f"| network | side | T | {' | '.join(STEPS)} |"
        lines += ["", f"## {title}", "", *(ABOUT if what == "seconds" else ())]
        lines += [head, "|---|--:|--:|" + "--:|" * len(STEPS)]
        for key, r in rows.items():
            cells = " | ".join(form.format(r[what][s]) if s in r[what] else "" for s in STEPS)
            lines.append(f"| {' | '.join(key.split())} | {cells} |")
    return "\n".join(lines) + "\n"


def _small(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the small ViT."""
    lines = [
        "",
        f"`vit6`, the vision transformer of [the other page](vit.md), with random weights on {rows[0]['images']} test "
        "images:",
        "",
        f"    calif {' '.join(command_of('cifar10', 15, True))}",
        "",
        "No difference is anything but a near-tie. How far the exact value of one is from its tie, at most, is in",
        "levels, and as a share of what the rounding of the float sums can do there. Most stand in a layer or two (an",
        "addition, or the scores of attention), within some millionths of a level: there the scales, which are float32",
        "in float64 too, decide.",
        "",
        "| data set | levels | PyTorch in | integers | differ | near-ties | furthest from a tie | share |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        lines.append(
            f"| {r['data']} | {r['levels']} | {r['precision']} | {r['integers']:,} | {r['differing']:,} | "
            f"{r['near_ties']:,} | {r['furthest']:.1e} | {r['share']:.2f} |"
        )
    return lines


if __name__ == "__main__":
    main()
