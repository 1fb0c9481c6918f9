"""A snnTorch model of a class of its own as a row of layers: one step of its forward, traced.

Its forward is one step, or a loop over all of them, as snnTorch's tutorials write it. Then one step is cut out of it,
and the row has to do at every step what the model does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from calif_plugins.snntorch import CaLIF, reset
from calif_plugins.snntorch_obstacles import NEURONS, obstacle
from calif_plugins.torch_modules import copied
from converters.errors import ConversionError, first_line, warn

__all__ = ["Called", "Layers", "traced_layers", "way_of"]

Layers = list[tuple[str, nn.Module]]
_ROW = "put its layers, in their order, into an nn.Sequential"
_KINDS = {name.lower(): kind for name, kind in vars(nn).items() if "Pool" in name}
_POOLS: dict[Any, type[nn.Module]] = {
    function: _KINDS[name.replace("_", "")] for name, function in vars(F).items() if name.replace("_", "") in _KINDS
}
"""Pools by their function, which takes the same arguments."""
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
_BATCH = "the number of images"


def way_of(neuron: Any) -> str:
    """What to do about a neuron of snnTorch's that is none of ours."""
    reason = obstacle(neuron)
    return f"it {reason}" if reason else "replace it with swap_neurons(model) first"


class Called(nn.Module):
    """A function or a method of a tensor, with its other arguments, as a layer.

    >>> Called(torch.flatten, (1,), {})(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 12])
    """

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, tuple(args), kwargs

    def forward(self, x: Tensor) -> Any:
        """Of a batch: where the traced model said how many images it is of, it is of as many as there are now."""

        def now(value: Any) -> Any:
            return len(x) if value is _BATCH else value

        args = [type(a)(map(now, a)) if isinstance(a, tuple | list) else now(a) for a in self.args]
        return self.function(x, *args, **self.kwargs)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (CaLIF, *NEURONS)) or super().is_leaf_module(m, module_qualified_name)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """What a neuron returns may be taken apart in any way, ``spikes, *state = neuron(x, *state)`` too."""
        neuron = self.root.get_submodule(str(obj.node.target)) if obj.node.op == "call_module" else None
        if not isinstance(neuron, CaLIF):
            return super().iter(obj)
        return (obj[k] for k in range(2 if neuron.packed else 3))


@dataclass
class _Trace:
    """A traced forward.

    ``calls``: of every neuron, by path, its nodes in order. ``steps``: how many steps of time the forward goes through.
    """

    model: nn.Module
    nodes: list[fx.Node]
    calls: dict[str, list[fx.Node]]
    steps: int = 1

    @property
    def image(self) -> fx.Node:
        return next(n for n in self.nodes if n.op == "placeholder")

    @property
    def steps_are_picked(self) -> bool:
        """Whether each step has an input of its own, ``x[step]``."""
        return any(_is_input(self, n) and n is not self.image for n in self.nodes)

    def module(self, node: fx.Node) -> nn.Module:
        return self.model.get_submodule(str(node.target))


def traced_layers(model: nn.Module, shape: tuple[int, ...], window: int) -> Layers:
    """Layers of one step, in order, each with its path; neurons that are given their state keep it by themselves there.

    Parameters
    ----------
    model : nn.Module
        Its forward takes an image or a step's spikes ``(N, *shape)``, and states of neurons after it; or goes through
        time itself, with the same image or ``x[step]`` at each step.
    shape : tuple of int
        Of one image.
    window : int
        Steps that the spiking network is to have.

    Warns
    -----
    ConversionWarning
        If its forward goes through another number of steps, or gives the image itself to each of them.

    Raises
    ------
    ConversionError
        If its forward cannot be traced, is no row of layers, or the row does not spike as the model does.
    """
    try:
        twin = copied(model).double().cpu().eval()
    except ValueError as error:
        raise ConversionError("model", str(error), _ROW) from None
    trace = _trace(twin)
    row = _row(trace)
    layers = [(path, _stepping(path, trace, node)) for path, node in row]
    _compare(trace, layers, shape)
    _tell_what_differs(trace, window)
    return layers


def _tell_what_differs(trace: _Trace, window: int) -> None:
    """Between the time and the input that the model was trained with, and those of the spiking network."""
    if trace.steps not in (1, window):
        found = f"a loop of {trace.steps} steps, where the network gets T={window}, and so other sums"
        warn("model", found, f"give T={trace.steps}, or let it loop over {window} and train again")
    if trace.steps > 1 and not trace.steps_are_picked:
        found = "a loop that is given the image itself at every step, where the network gets spikes"
        warn("model", found, "compare the accuracies, converters.run(graph, images) has the network's predictions")


