"""What there is to compare: simulators, by their distributions' names, and the ways of writing a network for them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from converters.errors import ConversionError

__all__ = ["EXACT", "INSTALL", "ROUTES", "chosen_names", "installed"]

ROUTES = ("lowered", "native", "plain_if")
EXACT = ("lowered", "native")

INSTALL: dict[str, str] = {
    "spikingjelly": 'pip install "calif-plugins[spikingjelly]"',
    "norse": 'pip install "calif-plugins[norse]"',
    "snntorch": 'pip install snntorch "nirtorch>=2.6,<2.7"',
    "sinabs": 'pip install --no-deps "sinabs>=3.1.3,<3.2" pbr',  # it pins nir<=1.0.4, and runs with 1.0.8
}
"""How to get each simulator, by its name, which is also its distribution's."""


def installed() -> dict[str, str]:
    """Version of every simulator that is here, by name; none without NIRTorch, which their importers are built on."""
    found: dict[str, str] = {}
    if find_spec("nirtorch") is None:
        return found
    for name in INSTALL:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def chosen_names(simulators: Sequence[str] | None, routes: Sequence[str]) -> list[str]:
    """The simulators to compare with: those named, or all that are installed.

    Raises
    ------
    ConversionError
        For an unknown simulator or route, or a simulator that is not installed.

    >>> chosen_names([], ["nosuch"])
    Traceback (most recent call last):
    converters.errors.ConversionError: route: found 'nosuch'; use one of lowered, native, plain_if
    """
    here = installed()
    for route in routes:
        if route not in ROUTES:
            raise ConversionError("route", f"{route!r}", f"use one of {', '.join(ROUTES)}")
    for name in simulators or ():
        if name not in INSTALL:
            raise ConversionError("simulator", f"{name!r}", f"use one of {', '.join(INSTALL)}")
        if name not in here:
            raise ConversionError("simulator", f"that {name} is not installed", INSTALL[name])
    return list(here if simulators is None else simulators)
