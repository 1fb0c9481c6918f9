"""The verbs of a front-end, against what they say in float64 and exact fractions, written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.verbs import Grid, Pending, Raw, Verbs, Weight, convolution, pair
from converters.graph_builder import Part, Value
from converters.operations import Conv2d, Levels, Linear, SumPool2d

SCALES = st.floats(2.0**-40, 2.0**40)
WEIGHT = torch.tensor([[3, -1], [2, 5], [-4, 1]], dtype=torch.int8)
COUNTS = torch.tensor([[5, -2], [-7, 7], [0, 3], [1, 1], [-3, -6]], dtype=torch.float64)


def verbs() -> Verbs:
    return Verbs("test", activation="quantise it", unquantised_input="quantise the input")


def network(shape: tuple[int, ...], scale: float = 0.5, low: int = -7, high: int = 7) -> tuple[Verbs, Value]:
    builder = verbs()
    return builder, builder.input(shape, scale=scale, q_min=low, q_max=high)


def nearest(bound: float) -> int:
    return round(bound)


def round_half_even(x: Tensor, grid: Grid) -> Tensor:
    return torch.round(x / grid.scale).clamp(grid.y_min, grid.y_max)


# --- layers with weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_batch_norm_is_folded_behind_the_sum(per_channel: bool, divided: bool) -> None:
    """For gammas of any sign, and of none; with the toolkit's own division by the factor that folds it, and without."""
    scale = torch.tensor([0.25, 0.5, 0.125] if per_channel else [0.25], dtype=torch.float64)
    bias, mean, variance = torch.tensor([[0.3, -0.7, 0.2], [0.4, 0.1, -0.6], [0.5, 1.5, 0.25]]).unbind()
    gamma, beta, eps = torch.tensor([-1.3, 0.0, 0.7]), torch.tensor([0.9, 0.35, -0.15]), 0.1
    if divided:
        gamma[1] = 0.4  # by zero nothing is divided
    builder, x = network((2,))
    z = builder.weigh("fc", x, Linear(WEIGHT), scale, bias)
    by = gamma / torch.sqrt(variance + eps) if divided else torch.ones(3)
    if divided:
        z = builder.divide("fc", z, by)
    y = builder.batch_norm("bn", z, mean, variance, eps, gamma, beta)
    grid = Grid(0.1, -40, 40)
    builder.quantise("bn", y, grid, nearest)

    real = (COUNTS * 0.5) @ (WEIGHT.double() * scale.reshape(-1, 1)).T + bias.double()
    real = real / by.double()
    expected = (real - mean.double()) / torch.sqrt(variance.double() + eps) * gamma.double() + beta.double()
    q = builder.build(Value((Part("fc", (3,)),), 0.1))
    assert torch.equal(q.execute(COUNTS * 0.5)["fc"].double(), round_half_even(expected, grid))
    assert len(set(round_half_even(expected, grid).flatten().tolist())) > 5  # no constant


def test_a_division_that_no_batch_norm_takes_back() -> None:
    builder, x = network((2,))
    by = torch.tensor([2.0, -4.0, 0.5])
    bias = torch.tensor([1.0, 2.0, -3.0])
    z = builder.divide("fc", builder.weigh("fc", x, Linear(WEIGHT), torch.ones(1), bias), by)
    z = builder.shift("fc", z, torch.tensor([0.25, 0.5, 0.75]).reshape(1, 3))
    grid = Grid(0.31, -99, 99)
    q = builder.build(builder.quantise("fc", z, grid, nearest))
    real = ((COUNTS * 0.5) @ WEIGHT.double().T + bias.double()) / by.double() + torch.tensor([0.25, 0.5, 0.75])
    assert torch.equal(q.execute(COUNTS * 0.5)["fc"].double(), round_half_even(real, grid))


BEHIND: dict[str, tuple[Callable[[Verbs, Pending], Any], Callable[[Tensor], Tensor]]] = {
    "relu": (lambda b, z: b.rectify("f", z), F.relu),
    "relu6": (lambda b, z: b.rectify("f", z, 6.0), F.relu6),
    "clamp": (lambda b, z: b.clamp("f", z, -1.25, 2.0), lambda z: z.clamp(-1.25, 2.0)),
    "clamp_max": (lambda b, z: b.clamp("f", z, None, 2.0), lambda z: z.clamp(max=2.0)),
    "threshold": (lambda b, z: b.activate("f", z, "threshold", (0.5, -1.0)), lambda z: F.threshold(z, 0.5, -1.0)),
    "silu": (lambda b, z: b.activate("f", z, "silu"), F.silu),
    "prelu": (
        lambda b, z: b.activate("f", z, "leaky_relu", (torch.tensor([0.5, -0.25, 2.0]),)),
        lambda z: F.prelu(z, torch.tensor([0.5, -0.25, 2.0], dtype=torch.float64)),
    ),
}
GAINS = st.lists(st.sampled_from([-1.75, -0.5, 0.0, 0.25, 1.0, 2.5]), min_size=3, max_size=3)


