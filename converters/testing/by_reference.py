"""The oracle: a network run by the NumPy rule, image by image, with charges from the synapses' matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins import reference
from calif_plugins.encoding import direct_charge, isi_encode
from calif_plugins.parameters import Phase
from converters.network import Network, Stage
from converters.operations import Conv2d, Linear, Operation, Shape, Synapse

__all__ = ["Expected", "by_reference"]


@dataclass(frozen=True, eq=False)
class Expected:
    """What ``N`` images do to a network, by :mod:`calif_plugins.reference`.

    Attributes
    ----------
    trains : dict of int8 tensors ``(steps, N, *shape)``
        Of the input, silent where it is coded directly, and of every layer; as long as the longest image needs.
    counts, membranes : dict of tensors ``(N, *shape)``
        Of every layer at the end, int64 and float64.
    extra_steps : int64 tensor ``(N,)``
        Steps after the window up to and including the last spike.
    sops, macs : float64 tensors ``(N,)``
        Synaptic operations, and multiplications of a directly coded input.
    """

    trains: dict[str, Tensor]
    counts: dict[str, Tensor]
    membranes: dict[str, Tensor]
    extra_steps: Tensor
    sops: Tensor
    macs: Tensor


def by_reference(
    network: Network, integers: Tensor, *, phase: Phase = "settle", settle_from: int | None = None
) -> Expected:
    """Run ``integers`` as :meth:`Network.accept` has them, N images of at least 1, with nothing of a backend's.

    >>> from converters.testing.networks import NETWORKS, images, network
    >>> q = NETWORKS["dense"]()
    >>> x = q.input.quantise(images(q, 3))
    >>> expected = by_reference(network(q, 5, "isi"), x)
    >>> bool((expected.counts["fc3"] == q.execute(integers=x)["fc3"]).all()), expected.extra_steps.tolist()
    (True, [...])
    """
    charges = {s: _Charges(s, network) for stage in network.stages for s in stage.synapses}
    given = network.by_input(integers)
    each = [{name: x[k].numpy() for name, x in given.items()} for k in range(len(integers))]
    traces = [_one(network, charges, image, phase, settle_from) for image in each]
    steps = max(len(image[0].spikes) for image in traces)
    trains = {name: torch.stack([_sent(network, image[name], steps) for image in each], 1) for name in given}
    for k, stage in enumerate(network.stages):
        trains[stage.name] = torch.stack([_padded(image[k].spikes, steps) for image in traces], 1)
    direct = network.coding == "direct"
    leaving = _leaving(network)
    fired = {name: train.abs().sum(0, dtype=torch.float64) for name, train in trains.items()}
    nonzero = sum(((x != 0).to(torch.float64) * leaving[name]).flatten(1).sum(1) for name, x in given.items())
    return Expected(
        trains,
        {s.name: torch.stack([torch.from_numpy(i[k].y) for i in traces]) for k, s in enumerate(network.stages)},
        {s.name: torch.stack([torch.from_numpy(i[k].v) for i in traces]) for k, s in enumerate(network.stages)},
        torch.tensor([i[0].extra_steps if phase != "none" else 0 for i in traces]),
        torch.stack([(fired[name] * leaving[name]).flatten(1).sum(1) for name in trains]).sum(0),
        torch.as_tensor(nonzero) * direct,
    )


def _one(
    network: Network,
    charges: dict[Synapse, _Charges],
    image: dict[str, np.ndarray],
    phase: Phase,
    settle_from: int | None,
) -> list[reference.LayerTrace]:
    trains = {name: _sent(network, x, network.window).numpy().astype(np.int64) for name, x in image.items()}
    direct = network.coding == "direct"
    for charge in charges.values():
        charge.reset()

    def of(stage: Stage) -> Callable[[int, list[np.ndarray]], Any]:
        def at(t: int, spikes: list[np.ndarray]) -> np.ndarray:
            inputs = {name: x[t] if t < network.window else np.zeros_like(x[0]) for name, x in trains.items()}
            now = inputs | dict(zip([s.name for s in network.stages], spikes, strict=False))
            total = sum(charges[s].of(now) for s in stage.synapses)
            if direct and t < network.window:
                own = [s for s in stage.synapses if set(s.sources) <= set(image)]
                whole = sum(charges[s].whole(*(image[name] for name in s.sources)) for s in own)
                total = total + direct_charge(whole, t, network.window)
            return np.asarray(total).reshape(stage.shape).astype(np.float64)

        return at

    return reference.run_network(
        [of(s) for s in network.stages],
        [s.parameters for s in network.stages],
        [s.shape for s in network.stages],
        network.window,
        phase=phase,
        settle_from=settle_from,
    )


class _Charges:
    """What one synapse brings: by its matrix, or as the change of its result for the counts so far."""

    def __init__(self, synapse: Synapse, network: Network) -> None:
        self.synapse = synapse
        self.shapes = [network.shapes[name] for name in synapse.sources]
        self.matrix = synapse.matrix(self.shapes[0]) if synapse.linear else None
        self.reset()

    def reset(self) -> None:
        self.counts = [np.zeros(shape, dtype=np.int64) for shape in self.shapes]
        self.before: Any = 0

    def of(self, now: dict[str, np.ndarray]) -> Any:
        """The charge of one step, flat."""
        if self.matrix is not None:
            return self.matrix @ now[self.synapse.source].reshape(-1)
        self.counts = [n + now[name] for n, name in zip(self.counts, self.synapse.sources, strict=True)]
        result = self._result(*self.counts)
        change, self.before = result - self.before, result
        return change

    def whole(self, *integers: np.ndarray) -> np.ndarray:
        """What the integers of directly coded inputs bring in all, beyond silence."""
        if self.matrix is not None:
            return np.asarray(self.matrix @ integers[0].reshape(-1))
        return self._result(*integers) - self._result(*map(np.zeros_like, integers))

    def _result(self, *counts: np.ndarray) -> np.ndarray:
        return self.synapse(*(torch.from_numpy(n)[None] for n in counts)).numpy().reshape(-1)


def _sent(network: Network, image: np.ndarray, steps: int) -> Tensor:
    """The input's spikes, silent after the window."""
    if network.coding == "direct":
        return torch.zeros(steps, *image.shape, dtype=torch.int8)
    return _padded(isi_encode(counts=image, window=network.window), steps)


