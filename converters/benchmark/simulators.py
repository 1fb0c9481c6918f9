"""The same quantised network on other simulators, for timing (:mod:`converters.benchmark`).

What a user of each would write: convolutions in float32 with weights divided by the threshold, the bias as
constant current, and the simulator's own integrate-and-fire neuron. Their spikes are their own (see
``calif interop`` and the README for what that costs); here only the time counts. A maximum is taken of spikes; what
else remembers counts (a product, a norm, an activation that is no ReLU) none of them has a neuron for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from calif_plugins.encoding import isi_encode
from converters.backends import run
from converters.benchmark.float_networks import FloatNetwork, Weights
from converters.network import Network, Stage

__all__ = ["RIVALS", "Spiking", "Step", "missing", "spikes_of"]

Step = Callable[[], Any]


class Spiking(nn.Module):
    """Layers of a simulator's neurons, in graph order: ``net(x)`` with the input of a step, or of all of them."""

    def __init__(self, network: Network, neuron: Callable[[Stage], nn.Module], over_time: bool = False) -> None:
        super().__init__()
        self.stages = [(stage.name, stage.relay) for stage in network.stages]
        self.inputs, self.output = list(network.specs), network.output.name
        self.weights = nn.ModuleList(Weights(network, stage, real=False) for stage in network.stages)
        self.neurons = nn.ModuleList(nn.Identity() if stage.relay else neuron(stage) for stage in network.stages)
        self.over_time = over_time
        self.eval()

    def forward(self, x: Any) -> Tensor:
        values = self._values(x)
        for (name, _), weights, neurons in zip(self.stages, self.weights, self.neurons, strict=True):
            values[name] = neurons(self._charge(weights, values))
        return values[self.output]

    def with_state(self, x: Any, states: dict[str, Any]) -> Tensor:
        """The same of neurons that are given their state, and return it behind their spikes."""
        values = self._values(x)
        for (name, relay), weights, neurons in zip(self.stages, self.weights, self.neurons, strict=True):
            charge = self._charge(weights, values)
            values[name], states[name] = (charge, None) if relay else neurons(charge, states.get(name))
        return values[self.output]

    def _values(self, x: Any) -> dict[str, Tensor]:
        return dict(x) if isinstance(x, dict) else {self.inputs[0]: x}

    def _charge(self, weights: Any, values: dict[str, Tensor]) -> Tensor:
        given = [values[n] for sources in weights.sources for n in sources]
        if not self.over_time:
            return weights(*given)
        out = weights(*(x.flatten(0, 1) for x in given))  # as SpikingJelly's SeqToANNContainer does
        return out.unflatten(0, given[0].shape[:2])


def _laid_out(net: nn.Module, integers: Tensor) -> nn.Module:
    """Where the integers are; on the CPU with channels last, where weights have height and width."""
    flat = all(p.ndim < 5 for p in net.parameters())
    if integers.device.type != "cpu":
        return net.to(integers.device)
    return net.to(memory_format=torch.channels_last) if flat else net


def spikes_of(network: Network, integers: Tensor) -> Any:
    """Input of every step, float32 ``(T, N, *shape)``, computed beforehand; of several inputs by name."""
    found = {}
    for name, given in network.by_input(integers).items():
        if network.coding == "direct":
            found[name] = (given / network.window).to(torch.float32).expand(network.window, *given.shape)
        else:
            train = isi_encode(counts=given.cpu().numpy(), window=network.window)
            found[name] = torch.from_numpy(train).to(given.device, torch.float32)
    return _plain(found)


def _plain(values: dict[str, Tensor]) -> Any:
    return values if len(values) > 1 else next(iter(values.values()))


def _at(x: Any, t: int) -> Any:
    return {name: v[t] for name, v in x.items()} if isinstance(x, dict) else x[t]


def _loop(network: Network, net: Callable[[Any], Tensor], x: Any, reset: Callable[[], Any]) -> Step:
    def step() -> Tensor:
        reset()
        total = torch.zeros(())
        for t in range(network.window):
            total = total + net(_at(x, t))
        return total

    return step


