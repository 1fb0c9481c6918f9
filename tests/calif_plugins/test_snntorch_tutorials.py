"""The five networks that people begin with in snnTorch: swapped, trained for a few steps, reset, and exported.

Each as its tutorial has it: a convolutional net in a ``Sequential`` that ``utils.reset`` clears; a class that passes
its membranes on and takes the loss of them; synaptic currents; recurrence; and classes coded by populations. Where a
part cannot become Ca-LIF, or cannot be exported, the message says what to put there, and that is done here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import snntorch as snn
import snntorch.functional as SF
import torch
from snntorch import surrogate, utils
from torch import Tensor, nn

import converters
from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF, swap_neurons
from converters.errors import ConversionError, ConversionWarning
from converters.frontends.snntorch import from_snntorch

STEPS = 6


def pictures(n: int = 48) -> tuple[Tensor, Tensor]:
    """Bright upper or lower halves of 8 x 8 pixels, with noise."""
    gen = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (n,), generator=gen)
    x = torch.rand(n, 1, 8, 8, generator=gen) * 0.4
    for k, label in enumerate(labels.tolist()):
        x[k, :, 4 * label : 4 * label + 4] += 0.6
    return x, labels


def learn(net: nn.Module, loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor], epochs: int = 8) -> None:
    """A few steps of training lower the loss, and a reset network repeats itself."""
    x, labels = pictures()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(epochs):
        loss = loss_of(net, x, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert torch.equal(loss_of(net, x, labels), loss_of(net, x, labels))


def by_hidden_state(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The training loop of the tutorials: reset, step, record, and a loss of ``snntorch.functional``."""

    def loss_of(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        utils.reset(net)
        return loss(torch.stack([net(x)[0] for _ in range(STEPS)]), labels)

    return loss_of


def exported(net: nn.Module, shape: tuple[int, ...]) -> None:
    """The graph of a trained network does what the network does, spike for spike."""
    net = net.double().eval()
    graph = from_snntorch(net, shape, T=8)
    counts = (pictures(8)[0] * 8).round().long().reshape(8, *shape)
    utils.reset(net)
    with torch.no_grad():
        mine = torch.stack(
            [net(torch.from_numpy(x.copy()).double())[0] for x in isi_encode(counts=counts.numpy(), window=8)]
        )
    r = converters.run(graph, integers=counts, phase="none", record="spikes")
    assert r.spikes is not None
    assert torch.equal(r.spikes[r.output_name].double(), mine)
    assert mine.any()


LEAKY = {"beta": 0.9, "spike_grad": surrogate.fast_sigmoid(slope=25), "init_hidden": True}


def convolutional(pool: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), pool(2), snn.Leaky(threshold=0.1, **LEAKY),
        nn.Flatten(), nn.Linear(72, 2), snn.Leaky(threshold=0.5, output=True, **LEAKY),
    )  # fmt: skip


def test_a_convolutional_net_in_a_sequential() -> None:
    report = swap_neurons(convolutional(nn.MaxPool2d))
    assert [row[0] for row in report.replaced] == ["2", "5"]
    (note,) = report.notes
    assert note.startswith("1 (MaxPool2d): a max pool drops negative spikes")
    assert note.endswith("put an average pool, train again")
    learn(report.model, by_hidden_state(SF.ce_rate_loss()))
    with pytest.raises(ConversionError, match=r"^1: found a MaxPool2d, which takes the maximum of each step"):
        from_snntorch(report.model, (1, 8, 8), T=8)
    report = swap_neurons(convolutional(nn.AvgPool2d))
    assert report.notes == []
    learn(report.model, by_hidden_state(SF.ce_rate_loss()))
    exported(report.model, (1, 8, 8))