def _trace(model: nn.Module) -> _Trace:
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # of what Python does with a value that is not there, there is any kind
        found = f"that it cannot be traced ({first_line(error)[:120]})"
        todo = f"{_ROW}, or take branches on values out of its forward"
        if hasattr(model, "sequential"):  # our own module
            todo = "give model.sequential()"
        raise ConversionError("model", found, todo) from None
    nodes = list(graph.nodes)
    calls: dict[str, list[fx.Node]] = {}
    for node in nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, CaLIF):
            calls.setdefault(str(node.target), []).append(node)
        elif isinstance(module, NEURONS):
            raise ConversionError(str(node.target), f"a {type(module).__name__}", way_of(module))
    trace = _Trace(model, nodes, calls)
    if calls and all(_again(trace, nodes_of) for nodes_of in calls.values()):
        counts = {len(nodes_of) for nodes_of in calls.values()}
        if len(counts) > 1:
            found = f"neurons that take {' and '.join(map(str, sorted(counts)))} steps"
            raise ConversionError("model", found, "let every neuron take every step")
        trace.steps = counts.pop()
    elif any(len(nodes_of) > 1 for nodes_of in calls.values()):
        path = next(path for path, nodes_of in calls.items() if len(nodes_of) > 1)
        raise ConversionError(path, "one neuron at several places, which share its state", "give each place its own")
    return trace


def _again(trace: _Trace, calls: list[fx.Node]) -> bool:
    """Whether a neuron's later calls are later steps, and not places behind it: what they get was not made of its
    own spikes."""
    return all(calls[0] not in _made_of(node.args[0]) for node in calls[1:])


def _made_of(value: Any) -> set[fx.Node]:
    """All nodes that spikes and charges come from; states are left out."""
    found: set[fx.Node] = set()
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, fx.Node) and node not in found:
            found.add(node)
            waiting += [_source(node)] if node.op in ("call_module", "call_method") else node.all_input_nodes
    return found


def _ancestors(value: Any) -> set[fx.Node]:
    """A node and all that it is made of, states too."""
    found: set[fx.Node] = set()
    waiting = [value] if isinstance(value, fx.Node) else []
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _source(node: fx.Node) -> Any:
    return node.args[0] if node.args else next(iter(node.kwargs.values()), None)


def _row(trace: _Trace) -> list[tuple[str, fx.Node]]:
    """The nodes from the image to the last neuron of the first step, in order."""
    first = [nodes[0] for nodes in trace.calls.values()]
    if not first:
        raise ConversionError("model", "no Ca-LIF layer", "put one behind each layer with weights, and at the end")
    followed = {n for node in first for n in _made_of(_source(node))}
    ends = [node for node in first if node not in followed]
    if len(ends) != 1:
        found = f"{len(ends)} last neurons ({', '.join(str(n.target) for n in ends)})"
        raise ConversionError("model", found, "from_snntorch takes one row of layers: convert each branch by itself")
    row: list[tuple[str, fx.Node]] = []
    node: Any = ends[0]
    while not (isinstance(node, fx.Node) and _is_input(trace, node)):
        if not isinstance(node, fx.Node) or node.op in ("placeholder", "get_attr"):
            raise ConversionError(_path(row[-1][1]), "an input that is not made of the image", _ROW)
        if not _picks_spikes(trace, node):
            row.append((_path(node), node))
        data = [n for n in _data(node) if n is not _source(node)]
        if data:
            found = f"{len(data) + 1} inputs"
            raise ConversionError(_path(node), found, "from_snntorch takes one row of layers, without branches")
        node = _source(node)
    return row[::-1]


def _is_input(trace: _Trace, node: fx.Node) -> bool:
    """The image, or a step of it."""
    if node is trace.image:
        return True
    picked = node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"
    return picked and trace.steps > 1 and node.args[0] is trace.image


def _picks_spikes(trace: _Trace, node: fx.Node) -> bool:
    """Whether a node takes the first of what a neuron returns."""
    if node.op != "call_function" or getattr(node.target, "__name__", "") != "getitem":
        return False
    before = node.args[0]
    if not (isinstance(before, fx.Node) and before.op == "call_module" and str(before.target) in trace.calls):
        return False
    if node.args[1] != 0:
        found = "a layer behind a membrane"
        raise ConversionError(str(before.target), found, "feed spikes on: networks of counts pass nothing else")
    return True


