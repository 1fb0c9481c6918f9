"""A converted network as one PyTorch module: PyTorch's layers, and snnTorch neurons (``CaLIF``) between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import nir
import torch
from torch import Tensor, nn

from calif_plugins.snntorch import CaLIF, reset
from converters.backends.charges import arithmetic_of, on_bytes
from converters.errors import ConversionError
from converters.exact.sums import add_up
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage
from converters.operations import Operation, Synapse
from converters.operations.convolution import in_order
from converters.ports.inputs import Batches, batches
from converters.ports.outputs import mapped, returned

__all__ = ["SpikingLayer", "SpikingNetwork", "to_snntorch"]


def to_snntorch(graph: nir.NIRGraph | Network, *, dtype: str = "float32") -> SpikingNetwork:
    """The converted network as a module to keep: PyTorch's layers and ``CaLIF`` neurons, by layer name.

    Parameters
    ----------
    graph : nir.NIRGraph
        From :func:`converters.to_nir` or :func:`converters.read`.
    dtype : {"float32", "float64", "bfloat16", "float16"}
        Type of the layers' weights, and so the arithmetic of charges. A layer whose sums it would round takes a larger
        one; membranes and counts are float64.

    Returns
    -------
    SpikingNetwork

    Examples
    --------
    >>> import converters
    >>> from converters.operations import Linear
    >>> from converters.quantised import GraphBuilder
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.tensor([[1, 2]])))], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=0.5)
    >>> net = converters.to_snntorch(converters.to_nir(b.build(y), T=4))
    >>> net
    SpikingNetwork(
      input of shape (2,), coding isi, T = 4
      (fc): SpikingLayer(
        (from_input): Linear(in_features=2, out_features=1, bias=False)
        (neurons): CaLIF(threshold=3, leak=-0.25, y_min=0, y_max=4, tie=even)
      )
    )
    >>> spikes = net(net.encode(torch.tensor([[1.0, 0.5]])))                  # (T, N, 1)
    >>> spikes[:, 0, 0].tolist(), len(net.settle()), net.read_out().tolist()
    ([0.0, 1.0, 0.0, 1.0], 1, [[1.5]])
    """
    return SpikingNetwork(Network.from_graph(graph), dtype=dtype)


class SpikingNetwork(nn.Module):
    """A feed-forward network of Ca-LIF layers that all act within one step, in graph order.

    It takes one step, ``(N, *input shape)``, or a block of steps, ``(steps, N, *input shape)``, and returns the output
    layer's signed spikes for them. State stays between calls until :meth:`reset`. Steps after the window are those of
    the rounding phase: no leak, thresholds at half their value. Layers are children by name; dots in names become
    underscores (:attr:`children_of`).

    Attributes
    ----------
    window : int
        ``T``, in steps.
    t : int
        Steps since the last reset.
    settle_from : int
        Step from which thresholds are half; ``window`` unless changed. More than any step switches rounding off.
    children_of : dict of str to str
        The child's name of every layer.
    """

    def __init__(
        self, network: Network, *, dtype: str = "float32", device: torch.device | None = None, exact: bool = False
    ) -> None:
        """``exact``: weights are whole numbers and stay so, and charges are whole whatever a device's kernels do."""
        super().__init__()
        self.network, self.window, self.settle_from = network, network.window, network.window
        self.t = 0
        taken = set(dir(self))
        self.children_of: dict[str, str] = {}
        for stage in network.stages:
            self.children_of[stage.name] = _safe(stage.name, taken)
            layer = SpikingLayer(network, stage, dtype, device or torch.device("cpu"), exact)
            self.add_module(self.children_of[stage.name], layer)

    def layer(self, name: str) -> SpikingLayer:
        """The layer of this name, as the converted graph calls it.

        Raises
        ------
        ConversionError
            If there is none.
        """
        if name not in self.children_of:
            raise ConversionError(name, "no layer of this name", f"layers are {', '.join(self.children_of)}")
        found = getattr(self, self.children_of[name])
        assert isinstance(found, SpikingLayer)
        return found

    def encode(self, images: Batches | None = None, *, integers: Batches | None = None) -> Tensor | dict[str, Tensor]:
        """What to feed the network with for ``window`` steps: float32 ``(T, N, *input shape)``.

        Of several inputs a dictionary of them, by name.

        Parameters
        ----------
        images : float tensor ``(N, *input shape)``
        integers : int tensor of that shape, instead of images

        Signed spikes in {-1, 0, 1}, or with coding ``direct`` the integers themselves at every step, of which the first
        layer takes an even share.
        """
        counts = self.network.accept(images, integers)
        if self.network.coding == "direct":
            fed = counts.to(torch.float32).expand(self.window, *counts.shape)
        else:
            source = InputSpikes(self.network, counts)
            fed = torch.stack([source.at(t) for t in range(self.window)])
        return fed if len(self.network.specs) == 1 else self.network.by_input(fed)

    def forward(self, x: Batches) -> Any:
        """Signed spikes of the output layer, for one step ``(N, ...)`` or a block of steps ``(steps, N, ...)``.

        Of several inputs take a tensor for each, in their order or by name; of several outputs there is a tensor for
        each, in the structure that the model returns.
        """
        given = batches(list(self.network.specs), x, "input")
        steps = {self._steps(name, one) for name, one in given.items()}
        if len(steps) > 1:
            raise ConversionError("input", "blocks of different lengths", "give as many steps of each input")
        self._check_silence(given, steps)
        if steps == {None}:
            spikes = self.step(given)
        else:
            each = [self.step(dict(zip(given, one, strict=True))) for one in zip(*given.values(), strict=True)]
            spikes = {s.name: torch.stack([now[s.name] for now in each]) for s in self.network.output_stages}
        return self._returned(spikes)

    def _check_silence(self, given: Mapping[str, Tensor], steps: set[int | None]) -> None:
        """Refuse input after the window: it would be added to what came before, and no leak would go with it."""
        (length,) = steps
        late = max(0, self.window - self.t)
        for one in given.values():
            beyond = one if length is None and not late else one[:0] if length is None else one[late:]
            if bool(beyond.any()):
                found = f"input at step {max(self.t, self.window)}, after the window of {self.window} steps"
                raise ConversionError(
                    "input", found, "call reset() before other images; settle() takes the steps after it"
                )

    def _steps(self, name: str, x: Tensor) -> int | None:
        """How many steps of an input there are; None of a single one without an axis for them."""
        shape = self.network.specs[name].shape
        rank = len(shape)
        if tuple(x.shape[x.ndim - rank :]) != shape or x.ndim - rank not in (1, 2):
            n = ", ".join(map(str, shape))
            raise ConversionError(name, f"shape {tuple(x.shape)}", f"give (N, {n}) or (steps, N, {n})")
        return None if x.ndim == rank + 1 else len(x)

    def _returned(self, values: Mapping[str, Tensor]) -> Any:
        return mapped(lambda output: values[output.layer], self.network.outputs)

    def step(self, x: Batches) -> dict[str, Tensor]:
        """One step; the signed spikes ``(N, *shape)`` of every layer, by its name.

        ``x`` is a tensor, of several inputs one for each, or all of them side by side as :meth:`Network.accept` has
        them.
        """
        given = self.network.by_input(x) if isinstance(x, Tensor) else batches(list(self.network.specs), x, "input")
        images = len(next(iter(given.values())))
        running = self.layer(self.network.stages[0].name).neurons.v
        if self.t and running.numel() and len(running) != images:
            found = f"{images} images after {self.t} steps of {len(running)}"
            raise ConversionError("input", found, "call reset() before other images")
        leaking, halved = self.t < self.window, self.t >= self.settle_from
        direct = self.network.coding == "direct"
        key = (x,) if isinstance(x, Tensor) else tuple(given.values())
        spikes = {name: torch.zeros_like(one) if direct else one for name, one in given.items()}
        for stage in self.network.stages:
            layer = self.layer(stage.name)
            layer.neurons.leaking, layer.neurons.halved = leaking, halved
            share = layer.share(key, given, self.t, self.window) if direct and leaking else None
            spikes[stage.name] = layer(spikes, share)
        self.t += 1
        return spikes

    def settle(self, *, max_steps: int = 10_000) -> list[Any]:
        """The rounding phase: silent steps until no neuron fires; the output's spikes, the last, silent step left out.

        Raises
        ------
        ConversionError
            Before the window is over; or if neurons still fire after ``max_steps``.
        """
        if self.t < self.window:
            raise ConversionError("settle", f"step {self.t} of {self.window}", "feed the whole window first")
        first = self.layer(self.network.stages[0].name).neurons
        n, device = len(first.v), first.v.device
        silence = {name: torch.zeros(n, *spec.shape, device=device) for name, spec in self.network.specs.items()}
        outputs: list[Any] = []
        while len(outputs) < max_steps:
            spikes = self.step(silence)
            if not any(bool(spikes[s.name].any()) for s in self.network.stages):
                return outputs
            outputs.append(self._returned(spikes))
        raise ConversionError("settle", f"neurons that still fire after {max_steps} steps", "reset, and start again")

    def read_out(self) -> Any:
        """The output in real units, float64 ``(N, *output shape)``: of counts, or of a membrane that never fires.

        Of several outputs all, as :attr:`converters.RunResult.outputs` has them, functions behind them included.
        """
        return returned(self.network.outputs, {stage.name: self._real(stage) for stage in self.network.output_stages})

    def _real(self, stage: Stage) -> Tensor:
        neurons = self.layer(stage.name).neurons
        if not stage.readout:
            return neurons.y.to(torch.float64) * stage.scale
        threshold = neurons.threshold.reshape(-1).expand(stage.shape[0])
        return neurons.v / threshold.view(1, -1, *[1] * (neurons.v.ndim - 2)) * stage.scale

    def sequential(self) -> nn.Sequential:
        """The same layers in one row, with the same parameters and neurons, for code that takes an ``nn.Sequential``.

        The network is reset, since the neurons' state is shared.

        :func:`converters.from_snntorch` does, which is the way back of a network that was trained on.

        Raises
        ------
        ConversionError
            If a layer is not fed by the one before it alone, or the input is coded directly.
        """
        if self.network.coding == "direct":
            raise ConversionError("input", "coding 'direct'", "convert with coding isi")
        self.reset()
        row = nn.Sequential()
        before = self.network.encoder_name
        for name, child in self.children_of.items():
            layer = self.layer(name)
            if list(layer.sources.values()) != [(before,)]:
                found = [source for sources in layer.sources.values() for source in sources]
                raise ConversionError(name, f"edges from {', '.join(found)}", "only chains of layers are one row")
            (synapse,) = layer.sources
            module = getattr(layer, synapse)
            row.add_module(f"{child}_synapses", nn.Sequential(*module) if isinstance(module, Chain) else module)
            row.add_module(child, layer.neurons)
            before = name
        return row

    def reset(self) -> None:
        """Back to the state before the first step."""
        self.t = 0
        reset(self)
        for module in self.modules():
            if isinstance(module, Remembering):
                module.reset()
            elif isinstance(module, SpikingLayer):
                module.forget_input()
                module.neurons.leaking, module.neurons.halved = True, False  # as in the first step of a window

    def extra_repr(self) -> str:
        inputs = [
            f"input of shape {spec.shape}" + ("" if spec.table is None else f", rows of {spec.table.vocabulary} tokens")
            for spec in self.network.specs.values()
        ]
        return f"{', '.join(inputs)}, coding {self.network.coding}, T = {self.window}"