class Explicit(nn.Module):
    """Membranes are passed on by hand, and the loss is of the last one's."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 16)
        self.lif1 = snn.Leaky(beta=0.95)
        self.fc2 = nn.Linear(16, 2)
        self.lif2 = snn.Leaky(beta=0.95)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.reset_mem()
        spikes, membranes = [], []
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


def test_a_class_that_passes_its_membranes() -> None:
    torch.manual_seed(0)
    report = swap_neurons(Explicit())
    assert [row[0] for row in report.replaced] == ["lif1", "lif2"]
    assert "the membrane is returned after its reset" in str(report)
    net = report.model
    spikes, membranes = net(pictures()[0])
    assert spikes.shape == membranes.shape == (STEPS, 48, 2)
    assert type(membranes) is Tensor

    def loss_of(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        _, membranes = net(x)
        return sum(nn.functional.cross_entropy(mem, labels) for mem in membranes)  # type: ignore[return-value]

    learn(net, loss_of)
    # its forward is traced, and what it flattens is flat already; its own spikes are what the graph is compared with
    with pytest.warns(ConversionWarning, match="given the image itself at every step"):
        graph = from_snntorch(net, (64,), T=STEPS)
    assert " equal, 0 near-ties" in graph.metadata["calif_checked"]
    chain = nn.Sequential(*net.children())
    with pytest.raises(ConversionError, match=r"^1: found a CaLIF that keeps no state between steps; set its init_hid"):
        from_snntorch(chain, (64,), T=8)
    net.lif1.init_hidden = net.lif2.init_hidden = net.lif2.output = True
    exported(chain, (64,))


def with_state(neuron: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), neuron(), nn.Linear(16, 2), snn.Leaky(threshold=0.5, output=True, **LEAKY)
    )


@pytest.mark.parametrize(
    ("neuron", "kind", "reason"),
    [
        (lambda: snn.Synaptic(alpha=0.9, **LEAKY), "Synaptic", "has a synaptic current that decays"),
        (lambda: snn.RLeaky(linear_features=16, **LEAKY), "RLeaky", "feeds its spikes back to itself"),
    ],
)
def test_synaptic_currents_and_recurrence(neuron: Callable[[], nn.Module], kind: str, reason: str) -> None:
    """Such a neuron stays, beside Ca-LIF ones, and is reset with them; the way out leads out."""
    report = swap_neurons(with_state(neuron))
    assert [row[:2] for row in report.replaced] == [("4", "Leaky")]
    ((path, name, why),) = report.skipped
    assert (path, name) == ("2", kind)
    assert why.startswith(reason)
    assert why.endswith("put calif_plugins.snntorch.CaLIF there and train again")
    learn(report.model, by_hidden_state(SF.ce_count_loss()))
    with pytest.raises(
        ConversionError, match=rf"^2: found a {kind}; it {reason}.*put calif_plugins.snntorch.CaLIF there"
    ):
        from_snntorch(report.model, (1, 8, 8), T=8)
    report = swap_neurons(with_state(lambda: snn.Leaky(threshold=0.25, **LEAKY)))
    assert report.skipped == []
    learn(report.model, by_hidden_state(SF.ce_count_loss()))
    exported(report.model, (1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast(dtype: torch.dtype) -> None:
    """Layers in half precision, neurons in float32: it learns, repeats itself, and is exported as it is without."""
    net = swap_neurons(convolutional(nn.AvgPool2d)).model
    plain = by_hidden_state(SF.ce_rate_loss())

    def loss_of(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return plain(net, x, labels)

    learn(net, loss_of)
    assert net[2].v.dtype == net[5].y.dtype == torch.float32
    with torch.autocast("cpu", dtype=dtype):
        under = from_snntorch(net, (1, 8, 8), T=8)
    without = from_snntorch(net, (1, 8, 8), T=8)
    assert under.metadata == without.metadata
    exported(net, (1, 8, 8))


def test_classes_coded_by_populations() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), snn.Leaky(threshold=0.5, **LEAKY),
        nn.Linear(24, 20), snn.Leaky(threshold=0.5, output=True, **LEAKY),
    )  # fmt: skip
    report = swap_neurons(net, y_max=STEPS)
    loss = SF.mse_count_loss(correct_rate=1.0, incorrect_rate=0.0, population_code=True, num_classes=2)
    learn(report.model, by_hidden_state(loss), epochs=12)
    utils.reset(report.model)
    x, labels = pictures()
    with torch.no_grad():
        spikes = torch.stack([report.model(x)[0] for _ in range(STEPS)])
    assert SF.accuracy_rate(spikes, labels, population_code=True, num_classes=2) > 0.6
    assert type(report.model[4]) is CaLIF
    exported(report.model, (1, 8, 8))
