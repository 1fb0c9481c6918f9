"""What a report shows of a network's answers: wrong images, maps as pictures, numbers as points."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.measuring.tasks import Question
from converters.results import RunResult
from converters.zoo.images import Images

__all__ = ["COLOURS", "VOID", "answers", "mistakes", "picture"]

COLOURS = (
    "#3b4252", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#8c564b", "#17becf",
    "#7f3c8d", "#a5aa99", "#80ba5a", "#e73f74", "#008695", "#cf1c90", "#f97b72", "#4b4b8f", "#b8e186", "#c7c7c7",
)  # fmt: skip
"""Of the classes of a map, in their order; after the last the first again."""
VOID = "#ffffff"
_SIDE = 96  # pixels of a picture's longer side, at the most
_POINTS = 400
_MAPS = 4


def _png(pixels: np.ndarray, nearest: bool) -> str:
    from PIL import Image

    made = Image.fromarray(pixels)
    share = _SIDE / max(made.size)
    if share < 1:
        size = (max(1, round(made.width * share)), max(1, round(made.height * share)))
        made = made.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.BOX)
    out = io.BytesIO()
    made.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def picture(pixels: Tensor, low: float, high: float) -> str | None:
    """An image ``(C, H, W)`` with values in ``[low, high]`` as a PNG file in base64: in colour where it has three
    channels, else its first; None of anything else.

    >>> picture(torch.zeros(1, 2, 2), 0, 1)[:11], picture(torch.zeros(7), 0, 1)
    ('iVBORw0KGgo', None)
    """
    if pixels.ndim != 3:
        return None
    share = ((pixels.to("cpu", torch.float64) - low) / max(high - low, 1e-300)).clamp(0, 1)
    levels = (255 * share).round().to(torch.uint8).numpy()
    return _png(np.ascontiguousarray(levels.transpose(1, 2, 0)) if len(levels) == 3 else levels[0], nearest=False)


def coloured(classes: Tensor) -> str:
    """A map of classes ``(H, W)`` as a PNG file in base64, in the colours of the report; without a class it is white.

    >>> coloured(torch.tensor([[0, -1]]))[:11]
    'iVBORw0KGgo'
    """
    table = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in (*COLOURS, VOID)], dtype=np.uint8)
    found = classes.cpu().numpy()
    return _png(table[np.where(found < 0, len(COLOURS), found % len(COLOURS))], nearest=True)


def shown(data: Images, low: float, high: float) -> list[str | None]:
    """:func:`picture` of every image."""
    return [picture(x, low, high) for x in data.pixels]


def mistakes(data: Images, wrong: Sequence[Sequence[int]], low: float, high: float) -> list[dict[str, Any]]:
    """Wrong images with their pictures: ``wrong`` are place in ``data``, label and prediction."""
    there = [one for one in wrong if one[0] < len(data)]
    pictures = shown(data[[one[0] for one in there]], low, high) if there else []
    return [
        {"index": index, "label": label, "prediction": said, "picture": seen}
        for (index, label, said), seen in zip(there, pictures, strict=True)
    ]


def answers(asked: Sequence[Question], r: RunResult, data: Images, low: float, high: float) -> list[dict[str, Any]]:
    """What each output that is no class of an image says of ``data``, of which ``r`` is a run.

    Of a map of classes of two axes: the first images, with label and prediction as pictures. Of numbers: points, label
    against value.
    """
    found: list[dict[str, Any]] = []
    labels = [*(data.labels, *data.more_labels), *[None] * len(asked)]
    for one, truth in zip(asked, labels, strict=False):
        said = one.answer(r.output_values[one.output.layer])
        known = one.truth(truth if truth is not None and _fits(truth, said) else None, said)
        about: dict[str, Any] = {"name": one.name, "task": one.task, "classes": one.classes}
        if one.task == "map" and said.ndim == 3:
            found.append(about | {"images": _maps(said, known, data, low, high)})
        if one.task == "values":
            found.append(about | {"points": _points(known, said)})
    return found


def _fits(truth: Tensor, said: Tensor) -> bool:
    return truth.numel() == said.numel()


def _maps(said: Tensor, known: Tensor, data: Images, low: float, high: float) -> list[dict[str, Any]]:
    rows = []
    for k, seen in enumerate(shown(data[:_MAPS], low, high)):
        there = known[k] >= 0
        right = int((said[k] == known[k])[there].sum())
        row: dict[str, Any] = {"picture": seen, "prediction": coloured(said[k]), "label": None, "right": None}
        if bool(there.any()):
            row |= {"label": coloured(known[k]), "right": right / int(there.sum())}
        rows.append(row)
    return rows


def _points(known: Tensor, said: Tensor) -> list[list[float]]:
    """Pairs of label and value, evenly drawn from all of them; none without labels."""
    x, y = known.flatten().cpu(), said.flatten().cpu()
    there = (~x.isnan()).nonzero().flatten()
    if len(there) > _POINTS:
        there = there[torch.linspace(0, len(there) - 1, _POINTS).round().long()]
    return torch.stack([x[there], y[there]], 1).tolist()
