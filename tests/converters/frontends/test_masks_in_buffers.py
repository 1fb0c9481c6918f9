"""PyTorch's encoders with the masks that its documentation makes: in a buffer, or in forward; causal or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import converters
from converters.operations import Softmax
from converters.results import compare_counts

LENGTH = 4
SQUARE = nn.Transformer.generate_square_subsequent_mask


class Encoder(nn.Module):
    """A small encoder with a pooled head; ``call`` says how it is masked."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], mask: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.call, self.embed, self.head = call, nn.Linear(3, 8), nn.Linear(8, 2)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.call(self, self.embed(x)).mean(1)))


CALLS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "said to be causal": lambda n, x: n.encoder(x, mask=n.mask, is_causal=True),
    "not said": lambda n, x: n.encoder(x, mask=n.mask),
    "by place": lambda n, x: n.encoder(x, n.mask),
    "made in forward": lambda n, x: n.encoder(x, mask=SQUARE(x.shape[1])),
    "of one layer": lambda n, x: n.encoder.layers[0](x, src_mask=n.mask),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_causal_mask_drops_what_comes_later(call: str) -> None:
    x = torch.randn(4, LENGTH, 3, generator=torch.Generator().manual_seed(0))
    _equal(Encoder(CALLS[call], SQUARE(LENGTH)), x, torch.ones(LENGTH, LENGTH).triu(1).bool())


def test_any_mask_drops_what_it_says() -> None:
    """One that looks like no causal mask: PyTorch compares the two, which an exporter cannot follow."""
    x = torch.randn(4, LENGTH, 3, generator=torch.Generator().manual_seed(0))
    dropped = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]).bool()
    _equal(Encoder(CALLS["not said"], dropped), x, dropped)


def test_a_decoder_and_the_whole_transformer() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.both = nn.Transformer(4, 2, 1, 1, 4, batch_first=True)
            self.register_buffer("mask", SQUARE(LENGTH))

        def forward(self, x: Tensor) -> Tensor:
            y = self.both(x, x, src_mask=self.mask, tgt_mask=self.mask)
            return torch.as_tensor(y + self.both.decoder(x, y, tgt_mask=self.mask))

    _equal(Both(), torch.randn(4, LENGTH, 4), torch.ones(LENGTH, LENGTH).triu(1).bool())


def _equal(net: nn.Module, x: Tensor, dropped: Tensor) -> None:
    """Spikes equal integers, and the first softmax gives nothing to what its mask drops."""
    hooks = [len(m._forward_pre_hooks) for m in net.modules()]
    m = converters.prepare_qat(net, x, levels=7)
    assert [len(m._forward_pre_hooks) for m in net.modules()] == hooks
    m(x)
    q = converters.from_pt2e(m)
    values = q.execute(x)
    soft = next(k for k in q.layers if any(isinstance(op, Softmax) for s in k.synapses for op in s.ops))
    weights = values[soft.name].unflatten(1, (-1, *dropped.shape)) if values[soft.name].ndim != 4 else values[soft.name]
    assert not bool(weights.masked_select(dropped.expand_as(weights)).any())
    assert bool(weights.masked_select(~dropped.expand_as(weights)).any())
    rows = compare_counts(converters.run(converters.to_nir(q, 7), x), values)
    assert [row for row in rows if row.differing] == []
