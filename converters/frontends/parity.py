"""A network against the model that it was made from, layer by layer: a report that goes on past differences."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from converters.errors import ConversionError
from converters.frontends.checking import check_layers, left_alone
from converters.frontends.comparison import Comparison, Runner, Shown, runners
from converters.frontends.examples import Given
from converters.frontends.probes import noise
from converters.ports.inputs import Batches, batches, split
from converters.quantised import QuantGraph

__all__ = ["TOOLKITS", "LayerParity", "Parity", "parity"]

TOOLKITS = ("onnx", "pt2e", "brevitas", "torch_ao")
_CHUNK = 64
_EXAMPLE = 8


@dataclass(frozen=True)
class LayerParity:
    """One layer against the model's own integers.

    Attributes
    ----------
    layer : str
        Also of an input; ``output`` are values that functions in float or no quantiser gave.
    integers : int
        Compared.
    differing, near_ties : int
        On the *model's* integers of the layer's sources, so that none is the consequence of another; and how many of
        these are shown to be within rounding of a tie.
    furthest, share : float
        The largest distance from its tie of a near-tie, in levels; and as a part of what float sums can round there.
    apart : int or None
        Differing when both run by themselves, consequences included. None where the model does not show the layer.
    optimised : int or None
        How many of the model's own integers change when its runtime fuses operations; both run by themselves.
    optimised_near_ties, optimised_wrong : int or None
        Of the optimised run against ours, on its own integers of the layer's sources.
    """

    layer: str
    integers: int
    differing: int
    near_ties: int
    furthest: float
    share: float
    apart: int | None = None
    optimised: int | None = None
    optimised_near_ties: int | None = None
    optimised_wrong: int | None = None


@dataclass(frozen=True)
class Parity:
    """A comparison, layer by layer.

    Attributes
    ----------
    model : str
        What was run: ``onnxruntime``, ``pt2e``...
    images : int
    layers : tuple of LayerParity
    seconds : float
    """

    model: str
    images: int
    layers: tuple[LayerParity, ...]
    seconds: float
    note: str = ""
    """Why there is no optimised run, where one was tried."""

    @property
    def wrong(self) -> int:
        """Differences that are no near-ties."""
        return self.differing - self.near_ties

    @property
    def integers(self) -> int:
        return sum(row.integers for row in self.layers)

    @property
    def differing(self) -> int:
        return sum(row.differing for row in self.layers)

    @property
    def near_ties(self) -> int:
        return sum(row.near_ties for row in self.layers)

    @property
    def optimised(self) -> int | None:
        """Of the model's own integers, how many change when its runtime fuses operations; None where none does."""
        found = [row.optimised for row in self.layers if row.optimised is not None]
        return sum(found) if found else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        whole = {k: getattr(self, k) for k in ("model", "images", "integers", "differing", "near_ties", "wrong")}
        more = {"optimised": self.optimised, "note": self.note, "seconds": self.seconds}
        return whole | more | {"layers": list(map(asdict, self.layers))}


def parity(
    model: Any,
    images: Batches | int,
    *,
    example: Batches | None = None,
    toolkit: str | None = None,
    double: bool = False,
) -> Parity:
    """Our integers against the model's own forward pass, layer by layer.

    Parameters
    ----------
    model : path or onnx.ModelProto, or a prepared or quantised module of another front-end
    images : float tensor ``(N, ...)``, or int
        Of several inputs one for each, in order or by name. A number: so many of noise in the range of the input.
    example : like ``images``, optional
        What the front-end is given; the first images by default. A module of Brevitas or torch.ao needs one where
        ``images`` is a number.
    toolkit : {"onnx", "pt2e", "brevitas", "torch_ao"}, optional
        By default found out by the model's type.
    double : bool
        Run a module in float64, where its sums round a half billion times less: what is left of near-ties are ties. Of
        a copy; an ONNX model has the types that it has.

    Returns
    -------
    Parity
        Of an ONNX model it is onnxruntime with graph optimisations off that is compared. Its own optimised run is in
        the report as well: once it fuses, it adds up in another order, and differs from itself by a level at ties.

    Raises
    ------
    ConversionError
        If the model cannot be converted.

    Examples
    --------
    >>> import converters
    >>> from converters.zoo.named import load_checkpoint
    >>> q, _ = load_checkpoint("lenet5-mnist-8")
    >>> report = converters.parity(converters.to_onnx(q), torch.rand(4, 1, 32, 32))
    >>> report.model, report.wrong, [row.layer for row in report.layers][:2]
    ('onnxruntime', 0, ['input', 'features.0'])
    """
    kind = _kind(model) if toolkit is None else toolkit
    if kind not in TOOLKITS:
        raise ConversionError("toolkit", f"{kind!r}", f"give one of {', '.join(TOOLKITS)}")
    if double:
        if kind == "onnx":
            raise ConversionError("double", "an ONNX model", "it runs in the types that are written in it")
        model = copy.deepcopy(model).double()
        images, example = (_doubled(x) for x in (images, example))
    start = time.perf_counter()
    sample = example if example is not None or isinstance(images, int) else _first(images)
    found, optimised, name = _of_onnx(model, sample) if kind == "onnx" else (*_of_module(kind, model, sample), kind)
    given = noise(found.q, images) if isinstance(images, int) else _given(found.q, images)
    given = _doubled(given) if double else given
    whole, fused, counted, note = Comparison(strict=False), Comparison(strict=False), _Counted(), ""
    device = next(iter(given.values())).device if isinstance(given, Mapping) else given.device
    with left_alone(device):
        for part in split(given, _CHUNK):
            shown = found.run(part)
            check_layers(found.q, part, shown, dtype=found.dtype, found=whole)
            counted.apart(found.q, part, shown)
            if optimised is not None and not note:
                try:
                    other = optimised(part)
                except ConversionError as error:  # its optimiser has faults of its own
                    note = f"no optimised run: {error.found}"
                    continue
                check_layers(found.q, part, other, dtype=found.dtype, found=fused)
                counted.fused(found.q, shown, other)
    rows = _rows(found.q, whole, fused if optimised is not None and not note else None, counted)
    return Parity(name, _count(given), rows, time.perf_counter() - start, note)


