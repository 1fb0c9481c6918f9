"""Models of classes of their own, as snnTorch's tutorials write them: their own forward is the oracle."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import snntorch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

import converters
from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF, reset, swap_neurons
from converters.errors import ConversionError, ConversionWarning
from converters.frontends.snntorch import from_snntorch
from converters.network import Network

STEPS = 6


class Loop(nn.Module):
    """Tutorial 5 of snnTorch: the state is passed on in a loop over time, of one image or of ``x[step]``."""

    def __init__(self, over_time: bool = True, neurons: Any = None, flatten: str = "method") -> None:
        super().__init__()
        self.over_time, self.flatten = over_time, flatten
        make = neurons or (lambda: snntorch.Leaky(beta=0.9, threshold=0.5))
        self.fc1, self.lif1 = nn.Linear(6, 8), make()
        self.fc2, self.lif2 = nn.Linear(8, 3), make()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for step in range(STEPS):
            now = x[step] if self.over_time else x
            now = now.view(now.size(0), -1) if self.flatten == "view" else now.flatten(1)
            spk1, mem1 = self.lif1(self.fc1(now), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


class OneStep(nn.Module):
    """Convolutions, functions and hidden states; a step each time it is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv, self.lif1 = nn.Conv2d(1, 4, 3), CaLIF(threshold=0.3, y_min=-4, y_max=6, init_hidden=True)
        self.fc, self.lif2 = nn.Linear(16, 3), CaLIF(threshold=0.4, init_hidden=True, **options)

    def forward(self, x: Tensor) -> Any:
        x = self.lif1(F.avg_pool2d(self.conv(x), 2))
        x = F.dropout(x.reshape(x.shape[0], -1), 0.5, training=self.training)
        return self.lif2(self.fc(x))


