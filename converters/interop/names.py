"""What there is to compare: simulators, by their distributions' names, and the ways of writing a network for them."""

from __future__ import annotations

__all__ = ["EXACT", "INSTALL", "ROUTES"]

ROUTES = ("lowered", "native", "plain_if")
EXACT = ("lowered", "native")

INSTALL: dict[str, str] = {
    "spikingjelly": 'pip install "calif-plugins[spikingjelly]"',
    "norse": 'pip install "calif-plugins[norse]"',
    "snntorch": 'pip install snntorch "nirtorch>=2.6,<2.7"',
    "sinabs": 'pip install --no-deps "sinabs>=3.1.3,<3.2" pbr',  # it pins nir<=1.0.4, and runs with 1.0.8
}
"""How to get each simulator, by its name, which is also its distribution's."""
