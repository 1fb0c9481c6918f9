"""An ONNX graph that grows node by node; numbers that do not change become initialisers, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from converters.errors import ConversionError
from converters.graphs.naming import Names

__all__ = ["IR_VERSION", "OPSET", "Writer", "Written", "naming", "smallest"]

OPSET, IR_VERSION = 21, 10
"""The first opset whose quantisers have 16 bits and whose group norm has a gain for each channel."""
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
_WHOLE = (np.int8, np.int16, np.int32, np.int64)


@dataclass(frozen=True)
class Written:
    """What the layers of a network have become.

    Attributes
    ----------
    kind : int
        Type of real values, of ``TensorProto``.
    integers : dict
        Of every input and layer its integers: the tensor's name and type. Of a layer that does not spike this is its
        accumulator or, where a model has real values alone, its result.
    real : dict
        Of every layer that is an output its real values: the tensor's name.
    """

    kind: int
    integers: dict[str, tuple[str, int]]
    real: dict[str, str] = field(default_factory=dict)


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Within it, an error says which layer it is of."""
    try:
        yield
    except ConversionError as error:
        where = error.where if error.where.startswith(layer) else f"{layer}: {error.where}"
        raise ConversionError(where, error.found, error.todo) from None


class Writer:
    """Nodes and initialisers of one graph, in the order in which they came.

    Parameters
    ----------
    taken : sequence of str
        Names that are kept for :meth:`node`'s ``name``: of layers, inputs and outputs.

    Examples
    --------
    >>> w = Writer(["y"])
    >>> w.node("Mul", "x", w.constant(np.float64(2)), name="y")
    'y'
    >>> [node.op_type for node in w.nodes], [t.name for t in w.initialisers]
    (['Mul'], ['number'])
    """

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self._names = Names(taken)
        self._known: dict[Any, str] = {}
        self._constants: set[str] = set()
        self._kept = set(taken)
        self.opset = OPSET
        """What the nodes need at the least; a node that is younger raises it."""
        self.prefix = ""
        """In front of names that are made up: the layer that is being written."""

    def node(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node of one output, and return that output's name: ``name``, or one that is made up."""
        output = name if name is not None else self._names.new(f"{self.prefix}{kind.lower()}")
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def called(self, x: str, name: str) -> str:
        """``x`` by another name: of the node that has just given it, or behind an ``Identity``."""
        last = self.nodes[-1]
        if last.output[0] == x and x not in self._kept:
            last.output[0] = last.name = name
            return name
        return self.node("Identity", x, name=name)

    def free(self, name: str) -> str:
        """``name``, or one like it that nothing has yet: for :meth:`node`."""
        return self._names.new(name)

    def constant(self, value: Any, name: str = "number") -> str:
        """An initialiser of a NumPy array or number, in its type; equal ones are there once."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            self._known[key] = self._names.new(f"{self.prefix}{name}")
            self._constants.add(self._known[key])
            self.initialisers.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def is_constant(self, name: str) -> bool:
        """Whether it is one of the initialisers."""
        return name in self._constants

    def places(self, values: Sequence[int]) -> str:
        """An int64 vector: axes, shapes, ends of slices."""
        return self.constant(np.array(values, dtype=np.int64), "places")

    def biased(self, x: str, bias: np.ndarray, channels: int) -> str:
        """``x`` and a bias: that of the weighted node that has just given ``x``, or an addition.

        ``bias`` is of no axes, or with those of one image, ``(channels, 1, ...)``; it is taken as float32.
        """
        last = self.nodes[-1]
        if last.op_type in _WEIGHTED and last.output[0] == x and len(last.input) == 2 and bias.size in (1, channels):
            vector = np.broadcast_to(bias.astype(np.float32).reshape(-1), channels)
            last.input.append(self.constant(vector, "bias"))
            return x
        return self.node("Add", x, self.constant((bias if bias.ndim == 0 else bias[None]).astype(np.float32), "bias"))

    def cast(self, x: str, kind: int) -> str:
        """``x`` in a type of ``TensorProto``."""
        return self.node("Cast", x, to=kind)

    def whole(self, values: Tensor, kind: int = TensorProto.DOUBLE, name: str = "weight") -> str:
        """Integers, stored in the smallest type that holds them, as numbers of type ``kind``."""
        stored = self.constant(smallest(values), name)
        key = (stored, kind)
        if key not in self._known:
            self._known[key] = self.cast(stored, kind)
        return self._known[key]

    def transposed(self, x: str, order: Sequence[int]) -> str:
        """Axes in another order; ``x`` itself where it is the same."""
        return x if list(order) == sorted(order) else self.node("Transpose", x, perm=list(order))

    def reshaped(self, x: str, shape: Sequence[int]) -> str:
        """``(N, *shape)``, whatever N is."""
        return self.node("Reshape", x, self.places([0, *shape]))

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], about: str
    ) -> onnx.ModelProto:
        """The whole, checked by ``onnx`` itself, shapes included."""
        graph = helper.make_graph(self.nodes, "network", list(inputs), list(outputs), self.initialisers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=IR_VERSION,
            producer_name="calif-plugins",
        )
        model.doc_string = about
        if model.ByteSize() >= 2**31:
            raise ConversionError(
                "network", f"{model.ByteSize():,} bytes", "an ONNX file holds 2 GiB: use fewer weights"
            )
        onnx.checker.check_model(model, full_check=True)
        return model


def smallest(values: Tensor) -> np.ndarray:
    """Integers in the smallest signed type that holds them.

    >>> smallest(torch.tensor([1, -128])).dtype, smallest(torch.tensor([128])).dtype
    (dtype('int8'), dtype('int16'))
    """
    array = values.detach().cpu().to(torch.int64).numpy()
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kind = next(t for t in _WHOLE if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.ascontiguousarray(array.astype(kind))
