"""What a command is to run: a ``.nir`` file, read once; or a quantised network, converted for each window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.commands.recognising import kind_of
from converters.errors import ConversionError, warn

if TYPE_CHECKING:
    import nir

    from converters.files.nir_file import NirFile
    from converters.network import Network
    from converters.quantised import QuantGraph
    from converters.zoo.datasets import Images

__all__ = [
    "OF_A_CHECKPOINT",
    "Given",
    "first_of",
    "given",
    "images_for",
    "in_file",
    "open_file",
    "quantised_network",
    "which_of",
]

OF_A_CHECKPOINT = "name what it was made from: a checkpoint, an ONNX model, or the .qat.pt of a run"
"""What there is to do where a ``.nir`` file is named and the quantised network is needed."""


def open_file(path: Path, allow_large: bool = False) -> NirFile:
    """A file of any tool, with names of nodes as ours have to be."""
    from converters.files.nir_file import read_file

    return read_file(path, rename=True, allow_large=allow_large)


def in_file(file: NirFile, path: Path) -> Network:
    """The Ca-LIF network of a file; a file of anything else is an error that says what it is, and what runs it."""
    from converters.graphs.stock_files import about_stock, ways_of_stock

    if file.network is None:
        raise ConversionError(str(path), about_stock(file.graph), ways_of_stock(file.graph, str(path)))
    return file.network


@dataclass(eq=False)
class Given:
    """A network of which a command runs one window or several.

    Attributes
    ----------
    source : str
        The file, or the checkpoint's name.
    q : QuantGraph or None
        The quantised network behind it, as of an ONNX model; None of a bare ``.nir`` file.
    notes : dict
        Of its training, where they are known.
    coding : str
    file : NirFile or None
    """

    source: str
    q: QuantGraph | None
    notes: dict[str, Any]
    coding: str
    file: NirFile | None = None
    _graphs: dict[int | None, nir.NIRGraph] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For tables: the network's own name where it has one."""
        return str(self.notes.get("network") or self.source)

    def graph(self, window: int | None) -> nir.NIRGraph:
        """The NIR graph at a window; None: its own."""
        from converters.nir_export import to_nir

        if self.file is not None:
            return self.file.graph
        assert self.q is not None  # a checkpoint's
        if window not in self._graphs:
            self._graphs = {window: to_nir(self.q, T=window, coding=self.coding)}  # one at a time: they are large
        return self._graphs[window]

    def network(self, window: int | None) -> Network:
        """The network at a window; None: its own."""
        from converters.network import Network

        return Network.from_graph(self.graph(window)) if self.file is None else in_file(self.file, Path(self.source))

    def images(
        self, dataset: str | None, root: Path | None, count: int | None, *, noise: int | None = None
    ) -> tuple[Images, str]:
        """Test images of the data set asked for, or of the one that the network was trained on, and its name.

        ``noise``: where there is none, so many random images, whose labels are -1, with a line that says so. They are
        as good where spikes are compared and no label is.

        Raises
        ------
        ConversionError
            If the network has several inputs, or nobody says which images.
        """
        self._check_inputs()
        if noise is not None and dataset is None and not self.notes.get("dataset"):
            return self._noise(count or noise)
        return images_for(dataset, self.notes, root, count)

    def own(self, path: Path, labels: Path | None) -> tuple[Images, list[str]]:
        """Images of the user's own, and a name for each (:func:`converters.zoo.own_images.own_images`)."""
        from converters.zoo.own_images import own_images

        self._check_inputs()
        return own_images(path, self.q.input if self.q is not None else self.network(None).spec, labels)

    def _check_inputs(self) -> None:
        inputs = [spec.name for spec in self.q.inputs] if self.q is not None else list(self.network(None).specs)
        if len(inputs) > 1:
            found = f"{len(inputs)} inputs ({', '.join(inputs)}), where a data set has one picture for each label"
            raise ConversionError(self.source, found, "give a tensor for each to converters.run, from Python")

    def _noise(self, count: int) -> tuple[Images, str]:
        """Every integer of the input's range is as likely as any other."""
        import torch

        from converters.zoo.images import Images

        spec = self.q.input if self.q is not None else self.network(None).spec
        generator = torch.Generator().manual_seed(0)
        low, high = (spec.q_min, spec.q_max + 1) if spec.table is None else (0, spec.table.vocabulary)
        integers = torch.randint(low, high, (count, *spec.given), generator=generator)
        warn("--dataset", "none", f"{count:,} random images are taken")
        images = integers * spec.scale if spec.table is None else integers
        return Images(images, torch.full((count,), -1), 1), "random images"


