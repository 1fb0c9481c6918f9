"""A quantised network as integers, scales and topology; and its integer executor.

Every front-end ends here, and every backend is held against :meth:`QuantGraph.execute`. A layer is what
one Ca-LIF layer will be (equations 4 and 5)::

    y = clip(round((sum_i w_i x_i + bias) / threshold), y_min, y_max)

with integer weights ``w`` and counts ``x``; ``threshold = S_y / (S_w S_x)`` and ``bias = b / (S_w S_x)``
(that is ``-Lambda``) per output channel. Zero points are gone: counts are ``q - zp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from calif_plugins.parameters import TIE_RULES, TieRule
from converters.brief import layer_line, many, named_shapes, shown
from converters.checked import Checked
from converters.errors import ConversionError
from converters.exact.rounding import exact_round
from converters.exact.sums import add_up, exact
from converters.exact.whole_charges import whole_charge
from converters.operations import Shape, Synapse
from converters.operations.coarsening import coarsened_range, shrunk
from converters.ports.answers import predicted
from converters.ports.input_range import warn_of_cut
from converters.ports.inputs import Batches, accept, split
from converters.ports.outputs import as_outputs, check_outputs, leaves, returned
from converters.ports.tokens import TokenTable

if TYPE_CHECKING:
    from converters.graph_builder import GraphBuilder
    from converters.operations.pooling import average_pool
    from converters.values import Value

__all__ = ["Checked", "GraphBuilder", "InputSpec", "Layer", "QuantGraph", "Value", "average_pool"]

_MOVED = {
    "GraphBuilder": "converters.graph_builder",
    "Value": "converters.values",
    "average_pool": "converters.operations.pooling",
}
_SMALLEST = 2.0**-126  # of the normal numbers of float32
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes integers: ``n = clip(round(x / scale), q_min, q_max)`` (zero point removed).

    ``shape`` is that of one image, ``(C, H, W)`` or ``(n,)``; ``scale`` the real value of one level. With a ``table``
    the network is given tokens instead, whole numbers ``(N, *shape[:-1])``, and the integers are their rows.
    """

    shape: Shape
    scale: float
    q_min: int
    q_max: int
    name: str = "input"
    table: TokenTable | None = None

    def __post_init__(self) -> None:
        self._check_table()
        if not _SMALLEST <= self.scale <= 1 / _SMALLEST:  # float32 holds it and its inverse, neither rounded to 0
            todo = f"it must be a number from {_SMALLEST:.3g} to {1 / _SMALLEST:.3g}"
            raise ConversionError(self.name, f"an input scale of {self.scale}", todo)
        if not self.q_min <= 0 < self.q_max:
            raise ConversionError(self.name, f"an input range [{self.q_min}, {self.q_max}]", "it must contain 0 and 1")

    def _check_table(self) -> None:
        if self.table is None:
            return
        if not self.shape or self.table.size != self.shape[-1]:
            found = f"a table with rows of {self.table.size} for tokens of shape {self.shape}"
            raise ConversionError(self.name, found, "rows lie along the last axis")
        low, high = self.table.limits
        if low < self.q_min or high > self.q_max:
            raise ConversionError(
                self.name, f"a table of integers from {low} to {high}", f"the input takes {self.q_min} to {self.q_max}"
            )

    @property
    def levels(self) -> int:
        """Largest size of a level."""
        return max(-self.q_min, self.q_max)

    @property
    def given(self) -> Shape:
        """Shape of what the network is given for one image: of its pixels, or of its tokens."""
        return self.shape if self.table is None else self.shape[:-1]

    def coarsened(self, factor: Fraction) -> InputSpec:
        """The input where every scale is ``1 / factor`` times as large: its range shrinks, to one level at least."""
        q_min, q_max = -shrunk(-self.q_min, factor), max(1, shrunk(self.q_max, factor))
        table = None if self.table is None else self.table.coarsened(factor, q_min, q_max)
        return replace(self, scale=self.scale / float(factor), q_min=q_min, q_max=q_max, table=table)

    @exact
    def quantise(self, images: Tensor) -> Tensor:
        """Integers of a batch of images ``(N, *shape)``, or of tokens ``(N, *shape[:-1])``: int64 (ties to even).

        Images in half precision are taken as the float32 numbers that they are.
        Warns, once, of images a good part of which the range cuts (:func:`~converters.ports.input_range.warn_of_cut`).
        """
        if self.table is not None:
            return self.table.look_up("images", images, self.given)
        n = self.nearest(images)
        if "warned" not in self.__dict__ and warn_of_cut(self.name, n, self.q_min, self.q_max):
            self.__dict__["warned"] = True  # no field: it is no part of the value
        return n.clamp_(self.q_min, self.q_max).to(torch.int64)

    def nearest(self, images: Tensor) -> Tensor:
        """The whole numbers nearest to a batch of images, float ``(N, *shape)``, before the range cuts them.

        Of tokens their rows.
        """
        if self.table is not None:
            return self.table.look_up("images", images, self.given).to(torch.float64)
        check_images(images, self.shape)
        if images.dtype in (torch.float16, torch.bfloat16):
            images = images.to(torch.float32)
        # the toolkits multiply by the inverse in the images' own precision; so do we
        return torch.round(images * (1.0 / torch.tensor(self.scale, dtype=images.dtype)).to(images.device))

    def accept(self, images: Tensor | None, integers: Tensor | None) -> Tensor:
        """Integers of a batch, int64 ``(N, *shape)``, from images or, instead, from integers of that shape.

        Raises
        ------
        ConversionError
            If both are given or neither; if images are not what :meth:`quantise` takes; if integers are none, have
            another shape, or leave the input's range.
        """
        if (images is None) == (integers is None):
            raise ConversionError("images", "both images and integers, or neither", "give one of them")
        if images is not None:
            return self.quantise(images)
        wanted = f"give a tensor of integers, (N, {', '.join(map(str, self.shape))})"
        if not isinstance(integers, Tensor):
            raise ConversionError("integers", type(integers).__name__, wanted)
        if integers.dtype not in _INTEGERS or not _is_data(integers) or not _is_batch(integers, self.shape):
            shape = "" if integers.is_nested else f" of shape {tuple(integers.shape)}"
            raise ConversionError("integers", f"{_kind(integers)}{shape}", wanted)
        if integers.numel() and (int(integers.min()) < self.q_min or int(integers.max()) > self.q_max):
            raise ConversionError("integers", "values out of range", f"the input takes {self.q_min} to {self.q_max}")
        return integers.to(torch.int64)


