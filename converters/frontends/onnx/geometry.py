"""Windows as ONNX declares them: kernels, strides, dilations, and paddings on each side, by number or by name."""

from __future__ import annotations

from dataclasses import dataclass

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call

__all__ = ["Windows", "windows_of"]

_LARGEST = 2**16


@dataclass(frozen=True)
class Windows:
    """For each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def even(self) -> bool:
        """Whether both sides are padded alike."""
        return self.before == self.behind

    @property
    def around(self) -> list[int]:
        """The padding as ``F.pad`` takes it."""
        return [n for pair in zip(reversed(self.before), reversed(self.behind), strict=True) for n in pair]


def windows_of(c: Call, sizes: tuple[int, ...], kernel: tuple[int, ...] | None = None) -> Windows:
    """The windows of a convolution or pool over maps of ``sizes``; ``kernel`` is that of the weights.

    Raises
    ------
    ConversionError
        If they do not fit the map.
    """
    rank = len(sizes)
    if kernel is None:
        kernel = _numbers(c, "kernel_shape", rank, 0, 1)
    elif c.attr("kernel_shape", []) not in ([], list(kernel)):
        raise ConversionError(c.name, f"a kernel_shape {c.attr('kernel_shape')} of weights {kernel}", "correct it")
    stride, dilation = _numbers(c, "strides", rank, 1, 1), _numbers(c, "dilations", rank, 1, 1)
    pads = _numbers(c, "pads", 2 * rank, 0, 0)
    how = c.attr("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(sizes, stride, kernel, dilation, strict=True)
        ]
        less, more = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
        pads = (*less, *more) if how == "SAME_UPPER" else (*more, *less)
    elif how == "VALID":
        pads = (0,) * (2 * rank)
    elif how != "NOTSET":
        raise ConversionError(c.name, f"the padding {how[:40]}", "use SAME_UPPER, SAME_LOWER, VALID or numbers")
    return Windows(kernel, stride, dilation, pads[:rank], pads[rank:])


def _numbers(c: Call, name: str, count: int, default: int, least: int) -> tuple[int, ...]:
    given = c.attr(name, [])
    values = tuple(int(n) for n in given) or (default,) * count
    if len(values) != count or not all(least <= n <= _LARGEST for n in values):
        found = f"{name} {list(values)[:8]} for {count} numbers from {least} to {_LARGEST}"
        raise ConversionError(c.name, found, "give one for each axis (and each side)")
    return values
