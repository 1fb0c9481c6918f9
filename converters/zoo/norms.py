"""Batch norms, of the same function in another form: folded into weights, or with the statistics of other images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils.hooks import RemovableHandle

__all__ = ["Linear", "fold_batch_norms", "norms_behind", "restate_batch_norms"]

Linear: TypeAlias = nn.Conv2d | nn.Linear


@torch.no_grad()
def restate_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics of these images, ``(N, C, H, W)``, and such a weight and bias that the
    network's function in evaluation mode stays what it is. In training mode it is close to it then.
    """

    def restate(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        x = given[0].transpose(0, 1).flatten(1)
        mean, variance = x.mean(1), x.var(1, correction=0)
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.add_(gain * (mean - norm.running_mean))
        norm.weight.copy_(gain * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    hooks = [m.register_forward_pre_hook(restate) for m in model.modules() if isinstance(m, _BatchNorm)]
    _look(model, images, hooks)


@torch.no_grad()
def fold_batch_norms(model: nn.Module, example: Tensor) -> None:
    """Put every batch norm behind a convolution or dense layer into its weights, for evaluation alone.

    ``example``: as of :func:`norms_behind`.
    """
    model.eval()
    for name, norm in norms_behind(model, example).items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            model.set_submodule(name, fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear):
            model.set_submodule(name, fuse_linear_bn_eval(layer, norm))
        model.set_submodule(next(n for n, m in model.named_modules() if m is norm), nn.Identity())


@torch.no_grad()
def norms_behind(model: nn.Module, example: Tensor) -> dict[str, _BatchNorm]:
    """The batch norm that reads each convolution's or dense layer's result, by the layer's name.

    ``example``: a batch ``(N, C, H, W)`` to see that by; in evaluation mode, so that nothing moves.
    """
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # an address is one tensor's as long as that lives
    found: dict[str, _BatchNorm] = {}
    hooks = []
    for name, m in model.named_modules():
        if isinstance(m, Linear):

            def record(_m: nn.Module, _x: Any, y: Tensor, name: str = name) -> None:
                made[id(y)] = name
                kept.append(y)

            hooks.append(m.register_forward_hook(record))
        elif isinstance(m, _BatchNorm):

            def look(m: nn.Module, given: tuple[Tensor, ...]) -> None:
                if id(given[0]) in made:
                    found[made[id(given[0])]] = m  # type: ignore[assignment]

            hooks.append(m.register_forward_pre_hook(look))
    _look(model, example, hooks)
    return found


def _look(model: nn.Module, images: Tensor, hooks: Iterable[RemovableHandle]) -> None:
    """Images through the model in evaluation mode, for hooks that are gone then; its mode is as it was."""
    training = model.training
    model.eval()
    try:
        model(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
