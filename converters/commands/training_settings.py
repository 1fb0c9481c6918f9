"""What ``calif train`` is asked for, as one value: the recipe, the run's name and its command line follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import ConversionError
from converters.frontends.layer_levels import LayerLevels, LevelNumbers

if TYPE_CHECKING:
    from converters.zoo.recipes import Recipe

__all__ = ["TrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """A network, a data set, and how to train; as the options of ``calif train`` of the same names.

    Attributes
    ----------
    network, dataset : str
    toolkit : {"pt2e", "brevitas"}
    levels : int, or mapping of module path to int
    weight_bits : int
    input_levels : int, optional
        As ``levels`` by default.
    per_channel_norms : bool
    seed : int
    kind : {"fast", "long", "paper"}
        Option ``--recipe``.
    epochs, qat_epochs : int, optional
        The recipe's by default; ``epochs`` means half as many quantised ones, too.
    qat_lr : float, optional
    patience, average : int
    cutout : int, optional
        The recipe's by default, as ``mixup`` is.
    mixup : float, optional
    qat_average : bool
    start : path, optional
    teachers : tuple of path
        Option ``--teacher``.
    device : str

    Examples
    --------
    >>> settings = TrainingSettings(network="vgg9", dataset="mnist", levels=8, epochs=3)
    >>> settings.name, settings.recipe().qat_epochs
    ('vgg9-mnist-8', 1)
    >>> settings.command()
    'calif train --network vgg9 --dataset mnist --levels 8 --weight-bits 8 --seed 0 --epochs 3'
    """

    network: str = "lenet5"
    dataset: str = "digits"
    toolkit: str = "pt2e"
    levels: LevelNumbers = 127
    weight_bits: int = 8
    input_levels: int | None = None
    per_channel_norms: bool = False
    seed: int = 0
    kind: str = "fast"
    epochs: int | None = None
    qat_epochs: int | None = None
    qat_lr: float | None = None
    patience: int = 0
    average: int = 0
    qat_average: bool = False
    cutout: int | None = None
    mixup: float | None = None
    start: Path | None = None
    teachers: tuple[Path, ...] = ()
    device: str = "cpu"

    @property
    def asked(self) -> LayerLevels:
        """The levels of each layer."""
        return LayerLevels.of(self.levels)

    @property
    def name(self) -> str:
        """Of the run's files: ``network-dataset-levels``."""
        return f"{self.network}-{Path(self.dataset).name}-{self.asked.name}"

    def check(self, networks: Iterable[str], toolkits: Iterable[str]) -> None:
        """What can be said before any image is read.

        Raises
        ------
        ConversionError
            For an unknown network, toolkit or device, or a network that nothing would train.
        """
        from converters.devices import usable

        usable(self.device, "--device")
        if self.toolkit == "brevitas" and self.asked.by_path:
            raise ConversionError("--levels", "numbers by layer for brevitas", "use --toolkit pt2e")
        if self.toolkit not in toolkits:
            raise ConversionError("--toolkit", f"{self.toolkit!r}", f"calif trains with {', '.join(toolkits)}")
        if self.network not in networks:
            raise ConversionError("--network", f"{self.network!r}", f"use one of {', '.join(networks)}")
        if self.epochs == 0 and self.qat_epochs is None and not self.average and self.start is None:
            todo = "name a network to start from with --start, or train for 1 epoch or more"
            raise ConversionError("--epochs", "0 of a network of random weights", todo)

    def recipe(self) -> Recipe:
        """The recipe of this network on this data set, with what was asked for in its place.

        Raises
        ------
        ConversionError
            For an unknown kind.
        """
        from converters.zoo.recipes import recipe_for

        recipe = recipe_for(self.dataset, self.kind, self.network, self.asked.rest)
        recipe = replace(recipe, patience=self.patience, average=self.average, qat_average=self.qat_average)
        if self.epochs is not None and self.kind == "paper":
            recipe = replace(recipe, qat_epochs=self.epochs)
        elif self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs, qat_epochs=max(1, self.epochs // 2))
        if self.qat_epochs is not None:
            recipe = replace(recipe, qat_epochs=self.qat_epochs)
        own: dict[str, Any] = {"qat_lr": self.qat_lr, "cutout": self.cutout, "mixup": self.mixup}
        return replace(recipe, **{name: value for name, value in own.items() if value is not None})

    def command(self) -> str:
        """The command line that asks for the same; of files, the names alone."""
        asked: list[tuple[str, object]] = [
            ("--network", self.network),
            ("--dataset", self.dataset),
            *(("--levels", word) for word in self.asked.words),
            ("--weight-bits", self.weight_bits),
            ("--seed", self.seed),
            ("--input-levels", self.input_levels),
            ("--per-channel-norms", "" if self.per_channel_norms else None),
            ("--toolkit", self.toolkit if self.toolkit != "pt2e" else None),
            ("--epochs", self.epochs),
            ("--qat-epochs", self.qat_epochs),
            ("--qat-lr", None if self.qat_lr is None else f"{self.qat_lr:g}"),
            ("--cutout", self.cutout),
            ("--mixup", None if self.mixup is None else f"{self.mixup:g}"),
            ("--recipe", self.kind if self.kind != "fast" else None),
            ("--patience", self.patience or None),
            ("--start", None if self.start is None else self.start.name),
            ("--average", self.average or None),
            ("--qat-average", "" if self.qat_average else None),
            *(("--teacher", path.name) for path in self.teachers),
            ("--device", self.device if self.device != "cpu" else None),
        ]
        return " ".join(["calif train", *(f"{option} {value}".strip() for option, value in asked if value is not None)])