def _padded(train: np.ndarray, steps: int) -> Tensor:
    out = torch.zeros(steps, *train.shape[1:], dtype=torch.int8)
    out[: len(train)] = torch.from_numpy(train.astype(np.int8))
    return out


def _leaving(network: Network) -> dict[str, Tensor]:
    """Connections that leave each neuron, those of weight zero too: one neuron at a time, through weights of 1."""
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in network.shapes.items()}
    for stage in network.stages:
        for synapse in stage.synapses:
            shapes = [network.shapes[name] for name in synapse.sources]
            ones = _ones(synapse, *shapes)
            for k, name in enumerate(synapse.sources):
                size = total[name].numel()
                basis = torch.eye(size, dtype=torch.float64).reshape(size, *shapes[k])
                given = [torch.zeros(size, *shape, dtype=torch.float64) for shape in shapes]
                reached = ones(*given[:k], basis, *given[k + 1 :])
                total[name] += (reached != 0).flatten(1).sum(1).reshape(shapes[k])
    return total


def _ones(synapse: Synapse, *shapes: Shape) -> Synapse:
    ops: list[Operation] = []
    for op in synapse.ops:
        stored = type(op) in (Conv2d, Linear)
        ops.append(replace(op, weight=torch.ones_like(op.weight)) if stored else op.structure(*shapes))  # type: ignore
        shapes = (op.output_shape(*shapes),)
    return Synapse(synapse.sources, tuple(ops))
