"""What a backend is, and the table of those there are.

A backend is one class. The dispatcher (:func:`converters.run`) knows none by name: it asks the table, checks options
against the backend's own, splits images into batches, and hands each to :meth:`Backend.simulate`. Whoever has written
one registers it and lets :func:`converters.testing.conformance` try it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor

from calif_plugins.parameters import PHASES, Phase
from converters.errors import ConversionError
from converters.extras import naming_extras
from converters.network import Network
from converters.nodes import CODINGS
from converters.results import RECORDS, RunResult

__all__ = ["Backend", "NoOptions", "Settings", "backend_for", "backend_names", "register", "unregister"]

AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """What every backend is told beside the network and the images.

    Attributes
    ----------
    phase : {"settle", "paper", "none"}
    settle_from : int
        Step from which thresholds are half; ``T`` unless asked otherwise.
    record : {"output", "counts", "spikes"}
    device : torch.device
    """

    phase: Phase
    settle_from: int
    record: str
    device: torch.device


@dataclass(frozen=True)
class NoOptions:
    """The options of a backend that has none of its own."""


class Backend(ABC):
    """A way to run a converted network.

    Attributes
    ----------
    name : str
        What ``converters.run(..., backend=name)`` calls it, and what its results say.
    own_options : type
        A frozen dataclass of what it takes beside the :class:`Settings`, with defaults; it checks its values.
    phases, records, codings : tuple of str
        What it can do; all else is refused before it is asked.
    several_inputs : bool
        Whether it runs networks of several inputs; where it does not, they are refused.
    """

    name: ClassVar[str]
    own_options: ClassVar[type] = NoOptions
    phases: ClassVar[tuple[str, ...]] = PHASES
    records: ClassVar[tuple[str, ...]] = RECORDS
    codings: ClassVar[tuple[str, ...]] = CODINGS
    several_inputs: ClassVar[bool] = True

    def unusable(self, device: torch.device) -> str:
        """Why it cannot run on this device; empty where it can."""
        return ""

    def batch_size(self, network: Network) -> int:
        """Images at a time by default: so many that the state of the neurons stays within tens of megabytes."""
        return max(1, min(256, 2_000_000 // max(network.neurons, 1)))

    @abstractmethod
    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        """Run one batch of input ``integers``, int64 ``(N, *input shape)``, perhaps an empty one.

        Of several inputs they stand side by side, ``(N, values)``: ``network.by_input(integers)`` has them by name.
        ``options`` is an instance of :attr:`own_options`.
        """

    def options_of(self, given: Mapping[str, Any]) -> Any:
        """The options that a caller gave by name.

        Raises
        ------
        ConversionError
            For one that this backend does not take.
        """
        known = [f.name for f in fields(self.own_options)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            takes = ", ".join(known) if known else "none of its own"
            raise ConversionError("options", f"{unknown}", f"backend {self.name} takes {takes}")
        return self.own_options(**given)

    def check(self, network: Network, settings: Settings) -> None:
        """Raise a ConversionError for what this backend cannot do."""
        reason = self.unusable(settings.device)
        if reason:
            raise ConversionError("backend", f"{self.name!r}, which {reason}", 'use backend="auto"')
        if len(network.specs) > 1 and not self.several_inputs:
            found = f"{self.name!r}, for a network of {len(network.specs)} inputs ({', '.join(network.specs)})"
            raise ConversionError("backend", found, 'it takes one: use backend="auto"')
        for what, wanted, possible in (
            ("phase", settings.phase, self.phases),
            ("record", settings.record, self.records),
            ("coding", network.coding, self.codings),
        ):
            if wanted not in possible:
                raise ConversionError(
                    what, f"{wanted!r}", f"backend {self.name} has {', '.join(possible)}; use another backend for that"
                )


# those of this package: imported when they are asked for, since each brings its simulator
_HOMES = {
    "fast": "converters.backends.fast",
    "snntorch": "converters.backends.snntorch",
    "brian2": "converters.backends.brian2",
    "closed_form": "converters.backends.closed_form",
}
_AUTOMATIC = ("fast", "snntorch")  # what backend="auto" tries, in this order
_REGISTERED: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Add a backend of one's own to those that :func:`converters.run` and the command line know.

    Raises
    ------
    ConversionError
        If its name is taken.
    """
    if backend.name in backend_names():
        raise ConversionError("backend", f"the name {backend.name!r} twice", "call it otherwise")
    _REGISTERED[backend.name] = backend


def unregister(name: str) -> None:
    """Take a backend of one's own off the table again."""
    _REGISTERED.pop(name, None)


def backend_names() -> list[str]:
    """All names that ``backend=`` takes, ``auto`` first."""
    return [AUTO, *_HOMES, *_REGISTERED]


@cache
def _home(name: str) -> Backend:
    with naming_extras():
        found: Backend = import_module(_HOMES[name]).BACKEND
    return found


def backend_for(name: str, device: torch.device) -> Backend:
    """The backend of this name; for ``auto`` the first of :data:`_AUTOMATIC` that runs on ``device``.

    Raises
    ------
    ConversionError
        For a name that is not on the table.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _HOMES:
        return _home(name)
    if name != AUTO:
        raise ConversionError("backend", f"{name!r}", f"use one of {', '.join(backend_names())}")
    candidates = (backend_for(candidate, device) for candidate in _AUTOMATIC)
    return next(b for b in candidates if not b.unusable(device))  # the last one runs everywhere
