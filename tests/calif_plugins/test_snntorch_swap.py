"""Ca-LIF put into models that exist: every place, every state, and a word about whatever cannot be."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import functional as SF
from snntorch import utils
from torch import Tensor, nn

from calif_plugins import reference
from calif_plugins.snntorch import CaLIF, swap_neurons
from calif_plugins.snntorch_swap import _check
from calif_plugins.torch_modules import places


class Explicit(nn.Module):
    """A model as snnTorch's tutorials write them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.lif1 = snn.Leaky(beta=0.9, threshold=torch.tensor(0.7), learn_threshold=True)
        self.fc2 = nn.Linear(8, 2)
        self.lif2 = snn.Lapicque(beta=0.5, threshold=1.5)

    def forward(self, x: torch.Tensor, steps: int = 5) -> torch.Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_lapicque()
        spikes = []
        for _ in range(steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
        return torch.stack(spikes)


def test_swap_in_a_model_that_passes_its_state() -> None:
    torch.manual_seed(0)
    model = Explicit()
    report = swap_neurons(model, y_min=-3, y_max=3)
    assert [row[:2] for row in report.replaced] == [("lif1", "Leaky"), ("lif2", "Lapicque")]
    assert report.skipped == []
    assert "threshold 0.7; decay beta=0.9 is not carried over" in str(report)
    assert isinstance(report.model.lif1.threshold, nn.Parameter)
    assert float(report.model.lif1.threshold.detach()) == pytest.approx(0.7)
    lif2: Any = report.model.lif2
    assert float(lif2.threshold) == 1.5
    assert type(model.lif1) is snn.Leaky  # a copy was changed
    out = report.model(torch.full((3, 4), 2.0))
    assert out.shape == (5, 3, 2)
    out.sum().backward()
    assert report.model.fc1.weight.grad.abs().sum() > 0
    # the same network by hand, with the reference's rule
    x = torch.full((3, 4), 2.0)
    a, b = report.model.fc1, report.model.fc2
    p = [report.model.lif1.parameters_of_neuron(), report.model.lif2.parameters_of_neuron()]
    states = [(np.zeros(n), np.zeros(n, int)) for n in (8, 2)]
    for t in range(5):
        v, y, s = reference.step(*states[0], a(x)[0].detach().numpy(), p[0])
        states[0] = v, y
        v, y, s = reference.step(*states[1], b(torch.from_numpy(s).float()).detach().numpy(), p[1])
        states[1] = v, y
        assert out[t, 0].tolist() == s.tolist()


def test_swap_keeps_flags_and_says_what_it_could_not() -> None:
    leaky = snn.Leaky(beta=1.0, threshold=2.0, init_hidden=True, reset_mechanism="zero")
    model = nn.Sequential(
        nn.Linear(2, 2),
        leaky,
        nn.Sequential(leaky, snn.Synaptic(alpha=0.9, beta=0.8, init_hidden=True)),
        snn.Leaky(beta=0.5, init_hidden=True, output=True, graded_spikes_factor=2.0),
        CaLIF(init_hidden=True),
    )
    report = swap_neurons(model, inplace=True)
    assert report.model is model
    assert type(model[1]) is CaLIF
    assert model[2][0] is model[1]  # used twice, swapped once
    assert model[1].init_hidden
    assert report.replaced == [
        ("1", "Leaky", "threshold 2; reset 'zero' became subtraction"),
        ("2.0", "Leaky", "the same neuron as 1, with one state for both"),
    ]
    assert sorted((path, kind) for path, kind, _ in report.skipped) == [("2.1", "Synaptic"), ("3", "Leaky")]
    assert "fold graded_spikes_factor" in str(report)
    assert str(swap_neurons(nn.Linear(2, 2))) == "no snnTorch neuron found"


def test_swap_a_single_neuron() -> None:
    report = swap_neurons(snn.Leaky(beta=0.9, init_hidden=True))
    assert type(report.model) is CaLIF


# --- one module, several places ---------------------------------------------------------------------


def test_one_neuron_at_two_places_is_swapped_at_both() -> None:
    lif = snn.Leaky(beta=1.0, init_hidden=True)
    model = nn.Sequential(nn.Linear(2, 2), lif, nn.Linear(2, 2), lif)
    report = swap_neurons(model)
    assert type(report.model[1]) is CaLIF
    assert report.model[3] is report.model[1]
    assert [row[0] for row in report.replaced] == ["1", "3"]
    assert "the same neuron as 1" in report.replaced[1][2]


@st.composite
def trees(draw: Any) -> nn.Module:
    """Module trees with repeats: containers, layers and neurons, each at as many places as it likes."""
    parts: list[nn.Module] = [nn.Linear(1, 1), snn.Leaky(beta=0.5), snn.Synaptic(alpha=0.5, beta=0.5), CaLIF()]
    for _ in range(draw(st.integers(1, 4))):
        chosen = draw(st.lists(st.integers(0, len(parts) - 1), min_size=0, max_size=4))
        if draw(st.booleans()):
            parts.append(nn.Sequential(*(parts[k] for k in chosen)))
        else:
            parts.append(nn.ModuleDict({f"n{j}": parts[k] for j, k in enumerate(chosen)}))
    return parts[-1]


def walk(module: nn.Module, path: str = "") -> list[tuple[str, nn.Module]]:
    """Every place, written out once more."""
    found = [(path, module)]
    for name, child in module._modules.items():
        assert child is not None
        found += walk(child, f"{path}.{name}" if path else name)
    return found


@settings(max_examples=60, deadline=None)
@given(trees(), st.booleans())
def test_every_place_of_a_random_tree_is_named_and_swapped(model: nn.Module, inplace: bool) -> None:
    before = walk(model)
    assert [(p.path, p.module) for p in places(model)] == before
    report = swap_neurons(model, inplace=inplace, check=False)
    after = dict(walk(report.model))
    assert list(after) == [path for path, _ in before]
    for path, old in before:
        assert type(after[path]) is (CaLIF if type(old) is snn.Leaky else type(old))
        for other, twin in before:  # what was one module still is, and only that
            assert (old is twin) == (after[path] is after[other])
    assert [row[0] for row in report.replaced] == [path for path, m in before if type(m) is snn.Leaky]
    assert [row[0] for row in report.skipped] == [path for path, m in before if type(m) is snn.Synaptic]


class Hidden(nn.Module):
    """Neurons where no module tree shows them."""

    def __init__(self) -> None:
        super().__init__()
        self.lif = snn.Leaky(beta=0.5)
        self.layers = [nn.Linear(1, 1), self.lif]
        self.more = {"late": snn.Leaky(beta=0.5)}


def test_neurons_in_plain_lists_are_said() -> None:
    report = swap_neurons(Hidden())
    assert report.replaced == []
    assert [row[0] for row in report.skipped] == ["lif", "more['late']"]
    assert "held by layers[1] too" in str(report)
    assert "ModuleDict" in str(report)
    assert report.model.layers[1] is report.model.lif  # half a swap would be worse


# --- models that have run -----------------------------------------------------------------------------


def test_a_model_that_has_run_with_gradients() -> None:
    neurons = snn.Leaky(beta=0.9, init_hidden=True), snn.RLeaky(0.9, linear_features=2)
    model: Any = nn.Sequential(nn.Linear(2, 2), *neurons)
    model[2].init_hidden = True
    model.trace = [model(torch.ones(1, 2))]
    mem = model[1].mem
    report: Any = swap_neurons(model)
    assert type(report.model[1]) is CaLIF
    assert report.model[1].v.numel() == 0
    assert model[1].mem is mem  # as it was
    assert mem.requires_grad
    assert not report.model.trace[0].requires_grad
    assert torch.equal(report.model[2].mem, model[2].mem)
    again = swap_neurons(report.model)  # one that has run as Ca-LIF
    assert again.replaced == []


def test_what_cannot_be_copied_is_one_line() -> None:
    model: Any = nn.Sequential(nn.Linear(1, 1))
    model.reader = (k for k in range(3))
    with pytest.raises(ValueError, match=r"^model: cannot be copied \(.*\); remove what it holds"):
        swap_neurons(model)
    assert swap_neurons(model, inplace=True).model is model


def test_skipped_neurons_of_a_copy_are_reset_like_any_other() -> None:
    model = nn.Sequential(nn.Linear(1, 1), snn.Synaptic(alpha=0.9, beta=0.9, init_hidden=True))
    model(torch.ones(1, 1))
    copy = swap_neurons(model).model
    copy(torch.ones(1, 1))
    utils.reset(copy)
    assert copy[1].mem.abs().sum() == 0


# --- what carries over ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: snn.Synaptic(alpha=0.9, beta=0.9), "synaptic current that decays"),
        (lambda: snn.Alpha(alpha=0.9, beta=0.8), "two synaptic currents"),
        (lambda: snn.RLeaky(beta=0.9, linear_features=2), "feeds its spikes back"),
        (lambda: snn.RSynaptic(alpha=0.9, beta=0.9, linear_features=2), "feeds its spikes back"),
        (lambda: snn.SLSTM(2, 2), "gates"),
        (lambda: snn.DeltaLeaky(beta=0.9), "a Leaky of its own kind"),
        (lambda: snn.Leaky(beta=0.9, reset_mechanism="none"), "never reset"),
        (lambda: snn.Leaky(beta=0.9, threshold=-1.0), "not positive"),
        (lambda: snn.Leaky(beta=0.9, threshold=torch.ones(2, 3)), "one threshold per neuron"),
        (lambda: snn.Leaky(beta=0.9, state_quant=lambda v: v), "quantises its membrane"),
        (lambda: snn.LeakyParallel(2, 2), "all steps at once"),
    ],
)
def test_every_obstacle_has_a_way_out(make: Any, words: str) -> None:
    ((path, _, reason),) = swap_neurons(nn.Sequential(make())).skipped
    assert path == "0"
    assert words in reason
    assert any(word in reason for word in ("put ", "remove", "set ", "Ca-LIF has", "has a threshold"))


