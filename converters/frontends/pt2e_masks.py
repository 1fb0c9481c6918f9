"""Masks of PyTorch's encoders and decoders, which look at a mask's values to find out whether it is causal.

No exporter can follow that. The answer chooses between two ways to the same result, of which the one for any mask is
left.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

__all__ = ["take_masks_as_they_are"]

_FLAGS: dict[type[nn.Module], str] = {nn.TransformerEncoder: "is_causal", nn.TransformerDecoder: "tgt_is_causal"}


def take_masks_as_they_are(model: nn.Module) -> None:
    """Let the encoders and decoders in a model, in place, apply their masks without looking at what these are.

    Whoever calls them with ``is_causal`` has said it, and is taken at his word as PyTorch does.
    """
    for module in model.modules():
        flag = _FLAGS.get(type(module))
        if flag is not None:
            module.register_forward_pre_hook(_Answer(flag), with_kwargs=True)


class _Answer:
    """Says no where a call leaves it open whether a mask is causal."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        if given.get(self.flag) is not None:
            return None
        given.pop("self")
        return (), {**given, self.flag: False}
