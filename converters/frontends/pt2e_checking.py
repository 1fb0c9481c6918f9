"""A prepared model against the user's own, before it is trained; and its conversion against it, after."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from converters.errors import ConversionError
from converters.frontends.checking import Shown, check_conversion, left_alone
from converters.frontends.examples import Example, Given, each, is_tokens
from converters.frontends.level_quantiser import bypassed
from converters.frontends.probes import limits
from converters.frontends.pt2e_module import PreparedModel
from converters.frontends.pt2e_reader import Seen
from converters.ports.inputs import Batches
from converters.quantised import QuantGraph

__all__ = ["check_converted", "check_prepared"]

_MODES = {False: "evaluation", True: "training"}
_OF_A_KIND = 2


def check_prepared(model: nn.Module, prepared: PreparedModel, example: Example, own: Given | None) -> None:
    """Compare a prepared model, its quantisers switched off, with the module that it was made from.

    In evaluation and in training mode, from the same random state: outputs, and the statistics of batch norms. Both
    run in float64, so that what is equal in exact arithmetic agrees to nine digits, in as many layers as there may be.

    Parameters
    ----------
    model : nn.Module
        A copy of the user's; its training flag is moved, nothing else.
    prepared : PreparedModel
        Left as it is.
    example : Example
        Two of its images are shown, and two of noise in its range.
    own : tensor, or tensors by the inputs' names, optional
        Images to be shown instead.

    Raises
    ------
    ConversionError
        Saying in which mode, and by how much, they differ; or that ``forward`` draws random numbers in evaluation.
    """
    x = example.replaced(_images(example) if own is None else own)
    training, name = prepared.training, type(model).__name__
    with ExitStack() as stack:
        stack.enter_context(left_alone(x.tensors[0].device))
        stack.enter_context(bypassed(prepared))
        stack.callback(prepared.train, training)
        for mode, word in _MODES.items():
            try:
                dtype = torch.float64
                theirs = _run(model, x, mode, dtype)
            except RuntimeError:  # constants of another precision, a device without float64
                dtype = next((t.dtype for t in x.tensors if not is_tokens(t)), torch.float32)
                theirs = _run(model, x, mode, dtype)
            outputs, buffers, drew = theirs
            if drew and not mode:
                raise ConversionError(
                    name,
                    "that its forward draws random numbers in evaluation mode",
                    "use nn.Dropout, or give F.dropout training=self.training",
                )
            ours = _run(prepared, x, mode, dtype)
            if mode and len(outputs) > len(ours[0]):
                continue  # auxiliary heads, whose dropouts have drawn random numbers as well
            share = 1e-6 if dtype == torch.float64 else 1e-2
            _compare(name, word, "output", outputs, ours[0], share)
            for key in sorted(set(buffers) & set(ours[1])):
                if not (buffers[key].is_floating_point() or key.endswith("num_batches_tracked")):
                    continue  # a counter of the user's own
                _compare(key, word, "statistics", [buffers[key]], [ours[1][key]], share)


def _images(example: Example) -> list[Tensor]:
    """Some of the example and some noise, which differs from image to image as the statistics of a batch want it."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for x in example.tensors:
        low, high = limits(x)
        some = x[:_OF_A_KIND].detach()
        noise = torch.rand(some.shape, generator=generator, dtype=torch.float64)
        found.append(torch.cat([some, (noise * (high - low) + low).to(some)]))
    return found


def _run(model: nn.Module, x: Example, mode: bool, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Tensor], bool]:
    """Outputs, buffers afterwards, and whether random numbers were drawn."""

    model.train(mode)
    with _own_tensors(model, dtype):
        torch.manual_seed(0)
        device = x.tensors[0].device
        before = _random_state(device)
        output = x.map(lambda t: t.clone() if is_tokens(t) else t.to(dtype, copy=True)).call(model)
        drew = not torch.equal(before, _random_state(device))
        return [t for t in tree_leaves(output) if isinstance(t, Tensor)], dict(model.named_buffers()), drew


@contextmanager
def _own_tensors(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within it, a model has copies of its parameters and buffers, float ones in ``dtype``."""
    copies: dict[int, Tensor] = {}
    tables: list[dict[str, Any]] = [d for m in model.modules() for d in (m._parameters, m._buffers)]
    places = [(d, k, t) for d in tables for k, t in d.items() if t is not None]
    for tensors, key, t in places:
        own = t.detach().to(dtype, copy=True) if t.is_floating_point() else t.detach().clone()
        tensors[key] = copies.setdefault(id(t), own)  # one that stands at two places is one
    try:
        yield
    finally:
        for tensors, key, t in places:
            tensors[key] = t


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _compare(name: str, mode: str, what: str, theirs: list[Tensor], ours: list[Tensor], share: float) -> None:
    for a, b in zip(theirs, ours, strict=True):
        a, b = a.double(), b.double()
        finite = a[a.isfinite()].abs()
        largest = float(finite.max()) if finite.numel() else 0.0
        apart = _apart(a, b) if a.shape == b.shape else 0.0
        if a.shape != b.shape or not apart <= share * max(largest, 1e-3):  # also where one is no number
            found = f"of {largest:.6g}, by {apart:.3g}" if a.shape == b.shape else f"in shape, {a.shape} and {b.shape}"
            raise ConversionError(
                name,
                f"that the {what} of its exported graph in {mode} mode differs from its own ({found})",
                "leave branches on self.training, and in-place writes to what is still read, out of forward; "
                "check=False goes without this comparison",
            )


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference; of what is the same infinity in both, or no number in both (in a mask), it is 0."""
    other = (a != b) & ~(a.isnan() & b.isnan())
    return float((a - b)[other].abs().max()) if bool(other.any()) else 0.0


def check_converted(
    q: QuantGraph, model: PreparedModel, shown: Mapping[fx.Node, Seen], example: Given, check: bool | Batches
) -> QuantGraph:
    """``q`` with the record of its comparison with the prepared model's forward in evaluation, layer by layer.

    ``shown`` has the layers (or the input) of the nodes that quantise them, as they are seen.
    """
    if check is False:
        return q
    twin = copy.deepcopy(model).eval()
    seen = {node.name: found for node, found in shown.items()}
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None:
        dtype = weight.dtype
        example = each(example, lambda x: x.to(weight.device, None if is_tokens(x) else dtype))
    # whatever the type of the images, fake quantisers round in float32
    return check_conversion(q, lambda images: _Recorder(twin, seen).show(images), example, check, dtype=torch.float32)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what its quantisers give."""

    def __init__(self, model: fx.GraphModule, seen: Mapping[str, Seen]) -> None:
        super().__init__(model)
        self.seen = seen
        self.images = 0
        self.values: list[tuple[str, Tensor]] = []

    def show(self, images: Given) -> Shown:
        given = [images] if isinstance(images, Tensor) else list(images.values())
        self.images = len(given[0])
        return Shown(self.values, self.run(*given), inverts=True)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.seen:
            value, layout, relative = self.seen[n.name]
            real = layout.first(result if relative is None else result.double().cpu() / relative, self.images)
            if real[0].numel() == math.prod(value.shape):
                self.values += value.unmoved(real).items()
            else:  # the comparison says that it has another shape
                self.values.append((next(iter(value.sources)), real))
        return result
