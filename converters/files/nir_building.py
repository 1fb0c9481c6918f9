"""From the fields of a ``.nir`` file to NIR nodes: each by its own field table, checked before it is built."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import nir
import numpy as np

from converters.errors import ConversionError, FileFormatError
from converters.graphs.flattening import DEEPEST, flat
from converters.graphs.shapes import check_size
from converters.nodes import NODES

__all__ = ["NAME", "build_graph", "check_name", "shown"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
"""Names that a node may have: readers pass them on to code generation."""

# fields of each node: required, then optional
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "Affine": ({"weight", "bias"}, set()),
    "CaLIF": ({"shape", "v_threshold", "leak", "v_init", "y_min", "y_max", "tie", "window", "scale"}, set()),
    "CaLIFOperation": ({"operation", "settings"}, {"arrays", "sources"}),
    "Conv1d": ({"weight", "stride", "padding", "dilation", "groups", "bias"}, {"input_shape"}),
    "Conv2d": ({"weight", "stride", "padding", "dilation", "groups", "bias"}, {"input_shape"}),
    "CubaLI": ({"tau_syn", "tau_mem", "r", "v_leak"}, {"w_in"}),
    "CubaLIF": ({"tau_syn", "tau_mem", "r", "v_leak", "v_threshold"}, {"v_reset", "w_in"}),
    "Delay": ({"delay"}, set()),
    "Flatten": (set(), {"start_dim", "end_dim", "input_type"}),
    "I": ({"r"}, set()),
    "IF": ({"r", "v_threshold"}, {"v_reset"}),
    "Input": ({"shape"}, set()),
    "LI": ({"tau", "r", "v_leak"}, set()),
    "LIF": ({"tau", "r", "v_leak", "v_threshold"}, {"v_reset"}),
    "Linear": ({"weight"}, set()),
    "Output": ({"shape"}, set()),
    "Scale": ({"scale"}, set()),
    "SpikeEncoder": ({"shape", "scale", "q_min", "q_max", "window", "coding"}, {"table"}),
    "Threshold": ({"threshold"}, set()),
}
_WINDOW = {"kernel_size", "stride", "padding"}
_FIELDS |= {
    name: (_WINDOW, set())
    for name, node in vars(nir).items()
    if isinstance(node, type) and issubclass(node, nir.NIRNode) and set(node.__annotations__) >= _WINDOW
    if name not in _FIELDS
}
_AXES = {"Affine": 2, "Conv1d": 3, "Conv2d": 4, "Linear": 2}  # of a weight, at least
_TEXT = {"tie", "coding", "operation", "settings", "sources"}
_WHOLE = {"shape", "stride", "dilation", "groups", "kernel_size", "input_shape", "input_type", "start_dim", "end_dim"}


def build_graph(tree: dict[str, Any], *, allow_large: bool = False) -> nir.NIRGraph:
    """The graph of a file's fields, without graphs inside of it.

    Raises
    ------
    ConversionError
        Naming the place in the file, what was found there, and what to do.
    """
    graph = flat(_graph(tree, "/node", 0))
    _check_connected(graph)
    if not allow_large:
        check_size(graph)
    return graph


def _graph(tree: dict[str, Any], where: str, depth: int) -> nir.NIRGraph:
    kind = tree.get("type")
    if not isinstance(kind, str) or kind != "NIRGraph" or not isinstance(tree.get("nodes"), dict):
        raise FileFormatError(where, "no NIRGraph", "the root of a .nir file is a graph with nodes")
    if depth > DEEPEST:
        raise FileFormatError(where, f"graphs more than {DEEPEST} deep in one another", "unpack some of them")
    nodes = {name: _node(f"{where}/nodes/{name}", fields, depth) for name, fields in tree["nodes"].items()}
    edges = tree.get("edges")
    if not (isinstance(edges, np.ndarray) and edges.ndim == 2 and edges.shape[1] == 2 and edges.dtype.kind == "U"):
        raise FileFormatError(f"{where}/edges", "no list of pairs of names", "every graph has edges")
    pairs = [(str(a), str(b)) for a, b in edges]
    for a, b in pairs:
        for end in (a, b):
            if end not in nodes:
                raise FileFormatError(f"{where}/edges", f"an edge with the unknown node {shown(end)!r}", "remove it")
    if len(set(pairs)) != len(pairs):
        twice = next(edge for edge, n in Counter(pairs).items() if n > 1)
        raise FileFormatError(
            f"{where}/edges",
            f"the edge {shown(twice[0])} -> {shown(twice[1])} twice, where NIR has a set",
            "put a Scale of ones into one of them if both are meant, as converters.write does, or remove one",
        )
    return nir.NIRGraph(nodes=nodes, edges=pairs, metadata=_metadata(tree), type_check=False)


def _metadata(tree: dict[str, Any]) -> dict[str, Any]:
    found = tree.get("metadata", {})
    return found if isinstance(found, dict) else {}


def _node(where: str, fields: Any, depth: int) -> nir.NIRNode:
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise FileFormatError(where, "no node type", "every node has one")
    kind = fields["type"]
    if kind == "NIRGraph":
        return _graph(fields, where, depth + 1)
    if kind not in _FIELDS:
        raise FileFormatError(
            where, f"the unknown node type {shown(kind)!r}", f"known are {', '.join(sorted(_FIELDS))}"
        )
    given = _fields(where, kind, fields)
    metadata = _metadata(fields)
    if kind in ("Input", "Output"):
        shape = np.asarray(given["shape"])
        if kind == "Input":
            return nir.Input(input_type={"input": shape}, metadata=metadata)
        return nir.Output(output_type={"output": shape}, metadata=metadata)
    if kind == "Flatten":
        given["input_type"] = {"input": given.get("input_type")}
    if kind in ("IF", "LIF", "CubaLIF"):
        given.setdefault("v_reset", np.zeros_like(given["v_threshold"]))
    if kind in ("Conv1d", "Conv2d"):
        given.setdefault("input_shape", None)
    cls = NODES.get(kind) or getattr(nir, kind)
    try:
        return cls(**given, metadata=metadata)
    except ConversionError as error:
        raise FileFormatError(f"{where} ({error.where})", error.found, error.todo) from None
    except (AssertionError, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise FileFormatError(
            where, f"a {kind} node that NIR refuses ({str(error)[:100]})", "check its shapes"
        ) from None


def _fields(where: str, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a node beside its type and metadata, all of them looked at."""
    required, optional = _FIELDS[kind]
    given = {k: v for k, v in fields.items() if k not in ("type", "metadata")}
    missing, extra = required - set(given), set(given) - required - optional
    if missing or extra:
        raise FileFormatError(
            where, f"missing {sorted(missing)}, unexpected {sorted(extra)}", f"a {kind} node has {sorted(required)}"
        )
    for key, value in given.items():
        if kind == "CaLIFOperation" and key == "arrays" and isinstance(value, dict):
            for field, array in value.items():
                _check_field(f"{where}/{key}/{field}", kind, field, array)
        else:
            _check_field(f"{where}/{key}", kind, key, value)
    return given