class SpikingLayer(nn.Module):
    """The synapses that feed a layer, one child for each source, and its neurons."""

    def __init__(self, network: Network, stage: Stage, dtype: str, device: torch.device, exact: bool) -> None:
        super().__init__()
        self.exact, self.name = exact, stage.name
        self.narrow = network.changes[stage.name] <= 2**24  # float32 adds up what arrives in a step
        self.sources: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[str, torch.dtype] = {}
        taken = set(dir(self))
        for synapse in stage.synapses:
            child = _safe("from_" + "_and_".join(synapse.sources), taken)
            kind = arithmetic_of(network, synapse, dtype, device)
            module = _module(synapse, kind, device)
            self.add_module(child, module)
            self.sources[child], self._kinds[child] = synapse.sources, kind
        self.neurons = CaLIF.from_parameters(stage.parameters, init_hidden=True).to(device)
        self._shared: tuple[tuple[Tensor, ...], Tensor | None] | None = None

    def forward(self, spikes: Mapping[str, Tensor], share: Tensor | None = None) -> Tensor:
        """Signed spikes ``(N, *shape)``, from the sources' in this step, and what a directly coded input adds."""
        parts = [self._part(child, spikes) for child in self.sources]
        return self.neurons(add_up(parts if share is None else [share, *parts], "charge")).to(torch.float32)

    def steps(self, spikes: Mapping[str, Tensor], share: Tensor | None = None) -> Tensor:
        """:meth:`forward` for a block of steps at once: every tensor has an axis of steps in front.

        Synapses see steps and images side by side, and the neurons go through the block in one call.
        """
        dtype = torch.float32 if self.narrow and share is None else torch.float64
        parts = [self._block(child, spikes).to(dtype) for child in self.sources]
        self.neurons.multistep = True
        try:
            s: Tensor = self.neurons(add_up(parts if share is None else [share, *parts], "charge"))
        finally:
            self.neurons.multistep = False
        return s.to(torch.float32)

    def _block(self, child: str, spikes: Mapping[str, Tensor]) -> Tensor:
        module, given = getattr(self, child), [spikes[name] for name in self.sources[child]]
        sizes = given[0].shape[:2]
        if isinstance(module, Remembering):
            if module.lead is not None:
                given = [self._sums(module.lead, child, given).unflatten(0, sizes)]
            return module.changes(*given)
        return self._sums(module, child, given).unflatten(0, sizes)

    def _sums(self, module: nn.Module, child: str, given: Sequence[Tensor]) -> Tensor:
        return self._linear(module, self._kind(child), [x.flatten(0, 1) for x in given])

    def extra_repr(self) -> str:
        """Which module of the model it was, where its own name had to begin with an underscore before a number."""
        return f"module {self.name[1:]} of the model" if re.match(r"_[0-9]", self.name) else ""

    def _part(self, child: str, spikes: Mapping[str, Tensor]) -> Tensor:
        module, given = getattr(self, child), [spikes[name] for name in self.sources[child]]
        if not isinstance(module, Remembering):
            return self._linear(module, self._kind(child), given).to(torch.float64)
        if module.lead is not None:
            given = [self._linear(module.lead, self._kind(child), given)]
        return module.change(*given)

    def _linear(self, module: nn.Module, kind: torch.dtype, given: Sequence[Tensor]) -> Tensor:
        part: Tensor = module(*(in_order(x.to(kind)) for x in given))
        if self.exact and part.device.type != "cpu" and part.is_floating_point():
            part = part.round()
        return part

    def forget_input(self) -> None:
        """Drop the charge that is kept of a directly coded input."""
        self._shared = None

    def _kind(self, child: str) -> torch.dtype:
        """Type of a synapse's arithmetic: of its weights, which may have been converted since it was made."""
        for parameter in getattr(self, child).parameters():
            return parameter.dtype
        return self._kinds[child]

    def share(self, key: tuple[Tensor, ...], integers: Mapping[str, Tensor], t: int, window: int) -> Tensor | None:
        """What directly coded inputs bring at step ``t``: ``floor((t+1) c / T) - floor(t c / T)`` of ``c``.

        ``c`` is the whole charge, computed once for each ``key``. Gradients are those of ``c / T``.
        """
        if torch.is_grad_enabled() or self._shared is None or list(map(id, self._shared[0])) != list(map(id, key)):
            self._shared = key, self._whole(integers)
        total = self._shared[1]
        if total is None:
            return None
        now, before = (torch.floor(k * total / window) for k in (t + 1, t))
        if not total.requires_grad:
            return now - before
        smooth = total / window
        return (now - before).detach() + (smooth - smooth.detach())

    def _whole(self, integers: Mapping[str, Tensor]) -> Tensor | None:
        """The whole charge of directly coded inputs, in float64: their counts are no spikes."""
        parts = []
        for child, sources in self.sources.items():
            if set(sources) <= set(integers):
                module = getattr(self, child)
                x = [integers[name].to(torch.float64) for name in sources]
                if isinstance(module, Remembering):  # at the first step it brings its result for silence
                    parts.append(module.whole(*x) - module.whole(*map(torch.zeros_like, x)))
                else:
                    parts.append(_in_float64(module, *x))
            elif set(sources) & set(integers):
                raise ConversionError(
                    "input", f"an operation on the directly coded input and {sources}", "use coding isi"
                )
        return add_up(parts, "input") if parts else None


