"""From a model of Brevitas layers to a QuantGraph.

The truth is the model's forward in eval mode. Batch norms are folded behind the integer accumulator: merging
them into the weights, as ``merge_bn`` does, would change what the weights round to, and so the function.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from converters.errors import ConversionError, MissingExtraError
from converters.frontends.brevitas_layers import handlers
from converters.frontends.brevitas_quantisers import BrevitasWalker
from converters.frontends.checking import Shown, check_conversion, left_alone
from converters.frontends.examples import Given
from converters.frontends.in_place_proxies import InPlaceTracer
from converters.frontends.operations import FUNCTIONS, METHODS, MODULES
from converters.frontends.tracing import check_example, record, traced_graph, where_is
from converters.frontends.watching import show
from converters.ports.inputs import Batches
from converters.quantised import QuantGraph

__all__ = ["from_brevitas"]


def from_brevitas(model: nn.Module, example: Batches, *, check: bool | Batches = True) -> QuantGraph:
    """Integers, scales and topology of a trained model of Brevitas layers.

    Parameters
    ----------
    model : torch.nn.Module
        Its quantised layers, convolutions of one to three axes and transposed ones, activations, its pools that
        truncate, upsampling, ``QuantEltwiseAdd``, its attention (``batch_first=True``)...; and between them PyTorch's
        own: max pools and whatever moves values as they are; batch norms, averages, sums, products, norms, any
        activation, with a ``QuantIdentity`` behind them. It is left as it is.
    example : float tensor of shape ``(N, C, H, W)``, ``(N, n)``...
        A batch in the range of the training images. For a forward of several tensors a tuple of batches, or a
        dictionary by the names of its parameters, which become the inputs' names.
    check : bool or like ``example``
        The result is compared with the model's own forward, layer by layer, on the example, random and extreme images
        of its range (at most 17 of them); on images of your own instead; with False on none.
        ``checked`` of the result says what was compared.

    Returns
    -------
    QuantGraph
        Layers bear the paths of their modules. An unquantised final layer is read from the membrane.

    Raises
    ------
    MissingExtraError
        If Brevitas is not installed.
    ConversionError
        For what is not converted, naming the module's path and the way out; and for a difference from the model that
        is no near-tie of its float sums, naming the first layer that has one.

    Examples
    --------
    >>> import torch; import brevitas.nn as qnn
    >>> net = nn.Sequential(
    ...     qnn.QuantIdentity(return_quant_tensor=True), qnn.QuantLinear(4, 3, bias=True),
    ...     qnn.QuantReLU(return_quant_tensor=True), qnn.QuantLinear(3, 2, bias=False))
    >>> _ = net(torch.rand(8, 4))                                      # training goes here
    >>> [(layer.name, layer.shape) for layer in from_brevitas(net, torch.rand(2, 4)).layers]
    [('_1', (3,)), ('_3', (2,))]
    """
    qnn = _toolkit()
    given = check_example(model, example)
    with _quiet(), left_alone(given.tensors[0].device):
        twin = copy.deepcopy(model).eval()
        graph = traced_graph(_Tracer(), twin)
        _check_runs(graph, twin, qnn)
        modules = {**MODULES, **handlers(qnn)}
        walker = BrevitasWalker(record(twin, graph, given.given), modules, FUNCTIONS, METHODS, "brevitas")
        q = walker.walk(given.names)

        def run(images: Given) -> Shown:
            return show(copy.deepcopy(model).eval(), walker.shown, given.replaced(images))

        return check_conversion(q, run, given.given, check)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # a notice of named tensors, which Brevitas touches through torch's own functions
        warnings.filterwarnings("ignore", message="Named tensors", category=UserWarning)
        yield


class _Tracer(InPlaceTracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential and type(m).__module__.startswith(("torch.nn.", "brevitas."))


def _toolkit() -> Any:
    try:
        import brevitas.nn as qnn
    except ImportError as error:
        raise MissingExtraError("brevitas", "brevitas", str(error)) from None
    return qnn


def _check_runs(graph: fx.Graph, model: nn.Module, qnn: Any) -> None:
    """Name the layer that Brevitas itself does not run: its own error says nothing of what to do."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        if node.op == "call_module" and type(modules[str(node.target)]) is qnn.QuantCat:
            found = "a QuantCat, which Brevitas itself does not run (QuantTensor has no cat)"
            raise ConversionError(where_is(node), found, "give both operands to one QuantIdentity, then to torch.cat")
