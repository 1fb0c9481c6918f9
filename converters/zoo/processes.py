"""Several processes as one: training that takes the steps of one process, and evaluation that counts the same.

Start them with ``torchrun --nproc-per-node N -m converters.cli train ...``. Every process holds the whole model and
draws the same batches; each computes its share of every batch. So that the step is that of the whole batch:

* a process's loss is its share of the batch's mean, and gradients are summed;
* batch norms in training mode take mean and variance over all shares, forwards and backwards
  (``torch.nn.SyncBatchNorm`` does that on GPUs alone, and does not know the functional batch norms of an
  exported graph);
* activation ranges are observed on the same sample of the whole batch that one process would look at.

What remains are the last bits of sums taken in another order.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from converters.frontends.level_quantiser import in_memory_order, sample_step

__all__ = ["Team", "team"]


class Team:
    """The processes of this run; one alone unless ``torchrun`` started more."""

    def __init__(self) -> None:
        self.active = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.active else 0
        self.count = dist.get_world_size() if self.active else 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def bounds(self, n: int) -> list[int]:
        """Where the shares of ``n`` items begin, and the end of the last.

        >>> Team().bounds(7)
        [0, 7]
        """
        return [n * k // self.count for k in range(self.count + 1)]

    def share(self, n: int) -> slice:
        """This process's share of ``n`` items."""
        bounds = self.bounds(n)
        return slice(bounds[self.rank], bounds[self.rank + 1])

    def total(self, *numbers: float) -> list[float]:
        """Sums over all processes, in float64: exact for counts."""
        values = torch.tensor(numbers, dtype=torch.float64, device=_device())
        if self.count > 1:
            dist.all_reduce(values)
        return values.tolist()

    def largest(self, number: float) -> float:
        """The largest of all processes' numbers."""
        value = torch.tensor(number, dtype=torch.float64, device=_device())
        if self.count > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return float(value)

    def sum_gradients(self, model: nn.Module) -> None:
        """Gradients of the whole batch, in every process."""
        if self.count == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for g, new in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            g.copy_(new.view(g.shape))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def whole_batch(self, size: int) -> Iterator[None]:
        """Forward passes inside see a share of a batch of ``size`` images."""
        if self.count == 1:
            yield
            return
        _Shares.bounds = self.bounds(size)
        with _GlobalBatchNorm():
            yield

    def sampler(self, x: Tensor, size: int) -> Tensor:
        """Every k-th value of the whole batch, about ``size`` of them, from each process's share ``x``."""
        bounds, each = _Shares.bounds, x.shape[1:].numel()
        step = sample_step(bounds[-1] * each, size)
        start, end = bounds[self.rank] * each, bounds[self.rank + 1] * each
        counts = [
            _multiples(bounds[k + 1] * each, step) - _multiples(bounds[k] * each, step) for k in range(self.count)
        ]
        mine = x.new_zeros(max(counts))
        mine[: counts[self.rank]] = in_memory_order(x)[(-start) % step : end - start : step]
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(parts, mine)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])


def team() -> Team:
    """The processes of this run; joins them where ``torchrun`` has set the environment.

    >>> team().count, team().share(10)
    (1, slice(0, 10, None))
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and dist.is_available() and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    return Team()


def _leave() -> None:
    # Gloo's threads that outlive the interpreter end one run of two processes in four with SIGABRT, after all its work
    # is done (pytorch/pytorch issue 190489; torch 2.14)
    if dist.is_initialized():
        dist.destroy_process_group()


def _device() -> str:
    joined = dist.is_available() and dist.is_initialized()
    return "cuda" if joined and dist.get_backend() == "nccl" else "cpu"


def _multiples(n: int, step: int) -> int:
    """How many of 0, step, 2 step, ... lie below ``n``."""
    return -(-n // step)


class _Shares:
    """The shares of the batch in work."""

    bounds: list[int] = [0, 0]  # noqa: RUF012  one batch at a time in a process


class _GlobalBatchNorm(TorchFunctionMode):
    """Batch norms in training mode, of modules and of exported graphs, over the shares of all processes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            names = ("x", "mean", "var", "weight", "bias", "training", "momentum", "eps")
        elif func is torch.ops.aten.batch_norm.default:
            names = ("x", "weight", "bias", "mean", "var", "training", "momentum", "eps")
        else:
            return func(*args, **kwargs)
        given = {"input": "x", "running_mean": "mean", "running_var": "var"}
        values = dict(zip(names, args, strict=False)) | {given.get(k, k): v for k, v in kwargs.items()}
        if not values.get("training", False):
            return func(*args, **kwargs)
        plain: dict[str, Any] = {k: values.get(k) for k in names}
        return _batch_norm(**plain)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool | None,
    momentum: float | None,
    eps: float | None,
) -> Tensor:
    normed, m, v = _Normalise.apply(x.float(), 1e-5 if eps is None else eps)
    if mean is not None and var is not None:
        n = _Shares.bounds[-1] * x.shape[2:].numel()
        rate = 0.1 if momentum is None else momentum
        with torch.no_grad():
            mean.lerp_(m.to(mean.dtype), rate)
            var.lerp_((v * (n / max(n - 1, 1))).to(var.dtype), rate)
    view = (1, -1) + (1,) * (x.ndim - 2)
    if weight is not None:
        normed = normed * weight.view(view)
    if bias is not None:
        normed = normed + bias.view(view)
    return normed.to(x.dtype)


class _Normalise(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps)`` over the whole batch; also gives mean and variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        axes = [0, *range(2, x.ndim)]
        view = (1, -1) + (1,) * (x.ndim - 2)
        n = _Shares.bounds[-1] * x.shape[2:].numel()
        mean = _reduced(x.sum(axes)) / n
        centred = x - mean.view(view)
        var = _reduced(centred.square().sum(axes)) / n
        scale = torch.rsqrt(var + eps)
        normed = centred * scale.view(view)
        ctx.save_for_backward(normed, scale)
        ctx.n = n
        ctx.mark_non_differentiable(mean, var)
        return normed, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None]:
        normed, scale = ctx.saved_tensors
        axes = [0, *range(2, grad.ndim)]
        view = (1, -1) + (1,) * (grad.ndim - 2)
        sums = _reduced(torch.stack([grad.sum(axes), (grad * normed).sum(axes)])) / ctx.n
        return (grad - sums[0].view(view) - normed * sums[1].view(view)) * scale.view(view), None


def _reduced(x: Tensor) -> Tensor:
    dist.all_reduce(x)
    return x