class OnBytes(nn.Module):
    """A synapse of int8 weights on int8 spikes, summed in int32; it does not learn."""

    def __init__(self, synapse: Synapse) -> None:
        super().__init__()
        self.synapse = synapse

    def forward(self, spikes: Tensor) -> Tensor:
        return on_bytes(self.synapse, spikes)

    def extra_repr(self) -> str:
        return " and ".join(type(op).__name__ for op in self.synapse.ops)


class Remembering(nn.Module):
    """A synapse that counts what its sources have sent, and brings the change of its result.

    Spikes go through ``lead``, the linear operations in front, as spikes; what that brings is summed up, and the change
    of what ``core`` makes of the sums goes through ``rest``.
    """

    def __init__(self, synapse: Synapse, kind: torch.dtype, device: torch.device) -> None:
        super().__init__()
        first, core, rest = synapse.parts
        self.lead = _module(Synapse(synapse.sources, first), kind, device, several=True) if first else None
        self.core, self.rest = (Chain(ops).to(device, torch.float64) for ops in (core, rest))
        self.sums: list[Tensor] | None = None
        self.before: Tensor | None = None

    def reset(self) -> None:
        """Forget all counts."""
        self.sums = self.before = None

    def whole(self, *counts: Tensor) -> Tensor:
        """The result for float64 counts, which nothing remembers."""
        if self.lead is not None:
            counts = (_in_float64(self.lead, *counts),)
        result: Tensor = self.rest(self.core(*counts))
        return result

    def change(self, *received: Tensor) -> Tensor:
        """The charge of a step, from what ``lead`` brings of its spikes; without one, from the spikes."""
        new = [x.to(torch.float64) for x in received]
        self.sums = [a + b for a, b in zip(self.sums, new, strict=True)] if self.sums else new
        now: Tensor = self.core(*self.sums)
        charge: Tensor = self.rest(now if self.before is None else now - self.before)
        self.before = now
        return charge

    def changes(self, *received: Tensor) -> Tensor:
        """:meth:`change` for a block of steps, ``(steps, N, ...)``."""
        sizes = received[0].shape[:2]
        new = [torch.cumsum(x.to(torch.float64), 0) for x in received]
        if self.sums:
            new = [a + b for a, b in zip(self.sums, new, strict=True)]
        self.sums = [x[-1] for x in new]
        now: Tensor = self.core(*(x.flatten(0, 1) for x in new)).unflatten(0, sizes)
        first = torch.zeros_like(now[0]) if self.before is None else self.before
        before, self.before = torch.cat([first[None], now[:-1]]), now[-1]
        charge: Tensor = self.rest((now - before).flatten(0, 1))
        return charge.unflatten(0, sizes)

    def forward(self, *spikes: Tensor) -> Tensor:
        return self.change(*(spikes if self.lead is None else (self.lead(*spikes),)))


