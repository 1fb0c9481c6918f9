"""A folder of pictures of any sizes, decoded a few at a time: what a data set for torchvision's networks looks like."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.zoo.decoding import decode
from converters.zoo.pictures import files_below, folders_in

__all__ = ["PictureFolder"]


class PictureFolder:
    """Pictures of a folder, or of its folders of classes; each pass over it decodes them anew.

    Parameters
    ----------
    root : path
        With pictures at any depth. Where every picture lies in one of several folders of it, these are classes, in the
        order of their names.
    transform : callable
        Makes a float tensor ``(C, H, W)`` of a ``PIL.Image``.
    most : int, optional
        So many of the pictures, drawn by chance.
    seed : int
    batch : int
        Pictures at a time.

    Attributes
    ----------
    files : list of path
    classes : list of str
        Names of the class folders; empty where there are none.
    numbers : list of int
        The class of each file.

    Raises
    ------
    ConversionError
        If there is no such folder, or no picture in it.
    """

    def __init__(
        self,
        root: Path,
        transform: Callable[[Any], Tensor],
        *,
        most: int | None = None,
        seed: int = 0,
        batch: int = 16,
    ) -> None:
        if not root.is_dir():
            raise ConversionError(str(root), "no such folder", "give one of pictures, or of a folder for each class")
        self.transform, self.batch = transform, batch
        self.classes = folders_in(root)
        by_class = [(path, k) for k, name in enumerate(self.classes) for path in files_below(root / name)]
        files = files_below(root)
        if len(self.classes) < 2 or len(by_class) < len(files):
            self.classes, by_class = [], [(path, 0) for path in files]
        if not by_class:
            raise ConversionError(str(root), "no pictures", "put some there")
        if most is not None and most < len(by_class):
            by_class = random.Random(seed).sample(by_class, most)
        self.files, self.numbers = [path for path, _ in by_class], [k for _, k in by_class]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Tensor]:
        from PIL import Image

        for k in range(0, len(self.files), self.batch):
            pixels = (decode([path], where=str(path))[0] for path in self.files[k : k + self.batch])
            yield torch.stack([self.transform(Image.fromarray(x.transpose(1, 2, 0))) for x in pixels])

    def labels(self, categories: Sequence[str], classes: int) -> Tensor | None:
        """The network's number of each picture's class, ``(N,)``; None where nobody knows it.

        Parameters
        ----------
        categories : sequence of str
            Names of the network's classes, where they are known. Class folders of such names are found among them.
        classes : int
            How many the network has: as many class folders are numbered in their order.
        """
        if self.classes and set(self.classes) <= set(categories):
            numbers = [list(categories).index(self.classes[k]) for k in self.numbers]
        elif self.classes and len(self.classes) == classes:
            numbers = self.numbers
        else:
            return None
        return torch.tensor(numbers)
