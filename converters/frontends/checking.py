"""Every conversion is compared with the model that it was made from, layer by layer, before it is handed out.

The comparison forces each layer: it is fed with the *toolkit's* integers of its sources, so that one difference
neither hides nor causes another, and the first layer that is wrong is named. A layer whose values the toolkit does
not show, or shows in part, is executed from those in front of it, and judged by what stands behind it: by a maximum or
a move of its counts as if these were not rounded yet.

The integers must be equal. One exception is arithmetic: a toolkit adds up in float32, and where the exact quotient
lies so close to a tie that the rounding of its float sums reaches across, it may come out one level aside. Such a
difference is let through only if the exact distance to that tie is within the bound of the sums' rounding error.
What counts as the exact quotient is the function before any operation has rounded it to integers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import zip_longest

import torch
from torch import Tensor

from converters.errors import ConversionError, first_line
from converters.frontends.comparison import Comparison, Shown, handed_over
from converters.frontends.examples import Given
from converters.frontends.probes import probes
from converters.ports.inputs import Batches, batches, split
from converters.ports.outputs import Output, leaves
from converters.ports.tails import apply
from converters.quantised import Checked, InputSpec, Layer, QuantGraph

__all__ = ["Comparison", "Shown", "check_conversion", "check_layers", "left_alone"]

_OPERATIONS = 16
"""Float roundings that a term of a sum may go through, in units of the dtype's eps: scales, products, partial sums."""
_SHIFTS = 2
"""And that a level may go through as the zero point is added and taken off."""
_TIES = 20
"""Exact ties that must all go another rule's way before the rule is called another one."""
_TODO = "please report it, with the model; check=False converts without this comparison"
_CHUNK = 64
_VALUES = 2**24
"""Integers of all layers, of all images that are looked at together: they are held in the model's type and in ours."""


def check_conversion(
    q: QuantGraph,
    run: Callable[[Given], Shown],
    example: Given,
    check: bool | Batches,
    *,
    dtype: torch.dtype | None = None,
) -> QuantGraph:
    """``q`` with the record of its comparison with the model that it was made from.

    Parameters
    ----------
    q : QuantGraph
    run : callable
        The toolkit's forward pass on a batch, and what it shows. It is called for as many images at a time as a
        network of this size leaves memory for.
    example : float tensor ``(N, *input.shape)``, or one for each of several inputs by name
    check : bool or images
        As :func:`~converters.frontends.probes.probes` has it. False returns ``q`` as it is.
    dtype : torch.dtype, optional
        The precision of the toolkit's sums, that of the example by default.

    Raises
    ------
    ConversionError
        Naming the first layer that differs, and how.
    """
    wanted = probes(example, check)
    if wanted is None or handed_over(q, run, dtype):
        return q
    start, found = time.perf_counter(), Comparison()
    first = next(iter(example.values())) if isinstance(example, Mapping) else example
    with left_alone(first.device):
        for images in split(wanted.images, _at_once(q)):
            check_layers(q, images, _run(run, images), dtype=dtype, found=found)
    seconds = time.perf_counter() - start
    record = Checked(q.source, len(wanted), wanted.kind, len(found.layers), found.integers, found.near_ties, seconds)
    return replace(q, checked=record)