@pytest.mark.parametrize("function", BEHIND)
@given(GAINS, GAINS, GAINS, st.sampled_from([-2.0, 0.5, 3.0]), st.sampled_from([-0.75, 0.0]))
@settings(max_examples=15, deadline=None)
def test_what_scales_and_shifts_a_function_is_part_of_it(
    function: str, gamma: list[float], beta: list[float], mean: list[float], number: float, plus: float
) -> None:
    """A batch norm behind a ReLU or any pointwise function, and constants behind that, make no layer of their own."""
    verb, of = BEHIND[function]
    builder, x = network((2,))
    bias, variance = torch.tensor([0.3, -0.7, 0.2]), torch.tensor([0.5, 1.5, 0.25])
    norm = [torch.tensor(v) for v in (gamma, beta, mean)]
    y = verb(builder, builder.weigh("fc", x, Linear(WEIGHT), torch.tensor([0.125], dtype=torch.float64), bias))
    y = builder.batch_norm("bn", y, norm[2], variance, 0.1, norm[0], norm[1])
    y = builder.shift("plus", builder.scale("times", y, number), plus)
    grid = Grid(0.37, -40, 40)
    builder.quantise("bn", y, grid, nearest)
    q = builder.build(Value((Part("fc", (3,)),), 0.37))

    real = of((COUNTS * 0.5) @ (WEIGHT.double() * 0.125).T + bias.double())
    g, b, m = (t.double() for t in norm)
    real = ((real - m) / torch.sqrt(variance.double() + 0.1) * g + b) * number + plus
    clear = ((real / 0.37).frac().abs() - 0.5).abs() > 1e-9
    found = q.execute(COUNTS * 0.5)["fc"].double()
    assert torch.equal(found[clear], round_half_even(real, grid)[clear])
    assert len(q.layers) == 1


def test_a_positive_factor_behind_a_relu_leaves_a_range() -> None:
    """``c relu(z)`` is ``relu(c z)``: plain neurons, no table."""
    for factor, table in (
        (0.25, False), (torch.tensor([0.25, 2.0, 1.0]), False), (-0.25, True), (torch.tensor([0.25, 0.0, 1.0]), True)
    ):  # fmt: skip
        builder, x = network((2,))
        z = builder.weigh("fc", x, Linear(WEIGHT), torch.ones(1), None)
        y = builder.scale("times", builder.rectify("relu", z), factor)
        q = builder.build(builder.quantise("times", y, Grid(0.11, -40, 40), lambda bound: round(bound / 0.11)))
        (layer,) = q.layers
        assert any(isinstance(op, Levels) for s in layer.synapses for op in s.ops) == table
        real = torch.relu(COUNTS * 0.5 @ WEIGHT.double().T) * torch.as_tensor(factor).double()
        assert torch.equal(q.execute(COUNTS * 0.5)["fc"].double(), round_half_even(real, Grid(0.11, -40, 40)))


def test_what_a_batch_norm_may_not_follow() -> None:
    builder, x = network((2, 4, 4))
    ones = torch.ones(2)
    clamped = builder.rectify(
        "relu", builder.weigh("a", x, Conv2d(torch.ones(2, 2, 1, 1, dtype=torch.int8)), torch.ones(1), None)
    )
    pooled = builder.max_pool("pool", clamped, 2)
    with pytest.raises(ConversionError, match=r"^a: found an unquantised activation, used by bn; quantise it"):
        builder.batch_norm("bn", pooled, ones, ones, 0.1, ones, ones)
    with pytest.raises(ConversionError, match=r"^a: found an unquantised activation, used by plus; quantise it"):
        builder.shift("plus", clamped, torch.arange(4.0))
    with pytest.raises(ConversionError, match=r"^bn: found the unquantised input; quantise the input"):
        builder.batch_norm("bn", Raw((2, 4, 4)), ones, ones, 0.1, ones, ones)
    padded = builder.move("pad", builder.average_pool("pool", x, 2), lambda t: F.pad(t, (1, 1)))
    with pytest.raises(ConversionError, match=r"^pool: found a padded or repeated sum, to which bn adds a constant"):
        builder.batch_norm("bn", padded, ones, ones, 0.1, ones, ones)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_by_name_is_pytorchs(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-5, 5, (3, 2, kernel, kernel), dtype=torch.int8)
    x = torch.randint(-5, 5, (2, 2, 11, 9)).double()
    for padding in ("same", "valid"):
        op = convolution("conv", weight, 1, padding, dilation, 1)
        ours = F.conv2d(x, weight.double(), None, op.stride, op.padding, op.dilation, op.groups)
        assert torch.equal(ours, F.conv2d(x, weight.double(), None, 1, padding, dilation))


