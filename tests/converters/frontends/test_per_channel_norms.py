"""Norms with a scale for each channel, which the weights behind them take in: integers, and who may have them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters import QuantGraph
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.pt2e_module import PreparedModel
from converters.operations import Normalise
from converters.results import compare_counts

LEVELS = 7


class Net(nn.Module):
    """A norm whose channels differ by large factors, and what reads it."""

    def __init__(self, norm: Any, body: Callable[[Any, Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(len(layers))
        self.norm, self.body, self.layers = norm, body, nn.ModuleList(layers)
        size = norm.weight.shape
        norm.weight = nn.Parameter(torch.exp(2 * torch.randn(size)) * torch.randn(size).sign())
        if getattr(norm, "bias", None) is not None:
            norm.bias = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def windows(n: Any, x: Tensor) -> Tensor:
    """As Swin reads its norm: channels last, padded, rolled, cut into windows."""
    y = F.pad(n.norm(x.permute(0, 2, 3, 1)), (0, 0, 0, 2, 0, 2)).roll((-1, -1), (1, 2))
    y = y.view(x.shape[0], 2, 3, 2, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, 8)
    return n.layers[0](y).reshape(x.shape[0], -1)


def twice(n: Any, x: Tensor) -> Tensor:
    """Two layers read one norm, one of them some of its tokens."""
    y = n.norm(x.flatten(2).mT)
    return n.layers[0](y[:, 3:5]).flatten(1) + n.layers[1](y[:, ::8]).flatten(1)


NETS: dict[str, Callable[[], Net]] = {
    "a layer norm": lambda: Net(
        nn.LayerNorm(8), lambda n, x: n.layers[0](n.norm(x.flatten(2).mT)).flatten(1), nn.Linear(8, 3)
    ),
    "two readers, of some tokens each": lambda: Net(nn.LayerNorm(8), twice, nn.Linear(8, 3), nn.Linear(8, 3)),
    "an RMS norm": lambda: Net(
        nn.RMSNorm(8), lambda n, x: n.layers[0](n.norm(x.flatten(2).mT)).flatten(1), nn.Linear(8, 2, bias=False)
    ),
    "windows": lambda: Net(nn.LayerNorm(8), windows, nn.Linear(8, 3)),
    "channels last, and first again": lambda: Net(
        nn.LayerNorm(8),
        lambda n, x: n.layers[0](n.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).flatten(1),
        nn.Conv2d(8, 4, 3, padding=1),
    ),
    "groups": lambda: Net(
        nn.GroupNorm(2, 8), lambda n, x: n.layers[0](n.norm(x)).flatten(1), nn.Conv2d(8, 6, 2, groups=2)
    ),
    "a depthwise layer, with its batch norm": lambda: Net(
        nn.InstanceNorm2d(8, affine=True),
        lambda n, x: n.layers[1](n.layers[0](n.norm(x))).flatten(1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
    ),
    "a transposed layer": lambda: Net(
        nn.GroupNorm(1, 8), lambda n, x: n.layers[0](n.norm(x)).flatten(1), nn.ConvTranspose2d(8, 6, 2, 2, groups=2)
    ),
}  # fmt: skip


def images(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, 8, 4, 4, generator=torch.Generator().manual_seed(seed))


def trained(net: nn.Module, x: Tensor, **options: Any) -> PreparedModel:
    """A prepared model that has taken some steps."""
    m = converters.prepare_qat(net.train(), x, levels=LEVELS, per_channel_norms=True, **options)
    optimiser = torch.optim.SGD(m.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        m(x).square().mean().backward()
        optimiser.step()
    return m


def by_channel(m: nn.Module) -> list[LevelQuantiser]:
    """The quantisers of activations with several scales."""
    found = [f.taken_in.quantiser for f in m.modules() if isinstance(f, LevelQuantiser) and f.taken_in is not None]
    return list(dict.fromkeys(found))


def norm_layer(q: QuantGraph) -> Any:
    (found,) = (k for k in q.layers if any(type(op) is Normalise for s in k.synapses for op in s.ops))
    return found


@pytest.mark.parametrize("kind", NETS)
def test_every_count_is_the_integer_of_the_model_in_float64(kind: str) -> None:
    """PyTorch's own forward pass in float64: what the fake quantiser gives, over its channel's scale; every spike."""
    x = images()
    twin = trained(NETS[kind](), x).double().eval()
    (own,) = by_channel(twin)
    assert own.scale.shape == (8,)
    assert float(own.scale.max() / own.scale.min()) > 4
    q = converters.from_pt2e(twin)
    assert q.checked is not None
    assert q.checked.near_ties == 0
    seen: list[Tensor] = []
    own.register_forward_hook(lambda f, _, y: seen.append(y))
    y = twin(x.double())
    real = seen[0].movedim(own.ch_axis, 1).flatten(2) / own.scale.double().view(-1, 1)
    values, layer, last = q.execute(x), norm_layer(q), q.layers[-1]
    assert layer.threshold.numel() == 8
    assert torch.equal(real.round(), values[layer.name].double().flatten(2))
    assert torch.equal((y / last.scale).round(), values[last.name].double())
    for backend in ("closed_form", "fast", "snntorch"):
        rows = compare_counts(converters.run(converters.to_nir(q, LEVELS), x, backend=backend), values)
        assert [row for row in rows if row.differing] == []


@settings(deadline=None, max_examples=6)
@given(
    channels=st.integers(1, 6), tokens=st.integers(1, 4), spread=st.floats(0, 3), bits=st.integers(2, 8),
    rows=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_any_scales_and_weights(channels: int, tokens: int, spread: float, bits: int, rows: bool, seed: int) -> None:
    """Weights are integers times one scale a row (or one for all), over the channel's relative scale; sums are those
    of PyTorch's own float64 linear layer on the levels of its own layer norm."""
    torch.manual_seed(seed)
    net = Net(nn.LayerNorm(channels), lambda n, x: n.layers[0](n.norm(x)), nn.Linear(channels, 4))
    net.norm.weight.data = torch.exp(spread * torch.randn(channels))
    x = torch.randn(5, tokens, channels)
    m = converters.prepare_qat(
        net, x, levels=LEVELS, weight_bits=bits, per_channel=rows, per_channel_norms=True, quantise_output=False
    )
    m(x)
    q = converters.from_pt2e(m.double().eval())
    values, layer = q.execute(x), norm_layer(q)
    (own,) = by_channel(m)
    source = values["input"].double() * q.input.scale
    scale = own.scale.double()
    gamma, beta = (t.detach().double() for t in (net.norm.weight, net.norm.bias))
    normed = F.layer_norm(source, (channels,), gamma, beta, net.norm.eps)
    levels = (normed / scale).clamp(-LEVELS, LEVELS)
    found = values[layer.name].double().reshape(5, channels, tokens).mT
    assert float((found - levels).abs().max()) <= 0.5 + 1e-6
    relative = scale / scale.max()
    w = net.layers[0].weight.detach().double() * relative
    largest = 2 ** (bits - 1) - 1
    step = (w.abs().amax(1, keepdim=True) if rows else w.abs().max()).clamp(min=1e-6) / largest
    weight = (w / step).round() * step / relative
    wanted = F.linear(found * scale, weight, net.layers[0].bias.detach().double())
    out = converters.run(converters.to_nir(q, LEVELS), x).outputs
    assert torch.allclose(torch.as_tensor(out).double().reshape(wanted.shape), wanted, atol=1e-3, rtol=1e-3)


