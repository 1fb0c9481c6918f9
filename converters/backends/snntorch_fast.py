"""The same spikes as the step loop, several times faster: integer kernels, many steps per call.

A feed-forward network without delays can be run layer by layer over a block of steps. Charges come from
PyTorch's oneDNN int8 kernels on spikes stored as bytes (exact: sums of small integers, put out as float32),
where the processor has them, else from float convolutions; the neurons' scan is one compiled pass
(:mod:`calif_plugins.multistep`). Images go through in chunks, so that a layer's charges stay in the cache;
memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins import multistep
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage, float64
from converters.results import RunResult, merge, read_out
from converters.synapses import Conv2d, Flatten, Linear, Scale, Shape, SumPool2d, Synapse

if TYPE_CHECKING:
    from converters.backends import Options

__all__ = ["simulate", "usable"]

BLOCK = 32  # steps per call within the window
_TAIL = 8  # and in the rounding phase, which is short
_CHUNK_BYTES = 16 * 2**20  # of the largest layer's charges in one block
_EXACT = 2**24


def usable(device: torch.device) -> bool:
    """Whether this path can run: on a CPU, with Numba."""
    return device.type == "cpu" and multistep.available()


def int8_kernels() -> bool:
    """Whether the processor multiplies bytes (VNNI); without it float kernels are the faster ones."""
    probe = getattr(torch.cpu, "_is_vnni_supported", None)  # private: its absence means float kernels
    return bool(probe is not None and probe() and hasattr(torch.ops.onednn, "qconv2d_pointwise"))


def simulate(network: Network, integers: Tensor, options: Options) -> RunResult:
    """Every spike of every layer, for input ``integers`` of shape ``(N, *input shape)``, on the CPU."""
    multistep.use_threads_of_torch()
    plan = network.__dict__.get("_fast_plan")
    if plan is None:
        plan = network.__dict__["_fast_plan"] = _Plan(network)
    chunk = max(1, _CHUNK_BYTES // (4 * BLOCK * max(s.size for s in network.stages)))
    return merge([_Run(plan, part, options).result() for part in integers.split(chunk)])


# --- what does not depend on the images -------------------------------------------------------------------


Charge = Callable[[Tensor], Tensor]  # uint8 spikes + 1, (B, N, *shape, channels last) -> float (B, places, C)


@dataclass
class _Input:
    source: str
    charge: Charge


class _Plan:
    """For every layer: how its charges are computed, and its parameters as the kernels take them."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.stages = [_Layer(network, stage) for stage in network.stages]
        self.fan_out = {k: _last(v[None])[0] for k, v in network.fan_out.items()}


class _Layer:
    def __init__(self, network: Network, stage: Stage) -> None:
        self.stage = stage
        self.dtype = torch.float32 if stage.gain < _EXACT else torch.float64
        self.pool: SumPool2d | None = None
        ops = [s.ops for s in stage.synapses]
        if len(ops) == 1 and len(ops[0]) == 1 and type(ops[0][0]) is SumPool2d:
            self.pool = ops[0][0] if stage.gain < 2**15 else None
        self.inputs = [_Input(s.source, self._charge(s, network.shapes[s.source])) for s in stage.synapses]
        p, channels = stage.parameters, stage.shape[0]
        # a row of the kernels is a row of the image, channels last: long enough to be vectorised
        self.repeat = stage.shape[2] if len(stage.shape) == 3 else 1
        self.rows = {
            k: float64(getattr(p, k)).reshape(-1).expand(channels).repeat(self.repeat)
            for k in ("threshold", "leak", "y_min", "y_max", "v_init")
        }
        self.events = _Events.of(stage, network)

    def _charge(self, synapse: Synapse, shape: Shape) -> Charge:
        ops = synapse.ops
        if not ops or (len(ops) == 1 and type(ops[0]) is Scale):
            return _identity(ops[0].weight if ops else 1, self.dtype)  # type: ignore[union-attr,arg-type]
        if self.dtype is torch.float32 and int8_kernels():
            if len(ops) == 1 and type(ops[0]) is Conv2d and ops[0].weight.dtype == torch.int8:
                return _conv(ops[0])
            if type(ops[-1]) is Linear and ops[-1].weight.dtype == torch.int8 and len(ops) <= 2:
                if len(ops) == 1:
                    return _linear(ops[-1].weight)
                if type(ops[0]) is Flatten:
                    return _linear(_reordered(ops[-1].weight, shape))
        return _any(synapse, self.dtype)


