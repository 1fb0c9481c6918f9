"""Small networks for the fast simulator: all layers of an image in one compiled call.

Of a network like LeNet-5 the layers take less time than the calls of Python that run them one by one. The whole network
is written down as a table once (:mod:`calif_plugins.multistep_network`), and a run adds the addresses of its arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins.multistep import numba_threads
from converters.backends.contract import Settings
from converters.backends.fast_plan import Plan, PlannedLayer, last
from converters.input_spikes import InputSpikes
from converters.network import Network
from converters.operations import Shape
from converters.results import Emitted, RunResult, make_result

__all__ = ["Program"]

_SMALL = 2**21  # synapses: what more of them take is far more than what calls of Python do
_NEVER = 2**30
_LINE = 64  # bytes of the cache


def _kernels() -> Any:
    from calif_plugins import multistep_network

    return multistep_network


class Program:
    """A network's table, of int64 ``(inputs and layers, columns)``; make it by :meth:`of`."""

    def __init__(self, network: Network, plan: Plan) -> None:
        self.network = network
        self._kernels = _kernels()
        self._column = {name: k for k, name in enumerate(self._kernels.COLUMNS)}
        self._rows = {name: k for k, name in enumerate(network.shapes)}
        self._held: list[np.ndarray] = []  # whose addresses stand in the table
        self._terms: list[tuple[int, int]] = []
        self._plan = {layer.stage.name: layer for layer in plan.stages}
        self._direct = self._coded_directly()
        self._upright = {name for name in network.specs if self._column_by_column(name)}
        self.table = np.zeros((len(self._rows), len(self._column)), dtype=np.int64)
        spikes = neurons = rows = scratch = 0
        for name, k in self._rows.items():
            own: dict[str, int] = {"spikes": spikes, "state": neurons, "fired": rows, "scratch": scratch}
            own |= self._input(name) if name in network.specs else self._layer(self._plan[name], plan.fan_out[name])
            for column, value in own.items():
                self.table[k, self._column[column]] = value
            size = own["rows"] * own["width"]
            spikes += size
            if name in network.specs:
                scratch += 2 * size
            else:
                neurons, rows = neurons + size, rows + own["rows"]
                scratch += 3 * size if own["kind"] == self._kernels.DIRECT else 0
        self.terms = np.array(self._terms or [(0, 0)], dtype=np.int64)
        self._start = np.concatenate([_start(layer) for layer in plan.stages])
        self._sizes = neurons, rows, spikes, scratch, self._largest()
        self._places, self._bytes = _laid_out(self._sizes, len(self._rows))
        self._read = {stage.name for stage in network.output_stages}
        # inputs come first; of direct ones the multiplications count
        self._sending = dict(list(self._rows.items())[0 if network.coding == "isi" else len(network.specs) :])

    @classmethod
    def of(cls, plan: Plan) -> Program | None:
        """None where the network is too large for it, or a layer is none that it can write down."""
        network = plan.network
        if sum(float(fan_out.sum()) for fan_out in network.fan_out.values()) > _SMALL:
            return None
        direct = network.coding == "direct"
        return cls(network, plan) if all(_known(layer, network, direct) for layer in plan.stages) else None

    def _largest(self) -> int:
        """Charges of a layer, with what the widest vector takes beyond them."""
        at = self._column
        rows, width, tall, wide, size = (self.table[:, at[name]] for name in ("rows", "width", "tall", "wide", "size"))
        lines = np.where(self.table[:, at["kind"]] == self._kernels.POOL, wide + 2 * self._kernels.LANES, 0)
        return int(np.maximum(rows * width + self._kernels.LANES + lines, tall * wide + size).max())

    def _coded_directly(self) -> set[str]:
        if self.network.coding != "direct":
            return set()
        return {name for name, layer in self._plan.items() if _hears_input(layer, self.network)}

    def _input(self, name: str) -> dict[str, int]:
        shape, width = self.network.shapes[name], math.prod(self.network.shapes[name])
        numbers = torch.arange(width).reshape(shape)
        if name in self._upright:
            numbers = numbers.transpose(-1, -2)
        own = {"kind": self._kernels.INPUT, "rows": 1, "width": width, "channels": shape[0]}
        own["order"] = self._address(numbers.movedim(0, -1).reshape(-1).numpy(), np.int32)
        return own | {"fan_out": self._address(self.network.fan_out[name].numpy(), np.int32)}

    def _column_by_column(self, name: str) -> bool:
        """Whether an input goes that way.

        One spike after the other then mostly adds to the same places of the image of charges, one line further down;
        along a line each would read what the one before has written half of, and wait for it.
        """
        shape, heard_by = self.network.shapes[name], [layer for layer in self._plan.values() if name in layer.sources]
        if len(shape) != 3 or any(layer.stage.name in self._direct for layer in heard_by):
            return False
        tables = [layer.events.arguments for layer in heard_by if layer.events is not None]
        # convolutions have a place for each of the image's; a dense layer has one, and its weights in their order
        return len(tables) == len(heard_by) and all(len(place) == math.prod(shape[1:]) for _, place, *_ in tables)

    def _layer(self, layer: PlannedLayer, fan_out: np.ndarray) -> dict[str, int]:
        stage, k = layer.stage, self._kernels
        width, size, places = layer.parameters.rows, stage.size, stage.size // stage.shape[0]
        own = {"rows": size // width, "width": width, "channels": stage.shape[0]}
        own["even"] = int(stage.parameters.tie == "even")
        own["silent"] = _silent(layer, self.network.window)
        own["fan_out"] = self._address(np.broadcast_to(fan_out, (places, stage.shape[0])), np.int32)
        own |= dict(zip(k.PARAMETERS, layer.parameters.addresses, strict=True))
        if stage.name in self._direct:
            return own | {"kind": k.DIRECT}
        if layer.factors is not None:
            first = len(self._terms)
            sources = [self._rows[given.sources[0]] for given in layer.inputs]
            self._terms += zip(sources, map(int, layer.factors), strict=True)
            return own | {"kind": k.SUM, "first": first, "end": len(self._terms)}
        (source,) = layer.inputs[0].sources
        own["source"] = self._rows[source]
        if layer.pool_events is not None:
            (target,) = layer.pool_events.arguments
            own |= self._windows(layer, self.network.shapes[source])
            return own | {"kind": k.POOL, "place": self._address(target, np.int32), "places": len(target)}
        assert layer.events is not None
        channels, place, line, lines, sums, most, kh, size, tall, wide, top, side = layer.events.arguments
        if source in self._upright:
            place, line = (x.reshape(self.network.shapes[source][1:]).T.reshape(-1) for x in (place, line))
        own |= {"kh": kh, "size": size, "tall": tall, "wide": wide, "top": top, "side": side}
        own |= {"place": self._address(place, np.int32), "line": self._address(line, np.int64)}
        own |= {"lines": self._address(lines, lines.dtype), "lines_size": lines.size}
        own |= {"bits": 8 * lines.dtype.itemsize, "most": most, "words": int(most > 0 or sums.dtype == np.int32)}
        return own | {"kind": k.EVENTS, "source_channels": channels, "places": len(place)}

    def _windows(self, layer: PlannedLayer, shape: Shape) -> dict[str, int]:
        """Of a pool whose windows may be added up whole, or nothing."""
        assert layer.pool is not None
        kernel, stride, padding = layer.pool
        whole = all(n * k <= size for n, k, size in zip(layer.stage.shape[1:], kernel, shape[1:], strict=True))
        if stride != kernel or any(padding) or not whole:
            return {}
        return {"kh": kernel[0], "kw": kernel[1], "wide": shape[0] * shape[2]}

    def _address(self, array: np.ndarray, kind: Any) -> int:
        self._held.append(np.ascontiguousarray(array, dtype=kind))
        return self._held[-1].ctypes.data

    def run(self, integers: Tensor, options: Settings) -> RunResult | None:
        """The result, with counts; None where an image is not silent within the steps that 16 bits count."""
        network, n, at = self.network, len(integers), self._column
        table, given = self.table.copy(), self._give(integers)
        totals = torch.empty(3 * len(table) + 1, n, dtype=torch.int64)
        table[:, at["totals"]] = totals.data_ptr() + 24 * n * np.arange(len(table))
        for row, address, stride in given.addresses:
            table[row, at["given"]], table[row, at["stride"]] = address, stride
        counts, membranes = {}, {}
        for stage in network.stages:
            name = stage.name
            if options.record != "output" or name in self._read:
                counts[name] = torch.empty(n, *stage.shape, dtype=torch.int32)
                table[self._rows[name], at["counts"]] = counts[name].data_ptr()
            if name in self._read:
                membranes[name] = torch.empty(n, *stage.shape, dtype=torch.float64)
                table[self._rows[name], at["membranes"]] = membranes[name].data_ptr()
        spiked = np.empty(n, dtype=np.int64)
        steps = self._kernels.LONGEST if options.phase == "settle" else network.window + (options.phase == "paper")
        half_from = _NEVER if options.phase == "none" else options.settle_from
        memory = np.empty((numba_threads(), self._bytes), dtype=np.uint8)
        clock = network.window, half_from, steps, options.phase == "settle"
        self._kernels.through(table, self.terms, clock, self._start, memory, self._places, self._sizes, spiked)
        if n and spiked.min() < 0:
            return None
        *each, operations = totals.unbind()
        return make_result(
            network,
            integers,
            backend="fast",
            phase=options.phase,
            record=options.record,
            counts=counts,
            membranes=membranes,
            sent={name: Emitted(*each[3 * k : 3 * k + 3]) for name, k in self._sending.items()},
            extra_steps=torch.from_numpy(np.maximum(spiked - network.window, 0)),
            sops=operations.to(torch.float64),
        )

    def _give(self, integers: Tensor) -> _Given:
        """Where inputs and directly coded layers find what they take."""
        network = self.network
        if self._direct:
            charges = {name: last(x).contiguous() for name, x in InputSpikes(network, integers).charges.items()}
            return _Given(list(charges.values()), [(self._rows[k], x.data_ptr(), 0) for k, x in charges.items()])
        given = integers.to(torch.int64).contiguous()
        first, stride = 0, math.prod(given.shape[1:])
        addresses = []
        for name in network.specs:
            addresses.append((self._rows[name], given.data_ptr() + 8 * first, stride))
            first += math.prod(network.shapes[name])
        return _Given([given], addresses)


@dataclass(frozen=True)
class _Given:
    """Tensors, held as long as a kernel reads them, and ``(row, address, stride)`` of what is in them."""

    tensors: list[Tensor]
    addresses: list[tuple[int, int, int]]


def _start(layer: PlannedLayer) -> np.ndarray:
    """A layer's membranes in the beginning, in the units of its narrow state."""
    narrow = layer.parameters.narrow
    assert narrow is not None
    start: np.ndarray = np.tile(narrow[4], layer.stage.size // len(narrow[4]))
    return start


def _silent(layer: PlannedLayer, window: int) -> int:
    """How many steps of the window no neuron of a layer fires in, nor is close to it, if nothing arrives."""
    narrow = layer.parameters.narrow
    assert narrow is not None
    _, _, y_min, y_max, _, _, close, *_ = narrow
    threshold, leak, start = (narrow[k][: layer.stage.shape[0]].astype(np.int64) for k in (0, 1, 4))  # of a place
    drained = start - leak * np.arange(1, window + 1)[:, None]
    bound = threshold - close
    fires = ((drained >= bound) & (y_max > 0)) | ((-drained >= bound) & (y_min < 0))
    return int(np.append(fires.any(1), True).argmax())


def _laid_out(sizes: tuple[int, ...], layers: int) -> tuple[np.ndarray, int]:
    """Where each array of an image begins, in bytes, and how many it takes in all."""
    neurons, rows, spikes, remainders, charges = sizes
    lengths = [4 * x for x in (neurons, neurons, rows, layers, layers, remainders, charges)] + [
        2 * charges,
        spikes + _LINE,
    ]
    ends = np.cumsum([-(-x // _LINE) * _LINE for x in lengths])
    return np.concatenate([[0], ends[:-1]]).astype(np.int64), int(ends[-1])


def _hears_input(layer: PlannedLayer, network: Network) -> bool:
    return any(name in network.specs for name in layer.sources)


def _known(layer: PlannedLayer, network: Network, direct: bool) -> bool:
    """Whether the kernel has a kind for this layer."""
    if layer.parameters.narrow is None:
        return False
    if direct and _hears_input(layer, network):
        alone = all(name in network.specs for name in layer.sources)
        return alone and layer.portions is torch.int32
    sums = layer.factors is not None and layer.in_place
    return sums or layer.pool_events is not None or layer.events is not None
