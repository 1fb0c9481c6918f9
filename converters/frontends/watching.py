"""What the modules of a model put out during its own forward pass, by the call in its trace."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from converters.frontends.checking import Shown
from converters.frontends.examples import Example
from converters.quantised import Value

__all__ = ["Place", "call_numbers", "show", "shown_by"]


@dataclass(frozen=True)
class Place:
    """Call ``number`` of the module at ``path``; or, within it, call ``inner_number`` of its submodule ``inner``.

    ``turn`` makes a tensor with the images first of what is put out there, if they are not.
    """

    path: str
    number: int
    inner: str = ""
    inner_number: int = 0
    turn: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)

    def first(self, real: Tensor) -> Tensor:
        return real if self.turn is None else self.turn(real)


def call_numbers(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> dict[fx.Node, int]:
    """Which call of its module each node is, counted from 0; one object under two paths is one module."""
    count: dict[int, int] = defaultdict(int)
    numbers = {}
    for node in graph.nodes:
        if node.op == "call_module":
            module = id(modules[str(node.target)])
            numbers[node] = count[module]
            count[module] += 1
    return numbers


def show(model: nn.Module, places: Iterable[tuple[Place, Value]], images: Example) -> Shown:
    """Run ``model`` as it is on ``images``, and take down what is put out at ``places``, layer by layer.

    Leaves hooks behind: give a copy. A place that the run does not come by is left out.
    """
    places = list(places)
    watch = _Watch(model, [place for place, _ in places])
    output = plain(images.call(model))
    seen = [(place.first(watch.found[place]), value) for place, value in places if place in watch.found]
    return shown_by([(real, v) for real, v in seen if real.ndim > 1 and real[0].numel() == math.prod(v.shape)], output)


def shown_by(seen: Iterable[tuple[Tensor, Value]], output: Any) -> Shown:
    """Layer by layer what batches of real values say of them, each seen as a value is; and what the model returned."""
    values: list[tuple[str, Tensor]] = []
    partial: list[tuple[str, Tensor, Tensor]] = []
    for real, value in seen:
        for name, (own, mask) in value.partly(real).items():
            if bool(mask.all()):
                values.append((name, own))
            else:
                partial.append((name, own, mask))
    return Shown(values, output, partial)


def plain(x: Any) -> Any:
    """The real values of a toolkit's wrapper of a tensor, or the tensor itself; also of several, in their structure."""
    if isinstance(x, Tensor) or hasattr(x, "value"):  # a wrapper may be a named tuple
        return x if isinstance(x, Tensor) else x.value
    if isinstance(x, Mapping):
        return {key: plain(part) for key, part in x.items()}
    return [plain(part) for part in x] if isinstance(x, list | tuple) else x


class _Watch:
    """Hooks that keep what comes out, before anything can change it in place."""

    def __init__(self, model: nn.Module, places: list[Place]) -> None:
        self.found: dict[Place, Tensor] = {}
        self.calls: dict[int, int] = defaultdict(int)
        self.active: list[tuple[int, int, dict[int, int]]] = []  # module, number, calls of its parts
        modules = dict(model.named_modules(remove_duplicate=False))
        outer: dict[int, list[str]] = defaultdict(list)
        for path in dict.fromkeys(p.path for p in places):
            outer[id(modules[path])].append(path)
        for paths in outer.values():
            self._watch(modules[paths[0]], paths)
        for path, inner in dict.fromkeys((p.path, p.inner) for p in places if p.inner):
            self._watch_inner(modules[path], modules[f"{path}.{inner}"], path, inner)

    def _watch(self, module: nn.Module, paths: list[str]) -> None:
        key = id(module)

        def before(*_: Any) -> None:
            self.active.append((key, self.calls[key], defaultdict(int)))
            self.calls[key] += 1

        def after(_module: nn.Module, _inputs: Any, out: Any) -> None:
            _, number, _ = self.active.pop()
            for path in paths:
                self._keep(Place(path, number), out)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def _watch_inner(self, module: nn.Module, part: nn.Module, path: str, inner: str) -> None:
        key, mine = id(module), id(part)

        def after(_module: nn.Module, _inputs: Any, out: Any) -> None:
            if self.active and self.active[-1][0] == key:
                _, number, calls = self.active[-1]
                self._keep(Place(path, number, inner, calls[mine]), out)
                calls[mine] += 1

        part.register_forward_hook(after)

    def _keep(self, place: Place, out: Any) -> None:
        real = plain(out)
        if isinstance(real, Tensor):
            self.found[place] = real.detach().clone()