def which_of(target: str | Path | None, checkpoint: str | None) -> str:
    """The one that is named of two.

    Raises
    ------
    ConversionError
        If both are, or neither.
    """
    if target is None and checkpoint is None:
        raise ConversionError("NETWORK", "none", "name a checkpoint, as lenet5-mnist-8, or a file")
    if target is not None and checkpoint is not None:
        raise ConversionError("NETWORK", f"{target} and --checkpoint {checkpoint}", "give one of them")
    return str(checkpoint if target is None else target)


def quantised_network(which: str) -> tuple[QuantGraph, dict[str, Any]]:
    """The quantised network of anything but a ``.nir`` file, and notes of its training.

    An ONNX model and the ``.qat.pt`` of a run are converted, and compared with their own forward pass.
    """
    kind = kind_of(which)
    if kind == "nir":
        raise ConversionError(which, "a network that is converted already", OF_A_CHECKPOINT)
    if kind == "onnx":
        from converters.frontends.onnx.model import from_onnx

        return from_onnx(which), {}
    if kind == "run":
        from converters.zoo.trained import quantised_run

        return quantised_run(Path(which))
    from converters.zoo.named import load_checkpoint

    return load_checkpoint(which)


def given(
    target: str | Path | None,
    checkpoint: str | None,
    windows: Sequence[int | None] = (),
    *,
    coding: str = "auto",
    allow_large: bool = False,
    file: NirFile | None = None,
) -> Given:
    """What the command line names, as a target or with ``--checkpoint``: a checkpoint by name, or a file of any kind
    (:func:`converters.commands.recognising.kind_of`). ``file``: that of a ``.nir``, where it was read already.

    Raises
    ------
    ConversionError
        If both are named, or neither; or a file that was converted for another window or coding.
    """
    which = which_of(target, checkpoint)
    if kind_of(which) != "nir":
        q, notes = quantised_network(which)
        return Given(which, q, notes, coding)
    file = file or open_file(Path(which), allow_large)
    network = in_file(file, Path(which))
    own, its_coding = network.window, network.coding
    for window in windows:
        if window not in (None, own):
            todo = f"{which} was converted for T = {own}; use its checkpoint for others"
            raise ConversionError("--window", f"{window}", todo)
    if coding not in ("auto", its_coding):
        todo = f"{which} was converted for coding {its_coding}; use its checkpoint for others"
        raise ConversionError("--coding", coding, todo)
    return Given(which, None, {}, coding, file)


def images_for(dataset: str | None, notes: dict[str, Any], root: Path | None, count: int | None) -> tuple[Images, str]:
    """Test images of the data set asked for, or of the one that the network was trained on, and its name."""
    from converters.zoo.datasets import load
    from converters.zoo.named import class_names

    name = dataset or notes.get("dataset")
    if not name:
        todo = "say which images to run: mnist, cifar10, ..., or a folder; calif run --images FILE takes your own"
        raise ConversionError("--dataset", "none", todo)
    return first_of(load(name, "test", root=root, classes=class_names(notes)), count), name


def first_of(data: Images, count: int | None) -> Images:
    """The first ``count`` test images, or all, with a note where there are not as many."""
    if count is not None and count > len(data):
        warn("--images", f"{count:,} of {len(data):,} test images", "all of them are taken")
    return data.first(count)