def _check_field(where: str, kind: str, key: str, value: Any) -> None:
    if key in _TEXT or (key == "padding" and isinstance(value, str)):
        if not isinstance(value, str) or (key == "padding" and value not in ("same", "valid")):
            raise FileFormatError(where, f"{shown(value)!r}", "this field is text")
        return
    array = np.asarray(value)
    if isinstance(value, dict) or array.dtype.kind not in "fiu":
        raise FileFormatError(where, "no number", "this field is numeric")
    if key in _WHOLE or key == "padding":
        if array.dtype.kind not in "iu" or array.size > 8 or (np.abs(array.astype(np.float64)) > 2**24).any():
            raise FileFormatError(where, _brief(array), "give a few small whole numbers")
        if key in ("shape", "stride", "dilation", "kernel_size", "input_shape", "groups") and (array < 1).any():
            raise FileFormatError(where, _brief(array), "sizes are at least 1")
        if key == "groups" and array.size != 1:
            raise FileFormatError(where, _brief(array), "give one number of groups")
        if key == "shape" and (array.ndim != 1 or np.prod(array.astype(np.float64)) > 2**31):
            raise FileFormatError(where, _brief(array), "that is not the shape of a layer")
    if key == "weight" and array.ndim < _AXES.get(kind, 1):
        raise FileFormatError(where, f"weights of shape {array.shape}", f"a {kind} node needs {_AXES[kind]} axes")


def check_name(where: str, name: str) -> None:
    if not NAME.match(name) or len(name) > 200:
        raise ConversionError(f"{where} {shown(name)!r}", "a name that readers refuse", "use letters, digits, _ and .")


def _check_connected(graph: nir.NIRGraph) -> None:
    after: dict[str, list[str]] = {n: [] for n in graph.nodes}
    before: dict[str, list[str]] = {n: [] for n in graph.nodes}
    for a, b in graph.edges:
        after[a].append(b)
        before[b].append(a)
    for kind, edges, what in ((nir.Input, after, "reached from an Input"), (nir.Output, before, "joined to an Output")):
        seen = [n for n, node in graph.nodes.items() if type(node) is kind]
        if not seen:
            raise FileFormatError("/node/nodes", f"no {kind.__name__} node", "every graph has one")
        reached = set(seen)
        while seen:
            for other in edges[seen.pop()]:
                if other not in reached:
                    reached.add(other)
                    seen.append(other)
        lost = sorted(set(graph.nodes) - reached)
        if lost:
            raise FileFormatError(f"/node/nodes/{lost[0]}", f"a node that is not {what}", "add the missing edges")


def shown(name: Any) -> str:
    return repr(str(name)[:60])[1:-1]


def _brief(value: Any) -> str:
    """On one line, whatever it is."""
    return " ".join(str(value)[:60].split())
