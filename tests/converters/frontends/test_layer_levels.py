"""Numbers of levels by layer: the longest path decides, what meets has the largest, and every count is the integer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.frontends.layer_levels import LayerLevels
from converters.quantised import QuantGraph
from tests.converters.operations.everywhere import integers, simulated
from tests.networks import pixels

X = pixels(6, (2, 6, 6), seed=5)


class Branches(nn.Module):
    """An addition, a concatenation and a maximum, an activation that is a table, a depthwise layer, a pool."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.SiLU(), nn.Conv2d(4, 4, 1))
        self.right, self.other = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.act = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.left(x))
        x = torch.cat([self.act(self.right(x)), torch.maximum(F.relu(self.other(x)), self.act(self.right(x)))], 1)
        return self.fc(self.pool(F.max_pool2d(x, 3, 1, 1)).flatten(1))


OWN = ("stem.0", "left.0", "left.2", "right", "right_2", "other", "add", "pool", "fc")
MEETING = ({"stem.0", "left.2"}, {"right", "right_2", "other"})


def trained(levels: Any) -> QuantGraph:
    model = converters.prepare_qat(Branches(), X, levels=levels)
    model(X)
    return converters.from_pt2e(model)


def largest_levels(q: QuantGraph) -> dict[str, int]:
    return {layer.name: max(-layer.y_min, layer.y_max) for layer in q.layers}


def expected_levels(levels: Mapping[str, int]) -> dict[str, int]:
    """By the words of the documentation, path by path."""
    own = {}
    for name in OWN:
        path, best = name.removesuffix("_2"), ""
        for key in levels:
            inside = path.split(".")[: len(key.split("."))] == key.split(".")
            if inside and len(key) > len(best):
                best = key
        own[name] = levels.get(best, 127)
    for group in MEETING:
        own |= dict.fromkeys(group, max(own[name] for name in group))
    return own


@given(
    st.dictionaries(
        st.sampled_from(["", "stem", "stem.0", "left", "left.0", "left.2", "right", "other", "add", "pool", "fc"]),
        st.integers(1, 20),
        min_size=1,
    ).map(lambda found: {"": 9, **found})
)
@settings(deadline=None, database=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow])
def test_each_layer_has_its_own_and_every_count_is_the_integer(levels: dict[str, int]) -> None:
    q = trained(levels)
    found, expected = largest_levels(q), expected_levels(levels)
    assert {name: found[name] for name in OWN} == expected
    assert q.input.levels == levels[""]
    assert q.levels == max(*expected.values(), levels[""])
    simulated(q, integers(q, 2), brian=0)


def test_in_brian2() -> None:
    q = trained({"": 2, "left": 3, "right": 1, "fc": 4})
    simulated(q, integers(q, 2), brian=1)


def test_the_window_is_the_largest_and_may_be_any_longer_or_shorter() -> None:
    q = trained({"": 7, "stem": 15, "fc": 31})
    assert q.levels == 31
    for window in (1, 5, 12, 31, 40):
        simulated(q, integers(q, 2), window=window, brian=0)


def test_one_number_is_as_it_was() -> None:
    one, by_path = (trained(levels) for levels in (5, {"": 5}))
    assert largest_levels(one) == largest_levels(by_path)
    a, b = one.execute(X), by_path.execute(X)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert largest_levels(trained({}))["fc"] == 127


def test_layers_with_more_levels_lose_less() -> None:
    """Against the float network, without training."""
    few, some = (converters.quantise(Branches().eval(), X, {"": 127, "pool": n}) for n in (2, 127))
    assert largest_levels(converters.from_pt2e(few))["pool"] == 2
    wanted = Branches().eval()(X)
    errors = [float((model(X) - wanted).detach().square().mean()) for model in (few, some)]
    assert errors[1] < errors[0] / 4


def test_an_input_that_takes_part_has_the_levels_of_layers() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(72, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(x) + x).flatten(1))

    for asked, expected in (({"": 7, "conv": 15}, 15), ({"": 7, "conv": 3}, 7)):
        model = converters.prepare_qat(Beside(), X, levels=asked, input_levels=100)
        model(X)
        q = converters.from_pt2e(model)
        assert largest_levels(q)["conv"] == q.input.levels == expected


@given(
    st.dictionaries(st.lists(st.sampled_from("ab0"), max_size=3).map(".".join), st.integers(1, 32767), max_size=6),
    st.lists(st.sampled_from("ab0"), min_size=1, max_size=4),
)
def test_the_longest_path_decides(levels: dict[str, int], path: list[str]) -> None:
    around = [".".join(path[:k]) for k in range(len(path), -1, -1)]
    expected = next((levels[a] for a in around if a in levels), 127)
    asked = LayerLevels.of(levels)
    assert asked.at(".".join(path)) == expected
    assert LayerLevels.parse(asked.words) == asked == LayerLevels.of(asked.plain)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (0, "levels: found 0; use a whole number from 1 to 32767"),
        ({"fc": 2.5}, "levels of 'fc': found 2.5; use a whole number from 1 to 32767"),
        ({"": True}, "levels: found True; use a whole number from 1 to 32767"),
        ({3: 5}, "levels: found the path 3; give module paths"),
        ({"_0": 5, "0": 5}, "levels: found '_0' and '0', which are one path; give one number"),
        ({"stem.1": 5}, "'stem.1': found a path in which no layer with levels lies; layers are stem.0, left.0, left.2"),
        ({"ste": 5}, "'ste': found a path in which no layer with levels lies"),
    ],
)
def test_what_is_no_number_of_a_layer(levels: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=re.escape(message)) as found:
        converters.prepare_qat(Branches(), X, levels=levels)
    assert "\n" not in str(found.value)


def test_a_layer_read_from_its_membrane_has_none() -> None:
    with pytest.raises(ConversionError, match="levels of 'fc': found a path in which no layer with levels lies"):
        converters.prepare_qat(Branches(), X, levels={"fc": 5}, quantise_output=False)


def test_a_long_list_of_layers_is_cut() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
    with pytest.raises(ConversionError, match=r"layers are 0, 1, .*, 11 and 8 more$"):
        converters.prepare_qat(net, torch.rand(2, 2), levels={"nowhere": 3})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["15", "7"], "two numbers for all layers"),
        (["fc=1", "fc=2"], "two numbers for fc"),
        (["fc"], "'fc'; give a number, or PATH=NUMBER"),
        (["fc="], "'fc='"),
        (["-3"], "'-3'"),
        (["0"], "--levels 0: found 0"),
        (["40000"], "use a whole number from 1 to 32767"),
    ],
)
def test_words_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(ConversionError, match=re.escape(message)):
        LayerLevels.parse(words)


def test_names_of_files_are_short_and_differ() -> None:
    many = {f"features.{k}": 2 + k for k in range(30)}
    names = {LayerLevels.of(levels).name for levels in (7, {"": 7, "a": 8}, {"": 8, "a": 7}, many, {**many, "b": 3})}
    assert len(names) == 5
    assert all(len(name) < 100 and "-" not in name for name in names)
    assert LayerLevels.of({"a": 7, "b": 8}).name == LayerLevels.of({"b": 8, "a": 7}).name == "127+a=7+b=8"
