"""Windows, slices, paddings and interpolations of any numbers, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import converters
from converters.errors import ConversionError
from tests.converters.frontends.onnx.building import Net, whole
from tests.converters.frontends.onnx.comparing import noise

SIZES = (7, 5)
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def agrees(op: str, *operands: Any, scale: float = 0.0437, **attributes: Any) -> None:
    """That what is read is what onnxruntime computes; what it refuses itself is no case."""
    n = Net()
    x = n.fake(n.input("N", 2, *SIZES), 0.05, 3)
    given = [n.constant(v, np.int64) if isinstance(v, list) else v(n) if callable(v) else v for v in operands]
    model = n.model(n.fake(n.op(op, x, *given, **attributes), scale))
    try:
        converters.from_onnx(model, noise(3, 2, *SIZES))
    except ConversionError as error:
        assume(error.where != "check")
        assume("lie in the padding alone" not in error.found)
        raise


@st.composite
def windows(draw: st.DrawFn, pads: bool = True) -> dict[str, Any]:
    kernel = [draw(st.integers(1, 3)) for _ in SIZES]
    found: dict[str, Any] = {"kernel_shape": kernel, "strides": [draw(st.integers(1, 3)) for _ in SIZES]}
    if pads:
        found["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    else:
        found["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    return found


@few
@given(windows(), st.booleans())
def test_max_pools(window: dict[str, Any], ceil: bool) -> None:
    agrees("MaxPool", **window, ceil_mode=int(ceil))


@few
@given(windows(pads=False))
def test_max_pools_padded_by_name(window: dict[str, Any]) -> None:
    agrees("MaxPool", **window)


@few
@given(windows(), st.booleans(), st.booleans())
def test_pools_of_averages(window: dict[str, Any], ceil: bool, counted: bool) -> None:
    agrees("AveragePool", **window, ceil_mode=int(ceil), count_include_pad=int(counted))


@few
@given(windows(), st.lists(st.integers(1, 2), min_size=2, max_size=2), st.sampled_from([1, 2]))
def test_convolutions(window: dict[str, Any], dilations: list[int], group: int) -> None:
    reach = [(k - 1) * d + 1 for k, d in zip(window["kernel_shape"], dilations, strict=True)]
    around = [n + a + b for n, a, b in zip(SIZES, window["pads"][:2], window["pads"][2:], strict=True)]
    assume(all(r <= n for r, n in zip(reach, around, strict=True)))
    shape = (4, 2 // group, *window["kernel_shape"])
    agrees("Conv", lambda n: n.weight(whole(shape)), **window, dilations=dilations, group=group)


@few
@given(windows(), st.sampled_from([1, 2]), st.lists(st.integers(0, 1), min_size=2, max_size=2))
def test_transposed_convolutions(window: dict[str, Any], group: int, more: list[int]) -> None:
    assume(all(m < s for m, s in zip(more, window["strides"], strict=True)))
    shape = (2, 3, *window["kernel_shape"])
    agrees("ConvTranspose", lambda n: n.weight(whole(shape)), **window, group=group, output_padding=more)


@few
@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-3, -2, -1, 1, 2, 3]), st.sampled_from([1, 2, 3, -1]))
def test_slices(start: int, end: int, step: int, axis: int) -> None:
    size = (2, *SIZES)[axis - 1 if axis > 0 else -1]
    assume(len(range(size)[slice(start, end, step)]) > 0)
    agrees("Slice", [start], [end], [axis], [step])


@few
@given(st.lists(st.integers(-1, 3), min_size=4, max_size=4), st.sampled_from(["constant", "reflect", "edge", "wrap"]))
def test_paddings(amounts: list[int], mode: str) -> None:
    assume(mode == "constant" or min(amounts) >= 0)
    agrees("Pad", [0, 0, *amounts[:2], 0, 0, *amounts[2:]], mode=mode)


@few
@example([0.7, 0.5], "nearest", "half_pixel", "round_prefer_floor", False)  # half way between two, in float32 alone
@given(
    st.lists(st.sampled_from([0.5, 0.7, 1.0, 1.3, 2.0, 3.0]), min_size=2, max_size=2),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.booleans(),
)
def test_interpolations(factors: list[float], mode: str, how: str, rule: str, by_size: bool) -> None:
    sizes = [int(n * f) for n, f in zip(SIZES, factors, strict=True)]
    place: Any = ["", "", sizes] if by_size else ["", lambda n: n.constant([1, 1, *factors])]
    axes: dict[str, Any] = {"axes": [2, 3]} if by_size else {}
    agrees("Resize", *place, mode=mode, coordinate_transformation_mode=how, nearest_mode=rule, **axes)


@pytest.mark.parametrize("blocks", [1, 2])
def test_shapes_of_any_number_of_axes(blocks: int) -> None:
    agrees("Reshape", [0, 2, -1, 1, blocks] if blocks == 1 else [0, 1, 2, 35])
