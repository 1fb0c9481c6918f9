"""From a model prepared by torch.ao.quantization (the paper's toolkit), eager or FX, to a QuantGraph.

The truth is the *prepared* model's forward in eval mode, fake-quantisers on and observers off. The int8
kernels of the toolkit's ``convert`` round differently, and recompute scales; they are no reference.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.checking import check_conversion, left_alone
from converters.frontends.operations import FUNCTIONS, METHODS, MODULES, of_module, refuse, same
from converters.frontends.torch_ao_quantisers import TorchAoWalker, fake_quantise
from converters.frontends.torch_ao_trace import evaluated, quiet, toolkit, trace
from converters.frontends.torch_ao_weights import functional_conv, functional_linear, layer
from converters.frontends.tracing import check_example, where_is
from converters.frontends.walker import Handler, Walker
from converters.frontends.watching import show
from converters.quantised import QuantGraph

__all__ = ["from_torch_ao"]


def from_torch_ao(model: nn.Module, example: Tensor, *, check: bool | Tensor = True) -> QuantGraph:
    """Integers, scales and topology of a model prepared for QAT by ``torch.ao.quantization``, and trained.

    Parameters
    ----------
    model : torch.nn.Module
        Eager mode (``QuantStub``, ``fuse_modules_qat``, ``prepare_qat``, ``FloatFunctional``) or FX mode
        (``prepare_qat_fx``); before ``convert``. It is left as it is.
    example : float tensor of shape ``(N, C, H, W)`` or ``(N, n)``
        A batch in the range of the training images.
    check : bool or float tensor like ``example``
        The result is compared with the model's own forward, layer by layer, on the example, random and extreme images
        of its range (one forward pass of at most 15 images); on a tensor's images instead; with False on none.
        ``checked`` of the result says what was compared.

    Returns
    -------
    QuantGraph
        Layers bear the paths of their modules. An unquantised final layer is read from the membrane.

    Raises
    ------
    ConversionError
        For what is not converted: an activation without fake-quantiser, a max pool, an unknown
        module... The message names the module's path and the way out. And for a difference from the model that is no
        near-tie of its float sums, naming the first layer that has one.

    Notes
    -----
    Ties round to even, as the toolkit's kernels do. In FX mode an average pool shares its input's scale,
    so that exact ties are common, and the prepared model breaks them by the noise of its float sums;
    the integers here are those of exact arithmetic. A pool with a fake-quantiser of its own hardly ever ties.

    Examples
    --------
    >>> import torch
    >>> from torch.ao.quantization import QConfigMapping, get_default_qat_qconfig
    >>> from torch.ao.quantization.quantize_fx import prepare_qat_fx
    >>> net, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(8, 4)
    >>> with quiet():
    ...     mapping = QConfigMapping().set_global(get_default_qat_qconfig("x86"))
    ...     prepared = prepare_qat_fx(net.train(), mapping, (x,))
    >>> _ = prepared(x)                                            # training goes here
    >>> [(layer.name, layer.shape) for layer in from_torch_ao(prepared, x).layers]
    [('_0', (3,)), ('_2', (2,))]
    """
    check_example(model, example)
    with quiet(), left_alone(example.device):
        functions = {**FUNCTIONS, F.conv2d: functional_conv, F.linear: functional_linear}
        walker = TorchAoWalker(trace(model, example), _modules(), functions, METHODS, "torch_ao")
        q = walker.walk()
        # whatever the type of the images, its fake-quantisers round in float32
        return check_conversion(
            q, lambda images: show(evaluated(model), walker.shown, images), example, check, dtype=torch.float32
        )


_UNPREPARED = refuse(
    "a layer without weight fake-quantiser",
    "give it a qconfig and call prepare_qat, which prepares a module at its first place only: use one for each place",
)


def _norm(walker: Walker, node: fx.Node, module: nn.Module, *_: Any) -> Any:
    """The toolkit folds a batch norm into the layer before it, or leaves it alone."""
    found, todo = "a batch norm on its own", "fuse it with its convolution: torch.ao.quantization.fuse_modules_qat"
    if getattr(module, "running_mean", None) is None:
        found, todo = "a batch norm without running statistics", "use track_running_stats=True, and fuse it"
    elif getattr(module, "weight", None) is None:
        found, todo = f"{found}, without weights", "use affine=True, and fuse it with its convolution"
    raise ConversionError(where_is(node), found, todo)


@cache
def _modules() -> dict[type, Handler]:
    """Handler of each module type."""
    ao = toolkit()
    q, i = ao.nnqat, ao.nniqat
    return {
        **MODULES,
        q.Conv2d: layer(linear=False, norm=False, relu=False),
        i.ConvReLU2d: layer(linear=False, norm=False, relu=True),
        i.ConvBn2d: layer(linear=False, norm=True, relu=False),
        i.ConvBnReLU2d: layer(linear=False, norm=True, relu=True),
        q.Linear: layer(linear=True, norm=False, relu=False),
        i.LinearReLU: layer(linear=True, norm=False, relu=True),
        i.LinearBn1d: layer(linear=True, norm=True, relu=False),
        **dict.fromkeys(ao.fakes, fake_quantise),
        **dict.fromkeys((ao.stubs.QuantStub, ao.stubs.DeQuantStub), of_module(same)),
        **dict.fromkeys((nn.Conv2d, nn.Linear), _UNPREPARED),
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _norm),
    }