@dataclass(frozen=True, eq=False)
class Layer:
    """One quantised layer, and one layer of Ca-LIF neurons.

    Attributes
    ----------
    name : str
    synapses : tuple of Synapse
        Their charges add up; all end in ``shape``.
    threshold, bias : float64 tensors of shape ``(C,)``, ``C = shape[0]``
        In units of the integer accumulator.
    y_min, y_max : int
        Range of the counts; both 0 where ``spiking`` is False.
    scale : float
        Real value of one output count (``S_y``).
    tie : {"even", "up"}
    shape : tuple of int
    spiking : bool
        False: an unquantised output, read from the membrane as ``(acc + bias) / threshold``.
    """

    name: str
    synapses: tuple[Synapse, ...]
    threshold: Tensor
    bias: Tensor
    y_min: int
    y_max: int
    scale: float
    shape: Shape
    tie: TieRule = "even"
    spiking: bool = True

    def __repr__(self) -> str:
        return layer_line(self.name, self.shape, self.synapses, f"{self.y_min}..{self.y_max}" if self.spiking else "")

    @exact
    def __post_init__(self) -> None:
        for field_name in ("threshold", "bias"):
            value = torch.as_tensor(getattr(self, field_name), dtype=torch.float64).reshape(-1)
            object.__setattr__(self, field_name, value.expand(self.shape[0]).clone())
        if not bool((self.threshold > 0).all() and torch.isfinite(self.threshold).all()):
            raise ConversionError(self.name, "a threshold that is not positive and finite", "check the scales")
        if not bool(torch.isfinite(self.bias).all()):
            raise ConversionError(self.name, "a bias that is not finite", "check the training run")
        if self.tie not in TIE_RULES:
            raise ConversionError(self.name, f"the tie rule {self.tie!r}", f"use one of {', '.join(TIE_RULES)}")
        if not self.y_min <= 0 <= self.y_max:
            raise ConversionError(self.name, f"the range [{self.y_min}, {self.y_max}]", "it must contain 0")
        if self.spiking != (self.y_min < self.y_max):  # in files the range alone says which it is
            kind = "spiking layer" if self.spiking else "layer that does not spike"
            todo = "give it at least one level, or spiking=False" if self.spiking else "its range is [0, 0]"
            raise ConversionError(self.name, f"a {kind} with the range [{self.y_min}, {self.y_max}]", todo)

    def charge(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum of the synapses' charges, for a mapping of source names to batches."""
        return add_up((synapse(*(values[name] for name in synapse.sources)) for synapse in self.synapses), self.name)

    def round(self, acc: Tensor) -> Tensor:
        """The counts of integer accumulators ``(N, *shape)``, int64 of the same shape (equation 4)."""
        bias, threshold = self.bias.to(acc.device), self.threshold.to(acc.device)
        return exact_round(acc, bias, threshold, self.tie, self.y_min, self.y_max)

    def quotient(self, acc: Tensor) -> Tensor:
        """``(acc + bias) / threshold``: what is rounded, or read from the membrane; float64 of ``acc``'s shape."""
        view = (1, -1) + (1,) * (acc.ndim - 2)
        return (acc.double() + self.bias.view(view).to(acc.device)) / self.threshold.view(view).to(acc.device)

    def unrounded(self, values: Mapping[str, Tensor]) -> Tensor:
        """:meth:`quotient` of counts by source, before any rounding inside of an operation: float64 ``(N, *shape)``."""
        return self.quotient(
            add_up((s.unrounded(*(values[name] for name in s.sources)) for s in self.synapses), self.name)
        )

    def real(self, values: Tensor) -> Tensor:
        """In real units, float64: counts ``(N, *shape)``, or accumulators of an output that does not spike."""
        return (values.to(torch.float64) if self.spiking else self.quotient(values)) * self.scale

    def magnitude(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum of the absolute values of all that is added up to :meth:`unrounded`: float64 ``(N, *shape)``."""
        sizes = (s.magnitude(*(values[name] for name in s.sources)) for s in self.synapses)
        return replace(self, bias=self.bias.abs()).quotient(add_up(sizes, self.name))

    @property
    def slack(self) -> Tensor:
        """How far operations round on their own, in levels: float64 ``(C,)``."""
        return sum(s.slack for s in self.synapses) / self.threshold

    def coarsened(self, factor: Fraction) -> Layer:
        """The layer where every scale is ``1 / factor`` times as large: its range shrinks, to one level at least.

        Raises
        ------
        ConversionError
            If its charges grow with different powers of their sources' counts.
        """
        degrees = {s.degree for s in self.synapses}
        if len(degrees) > 1:
            raise ConversionError(
                self.name, "charges that do not grow alike with their sources' counts", "use the whole window"
            )
        (degree,) = degrees
        low, high = coarsened_range(self.y_min, self.y_max, factor)
        return replace(
            self,
            synapses=tuple(s.coarsened(factor) for s in self.synapses),
            threshold=self.threshold if degree == 1 else self.threshold * float(factor ** (degree - 1)),
            bias=self.bias if degree == 0 else self.bias * factor.numerator**degree / factor.denominator**degree,
            y_min=low,
            y_max=high,
            scale=self.scale / float(factor),
        )


@dataclass(frozen=True, eq=False)
class QuantGraph:
    """Integers, scales and topology of a quantised network, layers in graph order."""

    input: InputSpec
    """The first input; :attr:`inputs` are all of them."""
    layers: tuple[Layer, ...]
    source: str = ""
    """What it was made from, for people (``pt2e``, ``brevitas``...)."""
    checked: Checked | None = None
    """What it was compared with when it was made; None where that was switched off, or is not known."""
    outputs: Any = None
    """What the model returns: an :class:`~converters.ports.outputs.Output`, or tuples, lists and dictionaries of
    them; a layer's name stands for its output. The last layer alone, where nothing is said."""
    more_inputs: tuple[InputSpec, ...] = ()
    """Behind :attr:`input`, which is the first, in the order in which the model takes them."""

    def __post_init__(self) -> None:
        shapes: dict[str, Shape] = {}
        for spec in self.inputs:
            if spec.name in shapes:
                raise ConversionError(spec.name, "the name of two inputs", "names must be unique")
            shapes[spec.name] = spec.shape
        silent: set[str] = set()
        for layer in self.layers:
            _check_edges(layer, shapes, silent)
            shapes[layer.name] = layer.shape
            if not layer.spiking:
                silent.add(layer.name)
        if not self.layers:
            raise ConversionError("graph", "no layers", "convert a network with at least one quantised layer")
        object.__setattr__(self, "outputs", as_outputs(self.layers[-1].name if self.outputs is None else self.outputs))
        check_outputs(self.outputs, {layer.name: layer.shape for layer in self.layers})

    def __repr__(self) -> str:
        shapes = named_shapes({spec.name: spec.shape for spec in self.inputs})
        layers = [repr(layer) for layer in self.layers]
        return shown(type(self), many(len(self.layers), "layer"), f"from {shapes}", self.source, rows=layers)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Every input, in the order in which the model takes them."""
        return (self.input, *self.more_inputs)

    @property
    def output(self) -> Layer:
        """The main output: the layer that comes first in :attr:`outputs`."""
        return next(layer for layer in self.layers if layer.name == next(leaves(self.outputs)).layer)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The layers that :attr:`outputs` takes, each once, in its order."""
        return tuple(dict.fromkeys(output.layer for output in leaves(self.outputs)))

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every input and of every layer, by name."""
        return {**{spec.name: spec.shape for spec in self.inputs}, **{layer.name: layer.shape for layer in self.layers}}

    @property
    def levels(self) -> int:
        """``L``: the largest level of the inputs and of all layers."""
        return max(*(spec.levels for spec in self.inputs), self.neuron_levels)

    @property
    def neuron_levels(self) -> int:
        """The largest level of the layers alone: the shortest window for an input coded ``direct``."""
        return max(max(abs(layer.y_min), layer.y_max) for layer in self.layers)

    def levels_of(self, coding: str) -> int:
        """The shortest window that changes nothing: ``levels`` for input spikes, ``neuron_levels`` without."""
        return max(1, self.neuron_levels) if coding == "direct" else self.levels

    def coding_for(self, window: int | None = None) -> str:
        """``direct`` where the window is shorter than the input's levels but not than the layers', else ``isi``."""
        t = max(1, self.neuron_levels) if window is None else window
        return "direct" if self.neuron_levels <= t < self.levels else "isi"

    def at_window(self, window: int, coding: str = "isi") -> QuantGraph:
        """The network whose counts fit a window of ``T`` steps.

        For ``T >= L = levels_of(coding)`` it is this one. Below, every scale grows by ``L/T``: thresholds stay, the
        total charge of the bias becomes ``bias * T/L`` and ranges shrink to ``T`` levels, but to no fewer than one.
        Where charges grow with another power of the counts, as products do, so do bias and threshold.
        (A directly coded input is no count, and may have more; below L it shrinks with the others.)
        """
        if not float(window).is_integer() or window < 1:
            raise ConversionError("window", f"T = {window}", "use a whole number of steps, at least 1")
        whole, window = self.levels_of(coding), int(window)
        if window >= whole:
            return self
        f = Fraction(window, whole)
        first, *more = (spec.coarsened(f) for spec in self.inputs)
        layers = tuple(layer.coarsened(f) for layer in self.layers)
        # another network than the one compared
        return replace(self, input=first, more_inputs=tuple(more), layers=layers, checked=None)

    def accumulate(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """The integer accumulator of a layer, int64, from int64 counts."""
        return whole_charge(layer.synapses, values, self._largest, layer.name).to(torch.int64)

    def reach(self, layer: Layer) -> int:
        """Largest absolute value that the layer's integer accumulator can take."""
        largest = self._largest
        return sum(synapse.reach(*(largest[name] for name in synapse.sources)) for synapse in layer.synapses)

    @property
    def _largest(self) -> dict[str, int]:
        """Largest absolute count of every input and of every layer."""
        largest = {spec.name: spec.levels for spec in self.inputs}
        return largest | {k.name: max(-k.y_min, k.y_max) for k in self.layers}

    @exact
    @torch.no_grad()
    def execute(self, images: Batches | None = None, *, integers: Batches | None = None) -> dict[str, Tensor]:
        """Every layer's integers: what the spike counts must equal.

        Parameters
        ----------
        images : tensor of shape ``(N, *input.shape)``
            Of several inputs a tensor for each, in their order or in a dictionary by name.
        integers : int tensor of the same shape, instead of images

        Returns
        -------
        dict of int64 tensors ``(N, *layer.shape)``, the inputs' integers included. An unquantised output
        gives its accumulator.
        """
        values = accept(self.inputs, images, integers)
        for layer in self.layers:
            acc = self.accumulate(layer, values)
            values[layer.name] = layer.round(acc) if layer.spiking else acc
        return values

    def logits(self, values: Mapping[str, Tensor]) -> Tensor:
        """The main output in real units, float64 ``(N, *output.shape)``, from :meth:`execute`'s result."""
        return self.output.real(values[self.output.name])

    def returned(self, values: Mapping[str, Tensor]) -> Any:
        """What the model returns, in its structure: :attr:`outputs` in real units, from :meth:`execute`'s result.

        >>> from converters.operations import Linear
        >>> from converters.ports.outputs import Output
        >>> from converters.ports.tails import Tail
        >>> q = QuantGraph(
        ...     InputSpec((2,), 0.25, 0, 4),
        ...     (Layer("fc", (Synapse(("input",), (Linear(torch.eye(2).int()),)),), 0.8, 0.0, 0, 9, 0.5, (2,)),),
        ...     outputs={"levels": "fc", "label": Output("fc", (Tail("argmax", {"dim": 1}),))},
        ... )
        >>> q.returned(q.execute(torch.tensor([[0.5, 1.0]])))
        {'levels': tensor([[1.0000, 2.5000]], dtype=torch.float64), 'label': tensor([1])}
        """
        layers = {layer.name: layer for layer in self.layers}
        return returned(self.outputs, {name: layers[name].real(values[name]) for name in self.output_names})

    def predict(self, images: Batches, batch: int = 256) -> Tensor:
        """What the main output says (:func:`~converters.ports.answers.predicted`): the class of each image, int64
        ``(N,)``; of a map the class at each place, ``(N, *places)``."""
        main = next(leaves(self.outputs))
        parts = [predicted(main, self.logits(self.execute(part))) for part in split(images, batch)]
        nothing = torch.zeros(0, *self.output.shape, dtype=torch.float64)
        return torch.cat(parts) if parts else predicted(main, nothing)


def _check_edges(layer: Layer, shapes: Mapping[str, Shape], silent: set[str]) -> None:
    """Raise a ConversionError unless a layer is fed by those in front of it, ``shapes``, which spike, and fits them."""
    if layer.name in shapes:
        raise ConversionError(layer.name, "the name twice", "names must be unique")
    if not layer.synapses:
        raise ConversionError(layer.name, "no synapses", "every layer needs an input")
    for synapse in layer.synapses:
        for name in synapse.sources:
            if name not in shapes:
                raise ConversionError(layer.name, f"an edge from {name!r}", "sources must come before their targets")
            if name in silent:
                todo = "quantise its output: only its membrane can be read"
                raise ConversionError(layer.name, f"an edge from {name!r}, which does not spike", todo)
        shape = synapse.output_shape(*(shapes[name] for name in synapse.sources))
        if shape != layer.shape:
            raise ConversionError(layer.name, f"a synapse of shape {shape}", f"the layer has {layer.shape}")


def check_images(images: Tensor, shape: Shape) -> None:
    """Raise a ConversionError unless ``images`` is a float batch ``(N, *shape)`` of finite values."""
    todo = "give a float tensor, in the range the network was trained on"
    if not isinstance(images, Tensor):
        raise ConversionError("images", type(images).__name__, todo)
    if images.dtype not in _FLOATS or not _is_data(images):
        raise ConversionError("images", _kind(images), todo)
    if not _is_batch(images, shape):
        raise ConversionError(
            "images", f"a batch of shape {tuple(images.shape)}", f"the network takes (N, {', '.join(map(str, shape))})"
        )
    if not bool(torch.isfinite(images).all()):
        raise ConversionError("images", "NaN or infinite pixels", "clean the data first")


def _is_data(x: Tensor) -> bool:
    """Whether a tensor holds values, one after the other: not sparse, nested or on no device."""
    return x.layout == torch.strided and not x.is_nested and x.device.type != "meta"


def _is_batch(x: Tensor, shape: Shape) -> bool:
    return x.ndim == len(shape) + 1 and tuple(x.shape[1:]) == tuple(shape)


def _kind(x: Tensor) -> str:
    return f"{x.dtype}" if _is_data(x) else f"{x.dtype}, {'nested' if x.is_nested else x.layout}, on {x.device}"


def __getattr__(name: str) -> Any:
    """What has moved to other files is found here too."""
    if name in _MOVED:
        return getattr(import_module(_MOVED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
