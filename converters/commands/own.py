"""Images of one's own for the commands: where they are, and what the network says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.commands import common
from converters.errors import ConversionError

if TYPE_CHECKING:
    from torch import Tensor

    from converters.commands.given import Given
    from converters.measuring.tasks import Question
    from converters.network import Network
    from converters.quantised import InputSpec
    from converters.results import RunResult
    from converters.zoo.datasets import Images

__all__ = ["Predictions", "as_values", "check_own", "count_or_path", "images_named", "images_or_own", "is_own"]

_SHOWN = 20  # images, and numbers of one


def count_or_path(text: str | None) -> tuple[int | None, Path | None]:
    """``--images``: how many test images, or where images of one's own are.

    >>> count_or_path("12"), count_or_path(None)
    ((12, None), (None, None))
    """
    if text is None:
        return None, None
    if text.lstrip("+-").isdecimal():
        if int(text) < 1:
            raise ConversionError("--images", text, "give a whole number of at least 1, or a file")
        return int(text), None
    if not Path(text).exists():
        todo = "give a whole number, or a .npy file, a picture or a folder of pictures"
        raise ConversionError("--images", f"{text!r}, neither a whole number nor a file", todo)
    return None, Path(text)


def check_own(own: Path | None, dataset: str | None) -> None:
    """Raise a ConversionError where both a data set and images of one's own are named."""
    if own is not None and dataset is not None:
        raise ConversionError("--dataset", f"{dataset}, beside images in {own}", "give one of them")


def images_or_own(
    source: Given, count: int | None, own: Path | None, dataset: str | None, root: Path | None, *,
    noise: int | None = None, labels: Path | None = None,
) -> tuple[Images, str]:  # fmt: skip
    """Images of one's own in ``own``, or else ``count`` of a data set, and their name.

    ``noise``: so many random ones, where no data set is known.
    """
    if own is not None:
        return source.own(own, labels)[0], str(own)
    return source.images(dataset, root, count, noise=noise)


def is_own(name: str) -> bool:
    """Whether a data set's name is a file, or a folder of pictures that is no data set with ``train`` and ``test``."""
    from converters.zoo.datasets import DATASETS

    path = Path(name)
    return name not in DATASETS and (path.is_file() or (path.is_dir() and not (path / "test").is_dir()))


def images_named(
    name: str, spec: InputSpec, *, root: Path | None = None, classes: Sequence[str] = (), labels: str | None = None
) -> Images:
    """The test images of a data set, or images of one's own by their path, as a run names them."""
    from converters.zoo.datasets import load
    from converters.zoo.own_images import own_images

    if is_own(name):
        return own_images(name, spec, labels)[0]
    return load(name, "test", root=root, classes=classes)


def as_values(data: Images, network: Network) -> Images:
    """Images of which no label is known, for a network whose outputs are numbers and no scores of classes."""
    import torch

    from converters.ports.answers import named
    from converters.ports.tails import shape_behind

    shapes = {stage.name: stage.shape for stage in network.output_stages}
    behind = [shape_behind(name, one.tail, shapes[one.layer]) for name, one in named(network.outputs)]
    labels = [torch.full((len(data), *shape), torch.nan) for shape in behind]
    return replace(data, labels=labels[0], more_labels=tuple(labels[1:]))


class Predictions:
    """What every output says of every image, of runs that come one after the other.

    Parameters
    ----------
    network : Network
    data : Images
        All of them.
    names : sequence of str
        A name for each image.
    classes : sequence of str
        Names of the main output's classes, where they are known.
    """

    def __init__(self, network: Network, data: Images, names: Sequence[str], classes: Sequence[str] = ()) -> None:
        from converters.measuring.tasks import questions

        self.asked = questions(network, (data.labels, *data.more_labels))
        self.names, self.classes = names, classes
        self.found: dict[str, list[tuple[Tensor, Tensor]]] = {one.name: [] for one in self.asked}

    def look(self, r: RunResult, part: Images) -> None:
        """See the run of a part of the images."""
        from converters.ports.tails import apply

        for one in self.asked:
            value = r.output_values[one.output.layer]
            self.found[one.name].append((one.answer(value).cpu(), apply(one.output.tail, value).cpu()))

    def _of(self, one: Question, which: int) -> Tensor:
        import torch

        return torch.cat([part[which] for part in self.found[one.name]])

    def rows(self) -> list[dict[str, Any]]:
        """For JSON, one for each image: its name, and by output a class, how many places of a map each class has, or
        the first numbers."""
        import torch

        columns: dict[str, list[Any]] = {}
        for one in self.asked:
            said = self._of(one, 0)
            if one.task == "map":
                columns[one.name] = [torch.bincount(x.flatten(), minlength=one.classes).tolist() for x in said]
            elif one.task == "values":
                columns[one.name] = [x.flatten()[:_SHOWN].tolist() for x in said]
            else:
                columns[one.name] = said.tolist()
        return [
            {"image": name, **{key: column[k] for key, column in columns.items()}} for k, name in enumerate(self.names)
        ]

    def show(self, title: str) -> None:
        """The first images, for people."""
        about = {"classes": "class", "map": "pixels of each class", "values": "values"}
        rows = self.rows()
        cells = [[row["image"], *(self._told(one, row[one.name]) for one in self.asked)] for row in rows[:_SHOWN]]
        common.show(common.table(title, ["image", *(f"{one.name}: {about[one.task]}" for one in self.asked)], cells))
        if len(rows) > _SHOWN:
            common.say(f"and {len(rows) - _SHOWN:,} more: --json prints all, --out FILE.npz keeps all")

    def _told(self, one: Question, said: Any) -> str:
        if one.task == "classes":
            return f"{said} {self.classes[said]}" if said < len(self.classes) else f"{said}"
        return ", ".join(f"{x:.4g}" if one.task == "values" else f"{x:,}" for x in said)

    def save(self, path: Path) -> None:
        """All of them as arrays: ``images``, and of each output ``NAME`` (classes, or values) and ``NAME.returned``
        (what the model returns)."""
        import numpy as np

        from converters.files.atomic import atomic_path

        arrays = {"images": np.array(list(self.names))}
        for one in self.asked:
            arrays |= {one.name: self._of(one, 0).numpy(), f"{one.name}.returned": self._of(one, 1).numpy()}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
