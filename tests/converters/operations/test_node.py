"""The node of an operation: what a stranger wrote in it is an operation, or one error."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import converters
from converters.errors import ConversionError, FileFormatError
from converters.network import Network
from converters.operations import OPERATIONS
from converters.operations.node import CaLIFOperation
from converters.testing.networks import NETWORKS


def _known(graph: nir.NIRGraph) -> bool:
    return all(n.operation in OPERATIONS for n in graph.nodes.values() if type(n) is CaLIFOperation)


GRAPH, ORDERED = next(
    (graph, name)
    for graph in (converters.to_nir(make(), T=7) for make in NETWORKS.values())
    for name, node in graph.nodes.items()
    if type(node) is CaLIFOperation and node.sources and _known(graph)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=12) | json_values.map(json.dumps))
@example(GRAPH.nodes[ORDERED].sources)
def test_sources_that_a_stranger_wrote(text: str) -> None:
    """Neither another error nor a network whose operands are others."""
    true = GRAPH.nodes[ORDERED]
    other = nir.NIRGraph({**GRAPH.nodes, ORDERED: replace(true, sources=text)}, GRAPH.edges, type_check=False)
    if _names(text) == set(json.loads(true.sources)):
        assert Network.from_graph(other).spec.shape
        return
    with pytest.raises(ConversionError, match=r"^[^\n]+$"):
        Network.from_graph(other)


def _names(text: str) -> set[str]:
    with contextlib.suppress(ValueError, TypeError):
        return set(json.loads(text))
    return set()


@pytest.mark.parametrize("text", ["x", "[", "3", '"ab"', "[3]", '[["a"]]', "null", "{}", "[]", "NaN"])
def test_a_file_with_such_sources(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.nir"
    converters.write(path, GRAPH)
    rewritten(path, GRAPH.nodes[ORDERED].sources, text)
    with pytest.raises(FileFormatError) as caught:
        converters.read(path)
    assert "\n" not in str(caught.value)


def rewritten(path: Path, before: str, after: str) -> None:
    """The file, with the first text ``before`` in it replaced."""
    with h5py.File(path, "a") as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if _text(item) == before else None)
        del file[found[0]]
        file[found[0]] = after


def _text(item: Any) -> str | None:
    value = item[()] if isinstance(item, h5py.Dataset) and item.shape == () else None
    return value.decode() if isinstance(value, bytes) else None