def test_lapicque_says_that_its_input_gain_stays_behind() -> None:
    report = swap_neurons(nn.Sequential(snn.Lapicque(R=1.0, C=4.0, time_step=1, init_hidden=True)))
    assert "its input gain of 0.25 is not carried over" in str(report)


def test_nested_neurons_that_utils_reset_would_miss_are_said() -> None:
    report = swap_neurons(nn.Sequential(nn.Sequential(nn.Linear(1, 1), snn.Leaky(beta=0.5, init_hidden=True))))
    assert "use calif_plugins.snntorch.reset(model)" in report.notes[0]
    assert not swap_neurons(nn.Sequential(snn.Leaky(beta=0.5, init_hidden=True))).notes


def test_a_row_of_thresholds_is_for_dense_layers() -> None:
    """snnTorch puts (C,) on the last axis; on maps those are the columns."""
    model = swap_neurons(nn.Sequential(snn.Leaky(beta=1.0, threshold=torch.tensor([1.0, 2.0]), init_hidden=True))).model
    assert model(torch.full((1, 2), 1.5)).tolist() == [[1.0, 0.0]]
    with pytest.raises(ValueError, match=r"give them shape \(C, 1, 1\)"):
        model(torch.ones(1, 2, 2, 2))
    thresholds = torch.tensor([1.0, 2.0])[:, None, None]
    model = swap_neurons(nn.Sequential(snn.Leaky(beta=1.0, threshold=thresholds, init_hidden=True))).model
    assert model(torch.full((1, 2, 2, 2), 1.5)).flatten().tolist() == [1.0] * 4 + [0.0] * 4
    assert model[0].threshold.shape == (2, 1, 1)
    with pytest.raises(ValueError, match=r"threshold: values of shape \(2, 1, 1\) do not fit"):
        model(torch.ones(1, 2))


