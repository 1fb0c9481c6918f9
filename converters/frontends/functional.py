"""In-place operations of a traced graph, written out of place: what PyTorch does to shared memory, said in values.

A trace shows an operation like ``F.relu_(z)`` as a node beside ``z``, perhaps one that nobody uses; yet whatever reads
``z`` after it, or a view of ``z``, reads the result. Which nodes share memory, and which of them changed it, is not
guessed from names: the graph is run once, and PyTorch's own version counters and strides are read.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from converters.errors import ConversionError

__all__ = ["Effects", "make_functional", "partly_changed", "version"]

_TODO = "write it out of place"
_OPERATORS: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ipow: operator.pow,
}


@dataclass(frozen=True)
class _View:
    """Which elements of which memory a tensor shows, and how often that had been changed when it came."""

    tensor: Tensor
    memory: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @staticmethod
    def of(x: Tensor) -> _View:
        memory = x.untyped_storage().data_ptr()
        return _View(x, memory, int(x.storage_offset()), tuple(x.shape), tuple(x.stride()))

    @property
    def geometry(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        return self.offset, self.size, self.stride

    @property
    def moved(self) -> bool:
        """Whether the tensor has another shape by now."""
        return (tuple(self.tensor.shape), tuple(self.tensor.stride())) != (self.size, self.stride)

    def places(self) -> Tensor:
        """Index in memory of every element, in the tensor's order."""
        count = self.tensor.untyped_storage().nbytes() // self.tensor.element_size()
        return torch.arange(count).as_strided(self.size, self.stride, self.offset).reshape(-1)


def version(x: Tensor) -> int:
    """How often a tensor's memory has been changed; one of inference mode has no count, nor can it be outside of it."""
    return 0 if x.is_inference() else x._version


class Effects:
    """What the nodes of a graph gave and did to memory, taken down one by one while they run."""

    def __init__(self) -> None:
        self.views: list[list[_View]] = []
        self.changed: list[set[int]] = []
        """Memory that a node changed, among what earlier nodes gave."""
        self.moved: list[bool] = []
        """Whether a node changed the shape of what an earlier one gave."""
        self._versions: list[tuple[_View, int]] = []

    def after(self, result: Any) -> None:
        """To be called after every node, in order."""
        self.changed.append({view.memory for view, old in self._versions if version(view.tensor) != old})
        self.moved.append(any(view.moved for view, _ in self._versions))
        self.views.append([_View.of(x) for x in _tensors(result)])
        views = [view for view, _ in self._versions] + self.views[-1]
        self._versions = [(view, version(view.tensor)) for view in views]

    @property
    def none(self) -> bool:
        """Whether no node changed what another gave."""
        return not any(self.changed) and not any(self.moved)


def _tensors(x: Any) -> list[Tensor]:
    """The tensors of a result; of a toolkit's wrapper of one, its values."""
    leaves = [x.value] if hasattr(x, "value") and hasattr(x, "zero_point") else tree_leaves(x)
    return [t for t in leaves if isinstance(t, Tensor) and t.layout is torch.strided and t.numel()]


def partly_changed(before: Any, _change: Any) -> Any:
    """Stands in a graph for what is left of a tensor after a part of it was changed through a view."""
    raise NotImplementedError("no functional form")


