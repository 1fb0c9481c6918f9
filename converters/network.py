"""What a backend runs: the encoder and the Ca-LIF layers of a NIR graph, in an order they can step in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import nir
import numpy as np
import torch
from torch import Tensor

from calif_plugins.parameters import CaLIFParameters
from converters.brief import layer_line, many, named_shapes, shown
from converters.errors import ConversionError
from converters.exact.sums import add_up
from converters.graphs.flattening import flat
from converters.graphs.order import in_order
from converters.graphs.stock_files import about_stock, ways_of_stock
from converters.nodes import CaLIF, SpikeEncoder
from converters.operations import Operation, Scale, Shape, Synapse
from converters.operations.node import CaLIFOperation, known_nodes, operations_by_node
from converters.ports.inputs import Batches, accept, packed, unpacked
from converters.ports.metadata import inputs_of, outputs_of
from converters.ports.outputs import as_outputs, check_outputs, leaves
from converters.ports.tokens import TokenTable
from converters.quantised import InputSpec

__all__ = ["Network", "Stage", "float64"]

_MOST_STEPS = 1_000_000  # operations in all synapses together
T = TypeVar("T")


def float64(value: Any, device: torch.device | None = None) -> Tensor:
    """A parameter as a float64 tensor of its own memory, on ``device``."""
    return torch.from_numpy(np.array(value, dtype=np.float64)).to(device)


@dataclass(frozen=True, eq=False)
class Stage:
    """One layer of Ca-LIF neurons and the synapses that feed it.

    ``scale`` is the real value of one count; ``readout`` says that the layer never spikes and is read from
    its membrane.
    """

    name: str
    synapses: tuple[Synapse, ...]
    parameters: CaLIFParameters
    shape: Shape
    scale: float

    @cached_property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        p = self.parameters
        limits = "" if self.readout else f"{int(p.y_min.min())}..{int(p.y_max.max())}"
        return layer_line(self.name, self.shape, self.synapses, limits)

    @property
    def readout(self) -> bool:
        return self.reach == 0

    def charge(self, counts: Mapping[str, Tensor]) -> Tensor:
        """Charge that ``counts`` of the sources (batches ``(N, *source shape)``) bring in all, summed.

        For the charge of one step see :class:`converters.backends.charges.Charges`.
        """
        return add_up((synapse(*(counts[name] for name in synapse.sources)) for synapse in self.synapses), self.name)

    @cached_property
    def linear(self) -> bool:
        """Whether all of its synapses are: none remembers counts."""
        return all(s.linear for s in self.synapses)

    @cached_property
    def relay(self) -> bool:
        """Whether it passes on spikes in the step in which they come: a maximum, with a threshold of 1.

        Its spikes are there to be seen and paid for, but there is nothing for its neurons to keep.
        """
        p = self.parameters
        return (
            len(self.synapses) == 1
            and self.synapses[0].passes
            and bool((p.threshold == 1).all())
            and not p.leak.any()
            and not p.v_init.any()
        )

    @cached_property
    def threshold(self) -> Tensor:
        """The threshold of each channel, float64 ``(C,)``."""
        return float64(self.parameters.threshold).reshape(-1).expand(self.shape[0])

    @cached_property
    def reach(self) -> int:
        """Largest size of a count."""
        return int(max(-self.parameters.y_min.min(), self.parameters.y_max.max()))


@dataclass(frozen=True, eq=False)
class Network:
    """A feed-forward network of Ca-LIF layers, in graph order.

    Attributes
    ----------
    encoders : dict of SpikeEncoder
        One for each input, by name, in the order in which images are given; of one window and one coding.
    stages : tuple of Stage
        Each fed by encoders or by earlier stages.
    window : int
        ``T``.
    outputs : structure of :class:`~converters.ports.outputs.Output`
        What the network returns; the last stage alone, where nothing is said.
    """

    encoders: dict[str, SpikeEncoder]
    stages: tuple[Stage, ...]
    window: int
    outputs: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", as_outputs(self.stages[-1].name if self.outputs is None else self.outputs))
        check_outputs(self.outputs, {stage.name: stage.shape for stage in self.stages})

    def __repr__(self) -> str:
        shapes = named_shapes({name: encoder.shape for name, encoder in self.encoders.items()})
        facts = many(len(self.stages), "layer"), f"T = {self.window}", f"from {shapes}", f"coding {self.coding}"
        return shown(type(self), *facts, rows=map(repr, self.stages))

    @cached_property
    def output(self) -> Stage:
        """The main output: the stage that comes first in :attr:`outputs`."""
        return self.output_stages[0]

    @cached_property
    def output_stages(self) -> tuple[Stage, ...]:
        """The stages that :attr:`outputs` takes, each once, in its order."""
        stages = {stage.name: stage for stage in self.stages}
        return tuple(stages[name] for name in dict.fromkeys(output.layer for output in leaves(self.outputs)))

    @cached_property
    def _kept(self) -> dict[Any, Any]:
        return {}

    def keep(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` returns, made once for each ``key``: plans and prepared networks of backends."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def keeps(self, key: Any) -> bool:
        """Whether something is kept under this key."""
        return key in self._kept

    def forget(self, kind: str) -> None:
        """Drop what is kept under keys ``(kind, ...)``."""
        for key in [k for k in self._kept if k[0] == kind]:
            del self._kept[key]

    @property
    def encoder_name(self) -> str:
        """The name of the only input.

        Raises
        ------
        ConversionError
            If there are several.
        """
        if len(self.encoders) > 1:
            todo = "give a tensor for each to converters.run, cross_check or to_brian2, from Python"
            raise ConversionError("network", f"{len(self.encoders)} inputs, {', '.join(self.encoders)}, for one", todo)
        return next(iter(self.encoders))

    @property
    def encoder(self) -> SpikeEncoder:
        """The only encoder; errors as of :attr:`encoder_name`."""
        return self.encoders[self.encoder_name]

    @property
    def spec(self) -> InputSpec:
        """How images become integers, of the only input; errors as of :attr:`encoder_name`."""
        return self.specs[self.encoder_name]

    @cached_property
    def specs(self) -> dict[str, InputSpec]:
        """How images become integers, of every input, by name."""
        return {
            name: InputSpec(_ints(e.shape), e.scale, e.q_min, e.q_max, name, _table(e.table))
            for name, e in self.encoders.items()
        }

    @property
    def coding(self) -> str:
        """``isi`` or ``direct``, of all inputs."""
        return next(iter(self.encoders.values())).coding

    def accept(self, images: Batches | None, integers: Batches | None) -> Tensor:
        """Integers of a batch, checked; of several inputs side by side, ``(N, values)``, as backends are given them.

        See :func:`converters.ports.inputs.accept`; :meth:`by_input` takes them apart.
        """
        return packed(accept(list(self.specs.values()), images, integers))

    def by_input(self, x: Tensor) -> dict[str, Tensor]:
        """What stands side by side of all inputs, by their names: ``(N, *input shape)``, or more axes in front."""
        return unpacked({name: spec.shape for name, spec in self.specs.items()}, x)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every input and of every layer, by name."""
        inputs = {name: spec.shape for name, spec in self.specs.items()}
        return {**inputs, **{s.name: s.shape for s in self.stages}}

    @cached_property
    def neurons(self) -> int:
        """Number of Ca-LIF neurons; those of a maximum, which only pass spikes on, are none."""
        return sum(s.size for s in self.stages if not s.relay)

    @cached_property
    def fan_out(self) -> dict[str, Tensor]:
        """Synapses that leave each neuron of each layer and of the input: float64 of its shape.

        Where all channels have the same they are kept once, and seen by all.
        """
        none = torch.zeros((), dtype=torch.float64)
        total = {name: none.expand(shape) for name, shape in self.shapes.items()}
        for stage in self.stages:
            for synapse in stage.synapses:
                found = synapse.fan_out(*(self.shapes[name] for name in synapse.sources))
                for name, leaving in zip(synapse.sources, found, strict=True):
                    total[name] = _of_channels(total[name] + leaving)
        return total

    @cached_property
    def reach(self) -> dict[str, int]:
        """Largest size of a count of each layer and of the input, by name."""
        inputs = {name: spec.levels for name, spec in self.specs.items()}
        return {**inputs, **{s.name: s.reach for s in self.stages}}

    @cached_property
    def changes(self) -> dict[str, int]:
        """Largest charge that one step can bring to a neuron of each layer, by name."""
        return {
            stage.name: sum(s.change(*(self.reach[name] for name in s.sources)) for s in stage.synapses)
            for stage in self.stages
        }

    @classmethod
    def from_graph(cls, graph: nir.NIRGraph | Network) -> Network:
        """Read a NIR graph: an ``Input`` and a ``SpikeEncoder`` for each input, CaLIF layers and stock synapses.

        Raises
        ------
        ConversionError
            Naming the node that has no place in such a network, or whose shape does not fit.
        """
        if isinstance(graph, Network):
            return graph
        return _Reader(graph).network()


