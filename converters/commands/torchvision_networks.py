"""A network of torchvision by name, with its own transform of pictures, quantised from a folder of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import ConversionError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TorchvisionNetwork", "torchvision_network"]

_LARGEST = 1 << 33  # bytes of a file of weights


@dataclass(frozen=True, eq=False)
class TorchvisionNetwork:
    """A classifier in evaluation mode, and what its weights were trained with.

    Attributes
    ----------
    model : nn.Module
    transform : callable
        Makes the network's input of a ``PIL.Image``: resized, cropped, normalised.
    about : str
        The transform, for people.
    categories : list of str
        Names of its classes; empty where nobody knows them.
    classes : int
    """

    model: nn.Module
    transform: Callable[[Any], Tensor]
    about: str
    categories: list[str]
    classes: int


def torchvision_network(name: str, weights: str, classes: int = 1000, *, side: int | None = None) -> TorchvisionNetwork:
    """A classifier of torchvision.

    Parameters
    ----------
    name : str
        ``resnet18``, ``mobilenet_v2``...
    weights : str
        ``DEFAULT``, torchvision's own, which are downloaded once; ``none``, random ones; or a file of a ``state_dict``,
        whose last tensor says how many classes there are.
    classes : int
        Of random weights.
    side : int, optional
        Of the pictures as the network sees them, in pixels; by default what the weights were trained with.

    Raises
    ------
    ConversionError
        If there is no such network, no download, or the file is none of its weights.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        like = [n for n in known if n.split("_")[0][:5] == name.split("_")[0][:5]] or known
        raise ConversionError("--torchvision", f"{name!r}", f"use a classifier of it, such as {', '.join(like[:8])}")
    default = models.get_model_weights(name).DEFAULT
    transform = default.transforms()
    if side is not None:
        (resized,), (cropped,) = transform.resize_size, transform.crop_size
        transform = default.transforms(crop_size=side, resize_size=round(side * resized / cropped))
    state = None
    if weights not in ("DEFAULT", "none"):
        state = _state(Path(weights))
        classes = len(list(state.values())[-1])
    about = ", ".join(f"{k} {getattr(transform, k)}" for k in ("resize_size", "crop_size", "mean", "std"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisations that take long
        if weights == "DEFAULT":
            model, classes = _downloaded(name, default), len(default.meta["categories"])
        else:
            options = {"init_weights": True} if name in ("googlenet", "inception_v3") and state is None else {}
            model = models.get_model(name, weights=None, num_classes=classes, **options)
    if state is not None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()[:160]
            raise ConversionError(weights, f"weights of another network ({reason})", f"give those of {name}") from None
    categories = default.meta["categories"] if classes == len(default.meta["categories"]) else []
    return TorchvisionNetwork(model.eval(), transform, about, list(categories), classes)


def _downloaded(name: str, weights: Any) -> nn.Module:
    from torchvision import models

    try:
        said = io.StringIO()  # where it downloads from
        with redirect_stderr(said), redirect_stdout(said):
            return models.get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:  # no network; a download that is damaged
        reason = first_line(error)[:100]
        raise ConversionError(
            "--weights",
            f"DEFAULT, and no download ({reason})",
            f"give a file of them, such as {Path(weights.url).name}; or none, for random ones",
        ) from None


def _state(path: Path) -> dict[str, Tensor]:
    import torch

    from converters.reading import open_regular

    todo = "give DEFAULT, none, or a file of a state_dict"
    with open_regular(path, max_bytes=_LARGEST, todo=todo) as file:
        try:
            state = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # of junk, the unpickler raises a dozen kinds
            reason = first_line(error)[:100]
            raise ConversionError(str(path), f"a file that is no state_dict ({reason})", todo) from None
    tensors = isinstance(state, dict) and all(isinstance(x, torch.Tensor) for x in state.values())
    if not tensors or not state or not list(state.values())[-1].ndim:
        raise ConversionError(str(path), "a file that is no state_dict", todo)
    return dict(state)
