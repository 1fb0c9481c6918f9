"""Attention of learned queries: parameters, stretched to the batch, whose neurons only their leak drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import converters
from converters.results import compare_counts

LEVELS = 7


class Pooled(nn.Module):
    """``call`` says how the queries meet the tokens."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.call, self.embed, self.head = call, nn.Linear(3, 4), nn.LazyLinear(2)
        self.queries = nn.Parameter(torch.randn(1, 2, 4))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.call(self, self.embed(x)).flatten(1)))


def stretched(n: Any, x: Tensor) -> Tensor:
    return torch.as_tensor(n.queries.expand(x.shape[0], -1, -1))


def tokens_first(n: Any, x: Tensor) -> Tensor:
    """As DETR has it: images along the second axis."""
    y, z = x.transpose(0, 1), n.queries[0].unsqueeze(1).repeat(1, x.shape[0], 1)
    return torch.as_tensor(n.attention(z, y, y)[0].transpose(0, 1))


NETS: dict[str, Callable[[], Pooled]] = {
    "a function": lambda: Pooled(lambda n, x: F.scaled_dot_product_attention(stretched(n, x), x, x)),
    "spelled out": lambda: Pooled(lambda n, x: (stretched(n, x) @ x.mT).softmax(-1) @ x),
    "the other way round": lambda: Pooled(lambda n, x: F.scaled_dot_product_attention(x, y := stretched(n, x), y)),
    "a module": lambda: Pooled(
        lambda n, x: n.attention(stretched(n, x), x, x)[0], attention=nn.MultiheadAttention(4, 2, batch_first=True)
    ),
    "without its weights": lambda: Pooled(
        lambda n, x: n.attention(stretched(n, x), x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    "tokens first": lambda: Pooled(tokens_first, attention=nn.MultiheadAttention(4, 2)),
    "a decoder": lambda: Pooled(
        lambda n, x: n.decoder(stretched(n, x), x), decoder=nn.TransformerDecoderLayer(4, 2, 4, batch_first=True)
    ),
    "a dropout of a class token": lambda: Pooled(
        lambda n, x: torch.cat([n.dropout(stretched(n, x)), x], 1), dropout=nn.Dropout(0.2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETS)
def test_levels_are_those_of_the_model_in_float64(kind: str) -> None:
    """The output of PyTorch's own forward in float64, level by level; every spike; and the queries are trained."""
    net, x = NETS[kind](), torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(1))
    net(x)
    m = converters.prepare_qat(net, x, levels=LEVELS)
    m(x).square().sum().backward()
    assert bool(dict(m.named_parameters())["queries"].grad.any())
    twin = m.double().eval()
    q = converters.from_pt2e(twin)
    values, last = q.execute(x), q.layers[-1]
    assert torch.equal((twin(x.double()) / last.scale).round(), values[last.name].double())
    rows = compare_counts(converters.run(converters.to_nir(q, LEVELS), x), values)
    assert [row for row in rows if row.differing] == []


def test_neurons_of_queries_hear_nothing_of_the_input() -> None:
    """Their counts are the parameter on its grid, for any image; tokens of an embedding will do as an input."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.queries, self.head = (
                nn.Embedding(9, 4),
                nn.Parameter(torch.randn(1, 2, 4)),
                nn.Linear(8, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.embed(x)
            z = F.scaled_dot_product_attention(self.queries.expand(x.shape[0], -1, -1), y, y)
            return torch.as_tensor(self.head(z.flatten(1)))

    net, x = Net(), torch.randint(0, 9, (6, 5))
    m = converters.prepare_qat(net, x, levels=LEVELS)
    m(x)
    q = converters.from_pt2e(m)
    values = q.execute(x)
    own = {layer.name: values[layer.name].double() * layer.scale for layer in q.layers}
    still = [name for name, v in own.items() if bool((v == v[:1]).all()) and v[0].numel() == 8]
    wanted = net.queries.detach().double()[0]
    scales = {layer.name: layer.scale for layer in q.layers}
    assert any(float((own[n][0].reshape(2, 4) - wanted).abs().max()) <= 0.51 * scales[n] for n in still)
    rows = compare_counts(converters.run(converters.to_nir(q, LEVELS), x), values)
    assert [row for row in rows if row.differing] == []
