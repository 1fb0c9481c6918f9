"""The PT2E front-end: a plain PyTorch module to a trainable quantised one, and that to a QuantGraph.

``prepare_qat`` exports the module and lets torchao insert the fake quantisers that
:class:`~converters.frontends.quantizer.CaLIFQuantizer` asks for; operations in place and batch norms are made ready for
that first. ``from_pt2e`` reads integers, scales and topology off the trained graph: they are what it computes with.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim.swa_utils import AveragedModel
from torchao.quantization.pt2e import disable_observer, enable_observer
from torchao.quantization.pt2e.prepare import prepare

from converters.errors import ConversionError
from converters.frontends.aten import where
from converters.frontends.probes import check_own_images
from converters.frontends.pt2e_auxiliary import drop_auxiliary
from converters.frontends.pt2e_checking import check_converted, check_prepared
from converters.frontends.pt2e_functional import make_functional
from converters.frontends.pt2e_fuse import fuse_batch_norms
from converters.frontends.pt2e_module import PreparedModel
from converters.frontends.pt2e_placement import refer_backwards
from converters.frontends.pt2e_reader import read_prepared
from converters.frontends.pt2e_rewriting import rewrite
from converters.frontends.quantizer import CaLIFQuantizer, LevelQuantiser
from converters.frontends.tracing import check_finite, first_line
from converters.quantised import QuantGraph

__all__ = ["freeze_observers", "from_pt2e", "prepare_qat", "thaw_observers"]


def prepare_qat(
    model: nn.Module,
    example: Tensor,
    levels: int = 127,
    weight_bits: int = 8,
    *,
    per_channel: bool = True,
    signed_input: bool | None = None,
    quantise_output: bool = True,
    input_levels: int | None = None,
    check: bool | Tensor = True,
) -> PreparedModel:
    """Make a plain PyTorch module trainable with quantised weights and activations.

    Parameters
    ----------
    model : nn.Module
        Any feed-forward network: convolutions and linear layers of any rank, pools, maxima, pointwise functions, norms,
        sums, products, concatenations, changes of place and shape. Dropouts and stochastic depth are off in evaluation;
        heads that ``forward`` returns in training alone are left out; the vectors of a spectral norm stay as they are.
    example : float tensor ``(N, C, H, W)``
        A batch of real images: its sign says whether the input is signed, its shape (but not N) is kept.
    levels : int
        Largest activation level: ``0 .. levels`` after a ReLU, ``-levels .. levels`` elsewhere. Train with
        ``levels = T`` for a window of T steps.
    weight_bits : int
        2 to 8, symmetric.
    per_channel : bool
        One weight scale per output channel, so one threshold per channel.
    signed_input : bool, optional
        Whether pixels can be negative; by default as ``example`` is.
    quantise_output : bool
        False leaves the logits unquantised: they are read from the membrane of the last layer.
    input_levels : int, optional
        Largest level of the input, ``levels`` by default. With more than ``levels``, convert with
        ``coding="direct"``: the first layer's charge then comes evenly over ``T = levels`` steps, however many levels
        a pixel has. (An input that is added to a layer's output keeps ``levels``.)
    check : bool or float tensor like ``example``
        The result, its quantisers switched off, is compared with ``model`` itself, in evaluation and in training mode:
        on images of the example and noise of its range; on a tensor's images instead; with False not at all.

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
    """
    if not isinstance(model, nn.Module):
        raise ConversionError("model", type(model).__name__, "give a torch.nn.Module")
    if not isinstance(example, Tensor) or not example.is_floating_point() or example.ndim < 2:
        found = (
            f"{example.dtype} of shape {tuple(example.shape)}"
            if isinstance(example, Tensor)
            else type(example).__name__
        )
        raise ConversionError("example", found, "give a float batch of real images, (N, C, H, W)")
    if not bool(torch.isfinite(example).all()):
        raise ConversionError("example", "NaN or infinite pixels", "clean the data first")
    signed = bool((example < 0).any()) if signed_input is None else signed_input
    quantizer = CaLIFQuantizer(levels, weight_bits, per_channel, signed, quantise_output, input_levels)
    _check_norms(model)
    if len(example) < 2:  # a batch of one would fix the batch size
        example = torch.cat([example, example])
    check_own_images(example, check)
    try:
        twin = copy.deepcopy(model).train()
    except Exception as error:
        raise ConversionError(
            type(model).__name__, f"that it cannot be copied ({first_line(error)[:160]})", "let copy.deepcopy take it"
        ) from error
    _hold_spectral_norms(twin)
    prepared = _prepared(_exported(twin, example), quantizer)
    read_prepared(prepared, dry=True)  # what cannot be converted is refused before it is trained
    check_prepared(twin, prepared, example, check)
    prepared.meta["example"] = example[:4].detach().clone()
    return prepared.train(model.training)


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


def _exported(model: nn.Module, example: Tensor) -> fx.GraphModule:
    try:
        batch = torch.export.Dim("batch", min=1)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="The tensor attribute", category=UserWarning
            )  # of recurrent layers
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
        exported = program.module(check_guards=False)
        drop_auxiliary(exported, model, example)
        return exported
    except ConversionError:
        raise
    except Exception as error:  # the exporter has dozens of kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConversionError(
            type(model).__name__,
            f"that torch.export cannot follow its forward ({reason[:160]})",
            "leave data-dependent branches and the batch size out of forward",
        ) from error


def _prepared(model: fx.GraphModule, quantizer: CaLIFQuantizer) -> PreparedModel:
    """With fake quantisers where the quantizer wants them, in training mode."""
    make_functional(model)
    rewrite(model)
    quantizer.annotate(model)
    fuse_batch_norms(model)
    refer_backwards(model.graph)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Please use quant_min and quant_max", category=UserWarning)
            model = prepare(model, {}, is_qat=True, obs_or_fq_callback=quantizer.prepare_obs_or_fq_callback)
    except Exception as error:
        raise ConversionError(
            "model", f"that torchao cannot place its quantisers ({first_line(error)[:160]})", "please report it"
        ) from error
    prepared = PreparedModel.of(model)
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            quantiser: Any = prepared.get_submodule(str(node.target))
            source = node.args[0]
            quantiser.path = str(source.target) if source.op == "get_attr" else where(source)
            quantiser.watching = quantiser.watching or source.op == "placeholder"
    return prepared.train()


def freeze_observers(model: nn.Module) -> None:
    """Stop the activation ranges from moving, for the last epochs of a training run."""
    model.apply(disable_observer)


def thaw_observers(model: nn.Module) -> None:
    """Let the activation ranges move again."""
    model.apply(enable_observer)


def from_pt2e(model: nn.Module, *, check: bool | Tensor = True) -> QuantGraph:
    """The integers, scales and topology of a trained model from :func:`prepare_qat`.

    Parameters
    ----------
    model : nn.Module
        Left as it is. It may be in a ``DataParallel``, ``DistributedDataParallel`` or ``AveragedModel``, or compiled.
    check : bool or float tensor like the example of :func:`prepare_qat`
        The result is compared with the model's own forward in evaluation mode, layer by layer, on that example, random
        and extreme images of its range (one forward pass of at most 15 images); on a tensor's images instead; with
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
