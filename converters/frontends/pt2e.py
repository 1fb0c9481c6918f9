"""The PT2E front-end: a plain PyTorch module to a trainable quantised one, and that to a QuantGraph.

``prepare_qat`` exports the module and lets torchao insert the fake quantisers that
:class:`~converters.frontends.quantizer.CaLIFQuantizer` asks for; operations in place and batch norms are made ready for
that first. ``from_pt2e`` reads integers, scales and topology off the trained graph: they are what it computes with.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map
from torchao.quantization.pt2e import disable_observer, enable_observer
from torchao.quantization.pt2e.prepare import prepare

from converters.console.notices import EXPORTER, silenced
from converters.errors import ConversionError, first_line
from converters.frontends.aten import where
from converters.frontends.examples import Example, check_type, each, example_of, is_tokens
from converters.frontends.layer_levels import LevelNumbers
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.models import check_finite, check_float_model, check_recurrence
from converters.frontends.probes import own_images
from converters.frontends.pt2e_auxiliary import drop_auxiliary
from converters.frontends.pt2e_channels import link_scales
from converters.frontends.pt2e_checking import check_converted, check_prepared
from converters.frontends.pt2e_constants import fold_constants
from converters.frontends.pt2e_functional import make_functional
from converters.frontends.pt2e_fuse import fuse_batch_norms
from converters.frontends.pt2e_masks import take_masks_as_they_are
from converters.frontends.pt2e_module import PreparedModel
from converters.frontends.pt2e_placement import refer_backwards
from converters.frontends.pt2e_reader import read_prepared
from converters.frontends.pt2e_rewriting import rewrite
from converters.frontends.quantizer import CaLIFQuantizer
from converters.ports.inputs import Batches, batches
from converters.quantised import QuantGraph

__all__ = ["freeze_observers", "from_pt2e", "prepare_qat", "thaw_observers"]


def prepare_qat(
    model: nn.Module,
    example: Batches,
    levels: LevelNumbers = 127,
    weight_bits: int = 8,
    *,
    per_channel: bool = True,
    signed_input: bool | Sequence[bool] | Mapping[str, bool] | None = None,
    quantise_output: bool = True,
    input_levels: int | None = None,
    per_channel_norms: bool = False,
    check: bool | Batches = True,
) -> PreparedModel:
    """Make a plain PyTorch module trainable with quantised weights and activations.

    Parameters
    ----------
    model : nn.Module
        Any feed-forward network: convolutions and linear layers of any rank, pools, maxima, pointwise functions, norms,
        sums, products, concatenations, changes of place and shape. Dropouts and stochastic depth are off in evaluation;
        heads that ``forward`` returns in training alone are left out; the vectors of a spectral norm stay as they are.
    example : float tensor ``(N, C, H, W)``
        A batch of real images: its sign says whether the input is signed, its shape (but not N) is kept. For a forward
        of several tensors a tuple of batches, or a dictionary by the names of its parameters: inputs of their own, each
        with its own range, called as the parameters are. For an ``nn.Embedding`` at the input, whole numbers
        ``(N, ...)``, int64: its rows are what is quantised, to ``input_levels``.
    levels : int, or mapping of module path to int
        Largest activation level: ``0 .. levels`` after a ReLU, ``-levels .. levels`` elsewhere. Train with
        ``levels = T`` for a window of T steps. With a mapping each layer has the number of the longest path that it
        lies in, ``""`` being the whole network (127 if it is not there); the path of a layer is that of its convolution
        or linear layer, of an addition that of the module whose ``forward`` adds. What meets in an addition, a
        concatenation or a maximum has one scale, and so the largest number of any of them. T is the largest of all.
    weight_bits : int
        2 to 8, symmetric.
    per_channel : bool
        One weight scale per output channel, so one threshold per channel.
    signed_input : bool, optional
        Whether pixels can be negative; by default as ``example`` is. Of several inputs one for each, or one for all.
    quantise_output : bool
        False leaves the logits unquantised: they are read from the membrane of the last layer.
    input_levels : int, optional
        Largest level of the input, ``levels`` by default (of ``""``). With more than ``levels``, convert with
        ``coding="direct"``: the first layer's charge then comes evenly over ``T = levels`` steps, however many levels
        a pixel has. (An input that is added to a layer's output keeps ``levels``.)
    per_channel_norms : bool
        Whether a norm has a scale for each of its channels, and so a threshold of its own for each, where only layers
        with weights read it: these are rounded times the scales (:mod:`~converters.frontends.pt2e_channel_scales`).
        Norms that something else reads, such as an addition, keep one scale.
    check : bool or like ``example``
        The result, its quantisers switched off, is compared with ``model`` itself, in evaluation and in training mode:
        on images of the example and noise of its range; on images of your own instead; with False not at all.

    Returns
    -------
    PreparedModel
        A module, in training mode where ``model`` is. Train it in any loop; then :func:`from_pt2e`. In evaluation
        mode nothing in it moves: no range, no statistics.

    Raises
    ------
    ConversionError
        Naming the module and the operation that has no Ca-LIF counterpart, and the way out; and for a network whose
        exported graph is another one. What is not refused here, :func:`from_pt2e` converts.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> m = prepare_qat(net, torch.rand(4, 1, 4, 4), levels=8)
    >>> _ = m(torch.rand(4, 1, 4, 4))             # any training loop
    >>> q = from_pt2e(m)
    >>> [layer.name for layer in q.layers], q.levels
    (['_0', '_3'], 8)
    >>> m = prepare_qat(net, torch.rand(4, 1, 4, 4), levels={"": 15, "0": 31})
    >>> _ = m(torch.rand(4, 1, 4, 4))
    >>> [(layer.name, layer.y_min, layer.y_max) for layer in from_pt2e(m).layers]
    [('_0', 0, 31), ('_3', -15, 15)]
    """
    check_float_model(model)
    given = example_of(model, example, tokens=True)
    signs = _signs(given, signed_input)
    quantizer = CaLIFQuantizer(
        levels, weight_bits, per_channel, signs, quantise_output, input_levels, per_channel_norms
    )
    _check_norms(model)
    if len(given.tensors[0]) < 2:  # a batch of one would fix the batch size
        given = given.map(lambda x: torch.cat([x, x]))
    own = own_images(given.given, check)
    try:
        twin = copy.deepcopy(model).train()
    except Exception as error:
        raise ConversionError(
            type(model).__name__,
            f"that it cannot be copied ({first_line(error)[:160]})",
            "let copy.deepcopy take it: call torch.nn.utils.prune.remove on pruned layers, and write weight norm as "
            "torch.nn.utils.parametrizations.weight_norm",
        ) from error
    _hold_spectral_norms(twin)
    take_masks_as_they_are(twin)
    prepared = _prepared(_exported(twin, given), quantizer)
    read_prepared(prepared, dry=True)  # what cannot be converted is refused before it is trained
    if check is not False:
        check_prepared(twin, prepared, given, own)
    prepared.meta["example"] = each(given.given, lambda x: x[:4].detach().clone())
    return prepared.train(model.training)


def _signs(example: Example, wanted: Any) -> list[bool]:
    """Whether each input can be negative."""
    if wanted is None:
        return [bool((x < 0).any()) for x in example.tensors]
    if isinstance(wanted, bool):
        return [wanted] * len(example.names)
    return [bool(sign) for sign in batches(example.names, wanted, "signed_input").values()]


def _check_norms(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.momentum is None:
            raise ConversionError(name, "a batch norm with momentum None", "give it a number, such as 0.1")


def _hold_spectral_norms(model: nn.Module) -> None:
    """Keep the vectors of spectral norms, which forward would write to in training, as they are."""
    for module in model.modules():
        norms: list[Any] = [module, *module._forward_pre_hooks.values()]
        for norm in norms:
            if type(norm) in (_SpectralNorm, SpectralNorm):
                norm.n_power_iterations = 0


def _exported(model: nn.Module, example: Example) -> fx.GraphModule:
    try:
        batch = torch.export.Dim("batch", min=1)
        with warnings.catch_warnings(), silenced(EXPORTER), redirect_stderr(io.StringIO()):  # of graphs
            warnings.filterwarnings(
                "ignore", message="The tensor attribute", category=UserWarning
            )  # of recurrent layers
            example = example.map(torch.clone)  # a tensor that is given twice would be one input
            axes = tree_map(lambda _: {0: batch}, example.arguments(model))
            program = torch.export.export(model, example.args, dict(example.kwargs), dynamic_shapes=axes)
        exported = program.module(check_guards=False)
        drop_auxiliary(exported, model, example)
        return exported
    except ConversionError:
        raise
    except Exception as error:  # the exporter has dozens of kinds
        _check_forward(model, example)
        check_recurrence(model)
        reason = first_line(error)
        raise ConversionError(
            type(model).__name__,
            f"that torch.export cannot follow its forward ({reason[:160]})",
            "leave data-dependent branches and the batch size out of forward",
        ) from error


def _check_forward(model: nn.Module, example: Example) -> None:
    """Raise a ConversionError if forward itself does not take the example."""
    try:
        with torch.no_grad():
            example.call(model)
    except Exception as error:
        for name, x in zip(example.names, example.tensors, strict=True):
            if is_tokens(x):
                where = f"example of {name}" if len(example.names) > 1 else "example"
                found = f"{x.dtype} of shape {tuple(x.shape)}, which forward does not take ({first_line(error)[:160]})"
                todo = "give a float batch; only an nn.Embedding takes whole numbers"
                raise ConversionError(where, found, todo) from error
        check_type(model, example)
        shapes = ", ".join(f"{tuple(x.shape[1:])}" for x in example.tensors)
        raise ConversionError(
            "example",
            f"images of shape {shapes}, which forward does not take ({first_line(error)[:160]})",
            "give (N, C, H, W) or (N, n), the batch first",
        ) from error


def _prepared(model: fx.GraphModule, quantizer: CaLIFQuantizer) -> PreparedModel:
    """With fake quantisers where the quantizer wants them, in training mode."""
    fold_constants(model)
    make_functional(model)
    rewrite(model)
    quantizer.annotate(model)
    fuse_batch_norms(model)
    refer_backwards(model.graph)
    try:
        with warnings.catch_warnings(), silenced(EXPORTER), redirect_stderr(io.StringIO()):  # of graphs
            warnings.filterwarnings("ignore", message="Please use quant_min and quant_max", category=UserWarning)
            model = prepare(model, {}, is_qat=True, obs_or_fq_callback=quantizer.prepare_obs_or_fq_callback)
    except Exception as error:
        raise ConversionError(
            "model", f"that torchao cannot place its quantisers ({first_line(error)[:160]})", "please report it"
        ) from error
    prepared = PreparedModel.of(model)
    link_scales(prepared)
    met: set[nn.Module] = set()
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            quantiser: Any = prepared.get_submodule(str(node.target))
            source = node.args[0]
            if quantiser in met:
                node.args = (source, True)
            met.add(quantiser)
            quantiser.path = str(source.target) if source.op == "get_attr" else where(source)
            quantiser.watching = quantiser.watching or source.op == "placeholder"
    prepared.recompile()
    return prepared.train()


def freeze_observers(model: nn.Module) -> None:
    """Stop the activation ranges from moving, for the last epochs of a training run."""
    model.apply(disable_observer)


def thaw_observers(model: nn.Module) -> None:
    """Let the activation ranges move again."""
    model.apply(enable_observer)


def from_pt2e(model: nn.Module, *, check: bool | Batches = True) -> QuantGraph:
    """The integers, scales and topology of a trained model from :func:`prepare_qat`.

    Parameters
    ----------
    model : nn.Module
        Left as it is. It may be in a ``DataParallel``, ``DistributedDataParallel`` or ``AveragedModel``, or compiled.
    check : bool or like the example of :func:`prepare_qat`
        The result is compared with the model's own forward in evaluation mode, layer by layer, on that example, random
        and extreme images of its range (at most 17 of them); on images of your own instead; with
        False on none. ``checked`` of the result says what was compared.

    Raises
    ------
    ConversionError
        If the model was not prepared, has never seen data, or has weights that are not finite; and for a difference
        from the model that is no near-tie of its float sums, naming the first layer that has one.
    """
    prepared = _unwrapped(model)
    check_finite(prepared)
    for name, value in prepared.named_parameters():
        if value.dtype in (torch.float16, torch.bfloat16):
            raise ConversionError(name, f"weights of {value.dtype}", "convert a model in float32, as model.float() is")
    q, shown = read_prepared(prepared)
    return check_converted(q, prepared, shown, prepared.meta["example"], check)


def _unwrapped(model: nn.Module) -> PreparedModel:
    """The prepared model in the wrappers that training loops put around one."""
    inner: Any = model
    while not isinstance(inner, PreparedModel):
        if type(inner) in (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel):
            inner = inner.module
        elif hasattr(inner, "_orig_mod"):  # of torch.compile
            inner = inner._orig_mod
        else:
            break
    if isinstance(inner, PreparedModel):
        return inner
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise ConversionError("model", kind, "give what prepare_qat returned")
    within = [name for name, module in model.named_modules() if isinstance(module, PreparedModel)]
    if within:
        raise ConversionError("model", f"{kind} around a prepared model", f"convert its {within[0]}")
    if any(isinstance(module, LevelQuantiser) for module in model.modules()):
        raise ConversionError(
            "model", f"{kind} made from a prepared model", "convert what prepare_qat returned; it shares its weights"
        )
    raise ConversionError("model", f"{kind} without fake quantisers", "prepare it with prepare_qat first")
