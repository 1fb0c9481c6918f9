"""The PT2E front-end: a plain PyTorch module to a trainable quantised one, and that to a QuantGraph.

``prepare_qat`` exports the module and lets torchao insert the fake quantisers that
:class:`~converters.frontends.quantizer.CaLIFQuantizer` asks for. ``from_pt2e`` has torchao convert the trained
model (which folds batch norm) and reads integers and scales off the converted graph: they are the toolkit's.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e import (
    FakeQuantizeBase,
    allow_exported_model_train_eval,
    disable_observer,
    enable_observer,
    move_exported_model_to_eval,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

from converters.errors import ConversionError
from converters.frontends.pt2e_fold import only_convolutions_present
from converters.frontends.pt2e_reader import read_converted
from converters.frontends.quantizer import CaLIFQuantizer
from converters.frontends.tracing import check_finite
from converters.quantised import QuantGraph

__all__ = ["convert", "freeze_observers", "from_pt2e", "prepare_qat", "thaw_observers"]


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
) -> fx.GraphModule:
    """Make a plain PyTorch module trainable with quantised weights and activations.

    Parameters
    ----------
    model : nn.Module
        Convolutions, linear layers, batch norm, ReLU, ReLU6, average pools, additions, concatenations.
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

    Returns
    -------
    GraphModule
        Train it in any loop, with ``train()``, ``eval()`` and ``state_dict()``; then :func:`from_pt2e`.

    Raises
    ------
    ConversionError
        Naming the module and the operation that has no Ca-LIF counterpart, and the way out.

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
    training = model.training
    if len(example) < 2:  # a batch of one would fix the batch size
        example = torch.cat([example, example])
    try:
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(copy.deepcopy(model).train(), (example,), dynamic_shapes=({0: batch},))
        exported = program.module(check_guards=False)
    except ConversionError:
        raise
    except Exception as error:  # the exporter has dozens of kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConversionError(
            type(model).__name__,
            f"that torch.export cannot follow its forward ({reason[:160]})",
            "leave data-dependent branches and the batch size out of forward",
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use quant_min and quant_max", category=UserWarning)
        prepared = prepare_qat_pt2e(exported, quantizer)
    allow_exported_model_train_eval(prepared)
    prepared.train(training)
    return prepared


def freeze_observers(model: nn.Module) -> None:
    """Stop the activation ranges from moving, for the last epochs of a training run."""
    model.apply(disable_observer)


def thaw_observers(model: nn.Module) -> None:
    """Let the activation ranges move again."""
    model.apply(enable_observer)


def from_pt2e(model: nn.Module) -> QuantGraph:
    """The integers, scales and topology of a trained model from :func:`prepare_qat`.

    The model itself is left as it is.

    Raises
    ------
    ConversionError
        If the model was not prepared, has never seen data, or has weights that are not finite.
    """
    return read_converted(convert(model))


def convert(model: nn.Module) -> fx.GraphModule:
    """torchao's own converted model, in evaluation mode: what :func:`from_pt2e` reads. Leaves ``model`` alone."""
    fakes = [(n, m) for n, m in model.named_modules() if isinstance(m, FakeQuantizeBase)]
    if not isinstance(model, fx.GraphModule) or not fakes:
        raise ConversionError(
            "model", f"{type(model).__name__} without fake quantisers", "prepare it with prepare_qat first"
        )
    for name, fake in fakes:
        if not _has_seen_data(fake):
            raise ConversionError(
                name, "a quantiser that has seen no data", "train the model, or run images through it"
            )
    check_finite(model)
    twin = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use quant_min and quant_max", category=UserWarning)
        move_exported_model_to_eval(twin)
        with only_convolutions_present():
            return convert_pt2e(twin)


def _has_seen_data(fake: Any) -> bool:
    low = fake.activation_post_process.min_val
    return bool(low.numel()) and bool(torch.isfinite(low).all())