def _at_once(q: QuantGraph) -> int:
    """How many images: fewer of a large network, so that memory stays as it is."""
    return max(1, min(_CHUNK, _VALUES // sum(math.prod(layer.shape) for layer in q.layers)))


def _run(run: Callable[[Given], Shown], images: Given) -> Shown:
    try:
        return run(images)
    except ConversionError:
        raise
    except Exception as error:
        reason = first_line(error)
        count = len(images if isinstance(images, Tensor) else next(iter(images.values())))
        raise ConversionError(
            "check",
            f"that the model does not run on {count} images ({reason})",
            "let its forward take batches of any size, or give check=images, or check=False",
        ) from error


@contextmanager
def left_alone(device: torch.device) -> Iterator[None]:
    """No random state moves within it, and no autocast or TF32 is on: a toolkit's numbers are its own, as are ours."""
    devices = [device] if device.type == "cuda" else []
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    with ExitStack() as stack:
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before


@torch.no_grad()
def check_layers(
    q: QuantGraph, images: Given, shown: Shown, *, dtype: torch.dtype | None = None, found: Comparison | None = None
) -> Comparison:
    """Compare every layer of ``q`` with what the toolkit gave, each on the toolkit's integers of its sources.

    Parameters
    ----------
    q : QuantGraph
    images : float tensor ``(N, *input.shape)``, or one for each of several inputs by name
        What the toolkit was shown.
    shown : Shown
    dtype : torch.dtype, optional
        Of the toolkit's sums; that of the images by default.
    found : Comparison, optional
        An account to be continued.

    Raises
    ------
    ConversionError
        Naming the first layer that differs: how many integers, an example, and what to do.
    """
    account = found or Comparison()
    given = batches([spec.name for spec in q.inputs], images)
    judge = _Judge(q, torch.finfo(dtype or given[q.input.name].dtype).eps, account, shown.inverts)
    theirs: dict[str, list[Tensor]] = {}
    for name, real in shown.values:
        theirs.setdefault(name, []).append(real)
    pairs = list(zip_longest(leaves(q.outputs), leaves(shown.output)))
    if any(output is None or real is None for output, real in pairs):
        counts = (len(list(leaves(outputs))) for outputs in (shown.output, q.outputs))
        raise ConversionError("output", "{} outputs of the model, {} of its conversion".format(*counts), _TODO)
    for output, real in pairs:
        if not output.tail:
            theirs.setdefault(output.layer, [real])
    for name, real, mask in shown.partial:
        judge.partial.setdefault(name, []).append((real, mask))
    values = {spec.name: judge.input(spec, given[spec.name], theirs.get(spec.name, [])) for spec in q.inputs}
    for layer in q.layers:
        values[layer.name] = judge.layer(layer, values, theirs.get(layer.name, []))
    for output, real in pairs:
        judge.output(output, values, real)
    return account


class _Judge:
    """Compares one layer at a time."""

    def __init__(self, q: QuantGraph, eps: float, account: Comparison, inverts: bool) -> None:
        self.q, self.eps, self.account, self.inverts = q, eps, account, inverts
        self.partial: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.unseen: dict[str, tuple[Tensor, float]] = {}
        """Quotients of layers that are not shown, within their ranges, and how far rounding can move them."""

    def input(self, spec: InputSpec, images: Tensor, shown: Sequence[Tensor]) -> Tensor:
        ours = spec.nearest(images).clamp(spec.q_min, spec.q_max).cpu().long()  # no word on extremes that are cut
        exact = images.double().cpu() / spec.scale
        forced = ours
        for k, real in enumerate(shown):
            theirs = self._integers(spec.name, real, spec.scale, ours.shape)
            bound = self._noise(exact.abs(), spec.q_max - spec.q_min)
            self._compare(spec.name, ours, theirs, exact, bound)
            forced = theirs if k == 0 else forced
        return forced

    def layer(self, layer: Layer, values: dict[str, Tensor], shown: Sequence[Tensor]) -> Tensor:
        acc = self.q.accumulate(layer, values)
        if not layer.spiking:
            for real in shown:
                self._compare_real(layer, acc, values, real)
            return acc
        ours = layer.round(acc)
        forced = ours
        for real, mask in self.partial.get(layer.name, []):
            shown = [
                *shown,
                torch.where(mask.reshape(ours.shape[1:]), real.cpu().reshape(ours.shape), layer.real(ours)),
            ]
        for k, real in enumerate(shown):
            theirs = self._integers(layer.name, real, layer.scale, ours.shape)
            if bool((ours != theirs).any()):
                ruled = self._ruled_otherwise(layer, acc, theirs)
                self._compare(layer.name, ours, theirs, *self._exact(layer, values), ruled)
            else:
                self._count(layer.name, ours)
            forced = theirs if k == 0 else forced
        if not shown:
            exact, bound = self._exact(layer, values)
            self.unseen[layer.name] = exact.clamp(layer.y_min, layer.y_max), float(bound.max())
        return forced

    def _exact(self, layer: Layer, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What a layer rounds, and how far rounding can move it.

        One that passes counts on is judged by what these were before they were rounded, where that is not shown.
        """
        names = {name for s in layer.synapses for name in s.sources}
        unseen = names.intersection(self.unseen)
        if not unseen or not all(op.passes or op.rewires for s in layer.synapses for op in s.ops):
            return layer.unrounded(values), self._bound(layer, values)
        before = {n: self.unseen[n][0] if n in unseen else values[n].double() for n in names}
        exact = layer.unrounded(before)
        return exact, torch.full_like(exact, max(self.unseen[n][1] for n in unseen))

    def output(self, output: Output, values: dict[str, Tensor], real: Tensor) -> None:
        """What the model returned, against the layer that it is read from, and the functions behind that."""
        last = next(layer for layer in self.q.layers if layer.name == output.layer)
        if output.tail:
            self._compare_behind(output, last.real(values[last.name]), real)
        elif last.spiking:
            theirs = self._integers(last.name, real, last.scale, values[last.name].shape)
            wrong = theirs != values[last.name]
            self._settle("output", wrong, values[last.name], theirs)
            self.account.integers += wrong.numel()
        else:
            self._compare_real(last, values[last.name], self._sources(last, values), real)

    def _compare_behind(self, output: Output, x: Tensor, real: Tensor) -> None:
        """What functions made of a layer's real values; the toolkit's float sums and functions are those of its own."""
        *before, last = output.tail
        v = apply(before, x)
        ours, theirs = last(v), real.detach().cpu()
        if ours.shape != theirs.shape:
            found = f"values of shape {tuple(theirs.shape)} in the model and {tuple(ours.shape)} in its conversion"
            raise ConversionError("output", found, _TODO)
        if last.function in ("argmax", "argmin"):  # of values that are as good as equal, any is the largest
            dim = last.parameters["dim"]
            ours, theirs = (
                v.gather(dim, i if last.parameters.get("keepdim") else i.unsqueeze(dim)) for i in (ours, theirs)
            )
        size = float(v.abs().max()) if v.numel() else 0.0
        wrong = ~((ours - theirs.to(ours.dtype)).abs() <= self.eps**0.5 * (1 + size))  # also where one is no number
        self._settle("output", wrong, ours.double(), theirs.double())
        self.account.integers += wrong.numel()

    def _sources(self, layer: Layer, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[name] for s in layer.synapses for name in s.sources}

    def _bound(self, layer: Layer, values: dict[str, Tensor]) -> Tensor:
        """How far rounding can move a layer's quotient, in levels: eps times the sizes of what is added up.

        And what an operation rounds on its own, on the way to the layer's rounding.
        """
        noise = self._noise(layer.magnitude(values), layer.y_max - layer.y_min)
        return noise + layer.slack.reshape(-1, *[1] * (noise.ndim - 2))

    def _noise(self, terms: Tensor, levels: int) -> Tensor:
        return self.eps * (_OPERATIONS * terms + _SHIFTS * levels)

    def _integers(self, name: str, real: Tensor, scale: float, shape: Sequence[int]) -> Tensor:
        if real.numel() != torch.Size(shape).numel():
            raise ConversionError(
                name, f"values of shape {tuple(real.shape)} in the model and {tuple(shape)} in its conversion", _TODO
            )
        levels = real.detach().double().cpu().reshape(shape) / scale
        whole = levels.round()
        noise = self.eps * _OPERATIONS * (levels.abs() + 1)
        off = ~((levels - whole).abs() <= noise)  # also where there is a NaN
        if bool(off.any()):
            place = _first(off)
            raise ConversionError(
                name,
                f"that {int(off.sum()):,} of {off.numel():,} values of the model are no multiples of the scale "
                f"{scale:.6g} ({float(levels[place]):.6g} levels at {_places(place)})",
                _TODO,
            )
        return whole.to(torch.int64)

    def _count(self, name: str, compared: Tensor) -> None:
        self.account.layers.add(name)
        self.account.integers += compared.numel()
        self.account.of(name).integers += compared.numel()

    def _settle(self, name: str, wrong: Tensor, ours: Tensor, theirs: Tensor, exact: Tensor | None = None) -> None:
        """Differences that are no near-ties: an error, or in the account of the layer."""
        if bool(wrong.any()) and self.account.strict:
            raise ConversionError(name, _differ(wrong, ours, theirs, exact), _TODO)
        self.account.of(name).wrong += int(wrong.sum())

    def _compare(
        self, name: str, ours: Tensor, theirs: Tensor, exact: Tensor, bound: Tensor, ruled: bool = False
    ) -> None:
        """``ruled``: that what is one level aside at an exact tie is so by rule, and no near-tie."""
        self._count(name, ours)
        differs = ours != theirs
        if not bool(differs.any()):
            return
        distance = (exact - (ours + theirs).double() / 2).abs()
        near = differs & ((ours - theirs).abs() == 1) & (distance <= bound)
        if ruled:
            near &= distance > 0
        self._settle(name, differs & ~near, ours, theirs, exact)
        self.account.of(name).take(near, distance, bound)
        self.account.near_ties += int(near.sum())

    def _ruled_otherwise(self, layer: Layer, acc: Tensor, theirs: Tensor) -> bool:
        """Exact ties that all go the other rule's way are no noise: an error, or whether there are.

        The inverse of a scale in float32 moves some of them, always the same way, which says nothing of the rule.
        """
        other = replace(layer, tie="up" if layer.tie == "even" else "even")
        exact = layer.quotient(acc)
        tied = (exact - exact.floor() == 0.5) & (layer.round(acc) != other.round(acc))
        if self.inverts:
            inverse, real = torch.tensor(layer.scale, dtype=torch.float32).reciprocal(), exact * layer.scale
            for moved in (real.float() * inverse, real * inverse.double()):
                tied &= (moved == exact) | (moved.round() != theirs)
        ruled = int(tied.sum()) >= _TIES and bool((theirs == other.round(acc))[tied].all())
        if ruled and self.account.strict:
            raise ConversionError(
                layer.name, f"{int(tied.sum()):,} ties that the model all rounds by the rule {other.tie!r}", _TODO
            )
        return ruled

    def _compare_real(self, layer: Layer, acc: Tensor, values: dict[str, Tensor], real: Tensor) -> None:
        """An output that is not rounded: in real units, within the rounding error of the toolkit's sums."""
        if real.numel() != acc.numel():
            raise ConversionError(
                layer.name, f"values of shape {tuple(real.shape)} in the model and {tuple(acc.shape)} here", _TODO
            )
        ours = layer.quotient(acc) * layer.scale
        theirs = real.detach().double().cpu().reshape(acc.shape)
        wrong = ~((ours - theirs).abs() <= self._bound(layer, values) * layer.scale)
        self._settle(layer.name, wrong, ours, theirs)
        self._count(layer.name, ours)


def _first(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero()[0].tolist())


def _places(place: Sequence[int]) -> str:
    return f"image {place[0]}, neuron {', '.join(map(str, place[1:]))}"


def _differ(wrong: Tensor, ours: Tensor, theirs: Tensor, exact: Tensor | None = None) -> str:
    place = _first(wrong)
    what = "integers" if not ours.is_floating_point() else "outputs"
    value = f"{float(theirs[place]):.8g} in the model, {float(ours[place]):.8g} in its conversion"
    value += "" if exact is None else f", of {float(exact[place]):.8g}"
    count = f"{int(wrong.sum()):,} of {wrong.numel():,} {what}"
    return f"that {count} differ on the model's own inputs ({value}, at {_places(place)})"
