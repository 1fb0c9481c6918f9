"""From a model prepared by torch.ao.quantization (the paper's toolkit), eager or FX, to a QuantGraph.

The truth is the *prepared* model's forward in eval mode, fake-quantisers on and observers off. The int8
kernels of the toolkit's ``convert`` round differently, and recompute scales; they are no reference.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from converters.frontends.checking import Shown, check_conversion, left_alone
from converters.frontends.examples import Given
from converters.frontends.operations import FUNCTIONS, METHODS, MODULES, of_module, refuse, same
from converters.frontends.torch_ao_quantisers import TorchAoWalker, fake_quantise
from converters.frontends.torch_ao_trace import evaluated, quiet, toolkit, trace
from converters.frontends.torch_ao_weights import functional_conv, functional_linear, functional_transposed, layer
from converters.frontends.tracing import check_example, where_is
from converters.frontends.walker import Handler, Walker
from converters.frontends.watching import show
from converters.ports.inputs import Batches
from converters.quantised import QuantGraph

__all__ = ["from_torch_ao"]


def from_torch_ao(model: nn.Module, example: Batches, *, check: bool | Batches = True) -> QuantGraph:
    """Integers, scales and topology of a model prepared for QAT by ``torch.ao.quantization``, and trained.

    Parameters
    ----------
    model : torch.nn.Module
        Eager mode (``QuantStub``, ``fuse_modules_qat``, ``prepare_qat``, ``FloatFunctional``) or FX mode
        (``prepare_qat_fx``); before ``convert``. It is left as it is.
    example : float tensor of shape ``(N, C, H, W)`` or ``(N, n)``
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
    ConversionError
        For what is not converted: an activation without fake-quantiser, an unknown module... The message names the
        module's path and the way out. And for a difference from the model that is no near-tie of its float sums,
        naming the first layer that has one.

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
    given = check_example(model, example)
    with quiet(), left_alone(given.tensors[0].device):
        walker = TorchAoWalker(trace(model, given.given), _modules(), {**FUNCTIONS, **_WEIGHTED}, METHODS, "torch_ao")
        q = walker.walk(given.names)

        def run(images: Given) -> Shown:
            return replace(show(evaluated(model), walker.shown, given.replaced(images)), inverts=True)

        # whatever the type of the images, its fake-quantisers round in float32
        return check_conversion(q, run, given.given, check, dtype=torch.float32)


_UNPREPARED = refuse(
    "a layer without weight fake-quantiser",
    "give it a qconfig and call prepare_qat, which prepares a module at its first place only: use one for each place",
)


_WEIGHTED: dict[Any, Handler] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), functional_conv),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), functional_transposed),
    F.linear: functional_linear,
}
_NOT_IN_QAT = refuse(
    "a transposed convolution, whose weights the toolkit's QAT leaves as they are",
    "call F.conv_transpose2d with a parameter in FX mode, or train with converters.prepare_qat (PT2E)",
)


def _norm_and_relu(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
    """A batch norm without a layer in front of it, which the toolkit fuses with the ReLU behind it."""
    norm = module[0]
    return walker.builder.rectify(where_is(node), MODULES[type(norm)](walker, node, norm, x))


@cache
def _modules() -> dict[type, Handler]:
    """Handler of each module type."""
    ao = toolkit()
    q, i = ao.nnqat, ao.nniqat
    conv, linear = partial(layer, False), partial(layer, True)
    return {
        **MODULES,
        **dict.fromkeys((q.Conv1d, q.Conv2d, q.Conv3d), conv(norm=False, relu=False)),
        **dict.fromkeys((i.ConvReLU1d, i.ConvReLU2d, i.ConvReLU3d), conv(norm=False, relu=True)),
        **dict.fromkeys((i.ConvBn1d, i.ConvBn2d, i.ConvBn3d), conv(norm=True, relu=False)),
        **dict.fromkeys((i.ConvBnReLU1d, i.ConvBnReLU2d, i.ConvBnReLU3d), conv(norm=True, relu=True)),
        q.Linear: linear(norm=False, relu=False),
        i.LinearReLU: linear(norm=False, relu=True),
        i.LinearBn1d: linear(norm=True, relu=False),
        **dict.fromkeys(ao.norms, _norm_and_relu),
        **dict.fromkeys(ao.fakes, fake_quantise),
        **dict.fromkeys((ao.stubs.QuantStub, ao.stubs.DeQuantStub), of_module(same)),
        **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear), _UNPREPARED),
        **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _NOT_IN_QAT),
    }
