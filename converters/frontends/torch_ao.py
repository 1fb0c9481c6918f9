"""From a model prepared by torch.ao.quantization (the paper's toolkit), eager or FX, to a QuantGraph.

The truth is the *prepared* model's forward in eval mode, fake-quantisers on and observers off. The int8
kernels of the toolkit's ``convert`` round differently, and recompute scales; they are no reference.
"""

from __future__ import annotations

from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn

from converters.frontends.operations import FUNCTIONS, METHODS, MODULES, of_module, refuse, same
from converters.frontends.torch_ao_quantisers import TorchAoWalker, fake_quantise
from converters.frontends.torch_ao_trace import quiet, toolkit, trace
from converters.frontends.torch_ao_weights import functional_conv, functional_linear, layer
from converters.frontends.walker import Handler
from converters.quantised import QuantGraph

__all__ = ["from_torch_ao"]


def from_torch_ao(model: nn.Module, example: Tensor) -> QuantGraph:
    """Integers, scales and topology of a model prepared for QAT by ``torch.ao.quantization``, and trained.

    Parameters
    ----------
    model : torch.nn.Module
        Eager mode (``QuantStub``, ``fuse_modules_qat``, ``prepare_qat``, ``FloatFunctional``) or FX mode
        (``prepare_qat_fx``); before ``convert``. It is left as it is.
    example : float tensor of shape ``(N, C, H, W)`` or ``(N, n)``
        A batch in the range of the training images; only its shape matters.

    Returns
    -------
    QuantGraph
        Layers bear the paths of their modules. An unquantised final layer is read from the membrane.

    Raises
    ------
    ConversionError
        For what is not converted: an activation without fake-quantiser, a max pool, an unknown
        module... The message names the module's path and the way out.

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
    with quiet():
        functions = {**FUNCTIONS, F.conv2d: functional_conv, F.linear: functional_linear}
        return TorchAoWalker(trace(model, example), _modules(), functions, METHODS, "torch_ao").walk()


_UNPREPARED = refuse("a layer without weight fake-quantiser", "give it a qconfig and call prepare_qat")
_NORM = refuse("a batch norm on its own", "fuse it with its convolution: torch.ao.quantization.fuse_modules_qat")


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
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _NORM),
    }
