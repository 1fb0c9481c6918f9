"""What a command is to run: a ``.nir`` file, read once; or a checkpoint or ONNX model, converted for each window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import ConversionError, warn

if TYPE_CHECKING:
    import nir

    from converters.files.nir_file import NirFile
    from converters.network import Network
    from converters.quantised import QuantGraph
    from converters.zoo.datasets import Images

__all__ = ["Given", "first_of", "given", "images_for", "in_file", "is_onnx", "open_file"]


def is_onnx(path: str | Path) -> bool:
    """Whether a name is that of an ONNX model."""
    return str(path).lower().endswith(".onnx")


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

    def images(self, dataset: str | None, root: Path | None, count: int | None) -> tuple[Images, str]:
        """Test images of the data set asked for, or of the one that the network was trained on, and its name.

        Raises
        ------
        ConversionError
            If the network has several inputs, or nobody says which images.
        """
        inputs = [spec.name for spec in self.q.inputs] if self.q is not None else list(self.network(None).specs)
        if len(inputs) > 1:
            found = f"{len(inputs)} inputs ({', '.join(inputs)}), where a data set has one picture for each label"
            raise ConversionError(self.source, found, "give a tensor for each to converters.run, from Python")
        return images_for(dataset, self.notes, root, count)


def given(
    target: Path | None,
    checkpoint: str | None,
    windows: Sequence[int | None] = (),
    *,
    coding: str = "auto",
    allow_large: bool = False,
    file: NirFile | None = None,
) -> Given:
    """What the command line names: one of a file and a checkpoint. ``file``: ``target``, where it was read already.

    An ONNX model is converted, and compared with its own forward pass.

    Raises
    ------
    ConversionError
        If both are named, or neither; or a file that was converted for another window or coding.
    """
    if (target is None) == (checkpoint is None):
        raise ConversionError("input", "both a file and --checkpoint, or neither", "give one of them")
    if target is None:
        from converters.zoo.named import load_checkpoint

        q, notes = load_checkpoint(str(checkpoint))
        return Given(str(checkpoint), q, notes, coding)
    if is_onnx(target):
        from converters.frontends.onnx.model import from_onnx

        return Given(str(target), from_onnx(target), {}, coding)
    file = file or open_file(target, allow_large)
    network = in_file(file, target)
    own, its_coding = network.window, network.coding
    for window in windows:
        if window not in (None, own):
            todo = f"{target} was converted for T = {own}; use --checkpoint for others"
            raise ConversionError("--window", f"{window}", todo)
    if coding not in ("auto", its_coding):
        todo = f"{target} was converted for coding {its_coding}; use --checkpoint for others"
        raise ConversionError("--coding", coding, todo)
    return Given(str(target), None, {}, coding, file)


def images_for(dataset: str | None, notes: dict[str, Any], root: Path | None, count: int | None) -> tuple[Images, str]:
    """Test images of the data set asked for, or of the one that the network was trained on, and its name."""
    from converters.zoo.datasets import load
    from converters.zoo.named import class_names

    name = dataset or notes.get("dataset")
    if not name:
        raise ConversionError("--dataset", "none", "say which images to run: mnist, cifar10, ..., or a folder")
    return first_of(load(name, "test", root=root, classes=class_names(notes)), count), name


def first_of(data: Images, count: int | None) -> Images:
    """The first ``count`` test images, or all, with a note where there are not as many."""
    if count is not None and count > len(data):
        warn("--images", f"{count:,} of {len(data):,} test images", "all of them are taken")
    return data.first(count)