def _data(node: fx.Node) -> list[fx.Node]:
    """Inputs of a node that are tensors of images; a neuron's states and sizes are none."""
    if node.op == "call_module":
        return [n for n in node.args[:1] if isinstance(n, fx.Node)]
    return [n for n in node.all_input_nodes if not _is_size(n)]


def _is_size(node: Any) -> bool:
    """``x.size(0)`` or ``x.shape[0]``: of how many images a batch is."""
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_method" and node.target == "size":
        return tuple(node.args[1:]) == (0,)
    inner = node.args[0] if node.args else None
    if not isinstance(inner, fx.Node) or node.op != "call_function" or node.args[1:] != (0,):
        return False
    return inner.args[1:] == ("shape",) or (inner.target == "size" and len(inner.args) == 1)


def _path(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _stepping(path: str, trace: _Trace, node: fx.Node) -> nn.Module:
    """A layer of the row."""
    if node.op == "call_module":
        module = trace.module(node)
        return _keeping(path, trace, module) if isinstance(module, CaLIF) else module
    args, kwargs = _plain(node.args[1:]), {k: _plain(v) for k, v in node.kwargs.items() if k not in ("input", "x")}
    if node.target in _DROPOUTS:
        return nn.Identity()
    pool = _POOLS.get(node.target)
    if pool is not None:
        return pool(*args, **kwargs)
    method = node.op == "call_method"
    function: Any = getattr(Tensor, str(node.target)) if method else node.target
    return Called(function, args, kwargs)


def _plain(value: Any) -> Any:
    """An argument with sizes in it as what it stands for."""
    if isinstance(value, tuple | list):
        return type(value)(_plain(v) for v in value)
    return _BATCH if _is_size(value) else value


def _keeping(path: str, trace: _Trace, neuron: CaLIF) -> CaLIF:
    """A neuron that keeps its state from step to step; one whose forward forgets it is an error."""
    calls = trace.calls[path]
    for k, node in enumerate(calls if not neuron.init_hidden else ()):
        before = {n for state in node.args[1:] for n in _ancestors(state)}
        kept = calls[k - 1] in before if k else any(n.op == "placeholder" for n in before)
        if not kept and (k or trace.steps == 1):
            todo = "pass its state on from step to step, or set its init_hidden to True"
            raise ConversionError(path, "a CaLIF that keeps no state between steps", todo)
    own: Any = copied(neuron)
    own.init_hidden, own.output, own.packed = True, False, False
    return own


def _compare(trace: _Trace, layers: Layers, shape: tuple[int, ...], images: int = 3) -> None:
    """The model's own forward, and the row with the same inputs: every neuron spikes alike."""
    generator = torch.Generator().manual_seed(0)
    steps = trace.steps
    picks = trace.steps_are_picked
    size = (steps, images, *shape) if picks else (images, *shape)
    x = 4 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
    spikes: dict[str, list[Tensor]] = {path: [] for path in trace.calls}
    hooks = [trace.model.get_submodule(path).register_forward_hook(_recorder(kept)) for path, kept in spikes.items()]
    states = [torch.zeros(0) for n in trace.nodes if n.op == "placeholder"][1:]
    reset(trace.model)
    try:
        with torch.no_grad():
            trace.model(x, *states)
    except Exception as error:
        found = f"that the model does not run on {tuple(size)} ({first_line(error)[:120]})"
        raise ConversionError("input_shape", found, "give the shape of one image, without batch and steps") from None
    finally:
        for hook in hooks:
            hook.remove()
    reset(trace.model)
    for path, mine in _replayed(layers, list(x) if picks else [x] * steps):
        theirs = spikes[path].pop(0) if spikes[path] else None
        if theirs is None or not torch.equal(mine, theirs):
            raise ConversionError(path, "other spikes in one step of its own than in the model", _ROW)
    reset(trace.model)


def _recorder(kept: list[Tensor]) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        spikes = output[0] if isinstance(output, tuple) else output
        kept.append(spikes.detach().clone())

    return hook


def _replayed(layers: Layers, inputs: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    for x in inputs:
        for path, module in layers:
            with torch.no_grad():
                x = module(x)
            if isinstance(module, CaLIF):
                x = x[0] if isinstance(x, tuple) else x
                yield path, x
