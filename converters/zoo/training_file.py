"""The checkpoints of a training run: tensors and text. Nothing in one is executed, and none takes more memory than it
has bytes; what it holds is compared with the network that it is to go into, tensor by tensor.
"""

from __future__ import annotations

import copy
import io
import json
import math
import pickletools
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from converters.errors import ConversionError, first_line
from converters.files.atomic import atomic_path
from converters.files.kinds import described
from converters.reading import open_regular, parse_json

__all__ = [
    "Checkpoint",
    "check_tensors",
    "load_weights",
    "log_of",
    "read_checkpoint",
    "read_checkpoint_of",
    "write_checkpoint",
]

_LARGEST = 1 << 32  # bytes of a file
_LARGEST_TEXT = 1 << 24  # bytes of the pickle, in which all text is
_BUILDERS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
_OWN_WEIGHTS = "weights of your own go into your module, and from there through converters.quantise or prepare_qat"
_TODO = "give a .float.pt, .average.pt or .qat.pt of calif train"
_WAYS_OF = {  # what other files have a network's weights, and how these come in
    "a .safetensors file": f"{_TODO}; {_OWN_WEIGHTS}",
    "a TorchScript module": _OWN_WEIGHTS,
    "a program of torch.export": "give torch.export.load(...).module() to converters.quantise",
}
_NO_CHECKPOINT = "a file that is no checkpoint of calif train"
_ANOTHER = "use another --out, or delete it"
_PHASES = ("float", "average", "qat")
_LATER = ("data", "signed")  # what checkpoints of earlier versions do not say


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a phase of a training run has come to.

    Attributes
    ----------
    about : dict
        Of what network, data, recipe and seed it is.
    model, optimiser : dicts
        Their ``state_dict``.
    log : list of dict
        One row per epoch.
    before : list of dict
        Rows of the phases and runs that led there.
    beyond : dict, optional
        See :mod:`converters.zoo.training_state`; None in files of earlier versions.
    """

    about: dict[str, Any]
    model: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    log: list[dict[str, Any]]
    before: list[dict[str, Any]] = field(default_factory=list)
    beyond: Mapping[str, Any] | None = None

    @property
    def whole_log(self) -> list[dict[str, Any]]:
        """One row per epoch of this run and of those that it started from."""
        return self.before + self.log


class _ForeignError(ValueError):
    """A pickle that builds what no checkpoint has: by its name."""


def read_checkpoint(path: Path) -> Checkpoint:
    """A training checkpoint.

    Raises
    ------
    ConversionError
        If there is none, it is damaged, or it is of another kind.
    """
    with open_regular(path, max_bytes=_LARGEST, todo=_TODO) as file:
        other = described(file)
        if other is not None:
            raise ConversionError(str(path), f"{other}, no checkpoint of calif train", _WAYS_OF.get(other, _TODO))
        try:
            state = torch.load(_plain_zip(file), weights_only=True, map_location="cpu")
        except _ForeignError as error:
            raise ConversionError(str(path), f"{_NO_CHECKPOINT} ({error} in it)", _OWN_WEIGHTS) from None
        except Exception as error:  # of junk, the unpickler raises a dozen kinds
            reason = first_line(error)[:100]
            raise ConversionError(str(path), f"a damaged checkpoint ({reason})", "delete it and train again") from None
    try:
        about, log, before = (_text(path, state.get(k, "[]")) for k in ("about", "log", "before"))
        found = Checkpoint(about, state["model"], state["optimiser"], log, before, state.get("beyond"))
        known = type(about) is dict and type(about.get("network")) is str and _are_rows(log) and _are_rows(before)
        known &= all(isinstance(x, dict) for x in (found.model, found.optimiser))
        known &= found.beyond is None or isinstance(found.beyond, dict)
    except (AttributeError, LookupError, TypeError, ValueError):  # no dictionary, or what is no JSON in it
        known = False
    if not known:
        raise ConversionError(str(path), _NO_CHECKPOINT, _OWN_WEIGHTS)
    return found


def _plain_zip(file: BinaryIO) -> io.BytesIO:
    """The same archive, written anew: no record is packed, larger than the file, or there twice, and its pickle builds
    nothing but dictionaries and dense tensors."""
    size = file.seek(0, io.SEEK_END)
    plain = io.BytesIO()
    with zipfile.ZipFile(file) as packed, zipfile.ZipFile(plain, "w") as unpacked:
        records = packed.infolist()
        if any(r.compress_type != zipfile.ZIP_STORED for r in records) or sum(r.file_size for r in records) > size:
            raise ValueError("records that are packed, or larger than the file")
        if len({r.filename for r in records}) < len(records):
            raise ValueError("a record twice")
        for record in records:
            data = packed.read(record)
            if record.filename.endswith("data.pkl"):
                _check_pickle(data)
            unpacked.writestr(record.filename, data)
    plain.seek(0)
    return plain


def _check_pickle(data: bytes) -> None:
    if len(data) > _LARGEST_TEXT:
        raise ValueError(f"{len(data):,} bytes of text")
    for operation, argument, _ in pickletools.genops(data):
        builds = operation.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        name = str(argument)
        if builds and not (name in _BUILDERS or (name.startswith("torch ") and name.endswith("Storage"))):
            raise _ForeignError(name)


def _text(path: Path, text: Any) -> Any:
    if type(text) is not str:
        raise TypeError
    return parse_json(path, text, _ANOTHER)


def _are_rows(log: Any) -> bool:
    def number(x: Any) -> bool:
        return type(x) in (int, float) and math.isfinite(x)

    return type(log) is list and all(
        type(row) is dict
        and row.get("phase") in _PHASES
        and type(row.get("epoch")) is int
        and number(row.get("loss"))
        and (row.get("accuracy") is None or number(row["accuracy"]))
        for row in log
    )


def log_of(log: Any) -> list[dict[str, Any]]:
    """The rows of a run's epochs in the notes of a quantised network, which may be anything: none then."""
    return log if _are_rows(log) else []


