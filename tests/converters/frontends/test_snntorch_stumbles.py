"""What users of snnTorch stumble over: batch norms, a batch in the shape, another number of steps, currents."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF, reset
from converters.errors import ConversionError, ConversionWarning
from converters.frontends.snntorch import from_snntorch

T = 6


def neuron() -> CaLIF:
    return CaLIF(threshold=0.7, y_min=-5, y_max=9, init_hidden=True)


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch norms as training leaves them: nothing is 0 or 1, signs of both kinds."""
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_()
            m.running_var.uniform_(0.2, 3)
            if m.affine:
                nn.init.normal_(m.weight)
                nn.init.normal_(m.bias)
    return net.eval()


def counts_of(net: nn.Module, counts: Tensor) -> Tensor:
    """What the model itself sends in its window, by its own forward in float64."""
    reset(net.double())
    with torch.no_grad():
        return sum(net(torch.from_numpy(s).double()) for s in isi_encode(counts=counts.numpy(), window=T))


KINDS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "linear": (lambda g, bias: nn.Linear(4, 6, bias), (4,), 1),
    "conv 1": (lambda g, bias: nn.Conv1d(4, 6, 3, groups=g, bias=bias), (4, 5), 1),
    "conv 2": (lambda g, bias: nn.Conv2d(4, 6, 2, groups=g, bias=bias), (4, 5, 4), 2),
    "conv 3": (lambda g, bias: nn.Conv3d(4, 6, 2, groups=g, bias=bias), (4, 2, 3, 2), 3),
    "transposed 1": (lambda g, bias: nn.ConvTranspose1d(4, 6, 3, groups=g, bias=bias), (4, 5), 1),
    "transposed 2": (lambda g, bias: nn.ConvTranspose2d(4, 6, 2, groups=g, bias=bias), (4, 3, 2), 2),
    "transposed 3": (lambda g, bias: nn.ConvTranspose3d(4, 6, 2, groups=g, bias=bias), (4, 1, 2, 2), 3),
}


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.sampled_from([1, 2]), st.booleans(), st.booleans(), st.integers(0, 2**16))
def test_a_batch_norm_joins_the_weights_in_front_of_it(kind: str, g: int, bias: bool, affine: bool, seed: int) -> None:
    torch.manual_seed(seed)
    make, shape, rank = KINDS[kind]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
    net = with_statistics(nn.Sequential(make(g, bias), nn.Dropout(), norm(6, affine=affine), neuron()))
    graph = from_snntorch(net, shape, T=T)  # compares every spike of images of its own
    counts = torch.randint(0, T + 1, (4, *shape))
    r = converters.run(graph, integers=counts, phase="none")
    assert torch.equal(r.counts[r.output_name].double(), counts_of(net, counts))


class Loop(nn.Module):
    """As snnTorch's tutorials write it: the same image at every step, or a train of spikes."""

    def __init__(self, steps: int, picks: bool) -> None:
        super().__init__()
        self.fc, self.norm, self.lif = nn.Linear(4, 3), nn.BatchNorm1d(3), CaLIF(threshold=0.5)
        self.steps, self.picks = steps, picks

    def forward(self, x: Tensor) -> Tensor:
        spikes, state = [], self.lif.init_leaky()
        for step in range(self.steps):
            s, *state = self.lif(self.norm(self.fc(x[step] if self.picks else x)), *state)
            spikes.append(s)
        return torch.stack(spikes)


@pytest.mark.parametrize(
    ("steps", "picks", "told"),
    [
        (T, True, []),
        (4, True, ["model: found a loop of 4 steps, where the network gets T=6"]),
        (T, False, ["model: found a loop that is given the image itself at every step"]),
        (
            9,
            False,
            [
                "model: found a loop of 9 steps, where the network gets T=6",
                "model: found a loop that is given the image itself at every step",
            ],
        ),
    ],
)
def test_what_differs_from_the_loop_is_told(steps: int, picks: bool, told: list[str]) -> None:
    torch.manual_seed(0)
    model = with_statistics(Loop(steps, picks))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_snntorch(model, (4,), T=T)
    found = [str(w.message) for w in caught if w.category is ConversionWarning]
    assert len(found) == len(told)
    for text, start in zip(found, told, strict=True):
        assert text.startswith(start)
        assert "\n" not in text


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv2d(1, 4, 3), CaLIF(init_hidden=True)), (1, 8, 8)),
        ((nn.Flatten(), nn.Linear(4, 3), CaLIF(init_hidden=True)), (1, 2, 2)),
        ((nn.AvgPool2d(2), CaLIF(init_hidden=True), nn.Flatten(), nn.Linear(4, 3), CaLIF(init_hidden=True)), (1, 4, 4)),
    ],
)
@pytest.mark.parametrize("batch", [2, 64])
def test_a_batch_in_the_shape_is_named(layers: Any, shape: tuple[int, ...], batch: int) -> None:
    net = nn.Sequential(*layers)
    from_snntorch(net, shape, T=T)
    with pytest.raises(ConversionError) as error:
        from_snntorch(net, (batch, *shape), T=T)
    assert error.value.todo.endswith(f"; or give input_shape={shape}, if {batch} is a number of images")
    assert "\n" not in str(error.value)


def test_two_axes_of_one_image_are_no_batch() -> None:
    from_snntorch(nn.Sequential(nn.Linear(4, 3, bias=False), neuron()), (2, 4), T=T)


MISTAKES: list[tuple[Any, Any, str]] = [
    (lambda: nn.Sequential(nn.Linear(4, 3), neuron()), 4, r"input_shape: found 4; give a tuple, \(4,\)"),
    (lambda: nn.Sequential(nn.Linear(4, 3), neuron()), (4.0,), r"input_shape: found \(4.0,\); give a tuple of whole"),
    (lambda: nn.Sequential(nn.Linear(4, 3), neuron()), None, "input_shape: found None; give a tuple of whole numbers"),
    (
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), neuron()),
        (4,),
        "0: found a BatchNorm1d that is not directly behind a layer with weights; put it there",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 3), neuron(), nn.BatchNorm1d(3), neuron()),
        (4,),
        "2: found a BatchNorm1d that is not directly behind",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), neuron()),
        (4,),
        "1: found a BatchNorm1d without running statistics, .*; train it with track_running_stats=True",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(2), neuron()),
        (4,),
        "1: found 2 channels behind 3; let them agree",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), neuron()),
        (3, 4),
        "1: found a batch norm of axis 1 behind a Linear of the last axis; flatten the image",
    ),
]


@pytest.mark.parametrize(("make", "shape", "message"), MISTAKES, ids=[m[:40] for _, _, m in MISTAKES])
def test_mistakes_are_one_line(make: Any, shape: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=f"^{message}") as error:
        from_snntorch(make(), shape, T=T, check=False)
    assert "\n" not in str(error.value)
