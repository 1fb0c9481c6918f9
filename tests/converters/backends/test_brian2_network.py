"""The Brian2 network that a user gets: what it says of itself, and what Brian2 says of it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import brian2
import pytest

import converters
from calif_plugins import CaLIFParameters
from calif_plugins.brian2 import calif_group
from tests.converters.sample_graphs import GRAPHS, images


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What Brian2 says of objects that no network has run."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("brian2.core.base.unused_brian_object"), Kept()
    logger.addHandler(handler)
    gc.collect()
    found.clear()
    yield found
    logger.removeHandler(handler)


@pytest.mark.parametrize("name", ["residual", "signed_input"])
def test_one_that_is_dropped_without_a_run_is_nothing_to_warn_of(name: str, told: list[str]) -> None:
    q = GRAPHS[name]()
    built = converters.to_brian2(converters.to_nir(q), images(q, 2))
    assert repr(built).startswith("BrianNetwork(images=2, T=")
    del built
    gc.collect()
    assert told == []


def test_a_users_own_object_is_told_as_ever(told: list[str]) -> None:
    brian2.prefs.codegen.target = "numpy"
    group = calif_group(2, CaLIFParameters(threshold=2.0, y_min=-8, y_max=8), window=8, layer="mine")
    name = group.name
    del group
    gc.collect()
    assert [text.split("'")[1] for text in told] == [name]
