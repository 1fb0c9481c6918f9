"""What stands behind a network's last quantiser, and so runs in float: read from an exported graph."""

from __future__ import annotations

from typing import Any

from torch import fx

from converters.frontends.aten import Kind, arguments, data_users, kind_of, operation

__all__ = ["tails"]

_REDUCED = ("softmax", "log_softmax", "argmax", "argmin")
_RESHAPED = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze")
_INTERPOLATED = {
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
}


def tails(graph: fx.Graph) -> dict[fx.Node, tuple[str, dict[str, Any]]]:
    """Functions of :data:`converters.ports.tails.TAILS` and their parameters, by the nodes that they are.

    These are a softmax, an arg max and an interpolation of which nothing but outputs is made, and whatever moves their
    results.
    """
    found: dict[fx.Node, tuple[str, dict[str, Any]]] = {}
    for node in reversed(graph.nodes):
        users = data_users(node)
        if node.op == "call_function" and users and all(n.op == "output" or n in found for n in users):
            known = _tail_of(node)
            if known is not None:
                found[node] = known
    for node in graph.nodes:  # to move what has a quantiser takes no float
        if node in found and kind_of(node) is Kind.MOVE and node.args[0] not in found:
            del found[node]
    return found


def _tail_of(node: fx.Node) -> tuple[str, dict[str, Any]] | None:
    name, shape = operation(node), _shape(node)
    if name in _REDUCED:
        a = arguments(node)
        if not isinstance(a.get("dim"), int) or a["dim"] in (0, -1 - len(shape)):  # the images are kept apart
            return None
        return name, {"dim": a["dim"], **({"keepdim": True} if a.get("keepdim") else {})}
    if name in _INTERPOLATED:
        if not _of_sizes_alone(node, shape):
            return None
        size = list(shape[1:])
        corners = bool(arguments(node)["align_corners"])
        return "interpolate", {"size": size, "mode": _INTERPOLATED[name], "align_corners": corners}
    if name in _RESHAPED:
        return "reshape", {"shape": list(shape)}
    if name in ("permute", "transpose"):
        dims = list(range(1 + len(shape)))
        a = arguments(node)
        if name == "permute":
            dims = [d % len(dims) for d in a["dims"]]
        else:
            i, j = a["dim0"] % len(dims), a["dim1"] % len(dims)
            dims[i], dims[j] = dims[j], dims[i]
        return None if dims[0] else ("permute", {"dims": [d - 1 for d in dims[1:]]})
    return None


def _of_sizes_alone(node: fx.Node, shape: tuple[int, ...]) -> bool:
    """Whether an interpolation follows from the sizes before and behind: a factor of its own may be another ratio."""
    given = arguments(node)
    factors = given.get("scale_factors") or [v for k, v in given.items() if k.startswith("scales")]
    source = node.args[0]
    while isinstance(source, fx.Node) and source.op == "call_module":  # a quantiser, which keeps the shape
        source = source.args[0]
    before = _shape(source)[-len(shape[1:]) :] if isinstance(source, fx.Node) else ()
    factors = [f for f in factors if f is not None]
    sizes = zip(before, factors, shape[1:], strict=False)
    return not factors or (len(before) == len(factors) and all(n * f == m for n, f, m in sizes))


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Of one image of a node's result."""
    whole = node.meta["shape"] if "shape" in node.meta else getattr(node.meta.get("val"), "shape", (0,))
    return tuple(n if isinstance(n, int) else -1 for n in whole[1:])