@dataclass
class _Events:
    """A convolution or dense layer taken spike by spike, where that is less work than all its products.

    The tables of :func:`calif_plugins.multistep_kernels.event_scan`, whose integers hold the largest charge.
    """

    arguments: tuple[Any, ...]
    share: float
    """Below this share of inputs that spike, adding up their weights one by one is faster."""

    @classmethod
    def of(cls, stage: Stage, network: Network) -> _Events | None:
        if len(stage.synapses) != 1 or stage.gain >= 2**31:
            return None
        ops, shape = stage.synapses[0].ops, network.shapes[stage.synapses[0].source]
        op, dtype = ops[-1] if ops else None, np.int16 if stage.gain < 2**15 else np.int32
        if len(ops) == 1 and type(op) is Conv2d and op.groups == 1 and op.stride == op.dilation == (1, 1):
            # few input channels leave integer kernels idle; many make spike by spike slow at the usual rates
            share = EVENT_SHARE * max(1.0, 96 / op.weight[0].numel())
            return cls(_convolution(op, shape, stage.shape, dtype), share)
        if type(op) is Linear and (len(ops) == 1 or (len(ops) == 2 and type(ops[0]) is Flatten)):
            weight = _lines(_reordered(op.weight, shape).T.numpy().astype(dtype))
            features, size = weight.shape
            nowhere, line = np.zeros(features, dtype=np.int32), np.arange(features, dtype=np.int64) * size
            return cls((features, nowhere, line, weight.reshape(-1), 1, size, 1, size, 0, 0), EVENT_SHARE)
        return None


EVENT_SHARE = 0.08  # of inputs that spike in a step; measured on two AVX-512 cores


def _convolution(op: Conv2d, shape: Shape, out: Shape, dtype: type) -> tuple[Any, ...]:
    """Arguments of ``event_scan``: a spike's weights are ``kh`` lines of an image of charges with margins."""
    channels, height, width = shape
    targets, (kh, kw), (ph, pw) = len(op.weight), op.weight.shape[2:], op.padding
    # lines from bottom to top, in each the columns from right to left: a spike at (y, x) reaches (y + p - i, x + p - j)
    lines = _lines(op.weight.permute(1, 2, 3, 0).flip(2).reshape(channels * kh, kw * targets).numpy().astype(dtype))
    size = lines.shape[1]
    up, left = max(0, ph - kh + 1), max(0, pw - kw + 1)  # where the padding is wider than the kernel
    top, side = kh - 1 - ph + up, kw - 1 - pw + left  # of the neurons within the image of charges
    tall, wide = max(height + kh - 1 + up, top + out[1]), max(width + kw - 1 + left, side + out[2]) * targets
    y, x, c = (k.reshape(-1) for k in np.indices((height, width, channels)))  # channels last
    place = ((y + kh - 1 + up) * wide + (x + left) * targets).astype(np.int32)
    line = c.astype(np.int64) * (kh * size)
    return (len(c), place, line, lines.reshape(-1), kh, size, tall, wide, top, side * targets)


def _lines(weight: np.ndarray) -> np.ndarray:
    """Lines filled up with zeros to a multiple of 32."""
    return np.ascontiguousarray(np.pad(weight, ((0, 0), (0, -weight.shape[1] % 32))))


def _identity(weight: int, dtype: torch.dtype) -> Charge:
    def charge(x: Tensor) -> Tensor:
        s = x.to(dtype).sub_(1)
        return _places(s if weight == 1 else s.mul_(weight))

    return charge