def _of_channels(x: Tensor) -> Tensor:
    """The same numbers, ``(C, ...)``, in the memory of one channel where all are alike."""
    return x[:1].clone().expand(x.shape) if x.ndim and bool((x == x[:1]).all()) else x


class _Reader:
    def __init__(self, graph: nir.NIRGraph) -> None:
        if not isinstance(graph, nir.NIRGraph):
            raise ConversionError("graph", type(graph).__name__, "give a NIR graph, as to_nir and read return it")
        graph = flat(graph)
        self.nodes = graph.nodes
        self.before: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.after: dict[str, list[str]] = {name: [] for name in self.nodes}
        for a, b in graph.edges:
            for end in (a, b):
                if end not in self.nodes:
                    raise ConversionError(f"edge {a} -> {b}", f"no node {end!r}", "edges must join existing nodes")
            self.before[b].append(a)
            self.after[a].append(b)
        if not any(type(node) in (CaLIF, SpikeEncoder) for node in self.nodes.values()):
            raise ConversionError("graph", about_stock(graph), ways_of_stock(graph))
        self.metadata = graph.metadata
        self.images = self._encoders()  # the Input in front of each encoder
        known = operations_by_node()
        self.ops = {name: known[type(node)](name, node) for name, node in self.nodes.items() if type(node) in known}

    def _encoders(self) -> dict[str, str]:
        """The Input node in front of every encoder, by the encoder's name, in the order of the inputs."""
        images, encoders = (
            [name for name, node in self.nodes.items() if type(node) is kind] for kind in (nir.Input, SpikeEncoder)
        )
        if not encoders or len(images) != len(encoders):
            shown = f" ({', '.join(images[:3])})" if images else ""
            found = f"{len(images)} Input nodes{shown} and {len(encoders)} SpikeEncoder nodes"
            raise ConversionError("graph", found, "a Ca-LIF network has an encoder for each input, and at least one")
        fronts = {}
        for name in inputs_of(self.metadata, encoders):
            before = self.before[name]
            if len(before) != 1 or before[0] not in images or self.after[before[0]] != [name]:
                raise ConversionError(name, "other edges than one from an Input", "an Input feeds its encoder alone")
            fronts[name] = before[0]
        return fronts

    def network(self) -> Network:
        encoders: dict[str, Any] = {name: self.nodes[name] for name in self.images}
        first, encoder = next(iter(encoders.items()))
        shapes: dict[str, Shape] = {}
        for name, image in self.images.items():
            other = encoders[name]
            if (other.window, other.coding) != (encoder.window, encoder.coding):
                found = f"a window of {other.window} and coding {other.coding}"
                raise ConversionError(name, found, f"{first} has {encoder.window} and {encoder.coding}")
            shapes[name] = _ints(other.shape)
            self._declared(image, "input", shapes[name])
        sinks = self._sinks()
        order = self._order()
        self._check_paths(order)
        stages = {}
        for name in order:
            node: Any = self.nodes[name]
            if type(node) is not CaLIF:
                continue
            if node.window != encoder.window:
                raise ConversionError(name, f"a window of {node.window}", f"the encoder has {encoder.window}")
            shape = _ints(node.shape)
            synapses, extra = self._synapses(name, shape, shapes)
            p = node.parameters
            if extra is not None and extra.size not in (1, shape[0]):
                raise ConversionError(name, f"a bias of {extra.size} values", f"the layer has {shape[0]} channels")
            if extra is not None:
                p = CaLIFParameters(p.threshold, p.leak - extra, p.y_min, p.y_max, p.tie, p.v_init)
            shapes[name] = shape
            stages[name] = Stage(name, synapses, p, shape, node.scale)
        if not stages:
            raise ConversionError("graph", "no CaLIF node", "export one with to_nir")
        for sink, layer in sinks.items():
            self._declared(sink, "output", shapes[layer])
        outputs = outputs_of(self.metadata, sinks)
        network = Network(encoders, tuple(stages.values()), encoder.window, outputs)
        _check_sums(network)
        return network

    def _sinks(self) -> dict[str, str]:
        """The layer behind every Output node, by the node's name."""
        sinks = {}
        for name, node in self.nodes.items():
            if type(node) is nir.Output:
                last = self.before[name]
                if len(last) != 1 or type(self.nodes[last[0]]) is not CaLIF:
                    raise ConversionError(name, f"edges from {last[:5]}", "an output must be one CaLIF node")
                sinks[name] = last[0]
        if not sinks:
            raise ConversionError("graph", "0 Output nodes", "a Ca-LIF network has at least one")
        return sinks

    def _declared(self, name: str, side: str, shape: Shape) -> None:
        declared = _ints(getattr(self.nodes[name], f"{side}_type")[side])
        if declared != shape:
            where = "the encoder takes" if side == "input" else "the last layer has"
            raise ConversionError(name, f"a declared shape of {declared}", f"{where} {shape}: correct one of them")

    def _order(self) -> list[str]:
        """All nodes, each after all that feed it; the file's order decides where the graph does not."""
        order, stuck = in_order(self.before)
        if stuck is not None:
            raise ConversionError(stuck, "a cycle of edges", "Ca-LIF networks are feed-forward")
        return order

    def _check_paths(self, order: list[str]) -> None:
        """Every path between two layers becomes a synapse, and diamonds in a row double their number each time."""
        paths, steps = dict.fromkeys(order, 0), dict.fromkeys(order, 0)
        total = 0
        for name in order:
            if self._joins(name):
                paths[name] = steps[name] = 1
                continue
            for a in self.before[name]:
                through = a in self.ops
                paths[name] += paths[a] if through else 1
                steps[name] += steps[a] + paths[a] if through else 1
            if type(self.nodes[name]) is CaLIF:
                total += steps[name]
                if total > _MOST_STEPS:
                    found = f"{paths[name]:,} paths of operations that lead to it"
                    raise ConversionError(name, found, f"merge equal ones: a network has {_MOST_STEPS:,} at the most")

    def _synapses(
        self, target: str, shape: Shape, shapes: dict[str, Shape]
    ) -> tuple[tuple[Synapse, ...], np.ndarray | None]:
        synapses: list[Synapse] = []
        bias = self._bias(target)
        for first in self.before[target]:
            for source, names in self._paths(first):
                ops: list[Operation] = []
                missing = [name for name in source if name not in shapes]
                if missing:
                    raise ConversionError(
                        target, f"an edge from {missing[0]!r}", "only spiking layers and the encoder feed"
                    )
                given = tuple(shapes[name] for name in source)
                here = given[0]
                for name in names:
                    op, added = self.ops[name]
                    try:
                        here = op.output_shape(*given)
                        given = (here,)
                    except ConversionError as error:
                        raise ConversionError(name, error.found, error.todo) from None
                    if added is not None and name != first:
                        raise ConversionError(name, "a bias before another operation", "put it into the layer's leak")
                    if ops and type(op) is Scale and type(ops[-1]) is Scale:
                        op = Scale(ops.pop().weight * op.weight)  # type: ignore[attr-defined]
                    if op.rewires or op.factor != 1:
                        ops.append(op)
                if here != shape:
                    raise ConversionError(target, f"an input of shape {here}", f"the layer has {shape}")
                synapses.append(Synapse(source, tuple(ops)))
        if not synapses:
            raise ConversionError(target, "no incoming edge", "every layer needs an input")
        return tuple(synapses), bias

    def _bias(self, target: str) -> np.ndarray | None:
        """The sum of the biases of the operations just before a layer."""
        bias: np.ndarray | None = None
        for first in self.before[target]:
            added = self.ops[first][1] if first in self.ops else None
            if added is not None:
                if bias is not None and bias.size != added.size:
                    raise ConversionError(first, f"a bias of {added.size} values", f"another has {bias.size}")
                bias = added if bias is None else bias + added
        return bias

    def _joins(self, name: str) -> bool:
        """Whether a node takes several sources in an order, and so is the beginning of a chain."""
        node = self.nodes[name]
        return type(node) is CaLIFOperation and bool(node.order)

    def _paths(self, last: str) -> list[tuple[tuple[str, ...], list[str]]]:
        """Chains of operations that end in ``last``, each with the spiking layers that it starts from."""
        found: list[tuple[tuple[str, ...], list[str]]] = []
        chain: list[str] = []  # from the last one back
        waiting = [(last, 0)]
        while waiting:
            name, depth = waiting.pop()
            del chain[depth:]
            node = self.nodes[name]
            if type(node) in (CaLIF, SpikeEncoder):
                found.append(((name,), chain[::-1]))
                continue
            if self._joins(name):
                order = node.order
                if set(order) != set(self.before[name]):
                    raise ConversionError(
                        f"{name}.sources", f"{order} for edges from {self.before[name]}", "name each source"
                    )
                found.append((order, [name, *chain[::-1]]))
                continue
            if name not in self.ops:
                raise ConversionError(
                    name, f"a {type(node).__name__} node", f"Ca-LIF networks are made of {', '.join(known_nodes())}"
                )
            if not self.before[name]:
                raise ConversionError(name, "no incoming edge", "connect it or remove it")
            chain.append(name)
            waiting += [(b, depth + 1) for b in reversed(self.before[name])]
        return found


def _check_sums(network: Network) -> None:
    """Whole numbers below 2**53 are exact in float64; the range of counts and the charge itself bound them."""
    largest = {name: spec.levels for name, spec in network.specs.items()}
    for stage in network.stages:
        p = stage.parameters
        charge = sum(s.reach(*(largest[name] for name in s.sources)) for s in stage.synapses)
        other = float(np.abs(p.v_init).max() + network.window * np.abs(p.leak).max())
        if charge >= 2**53 or charge + other >= 2**53:  # an integer may be too large for a float
            found = f"sums of up to 2^{math.log2(charge + int(other)):.0f}"
            raise ConversionError(stage.name, found, "float64 holds whole numbers below 2^53: use smaller weights")
        largest[stage.name] = min(stage.reach, int((charge + other) / float(p.threshold.min())) + 1)


def _table(rows: np.ndarray | None) -> TokenTable | None:
    return None if rows is None else TokenTable(torch.from_numpy(rows))


def _ints(value: Any) -> Shape:
    return tuple(int(n) for n in np.asarray(value).reshape(-1))