class Stateful(nn.Module):
    """A step whose states come from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(4, 3), CaLIF(threshold=0.4, packed=True)

    def forward(self, x: Tensor, mem: Tensor) -> Any:
        return self.lif(self.fc(x), mem)


def on_grid(model: nn.Module) -> nn.Module:
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.round(p * 64) / 64)
    return model


def trains_of(counts: Tensor, window: int) -> Tensor:
    return torch.from_numpy(isi_encode(counts=counts.numpy(), window=window)).double()


def same_spikes(graph: Any, counts: Tensor, mine: Tensor) -> None:
    r = converters.run(graph, integers=counts, phase="none", record="spikes")
    assert r.spikes is not None
    assert torch.equal(r.spikes[r.output_name].double(), mine)
    assert mine.any()


@pytest.mark.parametrize("flatten", ["view", "method"])
def test_a_loop_over_time_that_passes_its_states(flatten: str) -> None:
    torch.manual_seed(0)
    report = swap_neurons(Loop(flatten=flatten), y_min=-6, y_max=9)
    model = on_grid(report.model).eval()
    graph = from_snntorch(model, (2, 3), T=STEPS, signed=True)
    assert " 0 near-ties" in graph.metadata["calif_checked"]
    counts = torch.randint(-STEPS, STEPS + 1, (5, 2, 3))
    with torch.no_grad():
        mine, _ = model(trains_of(counts, STEPS))
    same_spikes(graph, counts, mine)


@pytest.mark.parametrize("options", [{}, {"output": True}])
def test_one_step_with_hidden_states(options: Any) -> None:
    torch.manual_seed(0)
    model = on_grid(OneStep(**options)).eval()
    graph = from_snntorch(model, (1, 6, 6), T=8)
    counts = torch.randint(0, 9, (3, 1, 6, 6))
    reset(model)
    with torch.no_grad():
        outputs = [model(step) for step in trains_of(counts, 8)]
    same_spikes(graph, counts, torch.stack([o[0] if isinstance(o, tuple) else o for o in outputs]))


def test_one_step_with_states_from_outside() -> None:
    torch.manual_seed(0)
    model: Any = on_grid(Stateful())
    graph = from_snntorch(model, (4,), T=8)
    counts = torch.randint(0, 9, (3, 4))
    mem, mine = torch.zeros(0), []
    with torch.no_grad():
        for step in trains_of(counts, 8):
            spikes, mem = model(step, mem)
            mine.append(spikes)
    same_spikes(graph, counts, torch.stack(mine))


def test_the_same_image_at_every_step_is_a_pixel_of_one_spike_a_step() -> None:
    """The default of ``scale``: what charge a model gets from its pixels, the graph gets from their spikes."""
    torch.manual_seed(0)
    model = swap_neurons(Loop(over_time=False)).model
    x = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]])
    with pytest.warns(ConversionWarning, match="given the image itself at every step"):
        graph = from_snntorch(model, (2, 3), T=STEPS)
    assert Network.from_graph(graph).spec.quantise(x).flatten().tolist() == [6, 3, 0, 0, 6, 3]


def test_the_default_scale_keeps_the_accuracy() -> None:
    """Of a model that was trained on the same picture at every step. (A scale of 1 would leave pixels of 0 and 1.)"""
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.images / 16, dtype=torch.float32).flatten(1), torch.tensor(digits.target)

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(64, 48), CaLIF(y_max=8)
            self.fc2, self.lif2 = nn.Linear(48, 10), CaLIF(y_min=-8, y_max=8)

        def forward(self, x: Tensor) -> Any:
            total: Any = 0
            a: Any = ()
            b: Any = ()
            for _ in range(8):
                s, *a = self.lif1(self.fc1(x), *a)
                s, *b = self.lif2(self.fc2(s), *b)
                total = total + s
            return total

    model = Dense()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        for rows in torch.randperm(1400).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    with torch.no_grad():
        own = float((model(x[1400:]).argmax(1) == y[1400:]).double().mean())
    with pytest.warns(ConversionWarning, match="given the image itself at every step"):
        graph = from_snntorch(model, (64,), T=8)
    found = converters.run(graph, x[1400:], backend="closed_form").predictions
    assert own > 0.7
    assert float((found == y[1400:]).double().mean()) > own - 0.03


def test_a_nested_class_in_a_row() -> None:
    torch.manual_seed(0)
    model = on_grid(nn.Sequential(OneStep(), nn.Linear(3, 2), CaLIF(threshold=0.25, init_hidden=True)))
    graph = from_snntorch(model, (1, 6, 6), T=8)
    names = [name for name, node in graph.nodes.items() if type(node).__name__ == "CaLIF"]
    assert names == ["_0.lif1", "_0.lif2", "_2"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_random_loops(seed: int, widths: list[int], packed: bool, hidden: bool) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = [4, *widths]
            self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
            flags: dict[str, Any] = {"init_hidden": hidden, "packed": packed and not hidden}
            self.lifs = nn.ModuleList(CaLIF(0.5, 0.125, -3, 5, **flags) for _ in widths)

        def forward(self, x: Tensor) -> Tensor:
            states: list[Any] = [() for _ in widths]
            out = []
            for step in range(STEPS):
                h = x[step]
                for k, (fc, lif) in enumerate(zip(self.fcs, self.lifs, strict=True)):
                    h = fc(h)
                    if hidden:
                        h = lif(h)
                    elif packed:
                        h, mem = lif(h, *states[k])
                        states[k] = (mem,)
                    else:
                        h, *states[k] = lif(h, *states[k])
                out.append(h)
            return torch.stack(out)

    torch.manual_seed(seed)
    model = on_grid(Deep())
    graph = from_snntorch(model, (4,), T=STEPS, signed=True)
    counts = torch.randint(-STEPS, STEPS + 1, (4, 4))
    reset(model)
    with torch.no_grad():
        mine = model(trains_of(counts, STEPS))
    r = converters.run(graph, integers=counts, phase="none", record="spikes")
    assert r.spikes is not None
    assert torch.equal(r.spikes[r.output_name].double(), mine)


class Wrong(nn.Module):
    """Two layers and two neurons, and a forward to be given."""

    def __init__(self, forward: Any, neuron: Any = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)
        self.a = neuron or CaLIF(init_hidden=True)
        self.b = CaLIF(init_hidden=True)
        self.own = forward

    def forward(self, x: Tensor) -> Any:
        return self.own(self, x)


def _forgets(m: Any, x: Tensor) -> Any:
    return m.b(m.fc2(m.a(m.fc1(x), m.a.init_leaky())[0]))


ERRORS: list[tuple[Any, str]] = [
    (lambda: Wrong(lambda m, x: m.b(x + m.a(m.fc1(x)))), "add: found 2 inputs; from_snntorch takes one row"),
    (lambda: Wrong(lambda m, x: (m.a(m.fc1(x)), m.b(m.fc2(x)))), r"model: found 2 last neurons \(a, b\)"),
    (lambda: Wrong(lambda m, x: m.a(m.fc2(m.a(m.fc1(x))))), "a: found one neuron at several places"),
    (lambda: Wrong(lambda m, x: m.b(m.fc2(m.a(m.fc1(x)))) if x.sum() > 0 else x), "model: found that it cannot be tr"),
    (lambda: Wrong(lambda m, x: m.b(torch.relu(m.fc1(x)))), "relu: found "),
    (lambda: Wrong(lambda m, x: m.fc1(x)), "model: found no Ca-LIF layer; put one behind each layer with weights"),
    (lambda: Wrong(_forgets, CaLIF(packed=True)), "a: found a CaLIF that keeps no state between steps; pass its state"),
    (
        lambda: Wrong(lambda m, x: m.b(m.a(m.fc1(x))), snntorch.RLeaky(beta=0.9, linear_features=4, init_hidden=True)),
        "a: found a RLeaky; it feeds its spikes back .* put calif_plugins.snntorch.CaLIF there and train again$",
    ),
    (
        lambda: Wrong(lambda m, x: m.b(m.a(m.fc1(x))), snntorch.Leaky(beta=0.9, init_hidden=True)),
        r"a: found a Leaky; replace it with swap_neurons\(model\) first",
    ),
    (lambda: Wrong(lambda m, x: m.b(m.fc2(x.flatten(2)))), "input_shape: found that the model does not run on"),
]  # fmt: skip


def test_our_own_module_says_what_to_give() -> None:
    g = from_snntorch(nn.Sequential(nn.Linear(4, 2), CaLIF(init_hidden=True)), (4,), T=4)
    with pytest.raises(ConversionError, match=r"give model.sequential\(\)$"):
        from_snntorch(converters.to_snntorch(g), (4,), T=4)


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[m[:30] for _, m in ERRORS])
def test_errors_name_the_place(make: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=f"^{message}") as found:
        from_snntorch(make(), (4,), T=5)
    assert "\n" not in str(found.value)


def test_a_row_that_is_not_what_the_model_does_is_found() -> None:
    """A step that changes from step to step is no step for the whole window."""

    def forward(m: Any, x: Tensor) -> Any:
        out = []
        for step in range(STEPS):
            now = m.fc1(x) if step < 3 else m.fc2(x)
            out.append(m.b(now))
        return torch.stack(out)

    torch.manual_seed(0)
    with pytest.raises(ConversionError, match=r"^b: found other spikes in one step of its own"):
        from_snntorch(Wrong(forward), (4,), T=STEPS)


def test_the_model_is_left_as_it_was() -> None:
    model = swap_neurons(Loop()).model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    from_snntorch(model, (2, 3), T=STEPS)
    assert model.training
    assert model.fc1.weight.dtype == torch.float32
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
