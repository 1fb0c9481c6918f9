"""The contract of an operation: what every interpreter asks of it, and what follows from the operation itself.

An operation maps the counts of one or several sources to charges. A **linear** one maps spikes to charges just so:
``charge(t) = op(spikes(t))``. Any other one is a **counting** operation: it remembers the counts ``n(t)`` that its
sources have sent so far, and brings the change

    charge(t) = op(n(t)) - op(n(t - 1)),        op(n(-1)) = 0

Both sum to ``op(n_final)``, and both end when the sources fall quiet, which is all that the theorem asks for
(``docs/theorem.md``). A counting operation acts on integers exactly, whatever function it stands for: integers decide,
and every platform has the same spikes.

Needed of a linear operation are :meth:`Operation.output_shape`, calling it, and :attr:`Operation.gain`; of a counting
one :meth:`Operation.output_shape`, calling it, and :meth:`Operation.reach`. All else has a default that follows from
these; an operation says it itself where it knows a shorter way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import nir
import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError

if TYPE_CHECKING:
    from converters.operations.convolution import Conv2d
    from converters.operations.dense import Linear

__all__ = [
    "OPERATIONS",
    "Matrix",
    "Operation",
    "OperationModule",
    "Shape",
    "Window",
    "adjoint_of_ones",
    "check_steps",
    "register",
]

Shape: TypeAlias = tuple[int, ...]
Range: TypeAlias = tuple[Tensor, Tensor]
Window: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

OPERATIONS: dict[str, type[Operation]] = {}
"""Every operation, by the name that files call it."""

_CHUNK = 2**22  # numbers of basis vectors at a time

T = TypeVar("T", bound="type[Operation]")


def register(cls: T) -> T:
    """Class decorator: enter an operation under its class name, by which files find it.

    Raises
    ------
    ConversionError
        If another operation has the name.
    """
    known = OPERATIONS.setdefault(cls.__name__, cls)
    if known is not cls:
        raise ConversionError(cls.__name__, "the name of another operation", "call it otherwise")
    return cls


def check_steps(where: str, **given: tuple[tuple[int, ...], int]) -> None:
    """Refuse numbers below the least that makes sense: ``stride=(self.stride, 1)``.

    Raises
    ------
    ConversionError
        That names the first.
    """
    for name, (values, least) in given.items():
        if min(values, default=least) < least:
            raise ConversionError(where, f"{name} {values}", f"at least {least}")


class Operation(ABC):
    """One operation between layers; a frozen dataclass whose fields are tensors, numbers, texts and tuples of these.

    Shapes are those of one image, channels first; batches are ``(N, *shape)``.
    """

    linear: ClassVar[bool] = True
    """Whether ``op(a + b) = op(a) + op(b)``; otherwise it counts what its sources have sent."""
    rewires: ClassVar[bool] = False
    """Whether it only renames places: one neuron to one, with weight 1."""
    pointwise: ClassVar[bool] = False
    """Whether each result depends on the count in its place alone, and so has one connection."""
    looks_up: ClassVar[bool] = False
    """Whether it reads each of its results from a table."""
    evaluates: ClassVar[bool] = False
    """Whether a spike has results computed anew, as those of a norm: where it brings no change that adds up."""
    passes: ClassVar[bool] = False
    """Whether every result is one of the counts, and moves by at most 1 where they do: a maximum."""
    slack: ClassVar[float] = 0.0
    """How far a result may be from :meth:`unrounded` where the rounding is not that of the layer behind it."""
    limits: ClassVar[Mapping[str, int]] = {}
    """The largest size of stored integers, by field, where that is not what float32 holds (2^24)."""
    node_types: ClassVar[tuple[type[nir.NIRNode], ...]] = ()
    """The stock NIR nodes that :meth:`from_node` reads."""

    # --- what an operation says ---------------------------------------------------------------------

    @abstractmethod
    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the result for sources of these shapes; a ConversionError where they do not fit."""

    @abstractmethod
    def __call__(self, *counts: Tensor) -> Tensor:
        """Act on batches ``(N, *shape)`` of whole numbers, in a dtype that holds them and all sums."""

    @property
    def gain(self) -> int:
        """Of a linear one: the largest sum of absolute weights of one result."""
        raise NotImplementedError(f"{type(self).__name__} is linear and states no gain")

    def reach(self, *reach: int) -> int:
        """Largest size of a result, for counts of at most these sizes."""
        if self.linear:
            return self.gain * max(reach)
        raise NotImplementedError(f"{type(self).__name__} counts and states no reach")

    def change(self, *reach: int) -> int:
        """Largest size of the charge of one step, for counts within these sizes that move by one at most."""
        return self.gain if self.linear else 2 * self.reach(*reach)

    @property
    def held(self) -> int:
        """Numbers that it may hold in memory beside its stored weights, however short its fields are: of a window."""
        return 0

    @property
    def window(self) -> Window | None:
        """``kernel, stride, padding`` of a plain sum over windows of height and width; None for anything else."""
        return None

    # --- what follows from it -----------------------------------------------------------------------

    @property
    def stored(self) -> Tensor | None:
        """The integer weights that it stores, if any."""
        return None

    @property
    def factor(self) -> int | None:
        """The one integer by which it multiplies every value, each in its place; None for anything else."""
        return None

    @property
    def multiplies(self) -> bool:
        """Whether its connections have weights other than 1 and -1, and cost multiplications in a dense network."""
        return self.stored is not None or not self.linear

    def interval(self, *ranges: Range) -> Range:
        """Lowest and highest results, for counts between these bounds: float64, ``shape`` without batch."""
        if self.linear:
            (low, high), shape = ranges[0], tuple(ranges[0][0].shape)
            weights = self.matrix(shape)
            up, down = weights.maximum(0), weights.minimum(0)
            a, b = low.reshape(-1).numpy(), high.reshape(-1).numpy()
            out = self.output_shape(shape)
            ends = up @ a + down @ b, up @ b + down @ a
            return torch.as_tensor(ends[0]).reshape(out), torch.as_tensor(ends[1]).reshape(out)
        largest = [int(max(low.abs().max(), high.abs().max())) for low, high in ranges]
        out = self.output_shape(*(tuple(low.shape) for low, _ in ranges))
        reach = torch.full(out, float(self.reach(*largest)), dtype=torch.float64)
        return -reach, reach

    def matrix(self, shape: Shape) -> sparse.csr_array:
        """A linear one as an int64 matrix ``(results, counts)``: made of what it does to basis vectors."""
        if not self.linear:
            raise ConversionError(type(self).__name__, "an operation that counts", "it has no matrix")
        size, parts = math.prod(shape), []
        step = max(1, _CHUNK // max(size, 1))
        for start in range(0, size, step):
            stop = min(start + step, size)
            basis = torch.zeros(stop - start, size, dtype=torch.float64)
            basis[torch.arange(stop - start), torch.arange(start, stop)] = 1
            rows = self(basis.reshape(-1, *shape)).flatten(1)
            parts.append(sparse.csr_array(rows.round().to(torch.int64).numpy()))
        return sparse.csr_array(sparse.vstack(parts).T)

    def structure(self, *shapes: Shape) -> Operation:
        """The same connections with weight 1 each: on spikes without sign it counts those that reach each neuron."""
        if self.linear:
            return Matrix((self.matrix(shapes[0]) != 0).astype(np.int64), self.output_shape(shapes[0]))
        out = self.output_shape(*shapes)
        every = np.ones((math.prod(out), sum(math.prod(s) for s in shapes)), dtype=np.int64)
        return Matrix(sparse.csr_array(every), out)

    def absolute(self, *shapes: Shape) -> Operation:
        """On sizes of counts, a sum of the sizes of all that this adds up, where it is linear; else itself."""
        return Matrix(abs(self.matrix(shapes[0])), self.output_shape(shapes[0])) if self.linear else self

    # --- other scales, other arithmetic -------------------------------------------------------------

    def degree(self, *degrees: int) -> int:
        """With what power of a common factor of all counts the result grows, if what it takes grows with ``degrees``.

        1 for whatever is linear, 2 for a product of two, 0 for what normalises.
        """
        if len(set(degrees)) > 1:
            raise ConversionError(
                type(self).__name__, f"sources that grow with the powers {degrees}", "it has no shorter window"
            )
        return degrees[0]

    def coarsened(self, factor: Fraction, degree: int = 1) -> Operation:
        """The same function of real values where every scale is ``1 / factor`` times as large (``0 < factor < 1``).

        What it takes then has ``factor ** degree`` times the size.
        """
        return self

    def unrounded(self, *counts: Tensor) -> Tensor:
        """The result before this operation rounds it, float64, for float64 counts; for those that do not, the result.

        The front-ends' comparison looks at it for near-ties.
        """
        return self(*counts)

    def magnitude(self, counts: Sequence[Tensor], sizes: Sequence[Tensor]) -> Tensor:
        """Sizes of all that is added up to the result, float64: rounding each by ``eps`` moves it by ``eps`` of them.

        Parameters
        ----------
        counts : float64 tensors ``(N, *shape)``
        sizes : float64 tensors of the same shapes
            Of all that was added up to the counts; at first their own absolute values.
        """
        return self.absolute(*(tuple(x.shape[1:]) for x in counts))(*sizes).abs()

    def multiplications(self, *shapes: Shape) -> int | None:
        """Of one dense pass over sources of these shapes; None: as many as connections, or none (:attr:`multiplies`).

        A product of two counts has two connections, and is one multiplication.
        """
        return None

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        """How many connections leave each neuron of each source: float64 of the sources' shapes."""
        return adjoint_of_ones(self.structure(*shapes), *shapes)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        """A linear one on channels ``start`` and following of ``total``, the others being 0; ``shape`` is the part's.

        A sum of these over all parts is the operation on their concatenation.
        """
        from converters.operations.moving import placed

        return (placed(shape, start, total), self)

    # --- files --------------------------------------------------------------------------------------

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        """Its NIR node for sources of these shapes: a stock one where there is one, else a ``CaLIFOperation``."""
        from converters.operations.node import CaLIFOperation

        return CaLIFOperation.of(self, shapes)

    @classmethod
    def from_node(cls, name: str, node: Any) -> tuple[Operation, np.ndarray | None]:
        """The operation of a stock node of :attr:`node_types`, and what that adds to each channel.

        ``name`` is the node's, for errors.
        """
        raise NotImplementedError(f"{cls.__name__} names node_types and does not read them")

    # --- elsewhere ----------------------------------------------------------------------------------

    def module(self) -> nn.Module:
        """A PyTorch module that does the same to float tensors, and learns where there are weights, in float64."""
        return OperationModule(self)

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Conv2d | Linear:
        """The same as one convolution (behind feature ``maps``) or dense layer, for simulators that know no other.

        Parameters
        ----------
        shape : tuple of int
            Of the source.
        flattened : tuple of int, optional
            The feature map that was flattened to ``shape`` just before.
        maps : bool
            Whether vectors are feature maps of one place in the lowered network.

        Raises
        ------
        ConversionError
            Where there is no such form, with the way out.
        """
        from converters.operations.dense import Linear

        kind = type(self).__name__
        if not self.linear:
            raise ConversionError(
                kind,
                "an operation that remembers counts, which has no stock NIR node",
                "run the network on a backend of this package",
            )
        out = self.output_shape(shape)
        if len(shape) > 1 or len(out) > 1:
            raise ConversionError(
                kind,
                f"an operation from shape {shape} to {out} without a form in stock NIR nodes",
                "define its method stock, or run the network on a backend",
            )
        weight = torch.from_numpy(self.matrix(shape).toarray())
        return Linear(weight).stock(shape, flattened=flattened, maps=maps)


class OperationModule(nn.Module):
    """An operation as a PyTorch module, without parameters to learn."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, *x: Tensor) -> Tensor:
        return self.operation(*x)

    def extra_repr(self) -> str:
        return repr(self.operation)


@dataclass(frozen=True, eq=False)
class Matrix(Operation):
    """Any linear operation, as its matrix ``(results, counts of all sources)`` of integers."""

    weights: sparse.csr_array
    shape: Shape

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def __call__(self, *counts: Tensor) -> Tensor:
        x = torch.cat([c.flatten(1) for c in counts], dim=1)
        entries = self.weights.tocoo()
        where = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
        matrix = torch.sparse_coo_tensor(
            where,
            torch.ones(where.shape[1], dtype=x.dtype),
            self.weights.shape,
            device=x.device,
            check_invariants=False,
        )
        return torch.sparse.mm(matrix, x.T).T.reshape(len(x), *self.shape)

    @property
    def gain(self) -> int:
        return int(abs(self.weights).sum(1).max()) if self.weights.shape[0] else 0


def adjoint_of_ones(act: Callable[..., Tensor], *shapes: Shape) -> tuple[Tensor, ...]:
    """Ones pulled back through a linear operation of weight 1: how many results each count reaches."""
    with torch.enable_grad():  # runs also inside of someone's no_grad
        xs = [torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        grads = torch.autograd.grad(act(*xs).sum(), xs)
    return tuple(g[0] for g in grads)