def _conv(op: Conv2d) -> Charge:
    out = op.weight.shape[0]
    ones, zeros = torch.ones(out), torch.zeros(out, dtype=torch.int64)
    geometry = (list(op.stride), list(op.padding), list(op.dilation), op.groups)
    packed: dict[tuple, Tensor] = {}

    def charge(x: Tensor) -> Tensor:
        steps, n, h, w, channels = x.shape
        images = x.reshape(steps * n, h, w, channels).permute(0, 3, 1, 2)  # NCHW by name, channels last in memory
        key = tuple(images.shape)
        if key not in packed:
            packed[key] = torch.ops.onednn.qconv_prepack(op.weight, ones, 1.0, 1, *geometry, list(key))
        y = torch.ops.onednn.qconv2d_pointwise(
            images, 1.0, 1, packed[key], ones, zeros, None, *geometry, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.permute(0, 2, 3, 1).reshape(steps, -1, out)

    return charge


def _linear(weight: Tensor) -> Charge:
    out, features = weight.shape
    ones, zeros = torch.ones(out), torch.zeros(out, dtype=torch.int64)
    packed: dict[int, Tensor] = {}

    def charge(x: Tensor) -> Tensor:
        steps, n = x.shape[:2]
        flat = x.reshape(steps * n, features)
        if steps * n not in packed:
            packed[steps * n] = torch.ops.onednn.qlinear_prepack(weight.contiguous(), [steps * n, features])
        y = torch.ops.onednn.qlinear_pointwise(
            flat, 1.0, 1, packed[steps * n], ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.reshape(steps, n, out)

    return charge


def _reordered(weight: Tensor, shape: Shape) -> Tensor:
    """Columns from channels first to channels last."""
    if len(shape) < 3:
        return weight
    return weight.reshape(len(weight), *shape).permute(0, 2, 3, 1).reshape(len(weight), -1)


def _any(synapse: Synapse, dtype: torch.dtype) -> Charge:
    def charge(x: Tensor) -> Tensor:
        s = _first(x.flatten(0, 1)).to(dtype).sub_(1)
        return _places(_last(synapse(s)).reshape(*x.shape[:2], *_last(synapse(s[:1])).shape[1:]))

    return charge


def _last(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to channels last; anything else as it is."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def _places(x: Tensor) -> Tensor:
    """``(B, N, ..., C)`` to ``(B, places, C)``."""
    return x.reshape(len(x), -1, x.shape[-1])


# --- one chunk of images ------------------------------------------------------------------------------------


class _State:
    def __init__(self, layer: _Layer, n: int) -> None:
        shape = layer.stage.shape
        self.shape = (n, *shape[1:], shape[0])  # channels last
        size = len(layer.rows["v_init"])
        rows = int(np.prod(self.shape)) // size
        self.v = layer.rows["v_init"].repeat(rows, 1)  # a copy, also of a single row
        self.y = torch.zeros(rows, size, dtype=torch.float64)
        self.fired = torch.zeros(rows, size, dtype=torch.int32)

    def nchw(self, x: Tensor) -> Tensor:
        return _first(x.reshape(self.shape)).contiguous()


class _Run:
    def __init__(self, plan: _Plan, integers: Tensor, options: Options) -> None:
        self.plan, self.options, self.n = plan, options, len(integers)
        self.integers = integers
        self.network = plan.network
        self.source = InputSpikes(self.network, integers)
        self.counts = _last(integers).to(torch.int32).contiguous()
        self.states = [_State(layer, self.n) for layer in plan.stages]
        self.last = torch.zeros(self.n, dtype=torch.int64)  # last step in which the image's network fired
        self.share: dict[str, float] = {}  # of neurons that fire in a step, of each layer
        self.trains: dict[str, list[Tensor]] = {k: [] for k in self.network.shapes}
        window = self.network.window
        for t in range(0, window, BLOCK):
            self._block(t, min(BLOCK, window - t))
        if options.phase == "paper":
            self._block(window, 1)
        t = window
        while options.phase == "settle" and bool(self._block(t, _TAIL).all()):
            t += _TAIL

    def _block(self, t: int, steps: int) -> Tensor:
        """Run ``steps`` steps from ``t``; for each, whether anything fired."""
        spikes = {self.source.name: self._input(t, steps)}
        active = torch.zeros(steps, self.n, dtype=torch.bool)
        for layer, state in zip(self.plan.stages, self.states, strict=True):
            name = layer.stage.name
            out = torch.empty(steps, *state.v.shape, dtype=torch.uint8)
            fired = torch.empty(steps, len(state.v), dtype=torch.int32)
            self._scan(layer, state, spikes, t, steps, out, fired)
            spikes[name] = out.reshape(steps, *state.shape)
            self.share[name] = float(fired.sum()) / out.numel()
            active |= fired.reshape(steps, self.n, -1).any(2)
        when = torch.arange(t + 1, t + steps + 1)[:, None] * active
        self.last = torch.maximum(self.last, when.amax(0))
        if self.options.record == "spikes":
            for name, s in spikes.items():
                self.trains[name].append(_first(s.flatten(0, 1)).unflatten(0, s.shape[:2]).to(torch.int8).sub_(1))
        return active.any(1)

    def _scan(
        self, layer: _Layer, state: _State, spikes: dict[str, Tensor], t: int, steps: int, out: Tensor, fired: Tensor
    ) -> None:
        k = multistep.kernels()
        common: tuple[Any, ...] = (
            state.v.numpy(), state.y.numpy(), state.fired.numpy(),
            *(layer.rows[name].numpy() for name in ("threshold", "leak", "y_min", "y_max")),
            t, self.network.window, self._half_from(), layer.stage.parameters.tie == "even", out.numpy(), fired.numpy(),
        )  # fmt: skip
        direct = layer.stage.name in self.source.charges
        if layer.pool is not None and not direct:
            pool, (_, height, width) = layer.pool, layer.stage.shape
            x = spikes[layer.inputs[0].source]
            k.pool_scan(x.numpy(), *pool.kernel, *pool.stride, *pool.padding, height, width, *common)
            return
        if layer.events is not None and not direct:
            source = layer.inputs[0].source
            if self.share[source] < layer.events.share:
                k.event_scan(spikes[source].numpy().reshape(-1), *layer.events.arguments, *common)
                return
        total: Tensor | None = None
        for given in layer.inputs:
            if self.source.coded_directly and given.source == self.source.name:
                continue
            part = given.charge(spikes[given.source])
            total = part if total is None else total + part
        if direct:
            steps_of = [self.source.direct(layer.stage.name, t + b) for b in range(steps)]
            silence = torch.zeros(self.n, *layer.stage.shape, dtype=torch.int64)
            charge = torch.stack([_last(silence if d is None else d) for d in steps_of]).to(torch.float64)
            charge = _places(charge)
            total = charge if total is None else total + charge
        assert total is not None
        k.scan(total.reshape(steps, *state.v.shape).numpy(), *common)

    def _half_from(self) -> int:
        return 2**30 if self.options.phase == "none" else self.options.settle_from

    def _input(self, t: int, steps: int) -> Tensor:
        """Spikes + 1 of the encoder, uint8 ``(steps, N, *shape)``, channels last."""
        out = torch.empty(steps, *self.counts.shape, dtype=torch.uint8)
        total = 0
        if self.source.coded_directly:
            out.fill_(1)
        else:
            flat = out.reshape(steps, -1).numpy()
            total = multistep.kernels().isi(self.counts.reshape(-1).numpy(), t, self.network.window, flat)
        self.share[self.source.name] = total / max(out.numel(), 1)
        return out

    def result(self) -> RunResult:
        network, options, window = self.network, self.options, self.network.window
        positive, negative = {}, {}
        sops = torch.zeros(self.n, dtype=torch.float64)
        emitted: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        name = network.encoder_name
        if not self.source.coded_directly:
            net = _last(self.integers).to(torch.float64)
            emitted[name] = net.abs(), net, self.plan.fan_out[name]
        for layer, state in zip(self.plan.stages, self.states, strict=True):
            key = layer.stage.name
            fired, net = state.fired.to(torch.float64).reshape(state.shape), state.y.reshape(state.shape)
            emitted[key] = fired, net, self.plan.fan_out[key]
        for key, (fired, net, fan_out) in emitted.items():
            positive[key] = ((fired + net) / 2).flatten(1).sum(1).to(torch.int64)
            negative[key] = ((fired - net) / 2).flatten(1).sum(1).to(torch.int64)
            sops += (fired * fan_out).flatten(1).sum(1)
        macs = torch.zeros(self.n, dtype=torch.float64)
        if self.source.coded_directly:
            macs = ((self.integers != 0) * network.fan_out[name]).flatten(1).sum(1)
        pairs = list(zip(self.plan.stages, self.states, strict=True))
        out_layer, out = pairs[-1]
        kept = pairs if options.record != "output" else pairs[-1:]
        with_membrane = pairs if options.record == "spikes" else pairs[-1:]
        membrane, count = out.nchw(out.v), out.nchw(out.y)
        return RunResult(
            backend="snntorch",
            phase=options.phase,
            window=window,
            output_name=out_layer.stage.name,
            counts={k.stage.name: s.nchw(s.y).to(torch.int32) for k, s in kept if not k.stage.readout},
            membranes={k.stage.name: s.nchw(s.v) for k, s in with_membrane},
            logits=read_out(out_layer.stage, count, membrane),
            positive=positive,
            negative=negative,
            extra_steps=(self.last - window).clamp_(min=0),
            sops=sops,
            macs=macs,
            spikes=self._spikes(window) if options.record == "spikes" else None,
            route="fast",
        )

    def _spikes(self, window: int) -> dict[str, Tensor]:
        """Trains without the silent steps that the last block ran beyond the end."""
        end = max(window + (self.options.phase == "paper"), int(self.last.max()))
        return {k: torch.cat(v)[:end] for k, v in self.trains.items()}