ONE_FOR_ALL: dict[str, Callable[[], Net]] = {
    "an addition reads it too": lambda: Net(
        nn.LayerNorm(4), lambda n, x: n.layers[0](y := n.norm(x)) + y, nn.Linear(4, 4)
    ),
    "it is returned": lambda: Net(nn.LayerNorm(4), lambda n, x: n.norm(x)),
    "a function stands behind it": lambda: Net(
        nn.LayerNorm(4), lambda n, x: n.layers[0](F.relu(n.norm(x))), nn.Linear(4, 4)
    ),
    "a layer has its tokens beside its channels": lambda: Net(
        nn.LayerNorm(4), lambda n, x: n.layers[0](n.norm(x).flatten(1)), nn.Linear(12, 4)
    ),
    "a layer reads its channels turned round": lambda: Net(
        nn.LayerNorm(4), lambda n, x: n.layers[0](n.norm(x).flip(-1)), nn.Linear(4, 4)
    ),
    "weights that something else has too": lambda: Net(
        nn.LayerNorm(4), lambda n, x: n.layers[0](n.norm(n.layers[0](x))), nn.Linear(4, 4)
    ),
    "it has several axes": lambda: Net(
        nn.LayerNorm((3, 4)), lambda n, x: n.layers[0](n.norm(x)), nn.Linear(4, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ONE_FOR_ALL)
def test_a_norm_that_others_read_keeps_one_scale(kind: str) -> None:
    x = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0))
    m = converters.prepare_qat(ONE_FOR_ALL[kind](), x, levels=LEVELS, per_channel_norms=True)
    m(x)
    assert by_channel(m) == []
    q = converters.from_pt2e(m)
    rows = compare_counts(converters.run(converters.to_nir(q, LEVELS), x), q.execute(x))
    assert [row for row in rows if row.differing] == []


def test_without_the_option_nothing_has_several() -> None:
    m = converters.prepare_qat(NETS["a layer norm"](), images(), levels=LEVELS)
    assert by_channel(m) == []


def test_copies_and_files_take_in_their_own_scales() -> None:
    """Of a deep copy, a saved model, and a state dict in a model that has seen nothing: the same network."""
    x = images()
    m = trained(NETS["groups"](), x).eval()
    wanted = converters.from_pt2e(m).execute(x)
    buffer = io.BytesIO()
    torch.save(m, buffer)
    buffer.seek(0)
    fresh = converters.prepare_qat(NETS["groups"](), x, levels=LEVELS, per_channel_norms=True)
    fresh.load_state_dict(m.state_dict())
    for other in (copy.deepcopy(m), torch.load(buffer, weights_only=False), fresh.eval()):
        (own,), (theirs,) = by_channel(other), by_channel(m)
        assert own is not theirs
        assert any(own is module for module in other.modules())
        found = converters.from_pt2e(other).execute(x)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_quantised_after_training_they_are_closer_to_the_float_network() -> None:
    """Also where weights are fitted to what they read."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Linear(6, 16), layer, nn.LayerNorm(16), nn.Linear(16, 5)).eval()
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data = torch.exp(1.5 * torch.randn(16))
    x, y = torch.randn(64, 4, 6), torch.randn(64, 4, 6)
    errors = []
    for on in (False, True):
        m = converters.quantise(net, x, levels=15, per_channel_norms=on, reconstruct=64)
        assert len(by_channel(m)) == 3 * on
        with torch.no_grad():
            errors.append(float((m(y) - net(y)).square().mean()))
        q = converters.from_pt2e(m)
        rows = compare_counts(converters.run(converters.to_nir(q, 15), y[:2], backend="closed_form"), q.execute(y[:2]))
        assert [row for row in rows if row.differing] == []
    assert errors[1] < errors[0]
