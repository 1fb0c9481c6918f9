"""The same quantised network on other simulators, for timing (:mod:`converters.benchmark`).

What a user of each would write: convolutions in float32 with weights divided by the threshold, the bias as
constant current, and the simulator's own integrate-and-fire neuron. Their spikes are their own (see
``calif interop`` and the README for what that costs); here only the time counts. Sequential networks only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calif_plugins.encoding import isi_encode
from converters.backends import run
from converters.errors import ConversionError
from converters.network import Network, Stage, float64

__all__ = ["RIVALS", "Step", "missing"]

Step = Callable[[], Any]


class _Weights(nn.Module):
    """A stage's synapses in float32, divided by the threshold: charge in units of it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        if len(stage.synapses) != 1 or not stage.linear:
            raise ConversionError(
                stage.name, "several synapses, or one that counts", "other simulators are timed on sequential networks"
            )
        self.ops = nn.ModuleList()
        p = stage.parameters
        threshold, leak = (float64(x).to(torch.float32).reshape(-1) for x in (p.threshold, p.leak))
        for op in stage.synapses[0].ops:
            module: Any = op.module().float()
            if hasattr(module, "divisor_override"):
                module.divisor_override = None  # the average is in units of the pool's threshold, its area
            elif op.stored is not None:
                with torch.no_grad():
                    module.weight.div_(threshold.reshape(-1, *[1] * (op.stored.ndim - 1)))
                module.bias = nn.Parameter((-leak / threshold).expand(len(op.stored)).clone())
            elif not op.rewires:
                raise ConversionError(stage.name, f"a {type(op).__name__}", "time a network of convolutions and layers")
            self.ops.append(module)

    def forward(self, x: Tensor) -> Tensor:
        for op in self.ops:
            x = op(x)
        return x


def _layers(network: Network, neuron: Callable[[Stage], nn.Module], wrap: Any = None) -> nn.Sequential:
    parts: list[nn.Module] = []
    for stage in network.stages:
        weights = _Weights(stage)
        parts += [weights if wrap is None else wrap(weights), neuron(stage)]
    return nn.Sequential(*parts).eval().to(memory_format=torch.channels_last)


def _spikes(network: Network, integers: Tensor) -> Tensor:
    """Input trains, float32 ``(T, N, *shape)``, computed beforehand."""
    return torch.from_numpy(isi_encode(counts=integers.numpy(), window=network.window)).to(torch.float32)


def _loop(net: nn.Module, x: Tensor, reset: Callable[[], Any]) -> Step:
    def step() -> Tensor:
        reset()
        total = torch.zeros(())
        for now in x:
            total = total + net(now)
        return total

    return step


def _snntorch(network: Network, integers: Tensor) -> Step:
    import snntorch

    net = _layers(
        network, lambda s: snntorch.Leaky(beta=1.0, threshold=1.0, reset_mechanism="subtract", init_hidden=True)
    )

    def reset() -> None:
        for m in net:
            if isinstance(m, snntorch.Leaky):
                m.reset_mem()

    return _loop(net, _spikes(network, integers), reset)


def _spikingjelly(network: Network, integers: Tensor, mode: str, stbif: bool = False) -> Step:
    from spikingjelly.activation_based import functional, layer, neuron

    def make(stage: Stage) -> nn.Module:
        if stbif:
            top = max(1, int(stage.parameters.y_max.max()))
            return neuron.STBIFNode(torch.tensor(1.0), top, sym=bool(stage.parameters.y_min.min() < 0), step_mode=mode)
        return neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode=mode)

    if mode == "m":
        net = _layers(network, make, layer.SeqToANNContainer)
        x = _spikes(network, integers)

        def step() -> Tensor:
            functional.reset_net(net)
            return net(x).sum(0)

        return step
    net = _layers(network, make)
    return _loop(net, _spikes(network, integers), lambda: functional.reset_net(net))


def _sinabs(network: Network, integers: Tensor) -> Step:
    import sinabs.layers as sl

    x = _spikes(network, integers)
    steps, n = x.shape[:2]
    parts = [m for stage in network.stages for m in (_Weights(stage), sl.IAFSqueeze(num_timesteps=steps))]
    net = nn.Sequential(*parts).eval().to(memory_format=torch.channels_last)
    flat = x.transpose(0, 1).reshape(n * steps, *x.shape[2:])

    def step() -> Tensor:
        for m in net:
            if isinstance(m, sl.IAFSqueeze):
                m.reset_states()
        return net(flat).reshape(n, steps, -1).sum(1)

    return step


def _norse(network: Network, integers: Tensor) -> Step:
    import norse.torch as norse

    parts: list[nn.Module] = []
    for stage in network.stages:
        parts += [_Weights(stage), norse.IAFCell()]
    net = norse.SequentialState(*parts).eval().to(memory_format=torch.channels_last)
    x = _spikes(network, integers)

    def step() -> Tensor:
        state, total = None, torch.zeros(())
        for now in x:
            out, state = net(now, state)
            total = total + out
        return total

    return step


def _float(network: Network, integers: Tensor, passes: int) -> Step:
    """The dense float network: what ``T`` steps of any simulator that multiplies floats cannot be faster than."""
    net = nn.Sequential(*(_Weights(s) for s in network.stages)).eval().to(memory_format=torch.channels_last)
    x = integers.to(torch.float32)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)

    def step() -> Tensor:
        out = x
        for _ in range(passes):
            out = x
            for m in net:
                out = F.relu_(m(out))
        return out

    return step


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
