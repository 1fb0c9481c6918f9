"""A prepared torch.ao model as an FX graph with every fake-quantiser as a node of its own.

In FX mode the prepared GraphModule is that graph. An eager model is traced with the toolkit's modules as
leaves; the fake-quantiser that hangs on a leaf by a forward hook is written out after it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from converters.errors import ConversionError

__all__ = ["Traced", "quiet", "toolkit", "trace", "where_is"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the toolkit's notices of its own deprecation; the one place that does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"torch\.ao\.", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*reduce_range will be deprecated", category=UserWarning)
        yield


@cache
def toolkit() -> SimpleNamespace:
    """The modules of ``torch.ao`` that a prepared model is made of.

    Raises
    ------
    ConversionError
        If this version of torch has none: the toolkit is deprecated and overdue for removal.
    """
    try:
        with quiet():
            import torch.ao.nn.intrinsic.qat as nniqat
            import torch.ao.nn.qat as nnqat
            import torch.ao.nn.quantized as nnq
            from torch.ao.quantization import fake_quantize, observer, stubs
    except ImportError as error:
        raise ConversionError(
            "torch.ao.quantization",
            f"that torch {torch.__version__} does not bring it ({error})",
            "install an earlier torch, or train with converters.prepare_qat (PT2E)",
        ) from error
    fakes = (
        fake_quantize.FakeQuantize,
        fake_quantize.FusedMovingAvgObsFakeQuantize,
        fake_quantize.FixedQParamsFakeQuantize,
    )
    return SimpleNamespace(
        nnqat=nnqat,
        nniqat=nniqat,
        fakes=fakes,
        functionals=(nnq.FloatFunctional, nnq.FXFloatFunctional),
        observer=observer.ObserverBase,
        stubs=stubs,
    )


@dataclass(frozen=True)
class Traced:
    """The nodes that the output needs, in order, modules and attributes by path, and what the example gave:
    the shapes of tensors (batch included), and the plain values (sizes, numbers) of other nodes."""

    nodes: tuple[fx.Node, ...]
    modules: dict[str, nn.Module]
    attribute: Callable[[str], Any]
    shapes: dict[fx.Node, tuple[int, ...]]
    constants: dict[fx.Node, Any]


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        ao = toolkit()
        self.fakes = ao.fakes
        self.transparent = (ao.stubs.QuantStub, ao.stubs.DeQuantStub, ao.stubs.QuantWrapper, nn.Sequential)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) not in self.transparent and (
            hasattr(m, "weight_fake_quant") or type(m).__module__.startswith(("torch.nn.", "torch.ao."))
        )

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        out = super().call_module(m, forward, args, kwargs)
        attached = m._modules.get("activation_post_process")
        path = self.path_of_module(m)
        if attached is None or type(m) in self.fakes or not self.is_leaf_module(m, path):
            return out
        return self.create_proxy("call_module", f"{path}.activation_post_process", (out,), {})


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.shapes: list[tuple[int, ...] | None] = []
        self.constants: list[tuple[Any] | None] = []

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        self.shapes.append(tuple(out.shape) if isinstance(out, Tensor) else None)
        self.constants.append(None if any(isinstance(x, Tensor) for x in tree_leaves(out)) else (out,))
        return out


def trace(model: nn.Module, example: Tensor) -> Traced:
    """The graph of a prepared model, run once on ``example`` in eval mode with the observers off.

    Works on a copy. The run yields the shapes, and refreshes the scales: the toolkit's fused
    fake-quantiser computes them anew from its running range at every call.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError("model", f"{type(model).__name__}", "give the prepared torch.nn.Module")
    if not isinstance(example, Tensor) or not example.is_floating_point() or example.ndim < 2:
        found = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ConversionError("example", f"{found}", "give a float batch of images, (N, C, H, W) or (N, n)")
    fakes = toolkit().fakes
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if type(module) in fakes:
            module.disable_observer()
    if isinstance(model, fx.GraphModule):
        graph = model.graph
    else:
        try:
            graph = _Tracer().trace(model)
        except Exception as error:
            raise ConversionError(
                "model",
                f"a forward that cannot be traced ({_first_line(error)})",
                "let it not branch on its data",
            ) from error
    modules = dict(model.named_modules(remove_duplicate=False))
    nodes = _needed(graph)
    for node in nodes:
        if node.op == "call_module":
            _check_fakes(where_is(node), modules[str(node.target)], fakes)
    recorder = _Recorder(fx.GraphModule(model, graph))
    try:
        with torch.no_grad(), quiet():
            recorder.run(example)
    except Exception as error:
        raise ConversionError(
            "example",
            f"that the model does not run on shape {tuple(example.shape)} ({_first_line(error)})",
            "give a fitting batch",
        ) from error
    order = list(graph.nodes)  # of which the recorder ran a copy
    shapes = {node: shape for node, shape in zip(order, recorder.shapes, strict=True) if shape is not None}
    constants = {node: c[0] for node, c in zip(order, recorder.constants, strict=True) if c is not None}

    def attribute(path: str) -> Any:
        value: Any = model
        for part in path.split("."):
            value = getattr(value, part)
        return value

    return Traced(nodes, modules, attribute, shapes, constants)


def where_is(node: fx.Node) -> str:
    """The module path of a node, for people: its own, or that of the module in whose forward it stands."""
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return f"{path}.{node.name}" if path else node.name


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _needed(graph: fx.Graph) -> tuple[fx.Node, ...]:
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed.update([node, *node.all_input_nodes])
    return tuple(node for node in graph.nodes if node in needed)


def _check_fakes(where: str, module: nn.Module, fakes: tuple[type, ...]) -> None:
    for path, fake in (
        (where, module),
        (f"{where}.weight_fake_quant", getattr(module, "weight_fake_quant", None)),
    ):
        if type(fake) not in fakes:
            continue
        if not bool(fake.fake_quant_enabled[0]):
            raise ConversionError(
                path, "a fake-quantiser that is switched off", "call its enable_fake_quant() and train"
            )
        lowest = getattr(fake.activation_post_process, "min_val", None)
        if lowest is not None and not (lowest.numel() and bool(torch.isfinite(lowest).all())):
            raise ConversionError(path, "a fake-quantiser that has seen no data", "train, or run a few batches, first")
