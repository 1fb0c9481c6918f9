"""A quantised network as integers, scales and topology; and its integer executor.

Every front-end ends here, and every backend is held against :meth:`QuantGraph.execute`. A layer is what
one Ca-LIF layer will be (equations 4 and 5)::

    y = clip(round((sum_i w_i x_i + bias) / threshold), y_min, y_max)

with integer weights ``w`` and counts ``x``; ``threshold = S_y / (S_w S_x)`` and ``bias = b / (S_w S_x)``
(that is ``-Lambda``) per output channel. Zero points are gone: counts are ``q - zp``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from torch import Tensor

from calif_plugins.parameters import TIE_RULES, TieRule
from converters.checked import Checked
from converters.errors import ConversionError
from converters.exact_sums import add_up, exact, whole_dtype
from converters.input_range import warn_of_cut
from converters.naming import Names
from converters.operations import Concatenate, Flatten, Operation, Scale, Shape, SumPool2d, Synapse
from converters.rounding import exact_round

__all__ = ["Checked", "GraphBuilder", "InputSpec", "Layer", "QuantGraph", "Value"]

_SMALLEST = 2.0**-126  # of the normal numbers of float32
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes integers: ``n = clip(round(x / scale), q_min, q_max)`` (zero point removed).

    ``shape`` is that of one image, ``(C, H, W)`` or ``(n,)``; ``scale`` the real value of one level.
    """

    shape: Shape
    scale: float
    q_min: int
    q_max: int
    name: str = "input"

    def __post_init__(self) -> None:
        if not _SMALLEST <= self.scale <= 1 / _SMALLEST:  # float32 holds it and its inverse, neither rounded to 0
            todo = f"it must be a number from {_SMALLEST:.3g} to {1 / _SMALLEST:.3g}"
            raise ConversionError(self.name, f"an input scale of {self.scale}", todo)
        if not self.q_min <= 0 < self.q_max:
            raise ConversionError(self.name, f"an input range [{self.q_min}, {self.q_max}]", "it must contain 0 and 1")

    @exact
    def quantise(self, images: Tensor) -> Tensor:
        """Integers of a batch of images ``(N, *shape)``: int64 of the same shape (ties to even).

        Images in half precision are taken as the float32 numbers that they are.
        Warns, once, of images a good part of which the range cuts (:func:`~converters.input_range.warn_of_cut`).
        """
        n = self.nearest(images)
        if "warned" not in self.__dict__ and warn_of_cut(self.name, n, self.q_min, self.q_max):
            self.__dict__["warned"] = True  # no field: it is no part of the value
        return n.clamp_(self.q_min, self.q_max).to(torch.int64)

    def nearest(self, images: Tensor) -> Tensor:
        """The whole numbers nearest to a batch of images, float ``(N, *shape)``, before the range cuts them."""
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

    def magnitude(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum of the absolute values of all that is added up to :meth:`quotient`: float64 ``(N, *shape)``."""
        sizes = {name: values[name].double().abs() for s in self.synapses for name in s.sources}
        synapses = tuple(s.absolute(*(tuple(sizes[name].shape[1:]) for name in s.sources)) for s in self.synapses)
        absolute = replace(self, synapses=synapses, bias=self.bias.abs())
        return absolute.quotient(absolute.charge(sizes))


@dataclass(frozen=True, eq=False)
class QuantGraph:
    """Integers, scales and topology of a quantised network, layers in graph order."""

    input: InputSpec
    layers: tuple[Layer, ...]
    source: str = ""
    """What it was made from, for people (``pt2e``, ``brevitas``...)."""
    checked: Checked | None = None
    """What it was compared with when it was made; None where that was switched off, or is not known."""

    def __post_init__(self) -> None:
        shapes: dict[str, Shape] = {self.input.name: self.input.shape}
        silent: set[str] = set()
        for layer in self.layers:
            if layer.name in shapes:
                raise ConversionError(layer.name, "the name twice", "names must be unique")
            if not layer.synapses:
                raise ConversionError(layer.name, "no synapses", "every layer needs an input")
            for synapse in layer.synapses:
                for name in synapse.sources:
                    if name not in shapes:
                        raise ConversionError(
                            layer.name, f"an edge from {name!r}", "sources must come before their targets"
                        )
                    if name in silent:
                        todo = "quantise its output: only its membrane can be read"
                        raise ConversionError(layer.name, f"an edge from {name!r}, which does not spike", todo)
                shape = synapse.output_shape(*(shapes[name] for name in synapse.sources))
                if shape != layer.shape:
                    raise ConversionError(layer.name, f"a synapse of shape {shape}", f"the layer has {layer.shape}")
            shapes[layer.name] = layer.shape
            if not layer.spiking:
                silent.add(layer.name)
        if not self.layers:
            raise ConversionError("graph", "no layers", "convert a network with at least one quantised layer")

    @property
    def output(self) -> Layer:
        """The last layer."""
        return self.layers[-1]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of the input and of every layer, by name."""
        return {self.input.name: self.input.shape, **{layer.name: layer.shape for layer in self.layers}}

    @property
    def levels(self) -> int:
        """``L``: the largest level of the input and of all layers."""
        return max(abs(self.input.q_min), self.input.q_max, self.neuron_levels)

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
        (A directly coded input is no count, and may have more; below L it shrinks with the others.)
        """
        if not float(window).is_integer() or window < 1:
            raise ConversionError("window", f"T = {window}", "use a whole number of steps, at least 1")
        whole, window = self.levels_of(coding), int(window)
        if window >= whole:
            return self
        f = window / whole

        def shrink(q: int) -> int:
            return (2 * q * window + whole) // (2 * whole)  # q T/L, rounded half up

        def range_of(layer: Layer) -> tuple[int, int]:
            low, high = -shrink(-layer.y_min), shrink(layer.y_max)
            if low == high:  # a layer without a level would be read from its membrane
                low, high = max(-1, layer.y_min), min(1, layer.y_max)
            return low, high

        spec = replace(
            self.input,
            scale=self.input.scale / f,
            q_min=-shrink(-self.input.q_min),
            q_max=max(1, shrink(self.input.q_max)),
        )
        layers = tuple(
            replace(
                layer,
                bias=layer.bias * window / whole,
                y_min=range_of(layer)[0],
                y_max=range_of(layer)[1],
                scale=layer.scale / f,
            )
            for layer in self.layers
        )
        return replace(self, input=spec, layers=layers, checked=None)  # another network than the one compared

    def accumulate(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """The integer accumulator of a layer, int64, from int64 counts."""
        given = {name: values[name] for s in layer.synapses for name in s.sources}
        dtype, device = torch.float64, values[self.input.name].device
        if all(s.linear for s in layer.synapses):  # others may go beyond their results on the way
            # a float product of integers is exact while they fit, and far faster than integer kernels
            dtype = whole_dtype(self.reach(layer), device, factor=self._factor(layer), where=layer.name)
        return layer.charge({name: x.to(dtype) for name, x in given.items()}).round().to(torch.int64)

    def reach(self, layer: Layer) -> int:
        """Largest absolute value that the layer's integer accumulator can take."""
        largest = self._largest
        return sum(synapse.reach(*(largest[name] for name in synapse.sources)) for synapse in layer.synapses)

    def _factor(self, layer: Layer) -> int:
        """Of the products that its accumulator sums: see :meth:`Synapse.largest_factor`."""
        largest = self._largest
        return max(synapse.largest_factor(*(largest[name] for name in synapse.sources)) for synapse in layer.synapses)

    @property
    def _largest(self) -> dict[str, int]:
        """Largest absolute count of the input and of every layer."""
        largest = {self.input.name: max(-self.input.q_min, self.input.q_max)}
        return largest | {k.name: max(-k.y_min, k.y_max) for k in self.layers}

    @exact
    @torch.no_grad()
    def execute(self, images: Tensor | None = None, *, integers: Tensor | None = None) -> dict[str, Tensor]:
        """Every layer's integers: what the spike counts must equal.

        Parameters
        ----------
        images : tensor of shape ``(N, *input.shape)``
        integers : int tensor of the same shape, instead of images

        Returns
        -------
        dict of int64 tensors ``(N, *layer.shape)``, the input's integers included. An unquantised output
        gives its accumulator.
        """
        values = {self.input.name: self.input.accept(images, integers)}
        for layer in self.layers:
            acc = self.accumulate(layer, values)
            values[layer.name] = layer.round(acc) if layer.spiking else acc
        return values

    def logits(self, values: Mapping[str, Tensor]) -> Tensor:
        """The output in real units, float64 ``(N, *output.shape)``, from :meth:`execute`'s result."""
        out, last = values[self.output.name], self.output
        return (out.to(torch.float64) if last.spiking else last.quotient(out)) * last.scale

    def predict(self, images: Tensor, batch: int = 256) -> Tensor:
        """Arg-max class of each image, int64 ``(N,)``."""
        parts = [self.logits(self.execute(part)).flatten(1).argmax(1) for part in images.split(batch)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


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


# --- building -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A quantised tensor while a graph is built: channels of one or several layers, perhaps flattened.

    ``parts`` are ``(layer name, shape)``, concatenated along the first axis; ``scale`` is the real value of
    one count; ``flat`` says that the parts' ``(C, H, W)`` have been flattened to one axis. Flattened maps may stand
    beside vectors.
    """

    parts: tuple[tuple[str, Shape], ...]
    scale: float
    flat: bool = False

    @property
    def shape(self) -> Shape:
        if self.flat:
            return (sum(math.prod(s) for _, s in self.parts),)
        return (sum(s[0] for _, s in self.parts), *self.parts[0][1][1:])

    @property
    def unflattened(self) -> Value | None:
        """As it was before it was flattened; None where its parts cannot stand side by side as maps."""
        return replace(self, flat=False) if len({s[1:] for _, s in self.parts}) == 1 else None


@dataclass
class GraphBuilder:
    """Builds a QuantGraph, layer by layer; what a front-end calls.

    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.5, q_min=-3, q_max=3)
    >>> w = torch.tensor([[1, 2]])
    >>> y = b.layer("fc", [(x, Linear(w))], threshold=[2.0], bias=[0.0], y_min=0, y_max=3, scale=0.25)
    >>> b.build(y).execute(torch.tensor([[1.0, 0.5]]))["fc"]
    tensor([[2]])
    """

    source: str = ""
    spec: InputSpec | None = None
    layers: list[Layer] = field(default_factory=list)

    def input(self, shape: Sequence[int], *, scale: float, q_min: int, q_max: int, name: str = "input") -> Value:
        """Declare the input; ranges without zero point."""
        if self.spec is not None:
            raise ConversionError(name, "a second input", "networks with one input can be converted")
        self.spec = InputSpec(tuple(shape), float(scale), int(q_min), int(q_max), self.unique(name))
        return Value(((self.spec.name, self.spec.shape),), self.spec.scale)

    @exact
    def layer(
        self,
        name: str,
        inputs: Sequence[tuple[Value, Operation]],
        *,
        threshold: Tensor | Sequence[float] | float,
        bias: Tensor | Sequence[float] | float = 0.0,
        y_min: int,
        y_max: int,
        scale: float,
        tie: TieRule = "even",
        spiking: bool = True,
    ) -> Value:
        """Add a layer fed by ``(value, operation)`` pairs, whose charges add up."""
        name = self.unique(name)
        synapses = tuple(s for value, op in inputs for s in _connect(name, value, op))
        sources = {n: s for value, _ in inputs for n, s in value.parts}
        try:
            shape = synapses[0].output_shape(*(sources[n] for n in synapses[0].sources))
        except ConversionError as error:
            raise ConversionError(name, error.found, error.todo) from None
        new = Layer(
            name,
            synapses,
            torch.as_tensor(threshold, dtype=torch.float64),
            torch.as_tensor(bias, dtype=torch.float64),
            int(y_min),
            int(y_max),
            float(scale),
            shape,
            tie,
            spiking,
        )
        self.layers.append(new)
        return Value(((name, shape),), float(scale))

    def requantise(
        self,
        name: str,
        inputs: Sequence[tuple[Value, float]],
        *,
        y_min: int,
        y_max: int,
        scale: float,
        tie: TieRule = "even",
    ) -> Value:
        """A layer of identity synapses: ``y = round(sum_k r_k S_k n_k / S_y)``, ``r_k`` a real factor (1, or -1).

        A residual addition, a subtraction, a change of scale. Synapses get the integers nearest to the ratio
        of the branch scales, 1 where they are shared.
        """
        steps = [value.scale * factor for value, factor in inputs]
        largest = max(abs(s) for s in steps)
        if all(abs(s) == largest for s in steps):
            unit = largest
        else:
            mantissa, exponent = math.frexp(largest)
            unit = math.ldexp(1.0, exponent - 30)  # 30 bits each: sums stay far below 2^53
            del mantissa
        pairs: list[tuple[Value, Operation]] = [
            (value, Scale(round(s / unit))) for (value, _), s in zip(inputs, steps, strict=True)
        ]
        return self.layer(name, pairs, threshold=scale / unit, y_min=y_min, y_max=y_max, scale=scale, tie=tie)

    def concat(self, name: str, values: Sequence[Value]) -> Value:
        """Concatenation along channels. Branches of unequal scale must be requantised to one first."""
        scales = {v.scale for v in values}
        if len(scales) > 1:
            raise ConversionError(
                name, f"a concatenation of tensors with scales {sorted(scales)}", "share one quantiser among them"
            )
        if len({v.shape[1:] for v in values}) > 1:
            raise ConversionError(name, f"shapes {[v.shape for v in values]}", "only channels may differ")
        return Value(tuple(p for v in values for p in v.parts), values[0].scale, any(v.flat for v in values))

    def flatten(self, value: Value) -> Value:
        """All axes of an image into one."""
        return replace(value, flat=True)

    def build(self, output: Value) -> QuantGraph:
        """The finished graph. Layers that the output does not need are an error of the front-end."""
        if self.spec is None:
            raise ConversionError("graph", "no input", "declare one")
        if output.flat and len(output.parts) == 1 and len(output.parts[0][1]) == 1:
            output = replace(output, flat=False)
        if len(output.parts) > 1 or output.flat or not self.layers or output.parts[0][0] != self.layers[-1].name:
            reach = max(
                (max(-layer.y_min, layer.y_max) for layer in self.layers),
                default=max(-self.spec.q_min, self.spec.q_max),
            )
            output = self.requantise("output", [(output, 1.0)], y_min=-reach, y_max=reach, scale=output.scale)
        return QuantGraph(self.spec, tuple(self.layers), self.source)

    def unique(self, name: str) -> str:
        """A valid, unused node name, as near to ``name`` as can be: no two layers ever share one."""
        taken = {layer.name for layer in self.layers} | ({self.spec.name} if self.spec else set())
        return Names(taken).take(name)


def _connect(where: str, value: Value, op: Operation) -> list[Synapse]:
    """Synapses from every part of a value.

    A linear operation on a concatenation is split into a sum over its parts; one that counts takes them all.
    """

    def lead(shape: Shape) -> tuple[Operation, ...]:
        return (Flatten(),) if value.flat and len(shape) > 1 else ()

    if len(value.parts) == 1:
        return [Synapse((name,), _trim((*lead(shape), op))) for name, shape in value.parts]
    if not op.linear:
        return [Synapse(tuple(name for name, _ in value.parts), (Concatenate(value.flat), op))]
    try:
        op.output_shape(value.shape)
    except ConversionError as error:
        raise ConversionError(where, f"{error.found}, a concatenation", error.todo) from None
    synapses, start, total = [], 0, value.shape[0]
    for name, shape in value.parts:
        here = (math.prod(shape),) if value.flat else shape
        synapses.append(Synapse((name,), _trim((*lead(shape), *op.on_part(here, start, total)))))
        start += here[0]
    return synapses


def _trim(ops: tuple[Operation, ...]) -> tuple[Operation, ...]:
    return tuple(op for op in ops if op.rewires or op.factor != 1)


# pools are built from SumPool2d by the front-ends through this one place (equation 6)
def average_pool(
    builder: GraphBuilder,
    name: str,
    value: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    *,
    scale: float,
    y_min: int,
    y_max: int,
    tie: TieRule = "even",
) -> Value:
    """An average pool as a Ca-LIF layer: weights 1, ``Vth = p^2 S_y / S_x``, no leak (equation 6).

    The threshold is rounded once, so it is the whole number ``p^2`` where the scales are shared.
    """
    return builder.layer(
        name,
        [(value, SumPool2d(kernel, stride, padding))],
        threshold=float(kernel[0] * kernel[1] * Fraction(scale) / Fraction(value.scale)),
        y_min=y_min,
        y_max=y_max,
        scale=scale,
        tie=tie,
    )