def test_same_padding_of_an_even_kernel() -> None:
    with pytest.raises(ConversionError, match=r'^conv: found padding="same" with an even kernel; use an odd kernel'):
        convolution("conv", torch.ones(1, 1, 2, 3, dtype=torch.int8), 1, "same", 1, 1)
    assert convolution("conv", torch.ones(1, 1, 2, 3, dtype=torch.int8), 1, "same", (2, 1), 1).padding == (
        1,
        1,
    )  # an even sum


def test_pairs() -> None:
    assert pair(3) == pair([3]) == pair((3, 3)) == (3, 3)
    assert pair([1, 2]) == (1, 2)


# --- pools ------------------------------------------------------------------------------------------------------------


@given(sides=st.tuples(st.integers(1, 40), st.integers(1, 40)), scale=SCALES)
def test_the_threshold_of_a_pool_on_its_inputs_scale_is_its_area(sides: tuple[int, int], scale: float) -> None:
    builder, x = network((2, 40, 40), scale)
    builder.quantise("pool", builder.average_pool("pool", x, sides), Grid(scale, -7, 7), nearest)
    assert builder.layers[-1].threshold.unique().tolist() == [sides[0] * sides[1]]


@given(k=st.integers(1, 40), scale=SCALES, out=SCALES)
def test_the_threshold_of_a_pool_is_rounded_once(k: int, scale: float, out: float) -> None:
    builder, x = network((1, 40, 40), scale)
    builder.quantise("pool", builder.average_pool("pool", x, k), Grid(out, -7, 7), nearest)
    assert builder.layers[-1].threshold.tolist() == [float(k * k * Fraction(out) / Fraction(scale))]


@given(divisor=st.integers(1, 1000), scale=SCALES)
def test_a_divisor_of_ones_own_takes_the_areas_place(divisor: int, scale: float) -> None:
    builder, x = network((2, 6, 6), scale)
    pool = builder.average_pool("pool", x, (2, 3), count_include_pad=False, padding=1, divisor=divisor)
    builder.quantise("pool", pool, Grid(scale, -7, 7), nearest)
    assert builder.layers[-1].threshold.unique().tolist() == [divisor]


def test_pools_are_pytorchs() -> None:
    torch.manual_seed(1)
    counts = torch.randint(-7, 8, (5, 2, 6, 8)).double()
    grid = Grid(0.037, -200, 200)
    for make, theirs in (
        (lambda b, x: b.average_pool("y", x, (2, 3)), lambda x: F.avg_pool2d(x, (2, 3))),
        (lambda b, x: b.average_pool("y", x, 3, [], 1), lambda x: F.avg_pool2d(x, 3, None, 1)),
        (lambda b, x: b.average_pool("y", x, 3, (2, 1), (0, 1)), lambda x: F.avg_pool2d(x, 3, (2, 1), (0, 1))),
        (lambda b, x: b.average_pool("y", x, 2, divisor=5), lambda x: F.avg_pool2d(x, 2, divisor_override=5)),
        (lambda b, x: b.adaptive_pool("y", x, (None, 4)), lambda x: F.adaptive_avg_pool2d(x, (6, 4))),
        (lambda b, x: b.mean("y", x, (-1, 2), keepdim=True), lambda x: x.mean((2, 3), keepdim=True)),
    ):
        builder, x = network((2, 6, 8))
        q = builder.build(builder.quantise("y", make(builder, x), grid, nearest))
        ours = q.execute(counts * 0.5)["y"].double()
        assert torch.equal(ours, round_half_even(theirs(counts * 0.5), grid))


# --- sums, concatenations, clamps -------------------------------------------------------------------------------------


@given(scales=st.tuples(SCALES, SCALES))
def test_branches_of_unequal_scales_are_put_on_one_grid(scales: tuple[float, float]) -> None:
    """That of the quantiser behind the concatenation; a branch that is there already stays as it is."""
    builder, x = network((3,), 1.0)
    eye = Linear(torch.eye(3, dtype=torch.int8))
    a, b = (
        builder.quantise(n, builder.weigh(n, x, eye, torch.tensor([s], dtype=torch.float64), None),
                         Grid(s, -7, 7), nearest)
        for n, s in zip("ab", scales, strict=True)
    )  # fmt: skip
    y = builder.concatenate("cat", [a, b, a], 1, 2)
    if a.scale == b.scale:
        assert type(y) is Value
        return
    assert type(y) is Pending
    both = builder.quantise("cat", y, Grid(a.scale, -7, 7), nearest)
    assert both.scale == a.scale
    assert [part.name for part in both.parts] == ["a", "cat_1", "a"]
    values = builder.build(both).execute(torch.arange(-3.0, 3.0).reshape(2, 3).double())
    exact = [Fraction(b.scale) * int(n) / Fraction(a.scale) for n in values["b"].flatten()]
    near = [abs(f % 1 - Fraction(1, 2)) < Fraction(1, 10**6) for f in exact]  # ratios have 30 bits
    moved = values["cat_1"].flatten().tolist()
    assert all(tie or n == max(-7, min(7, round(f))) for n, f, tie in zip(moved, exact, near, strict=True))


