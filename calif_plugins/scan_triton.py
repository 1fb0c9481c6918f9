"""Steps of the rule forwards, and their gradients backwards, in one Triton kernel each: for training on a GPU.

A program takes a block of neurons through all steps, so that membranes and counts stay in registers: each step reads
one charge and writes one spike. Arrays are as :mod:`calif_plugins.scan_kernels` has them. Charges may have a narrower
type than the state, and spikes leave in theirs; nothing is computed in it.

Forwards every product is by -1, 0, 1 or 2, so values are those of :func:`calif_plugins.torch_step.calif_step` bit for
bit. Backwards each operation is the one that PyTorch's autograd does, in its order, with true division and without
contraction to fused multiply-adds: gradients of charges and states are those of the plain form bit for bit too, for a
surrogate that works out its slope as :meth:`calif_plugins.surrogates.Slope.at` does. (``exp`` differs in its last bits
from one device to the other, and a threshold's gradient is a sum in another order.)

Imported with Triton only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from calif_plugins.surrogates import Slope

__all__ = ["WIDENS", "backwards", "forwards", "prepared"]

WIDENS = True
# whatever they are, the code is the same: or each block of a window, and each layer, is compiled anew
_ANY = ["inner", "channels", "steps", "half", "wide_threshold", "wide_low", "wide_high"]


@triton.jit
def _over(a, b):
    """``a / b``, rounded to nearest: Triton's own of float32 is not."""
    if b.dtype == tl.float32:
        quotient = tl.math.div_rn(a, b)
    else:
        quotient = a / b
    return quotient