def _rows(q: QuantGraph, whole: Comparison, fused: Comparison | None, counted: _Counted) -> tuple[LayerParity, ...]:
    order = [name for name in (*q.shapes, "output") if name in whole.by_layer or name in counted.of_layers]
    rows = []
    for name in order:
        a = whole.of(name)
        if not (a.integers or a.differing):
            continue  # an output that its layer speaks for
        row = LayerParity(name, a.integers, a.differing, a.near_ties, a.furthest, a.share, counted.of_layers.get(name))
        if fused is not None:
            b, changed = fused.of(name), counted.of_fused.get(name)
            row = LayerParity(**{**asdict(row), "optimised": changed, "optimised_near_ties": b.near_ties,
                                 "optimised_wrong": b.wrong})  # fmt: skip
        rows.append(row)
    return tuple(rows)


class _Counted:
    """How many integers differ where nothing is forced, by layer."""

    def __init__(self) -> None:
        self.of_layers: dict[str, int] = {}
        self.of_fused: dict[str, int] = {}

    def apart(self, q: QuantGraph, images: Given, shown: Shown) -> None:
        """The executor by itself, and the model by itself."""
        ours, seen = q.execute(images), set[str]()
        for name, theirs in _levels(q, shown):
            if name in seen:
                continue
            seen.add(name)
            n = int((ours[name].cpu() != theirs.reshape(ours[name].shape)).sum())
            self.of_layers[name] = self.of_layers.get(name, 0) + n

    def fused(self, q: QuantGraph, shown: Shown, other: Shown) -> None:
        """Two runs of the model."""
        for (name, one), (_, two) in zip(_levels(q, shown), _levels(q, other), strict=True):
            self.of_fused[name] = self.of_fused.get(name, 0) + int((one != two).sum())


def _levels(q: QuantGraph, shown: Shown) -> list[tuple[str, Tensor]]:
    """The integers of what a model has shown."""
    scales = {spec.name: spec.scale for spec in q.inputs} | {k.name: k.scale for k in q.layers if k.spiking}
    return [(name, (x.detach().cpu().double() / scales[name]).round()) for name, x in shown.values if name in scales]


# --- forward passes ---------------------------------------------------------------------------------


def _kind(model: Any) -> str:
    from converters.frontends.pt2e_module import PreparedModel

    if isinstance(model, str | os.PathLike) or type(model).__name__ == "ModelProto":
        return "onnx"
    if isinstance(model, PreparedModel):
        return "pt2e"
    if isinstance(model, torch.nn.Module):
        modules = {type(m).__module__.partition(".")[0] for m in model.modules()}
        return "brevitas" if "brevitas" in modules else "torch_ao"
    raise ConversionError("model", type(model).__name__, "give an .onnx file, or a model with fake quantisers")


def _of_onnx(model: Any, example: Batches | None) -> tuple[Runner, Callable[[Given], Shown] | None, str]:
    from converters.frontends.onnx.model import toolkit

    toolkit()
    from converters.frontends.onnx.converting import read
    from converters.frontends.onnx.oracle import runtime

    found, name = read(model, example), runtime()
    optimised = found.forward.optimised().show if name == "onnxruntime" else None
    return Runner(found.q, found.forward.show, found.dtype), optimised, name


def _of_module(kind: str, model: Any, example: Batches | None) -> tuple[Runner, None]:
    """The forward pass that a front-end compares with."""
    from converters.frontends.pt2e import from_pt2e

    with runners() as found:
        if kind == "pt2e":
            from_pt2e(model)
        elif kind == "brevitas":
            from converters.frontends.brevitas import from_brevitas

            from_brevitas(model, example)
        else:
            from converters.frontends.torch_ao import from_torch_ao

            from_torch_ao(model, example)
    return found[-1], None


def _doubled(x: Any) -> Any:
    """Batches in float64; tokens, numbers and None as they are."""
    return tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, x)


def _first(images: Any) -> Any:
    if isinstance(images, Tensor):
        return images[:_EXAMPLE]
    if isinstance(images, Mapping):
        return {name: x[:_EXAMPLE] for name, x in images.items()}
    return tuple(x[:_EXAMPLE] for x in images) if isinstance(images, Sequence) else images


def _given(q: QuantGraph, images: Any) -> Given:
    by_name = batches([spec.name for spec in q.inputs], images)
    for name, x in by_name.items():
        if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
            raise ConversionError(f"images of {name}", "no batch", "give images, (N, ...)")
    return by_name if len(by_name) > 1 else next(iter(by_name.values()))


def _count(images: Given) -> int:
    return len(images if isinstance(images, Tensor) else next(iter(images.values())))
