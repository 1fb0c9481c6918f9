"""A prepared torch.ao model as an FX graph with every fake-quantiser as a node of its own.

In FX mode the prepared GraphModule is that graph. An eager model is traced with the toolkit's modules as
leaves; the fake-quantiser that hangs on a leaf by a forward hook is written out after it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx, nn

from converters.errors import ConversionError
from converters.frontends.examples import Given
from converters.frontends.in_place_proxies import InPlaceTracer
from converters.frontends.tracing import Traced, record, traced_graph, where_is

__all__ = ["evaluated", "quiet", "toolkit", "trace"]


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
            import torch.ao.nn.intrinsic as nni
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
        norms=(nni.BNReLU2d, nni.BNReLU3d),
        fakes=fakes,
        functionals=(nnq.FloatFunctional, nnq.FXFloatFunctional),
        observer=observer.ObserverBase,
        stubs=stubs,
    )


class _Tracer(InPlaceTracer):
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


def evaluated(model: nn.Module) -> nn.Module:
    """A copy in eval mode, fake-quantisers as they are and observers off."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if type(module) in toolkit().fakes:
            module.disable_observer()
    return model


def trace(model: nn.Module, example: Given) -> Traced:
    """The graph of a prepared model, run once on ``example`` in eval mode with the observers off.

    Works on a copy. The run yields the shapes, and refreshes the scales: the toolkit's fused
    fake-quantiser computes them anew from its running range at every call.
    """
    fakes = toolkit().fakes
    model = evaluated(model)
    graph = model.graph if isinstance(model, fx.GraphModule) else traced_graph(_Tracer(), model)
    modules = dict(model.named_modules(remove_duplicate=False))
    with quiet():
        traced = record(model, graph, example)
    for node in traced.nodes:
        if node.op == "call_module":
            _check_fakes(where_is(node), modules[str(node.target)], fakes)
    return traced


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