@pytest.mark.parametrize("axis", [1, 2, 3, -1, -3])
def test_any_axis_but_that_of_the_images_is_concatenated(axis: int) -> None:
    """In front of a convolution, whose charges add up over the parts; one of them is seen through a move."""
    torch.manual_seed(3)
    builder, x = network((2, 4, 4))
    turned = builder.move("turn", x, lambda t: t.transpose(2, 3).flip(3))
    y: Any = builder.concatenate("cat", [x, turned, x], axis, 4)
    images = torch.randint(-7, 8, (3, 2, 4, 4)).double()
    expected = torch.cat([images, images.transpose(2, 3).flip(3), images], axis)
    assert y.shape == tuple(expected.shape[1:])
    weight = torch.randint(-5, 6, (3, y.shape[0], 3, 3), dtype=torch.int8)
    z = builder.weigh("conv", y, convolution("conv", weight, 1, 1, 1, 1), torch.ones(1), None)
    q = builder.build(builder.quantise("conv", z, Grid(0.5, -999, 999), nearest))
    assert torch.equal(q.execute(images * 0.5)["conv"].double(), F.conv2d(expected, weight.double(), padding=1))


def test_images_are_not_concatenated() -> None:
    builder, x = network((2, 4, 4))
    for axis in (0, -4):
        with pytest.raises(ConversionError, match=rf"^cat: found a concatenation along axis {axis}; leave the axis of"):
            builder.concatenate("cat", [x, x], axis, 4)


def test_a_rectified_value_is_on_its_own_grid() -> None:
    """No quantiser has to stand behind it; the values are those of the grid that are not negative, in one layer."""
    builder, x = network((4,), 0.3)
    y = builder.rectify("relu", x)
    first, again = builder.value("a", y), builder.value("b", y)
    assert first == again
    assert first.scale == 0.3
    assert len(builder.layers) == 1
    counts = torch.tensor([[-7.0, -1.0, 0.0, 7.0]]).double()
    assert builder.build(first).execute(counts * 0.3)["relu"].tolist() == [[0, 0, 0, 7]]


def test_what_is_never_negative_needs_no_relu() -> None:
    builder, x = network((4,), low=0)
    assert builder.rectify("relu", x) is x
    assert not builder.layers


def test_a_clamp_of_a_value_needs_a_quantiser() -> None:
    builder, x = network((4,), low=0)
    with pytest.raises(ConversionError, match=r"^six: found an unquantised activation, used by fc; quantise it"):
        builder.value("fc", builder.rectify("six", x, 6.0))


def test_clamps_are_on_the_toolkits_own_levels() -> None:
    builder, x = network((2,))
    y = builder.rectify("six", builder.weigh("fc", x, Linear(WEIGHT), torch.ones(1), None), 6.0)
    builder.quantise("fc", y, Grid(0.7, -100, 100), {0.0: 0, 6.0: 9}.__getitem__)
    assert (builder.layers[-1].y_min, builder.layers[-1].y_max) == (0, 9)


def test_operands_that_can_never_spike() -> None:
    builder, x = network((2,))
    weight = Weight(WEIGHT, torch.ones(1))
    for constant, shape in ((torch.ones(4, 1), (4, 1)), (weight, (3, 2))):
        with pytest.raises(ConversionError) as error:
            builder.add("sum", (x, 1.0), (constant, 1.0))
        assert error.value.found == f"a constant of shape {shape} as an operand"
    with pytest.raises(ConversionError, match=r"^sum: found the operand 3; only quantised activations can spike"):
        builder.add("sum", (x, 1.0), (3, 1.0))


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_shapes_there_and_back() -> None:
    builder, x = network((2, 3, 4))
    pool = builder.average_pool("pool", x, 1)
    for start in (x, pool):
        flat = builder.reshape("flat", start, (5, 2, 3, 4), (5, 24))
        assert flat.shape == (24,)
        assert builder.reshape("other", flat, (5, 24), (5, 4, 3, 2)).shape == (4, 3, 2)
        back = builder.reshape("back", flat, (5, 24), (5, 2, 3, 4))
        assert back.plain if type(back) is Value else back.move is None
        with pytest.raises(ConversionError, match=r"from \(5, 2, 3, 4\) to \(10, 12\), batch included; leave the axis"):
            builder.reshape("wrong", start, (5, 2, 3, 4), (10, 12))
    assert type(pool.inputs[0][1]) is SumPool2d
