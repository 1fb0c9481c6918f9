"""Target ``chain``: Ca-LIF in Affine (or Conv2d) and LIF nodes alone, exact in stock executors.

Why it works. Executors of NIR graphs put a delay of one step on feedback edges. The soft reset "subtract
``Vth s`` now" equals "add ``-Vth s(t-1)`` to the next input", and the gate looks at ``y`` before this step's
spike: both feedbacks want exactly that delay. A LIF whose time constant is one step has no memory: it fires
exactly if its input exceeds its threshold 1, and so compares. One layer of C channels is::

    a_syn    weights, stacked over zeros: the charge for V, nothing for the rest
    b_state  [V; y; ...], with an edge to itself: the integrator; adds the leak
    c_cmp    rows such as V - Vth and y_max - 1 - y, scaled and moved so that >= 0 means > 1
    d_z      comparators: V >= Vth, -V >= Vth, y < y_max, y > y_min, ...
    e_and    sums of these, for an AND by threshold
    f_pm     comparators: positive spike, negative spike
    g_s      positive minus negative: the signed spike, the layer's output
    h_fb     [-Vth s; s; ...], back into b_state

The rounding phase needs no second input. Two more rows are the layer's own clock: ``clock`` counts steps, and
``settle`` becomes 1 when the window is over. That switches the leak off and halves both thresholds, at the step
at which the Ca-LIF network does. So a lowered network is fed spikes, then nothing, like any other.

Ties. Where a layer's certificate finds no integer input that ends exactly on half a threshold, both signs
are strict in the rounding phase. Where it does and the rule is ``up``, the positive comparison takes the tie. Rule
``even`` takes the parity of the count, in a row of its own: with ``tie = (V >= Vth/2)``,
``strict = (V > Vth/2)`` and ``odd`` a neuron fires if ``tie + strict + odd >= 2``; and a spike at odd parity
(``tie + odd = 2``) is what the parity needs in order to follow.

Numbers. ``x = 1 + gain (n + 1/2)`` with ``n`` a whole number of lattice units (see :mod:`converters.lowering.lattice`)
exceeds 1 exactly if ``n >= 0``. All of it is exact in float32 while ``|n| <= 2**23``; below ``2**22`` the gain keeps
``x`` below 2, for simulators whose neurons fire several times a step. Wider layers need float64: constants are
then split in two, since most importers round weights to float32.

Names sort in the order of computation, as files come back sorted by name; edges are listed so that
executors which walk depth first see a layer's feedback before the next layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import nir
import numpy as np

from converters.lowering.lattice import LayerLattice
from converters.lowering.metadata import numbered, output_nodes, stock_metadata
from converters.lowering.rows import RowMap, Rows, comparators
from converters.lowering.syn import network_shape, require_spikes, synapse_nodes
from converters.network import Network, Stage
from converters.operations import Shape

__all__ = ["chain", "precision_of"]


def precision_of(lattices: dict[str, LayerLattice]) -> tuple[int, str]:
    """Bits of the floats that hold every layer exactly, 32 or 64, and the layer that needs most."""
    name, most = max(((k.name, int(k.largest.max())) for k in lattices.values()), key=lambda item: item[1])
    return (32 if most <= 2**23 - 2 else 64), name


def chain(network: Network, lattices: dict[str, LayerLattice]) -> nir.NIRGraph:
    """The network in stock nodes (see the module's text)."""
    require_spikes(network)
    precision, _ = precision_of(lattices)
    graph = _Graph(network, lattices, precision)
    for k, stage in enumerate(network.stages):
        graph.layer(k, stage)
    return graph.finish()


@dataclass
class _Graph:
    network: Network
    lattices: dict[str, LayerLattice]
    precision: int
    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = self.network.spec
        self.maps = len(spec.shape) == 3
        shape = network_shape(spec.shape, self.maps)
        self.nodes["input"] = nir.Input(input_type={"input": np.array(shape)})
        self.outputs[self.network.encoder_name], self.shapes[self.network.encoder_name] = "input", shape

    def layer(self, k: int, stage: Stage) -> None:
        shape = network_shape(stage.shape, self.maps)
        lattice = self.lattices[stage.name]
        rule = _Rule(stage, lattice, self.network.window, self.precision)
        prefix = numbered("l", k, len(self.network.stages), least=3)
        syn = synapse_nodes(
            f"{prefix}_a",
            stage,
            self.outputs,
            self.shapes,
            self.network.shapes,
            rule.state,
            2.0**lattice.bits,
            rule.initial,
        )
        self.nodes |= syn.nodes
        self.edges += syn.edges
        part: dict[str, nir.NIRNode] = {f"{prefix}_{n}": node for n, node in rule.nodes(prefix, shape).items()}
        self.nodes |= part

        def join(*names: str) -> None:
            self.edges.append((f"{prefix}_{names[0]}", f"{prefix}_{names[1]}"))

        self.edges += [(end, f"{prefix}_b_state") for end in syn.ends]
        join("b_state", "b_state")
        join("b_state", "c_cmp")
        join("c_cmp", "d_z")
        if stage.readout:
            join("d_z", "h_fb")
            join("h_fb", "b_state")
            join("b_state", "i_out")
            self.outputs[stage.name] = f"{prefix}_i_out"
        else:
            join("d_z", "e_and")
            join("e_and", "f_pm")
            join("f_pm", "h_fb")
            join("h_fb", "b_state")
            join("f_pm", "i_out")
            self.outputs[stage.name] = f"{prefix}_i_out"
        self.shapes[stage.name] = shape

    def finish(self) -> nir.NIRGraph:
        output_nodes(self.network, self.outputs, self.shapes, self.nodes, self.edges)
        square = all(
            not isinstance(n, nir.Conv2d) or n.weight.shape[2] == n.weight.shape[3] for n in self.nodes.values()
        )
        # nir works out shapes with the kernel's height alone
        order = {name: self.nodes[name] for name in sorted(self.nodes)}
        metadata = stock_metadata("chain", self.network, self.precision, self.outputs)
        return nir.NIRGraph(nodes=order, edges=self.edges, metadata=metadata, type_check=square)


class _Rule:
    """Matrices of one layer."""

    def __init__(self, stage: Stage, lattice: LayerLattice, window: int, precision: int) -> None:
        self.stage, self.lattice, self.window = stage, lattice, window
        self.wide = precision == 64
        p = stage.parameters
        self.y_min, self.y_max = int(np.min(p.y_min)), int(np.max(p.y_max))
        self.even = bool(lattice.ties.any()) and p.tie == "even"
        n = stage.shape[0]
        state: dict[str, int] = {"v": n}
        flags: dict[str, int] = {}
        fires: dict[str, int] = {}
        if not stage.readout:
            state |= {"y": n}
            flags |= {"up": n, "down": n, "may_up": n, "may_down": n}
            fires |= {"up": n, "down": n}
            if self.even:
                state |= {"odd": n}
                flags |= {"up_tie": n, "down_tie": n, "odd": n}
                fires |= {"up_odd": n, "down_odd": n}
        state |= {"clock": 1, "settle": 1}
        if self.wide:
            state |= {"settle_low": 1, "one": 1}
        flags |= {"over": 1, "settle": 1}
        self.state, self.flags = Rows(state), Rows(flags)
        self.fires = self.flags if stage.readout else Rows(fires | {"over": 1, "settle": 1})
        # what a constant of float32 cannot hold of the threshold is taken from V where it is compared
        high = lattice.threshold.astype(np.float32).astype(np.int64)
        self.reset, self.rest = high, lattice.threshold - high
        self.initial = lattice.v_init

    def nodes(self, where: str, shape: Shape) -> dict[str, nir.NIRNode]:
        result = {
            "b_state": self._state().node(f"{where}_b_state", shape),
            "c_cmp": self._compare().node(f"{where}_c_cmp", shape),
            "d_z": comparators(self.flags.total, shape),
            "h_fb": self._feedback().node(f"{where}_h_fb", shape),
            "i_out": self._out().node(f"{where}_i_out", shape),
        }
        if not self.stage.readout:
            result["e_and"] = self._join().node(f"{where}_e_and", shape)
            result["f_pm"] = comparators(self.fires.total, shape)
        return result

    def _state(self) -> RowMap:
        """What comes in, plus the state before; the leak acts until the window is over."""
        m = RowMap(self.state, self.state)
        for block in self.state.sizes:
            if block not in ("settle_low", "one"):
                m.put(block, block, 1)
        m.add("v", -self.lattice.leak)
        m.put("v", "settle", self.lattice.leak)
        m.add("clock", 1)
        if self.wide:
            m.put("settle_low", "settle", 1)
            m.add("one", 1)
        return m

    def _compare(self) -> RowMap:
        """``1 + gain (n + 1/2)`` for everything that is compared with 0."""
        m = RowMap(self.state, self.flags)
        gain = 2.0 ** -(self.window + 3).bit_length()
        m.add("over", 1 + gain * (0.5 - self.window))
        m.put("over", "clock", gain)
        m.add("settle", 1 - 0.25)
        m.put("settle", "settle", 0.5)
        if self.stage.readout:
            return m
        k = self.lattice
        most = int(k.largest.max()) + 1
        gain = 2.0 ** -most.bit_length() if most < 2**22 else 2.0
        half = k.threshold // 2
        # in the rounding phase: V >= Vth/2 + strict, -V >= Vth/2 + strict
        rows = [("up", 1, 1), ("down", -1, 1)]
        if self.even:
            rows += [("up_tie", 1, 0), ("down_tie", -1, 0)]
        elif self.stage.parameters.tie == "up":
            rows[0] = ("up", 1, 0)
        for name, sign, strict in rows:
            m.put(name, "v", sign * gain)
            if self.rest.any():
                m.put(name, "y", -sign * gain * self.rest)
            self._constant(m, name, "one", 1 + gain * (0.5 - k.threshold))
            self._constant(m, name, "settle_low", gain * (half - strict), at="settle")
        width = (self.y_max - self.y_min + 2).bit_length()
        gain = 2.0**-width
        m.put("may_up", "y", -gain)
        m.add("may_up", 1 + gain * (self.y_max - 0.5))
        m.put("may_down", "y", gain)
        m.add("may_down", 1 + gain * (-self.y_min - 0.5))
        if self.even:
            m.put("odd", "odd", 0.5)
            m.add("odd", 1 - 0.25)
        return m

    def _constant(self, m: RowMap, row: str, low: str, value: np.ndarray, at: str | None = None) -> None:
        """A constant, or the weight of a single row; in two parts where float32 cannot hold it."""
        value = np.asarray(value, dtype=np.float64)
        high = value.astype(np.float32).astype(np.float64) if self.wide else value
        if at is None:
            m.add(row, high)
        else:
            m.put(row, at, high)
        if (value != high).any():
            m.put(row, low, value - high)

    def _join(self) -> RowMap:
        """AND by threshold: ``1 + (sum - least + 1/2) / 4`` exceeds 1 if the sum is at least ``least``."""
        m = RowMap(self.flags, self.fires)
        for side in ("up", "down"):
            if not self.even:
                self._least(m, side, {side: 1, f"may_{side}": 1}, 2)
                continue
            self._least(m, side, {side: 1, f"{side}_tie": 1, "odd": 1, f"may_{side}": 2}, 4)
            self._least(m, f"{side}_odd", {f"{side}_tie": 1, "odd": 1, f"may_{side}": 1}, 3)
        for flag in ("over", "settle"):
            self._least(m, flag, {flag: 1}, 1)
        return m

    @staticmethod
    def _least(m: RowMap, row: str, terms: dict[str, int], least: int) -> None:
        m.add(row, 1 + (0.5 - least) / 4)
        for term, weight in terms.items():
            m.put(row, term, weight / 4)

    def _feedback(self) -> RowMap:
        """Soft reset, count, parity, and the clock."""
        m = RowMap(self.fires, self.state)
        m.add("v", -self.initial)  # the first step has no feedback: there the initial membrane stays
        if not self.stage.readout:
            for side, sign in (("up", 1), ("down", -1)):
                m.put("v", side, -sign * self.reset)
                m.put("y", side, sign)
                if self.even:
                    m.put("odd", side, 1)
                    m.put("odd", f"{side}_odd", -2)
        m.put("settle", "over", 1)
        m.put("settle", "settle", -1)
        m.put("clock", "settle", -1)  # it stands still once it has rung
        return m

    def _out(self) -> RowMap:
        if self.stage.readout:
            m = RowMap(self.state, Rows({"v": self.stage.shape[0]}))
            m.put("v", "v", 2.0**-self.lattice.bits)
            return m
        m = RowMap(self.fires, Rows({"s": self.stage.shape[0]}))
        m.put("s", "up", 1)
        m.put("s", "down", -1)
        return m