def test_the_check_sees_a_threshold_that_is_not_the_old_one() -> None:
    old = snn.Leaky(beta=0.5, threshold=torch.tensor([1.0, 2.0]))
    _check("lif", old, CaLIF(threshold=torch.tensor([1.0, 2.0]), y_max=1, leak=0.5))
    for wrong in (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.9])):
        with pytest.raises(ValueError, match=r"^lif: at step"):
            _check("lif", old, CaLIF(threshold=wrong))
    gc.collect()


def test_a_frozen_threshold_stays_frozen() -> None:
    lif = snn.Leaky(beta=0.5, learn_threshold=True)
    lif.threshold.requires_grad_(False)
    assert not swap_neurons(nn.Sequential(lif)).model[0].threshold.requires_grad


@pytest.mark.parametrize("loss", ["mse_membrane_loss", "ce_max_membrane_loss", "mse_count_loss", "ce_rate_loss"])
def test_losses_on_the_membranes_that_a_swapped_model_records(loss: str) -> None:
    """The membranes that it stacks are plain potentials of the right shape, and gradients reach the first layer."""

    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(4, 2), snn.Leaky(beta=0.9, threshold=0.7)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mem, spikes, membranes = self.lif.init_leaky(), [], []
            for _ in range(5):
                spk, mem = self.lif(self.fc(x), mem)
                spikes.append(spk)
                membranes.append(mem)
            return torch.stack(spikes), torch.stack(membranes)

    torch.manual_seed(0)
    report = swap_neurons(Recording())
    assert "the membrane is returned after its reset, not before" in str(report)
    spikes, membranes = report.model(torch.rand(6, 4))
    assert type(membranes) is Tensor
    assert membranes.shape == spikes.shape == (5, 6, 2)
    value = getattr(SF, loss)()(membranes if "membrane" in loss else spikes, torch.randint(2, (6,)))
    value.backward()
    assert torch.isfinite(value)
    assert report.model.fc.weight.grad.abs().sum() > 0
