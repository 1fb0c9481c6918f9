"""Small data sets in the exact layouts that their publishers use."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(k: int, width: int, height: int) -> Image.Image:
    """A random picture with some structure: a bright square on noise."""
    rng = np.random.default_rng(k)
    pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
    pixels[y : y + height // 3, x : x + width // 3, k % 3] = 250
    return Image.fromarray(pixels)


def write_cifar100(root: Path) -> Any:
    """``cifar-100-python``: pickled dictionaries with ``data``, ``fine_labels`` and ``coarse_labels``."""
    rng = np.random.default_rng(1)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    written = {}
    for name, n in (("train", 6), ("test", 3)):
        rows = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        fine = rng.integers(0, 100, n).tolist()
        batch = {"data": rows, "fine_labels": fine, "coarse_labels": [x // 5 for x in fine], "filenames": ["x"] * n}
        (folder / name).write_bytes(pickle.dumps(batch | {"batch_label": f"{name} batch"}))
        written[name] = rows, fine
    meta = {"fine_label_names": [f"f{k}" for k in range(100)], "coarse_label_names": [f"c{k}" for k in range(20)]}
    (folder / "meta").write_bytes(pickle.dumps(meta))
    return written


def write_caltech101(root: Path, counts: tuple[int, int, int] = (9, 5, 14)) -> Any:
    """``caltech101/101_ObjectCategories/<class>/image_0001.jpg``, of any sizes, and the folder that is no class."""
    folder = root / "caltech101" / "101_ObjectCategories"
    for c, n in enumerate((*counts, 3)):
        name = ("accordion", "airplanes", "Zebra", "BACKGROUND_Google")[c]
        (folder / name).mkdir(parents=True)
        for k in range(n):
            image = picture(100 * c + k, 150 + k, 100 + 2 * k)
            if k == 1:
                image = image.convert("L")  # there are some
            image.save(folder / name / f"image_{k + 1:04}.jpg", quality=95)
    return folder


def write_tiny_imagenet(root: Path, per_class: int = 3, validation: int = 4) -> Any:
    """``tiny-imagenet-200``: ``wnids.txt``, ``words.txt``, ``train/<wnid>/images``, ``val`` with annotations."""
    folder = root / "tiny-imagenet-200"
    wnids = ["n02124075", "n04067472", "n01443537"]
    for c, w in enumerate(wnids):
        (folder / "train" / w / "images").mkdir(parents=True)
        boxes = ""
        for k in range(per_class):
            image = picture(10 * c + k, 64, 64)
            if k == 1:
                image = image.convert("L")
            image.save(folder / "train" / w / "images" / f"{w}_{k}.JPEG", quality=95)
            boxes += f"{w}_{k}.JPEG\t0\t0\t62\t62\n"
        (folder / "train" / w / f"{w}_boxes.txt").write_text(boxes)
    (folder / "val" / "images").mkdir(parents=True)
    lines = ""
    for k in range(validation):
        picture(500 + k, 64, 64).save(folder / "val" / "images" / f"val_{k}.JPEG", quality=95)
        lines += f"val_{k}.JPEG\t{wnids[(k + 1) % 3]}\t0\t32\t44\t62\n"
    (folder / "val" / "val_annotations.txt").write_text(lines)
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    (folder / "test" / "images").mkdir(parents=True)
    return folder, wnids