class Chain(nn.Sequential):
    """Operations in a row, the first of which may take several tensors."""

    def __init__(self, ops: Sequence[Operation]) -> None:
        super().__init__(*(op.module() for op in ops))

    def forward(self, *x: Tensor) -> Tensor:
        for module in self:
            x = (module(*x),)
        return x[0]


def _in_float64(module: nn.Module, *integers: Tensor) -> Tensor:
    x = [k.to(torch.float64) for k in integers]
    if isinstance(module, OnBytes):
        return module.synapse(*x)
    weights = {name: p.to(torch.float64) for name, p in module.named_parameters()}
    result: Tensor = torch.func.functional_call(module, weights, tuple(x))
    return result


def _module(synapse: Synapse, kind: torch.dtype, device: torch.device, *, several: bool = False) -> nn.Module:
    """Of one source, or, where it is the linear beginning of a chain that counts, of ``several``."""
    if not synapse.linear and not several:
        return Remembering(synapse, kind, device)
    if kind is torch.int8:
        return OnBytes(synapse)
    if not synapse.ops:
        return nn.Identity()
    module = synapse.ops[0].module() if len(synapse.ops) == 1 else Chain(synapse.ops)
    return module.to(device, kind)


def _safe(name: str, taken: set[str]) -> str:
    """A child's name as near to ``name`` as can be, which no other has; it is added to ``taken``."""
    base = name.replace(".", "_")
    found, k = base, 1
    while found in taken:
        k += 1
        found = f"{base}_{k}"
    taken.add(found)
    return found