def make_functional(
    graph: fx.Graph, modules: Mapping[str, nn.Module], effects: Effects, where: Callable[[fx.Node], str]
) -> None:
    """Rewrite ``graph`` so that no node changes what another gave, and every node gets what it got before.

    Parameters
    ----------
    graph : fx.Graph
        Changed in place: nodes stay where they are, some with another target; reshapes are added.
    modules : mapping of paths to modules
        Those that work in place are switched to work out of place.
    effects : Effects
        Of a run of this graph.
    where : callable
        A node's place, for people.

    Raises
    ------
    ConversionError
        For an operation that changes a tensor in place and has no functional form. What shares only a part of its
        elements with the changed tensor becomes a node :func:`partly_changed`, to be refused if its value is needed.
    """
    order = list(graph.nodes)
    number = {node: k for k, node in enumerate(order)}
    own = {v.memory for node, k in number.items() if node.op == "get_attr" for v in effects.views[k]}
    current: dict[fx.Node, fx.Node] = {}
    for k, node in enumerate(order):
        target = node.args[0] if node.args else None
        node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), lambda a: current.get(a, a))
        if effects.moved[k]:
            raise ConversionError(where(node), f"{_name(node)}, which changes a tensor's shape in place", _TODO)
        if not effects.changed[k]:
            continue
        changed = effects.views[number[target]] if isinstance(target, fx.Node) else []
        if len(changed) != 1 or effects.changed[k] != {changed[0].memory} or not _gives(effects.views[k], changed[0]):
            raise ConversionError(where(node), f"{_name(node)}, which changes a tensor in place", _TODO)
        if changed[0].memory in own:
            raise ConversionError(
                where(node), f"{_name(node)} on a parameter or buffer", "leave the model's own tensors as they are"
            )
        _write_out_of_place(node, modules, where)
        for earlier in order[:k]:
            follows = _follow(graph, node, current.get(earlier, earlier), effects.views[number[earlier]], changed[0])
            if follows is not None:
                current[earlier] = follows


def _gives(views: list[_View], changed: _View) -> bool:
    return len(views) == 1 and (views[0].memory, views[0].geometry) == (changed.memory, changed.geometry)


def _follow(graph: fx.Graph, node: fx.Node, before: fx.Node, views: list[_View], changed: _View) -> fx.Node | None:
    """What ``before``, of these views, is after ``node`` changed a view; None if it is what it was."""
    shared = [v for v in views if v.memory == changed.memory]
    if not shared:
        return None
    if _gives(views, changed):
        return node
    places = changed.places()
    if not any(bool(torch.isin(v.places(), places).any()) for v in shared):
        return None
    with graph.inserting_after(node):
        if len(views) == 1 and torch.equal(views[0].places(), places):
            # the same elements in the same order, in another shape; as many images as there are
            size = views[0].size
            batch = [-1] if size and changed.size[:1] == size[:1] else list(size[:1])
            new = graph.call_method("reshape", (node, *batch, *size[1:]) if size else (node, ()))
        else:
            new = graph.call_function(partly_changed, (before, node))
    new.meta.update(node.meta)
    return new


def _write_out_of_place(node: fx.Node, modules: Mapping[str, nn.Module], where: Callable[[fx.Node], str]) -> None:
    """Give a node that changes its first argument the target that leaves it alone."""
    found: Any = None
    if node.op == "call_module":
        module = modules[str(node.target)]
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
            return
        if hasattr(module, "inplace"):  # switched off by a call before this one
            return
    elif node.op == "call_method":
        name = str(node.target)
        plain = name.removesuffix("_")
        found = plain if name.endswith("_") and not name.endswith("__") and hasattr(Tensor, plain) else None
    else:
        found = _OPERATORS.get(node.target) or _without_underscore(node.target)
        if found is None and _switch_off(node):
            return
    if found is None:
        raise ConversionError(where(node), f"{_name(node)}, which changes a tensor in place", _TODO)
    node.target = found


def _without_underscore(function: Any) -> Any:
    name = getattr(function, "__name__", "")
    for home in (F, torch):
        if name.endswith("_") and getattr(home, name, None) is function:
            return getattr(home, name[:-1], None)
    return None


def _switch_off(node: fx.Node) -> bool:
    """Set the argument ``inplace`` of a function to False; whether there is one."""
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return False
    if not bound.arguments.get("inplace"):
        return False
    bound.arguments["inplace"] = False
    node.args, node.kwargs = bound.args, bound.kwargs
    return True


def _name(node: fx.Node) -> str:
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