def read_checkpoint_of(
    path: Path, about: dict[str, Any], keys: Iterable[str] | None, what: str, todo: str
) -> Checkpoint:
    """A training checkpoint that says that it is of ``about``, in these ``keys`` (None: all).

    Raises
    ------
    ConversionError
        If it does not, with the first four that differ; ``what`` names the file, ``todo`` the way out.
    """
    found = read_checkpoint(path)
    theirs = found.about
    differing = _differences(theirs, about, sorted(set(theirs) | set(about)) if keys is None else keys)
    if differing:
        raise ConversionError(str(path), f"{what} with {differing}", todo)
    return found


def _differences(theirs: dict[str, Any], mine: dict[str, Any], keys: Iterable[str]) -> str:
    """What a checkpoint was made for that is not what is wanted here, the first four; empty where all is the same.

    >>> _differences({"network": "vgg9", "seed": 0}, {"network": "lenet5", "seed": 0}, ("network", "seed"))
    'network vgg9 instead of lenet5'
    """
    differing = [k for k in keys if theirs.get(k) != mine.get(k) and not (k in _LATER and k not in theirs)]
    found = [
        "other images or labels" if k == "data" else f"{k} {theirs.get(k)} instead of {mine.get(k)}" for k in differing
    ]
    return ", ".join(found[:4])


def check_tensors(
    path: Path, what: str, given: Mapping[str, Any], wanted: Mapping[str, Tensor], *, partly: bool = False
) -> None:
    """Refuse tensors that are not those of ``wanted``: by name, dense, of the same shape and type, and numbers.

    Buffers that grow with what they see (of one value or none in ``wanted``) may have another length; ``partly``: not
    all of them have to be there.

    Raises
    ------
    ConversionError
        If they are not.
    """
    found = ""
    for name, value in given.items():
        like = wanted.get(name) if type(name) is str else None
        if like is None:
            found = "what the network does not have"
        elif type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
            found = "no plain tensor"
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            found = "a tensor larger than its data"
        elif value.shape != like.shape and (like.numel() > 1 or value.ndim > 1):
            found = f"the shape {tuple(value.shape)} instead of {tuple(like.shape)}"
        elif value.dtype != like.dtype:
            found = f"the type {value.dtype} instead of {like.dtype}"
        elif not bool(torch.isfinite(value).all()) and bool(torch.isfinite(like).all()):
            found = "values that are not finite"
        if found:
            raise ConversionError(str(path), f"{what} with {str(name)[:80]!r}: {found}", _ANOTHER)
    missing = [] if partly else [name for name in wanted if name not in given]
    if missing:
        raise ConversionError(str(path), f"{what} without {missing[0]!r}", _ANOTHER)


def load_weights(model: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """The weights of a phase's checkpoint into a network of the same kind.

    Raises
    ------
    ConversionError
        If it is of another kind, or its weights are not finite.
    """
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers()), **model.state_dict()}
    if not set(model.state_dict()) <= set(checkpoint.model) <= set(wanted):
        todo = "give the .float.pt of its float phase"
        raise ConversionError(str(path), "a network with other layers or quantisers", todo)
    check_tensors(path, "a network", checkpoint.model, wanted, partly=True)
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]
        raise ConversionError(str(path), f"a network that does not fit ({reason})", _ANOTHER) from None


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Atomically; the log also as text beside it, one JSON row per epoch."""
    state = {
        "about": json.dumps(checkpoint.about, sort_keys=True),
        "model": _on_cpu(checkpoint.model),
        "optimiser": _on_cpu(checkpoint.optimiser),
        "log": json.dumps(checkpoint.log),
        "before": json.dumps(checkpoint.before),
    }
    if checkpoint.beyond:
        state["beyond"] = _on_cpu(checkpoint.beyond)
    whole = io.BytesIO()  # torch's own writer has no OSError for a full disk, and puts the file's name into it
    torch.save(state, whole)
    with atomic_path(path) as temporary:
        temporary.write_bytes(whole.getbuffer())
    write_log(path, checkpoint.log)


def _on_cpu(state: Any) -> Any:
    """The same dictionaries and lists, with tensors that any machine can load."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        moved = copy.copy(state)  # with what PyTorch keeps beside the entries
        moved.update((key, _on_cpu(value)) for key, value in state.items())
        return moved
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def write_log(path: Path, log: list[dict[str, Any]]) -> None:
    """The text beside a checkpoint, where it is not there yet or of fewer epochs."""
    beside, text = path.with_suffix(".jsonl"), "".join(json.dumps(row) + "\n" for row in log).encode()
    if beside.is_file() and beside.stat().st_size == len(text) and beside.read_bytes() == text:
        return
    with atomic_path(beside) as temporary:
        temporary.write_bytes(text)