@triton.jit(do_not_specialize=[*_ANY, "dry", "wide_leak"])
def _forwards(
    x, v, y, threshold, leak, low, high, v_end, y_end, s, before, size, inner, channels, steps, half, dry,
    wide_threshold, wide_leak, wide_low, wide_high,
    EVEN: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = k < size
    channel = (k // inner) % channels
    th = tl.load(threshold + channel * wide_threshold, mask=inside, other=1)
    lam = tl.load(leak + channel * wide_leak, mask=inside, other=0)
    bottom = tl.load(low + channel * wide_low, mask=inside, other=0)
    top = tl.load(high + channel * wide_high, mask=inside, other=0)
    v_now = tl.load(v + k, mask=inside, other=0)
    y_now = tl.load(y + k, mask=inside, other=0)
    at = k
    t = 0
    while t < steps:  # a range needs a whole number, of which Triton's interpreter has none with some versions of NumPy
        now = v_now + tl.load(x + at, mask=inside, other=0).to(v_now.dtype)
        if t < dry:
            now = now - lam
        if t < half:
            up = now >= th
            down = now <= -th
        else:
            twice = now + now
            odd = y_now - 2 * tl.floor(y_now * 0.5) == 1
            if EVEN:
                up = (twice > th) | ((twice == th) & odd)
                down = (twice < -th) | ((twice == -th) & odd)
            else:
                up = twice >= th
                down = twice < -th
        spike = (up & (y_now < top)).to(v_now.dtype) - (down & (y_now > bottom)).to(v_now.dtype)
        if KEEP:
            tl.store(before + at, now, mask=inside)
        tl.store(s + at, spike.to(s.dtype.element_ty), mask=inside)
        v_now = now - spike * th
        y_now = y_now + spike
        at += size
        t += 1
    tl.store(v_end + k, v_now, mask=inside)
    tl.store(y_end + k, y_now, mask=inside)


@triton.jit
def _slope(u, height, width, KIND: tl.constexpr):
    one = tl.full(u.shape, 1, u.dtype)
    if KIND == 0:
        a = width * u
        h = _over(one, one + a * a) * height
    elif KIND == 1:
        a = one + width * tl.abs(u)
        h = _over(one, a * a) * height
    else:
        e = tl.exp(-width * tl.abs(u))
        a = one + e
        h = _over(height * e, a * a)
    return h


@triton.jit(do_not_specialize=_ANY)
def _backwards(
    gs, gv, gy, before, s, y_end, threshold, low, high, slope, gv_first, gx, gth, size, inner, channels, steps, half,
    wide_threshold, wide_low, wide_high, SENT: tl.constexpr,
    MEMBRANE: tl.constexpr, COUNTED: tl.constexpr, LEARNED: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = k < size
    channel = (k // inner) % channels
    th = tl.load(threshold + channel * wide_threshold, mask=inside, other=1)
    bottom = tl.load(low + channel * wide_low, mask=inside, other=0)
    top = tl.load(high + channel * wide_high, mask=inside, other=0)
    y_now = tl.load(y_end + k, mask=inside, other=0)
    height = tl.load(slope)
    width = tl.load(slope + 1)
    gv_now = th * 0
    if MEMBRANE:
        gv_now = tl.load(gv + k, mask=inside, other=0)
    gy_now = th * 0
    if COUNTED:  # a count is its last one's, less what was sent: all steps have one gradient
        gy_now = tl.load(gy + k, mask=inside, other=0)
    gth_now = th * 0
    at = k + (steps - 1).to(tl.int64) * size
    t = steps - 1
    while t >= 0:
        spike = tl.load(s + at, mask=inside, other=0).to(th.dtype)
        now = tl.load(before + at, mask=inside, other=0)
        y_now = y_now - spike  # the count before the step, by which the gates went
        scale = th
        if t >= half:
            scale = th * 0.5
        g = gy_now
        if SENT:  # autograd adds up what comes to a spike from the last operation that took it to the first
            g = tl.load(gs + at, mask=inside, other=0).to(th.dtype) + g
        g = g + -gv_now * th
        u = _over(now, scale)
        up = g * (y_now < top).to(th.dtype) * _slope(u - 1, height, width, KIND)
        down = g * (y_now > bottom).to(th.dtype) * _slope(-u - 1, height, width, KIND)
        gu = down + up
        if LEARNED:
            through = -gu * _over(u, scale)
            if t >= half:
                through = through * 0.5
            gth_now = gth_now + (through - gv_now * spike)
        gv_now = gv_now + _over(gu, scale)
        tl.store(gx + at, gv_now.to(gx.dtype.element_ty), mask=inside)
        at -= size
        t -= 1
    tl.store(gv_first + k, gv_now, mask=inside)
    if LEARNED:
        tl.store(gth + k, gth_now, mask=inside)


def prepared(limits: tuple[Tensor, ...], slope: Slope) -> tuple[tuple[Tensor, ...], tuple[int, Tensor]]:
    """Flat limits and a slope as the kernels take them: the limits themselves, and height and width in their type."""
    own = limits[0]
    return limits, (slope.kind, torch.tensor([slope.height, slope.width], dtype=own.dtype).to(own.device))


def forwards(
    x: Tensor, v: Tensor, y: Tensor, limits: tuple[Tensor, ...], inner: int, clock: tuple[int, int], even: bool,
    keep: bool, spikes: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """State after the steps of ``x``, their spikes, and what :func:`backwards` needs if it is to ``keep`` that.

    ``x`` is one step of ``v``'s shape, or a block of them; limits are flat, of one value or one per channel.
    """
    x, v, y = x.contiguous(), v.contiguous(), y.contiguous()
    v_end, y_end, s = torch.empty_like(v), torch.empty_like(y), torch.empty_like(x, dtype=spikes)
    before = torch.empty_like(x, dtype=v.dtype) if keep else v_end
    size, channels = v.numel(), max(t.numel() for t in limits)
    block = _block(size)
    with torch.cuda.device_of(x):
        _forwards[(triton.cdiv(size, block),)](
            x, v, y, *limits, v_end, y_end, s, before, size, inner, channels, x.numel() // size, *clock,
            *(int(t.numel() > 1) for t in limits), even, keep, block, enable_fp_fusion=False,
        )  # fmt: skip
    return v_end, y_end, s, (before, y_end) if keep else ()


def backwards(
    kept: tuple[Tensor, ...], s: Tensor, gs: Tensor | None, gv: Tensor | None, gy: Tensor | None,
    limits: tuple[Tensor, ...], inner: int, clock: tuple[int, int], slope: tuple[int, Tensor], learned: bool,
    charge: torch.dtype,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of ``v``, ``y``, ``x``, in type ``charge``, and, neuron by neuron, of the threshold."""
    before, y_end = kept
    threshold, _, low, high = limits
    gs, gv, gy = (None if g is None else g.contiguous() for g in (gs, gv, gy))
    size, channels = y_end.numel(), max(t.numel() for t in limits)
    steps, block = s.numel() // size, _block(size)
    gv_first, gx = torch.empty_like(y_end), torch.empty_like(s, dtype=charge)
    gth = torch.empty_like(y_end) if learned else None
    kind, shape = slope
    unused = y_end
    with torch.cuda.device_of(s):
        _backwards[(triton.cdiv(size, block),)](
            unused if gs is None else gs, unused if gv is None else gv, unused if gy is None else gy, before, s, y_end,
            threshold, low, high, shape, gv_first, gx, unused if gth is None else gth, size, inner, channels, steps,
            clock[0], *(int(t.numel() > 1) for t in (threshold, low, high)), gs is not None, gv is not None,
            gy is not None, learned, kind, block, enable_fp_fusion=False,
        )  # fmt: skip
    return gv_first, gy, gx, gth


def _block(size: int) -> int:
    """Neurons of a program: enough programs for all processors of a GPU first, long rows second."""
    return 1024 if size >= 1 << 20 else 256 if size >= 1 << 16 else 128