def _snntorch(network: Network, integers: Tensor) -> Step:
    import snntorch

    net = _laid_out(
        Spiking(
            network, lambda s: snntorch.Leaky(beta=1.0, threshold=1.0, reset_mechanism="subtract", init_hidden=True)
        ),
        integers,
    )

    def reset() -> None:
        for m in net.modules():
            if isinstance(m, snntorch.Leaky):
                m.reset_mem()

    return _loop(network, net, spikes_of(network, integers), reset)


def _spikingjelly(network: Network, integers: Tensor, mode: str, stbif: bool = False) -> Step:
    from spikingjelly.activation_based import functional, neuron

    def make(stage: Stage) -> nn.Module:
        if stbif:
            top = max(2, int(stage.parameters.y_max.max()))  # fewer it refuses
            return neuron.STBIFNode(torch.tensor(1.0), top, sym=bool(stage.parameters.y_min.min() < 0), step_mode=mode)
        return neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode=mode)

    net = _laid_out(Spiking(network, make, over_time=mode == "m"), integers)
    x = spikes_of(network, integers)
    if mode == "s":
        return _loop(network, net, x, lambda: functional.reset_net(net))

    def step() -> Tensor:
        functional.reset_net(net)
        return net(x).sum(0)

    return step


def _sinabs(network: Network, integers: Tensor) -> Step:
    import sinabs.layers as sl

    steps, n = network.window, len(integers)
    net = _laid_out(Spiking(network, lambda _: sl.IAFSqueeze(num_timesteps=steps)), integers)
    x = spikes_of(network, integers)
    given = {name: v.transpose(0, 1).flatten(0, 1) for name, v in (x if isinstance(x, dict) else {"": x}).items()}

    def step() -> Tensor:
        for m in net.modules():
            if isinstance(m, sl.IAFSqueeze):
                m.reset_states()
        return net(_plain(given)).reshape(n, steps, -1).sum(1)

    return step


def _norse(network: Network, integers: Tensor) -> Step:
    import norse.torch as norse

    net: Any = _laid_out(Spiking(network, lambda _: norse.IAFCell()), integers)
    states: dict[str, Any] = {}
    return _loop(network, lambda x: net.with_state(x, states), spikes_of(network, integers), states.clear)


def _float(network: Network, integers: Tensor, passes: int) -> Step:
    """The dense float network: what ``T`` steps of any simulator that multiplies floats cannot be faster than."""
    net = _laid_out(FloatNetwork(network), integers)
    values = {name: v.to(torch.float32) * network.specs[name].scale for name, v in network.by_input(integers).items()}
    x = _plain({name: v.contiguous(memory_format=_format(v)) for name, v in values.items()})

    def step() -> Tensor:
        out = torch.zeros(())
        for _ in range(passes):
            out = net(x)
        return out

    return step


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 and x.device.type == "cpu" else torch.contiguous_format


def _calif(network: Network, integers: Tensor, **options: Any) -> Step:
    return lambda: run(network, integers=integers, record="output", batch=len(integers), **options)


# name: (package that it needs, builder)
RIVALS: dict[str, tuple[str, Callable[[Network, Tensor], Step]]] = {
    "snntorch_loop": ("snntorch", _snntorch),
    "spikingjelly_single": ("spikingjelly", lambda n, x: _spikingjelly(n, x, "s")),
    "spikingjelly_multi": ("spikingjelly", lambda n, x: _spikingjelly(n, x, "m")),
    "spikingjelly_stbif": ("spikingjelly", lambda n, x: _spikingjelly(n, x, "m", stbif=True)),
    "sinabs": ("sinabs", _sinabs),
    "norse": ("norse", _norse),
    "float_passes_T": ("torch", lambda n, x: _float(n, x, n.window)),
    "float_pass": ("torch", lambda n, x: _float(n, x, 1)),
    "calif_loop": ("snntorch", lambda n, x: _calif(n, x, backend="snntorch")),
    "calif_fast": ("numba", lambda n, x: _calif(n, x, backend="fast")),
    "calif_fast_from_0": ("numba", lambda n, x: _calif(n, x, backend="fast", settle_from=0)),
    "calif_closed_form": ("torch", lambda n, x: _calif(n, x, backend="closed_form")),
}


def missing(name: str) -> str | None:
    """The package that a row needs and that is not installed, or None."""
    package, _ = RIVALS[name]
    try:
        version(package)
    except PackageNotFoundError:
        return package
    return None
