"""Encoders of text: an embedding at the input of a network, trained with quantisers and converted."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import converters
from converters.errors import ConversionError

LENGTH = 8
LETTERS = " abcdefghijklmnopqrstuvwxyz_0123456789"


def words() -> tuple[Tensor, Tensor]:
    """Python's errors and warnings against its other names, letter by letter; all of them ship with it."""
    names = [n for n in dir(builtins) if not n.startswith("_")] + keyword.kwlist + keyword.softkwlist
    names = sorted({n.lower() for n in names})
    labels = [int(n.endswith(("error", "warning", "exception"))) for n in names]
    ends = [n[-LENGTH:].rjust(LENGTH) for n in names]
    return torch.tensor([[LETTERS.index(c) for c in n] for n in ends]), torch.tensor(labels)


class Encoder(nn.Module):
    """Rows, a constant for each place, one layer of attention beside a shortcut, and a mean."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.table = nn.Embedding(len(LETTERS), width)
        self.place = nn.Parameter(0.1 * torch.randn(1, LENGTH, width))
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.place
        y = self.norm(x)
        mixed = (self.q(y) @ self.k(y).transpose(1, 2)).softmax(-1) @ self.v(y)
        return self.head((x + mixed).mean(1))


def trained(levels: int) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    tokens, labels = words()
    model = converters.prepare_qat(Encoder(), tokens, levels=levels)
    optimiser = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(model(tokens), labels).backward()
        optimiser.step()
    model.eval()
    return model, tokens, labels


@pytest.fixture(scope="module")
def encoder() -> tuple[Any, Tensor, Tensor]:
    return trained(15)


def test_a_text_encoder_learns_and_converts(encoder: tuple[Any, Tensor, Tensor]) -> None:
    model, tokens, labels = encoder
    q = converters.from_pt2e(model)
    assert q.input.table is not None
    assert q.input.table.vocabulary == len(LETTERS)
    assert q.checked is not None
    predicted = q.predict(tokens)
    assert float((predicted == labels).float().mean()) > 0.95
    assert torch.equal(predicted, model(tokens).argmax(1))
    wanted = q.execute(tokens)
    g = converters.to_nir(q, T=15)
    for backend in ("closed_form", "fast"):
        r = converters.run(g, tokens, backend=backend)
        assert {name: int((c.long() != wanted[name]).sum()) for name, c in r.counts.items()} == dict.fromkeys(
            r.counts, 0
        )
    few = tokens[:2]
    for backend in ("snntorch", "brian2"):
        r = converters.run(g, few, backend=backend)
        assert all(torch.equal(c.long(), wanted[name][:2]) for name, c in r.counts.items()), backend


def test_rows_are_the_model_s_own_fake_quantised_embedding(encoder: tuple[Any, Tensor, Tensor]) -> None:
    model, tokens, _ = encoder
    q = converters.from_pt2e(model)
    assert q.input.table is not None
    seen: list[Tensor] = []
    for module in model.modules():
        if getattr(module, "path", "") == "table" and not module.is_per_channel:
            module.register_forward_hook(lambda m, given, result: seen.append(result.detach()))
    model(tokens)
    (rows,) = {x.data_ptr(): x for x in seen}.values()
    assert torch.equal((q.input.table.rows[tokens] * q.input.scale).float(), rows)


def test_two_inputs_of_which_one_is_tokens() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, word: Tensor, picture: Tensor) -> Tensor:
            return self.fc(self.table(word) + picture)

    torch.manual_seed(0)
    word, picture = torch.randint(0, 5, (9,)), torch.rand(9, 4)
    model = converters.prepare_qat(Both(), (word, picture), levels=7)
    model(word, picture)
    q = converters.from_pt2e(model)
    assert [spec.table is None for spec in q.inputs] == [False, True]
    r = converters.run(converters.to_nir(q, T=7), {"word": word, "picture": picture})
    wanted = q.execute((word, picture))
    assert all(torch.equal(c.long(), wanted[name]) for name, c in r.counts.items())


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.table, self.other, self.fc = nn.Embedding(9, 4, **options), nn.Embedding(9, 4), nn.Linear(4, 2)
        self.bag, self.what = nn.EmbeddingBag(9, 4), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.what(self, x))


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "two tables": (lambda m, x: m.table(x) + m.other(x), "found two tables for the tokens x; use one"),
    "a mask": (lambda m, x: m.table(x) * (x > 0).unsqueeze(-1), "found the operation gt on the tokens x"),
    "a slice": (lambda m, x: m.table(x[:, 1:]), "found the operation slice on the tokens x"),
    "a bag": (lambda m, x: m.bag(x), "found the operation _?embedding_bag; write it as nn.Embedding and"),
    "one hot": (lambda m, x: F.one_hot(x, 4).float(), "found the operation one_hot; use nn.Embedding"),
    "arithmetic": (lambda m, x: m.table(x + 1), "found the operation add on the tokens x"),
    "floats": (lambda m, x: x.float().unsqueeze(-1).expand(-1, -1, 4), "on the tokens x; only an nn.Embedding reads"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_only_an_embedding_may_do(case: str) -> None:
    forward, message = REFUSED[case]
    with pytest.raises(ConversionError, match=message) as found:
        converters.prepare_qat(Net(forward), torch.randint(0, 8, (6, 3)), levels=7)
    assert "\n" not in str(found.value)


def test_a_table_that_forward_rescales_is_refused() -> None:
    with pytest.raises(ConversionError, match="table"):
        converters.prepare_qat(Net(lambda m, x: m.table(x), max_norm=1.0), torch.randint(0, 8, (6, 3)), levels=7)


def test_a_table_of_places_is_a_constant() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.places, self.fc = nn.Embedding(9, 4, padding_idx=0), nn.Embedding(3, 4), nn.Linear(4, 2)
            self.register_buffer("order", torch.arange(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.table(x) + self.places(self.order))

    torch.manual_seed(0)
    x = torch.randint(0, 9, (6, 3))
    model = converters.prepare_qat(Placed(), x, levels=7)
    model(x)
    q = converters.from_pt2e(model)
    r = converters.run(converters.to_nir(q, T=7), x)
    assert len(q.inputs) == 1
    assert all(torch.equal(c.long(), q.execute(x)[name]) for name, c in r.counts.items())


def test_other_front_ends_take_images() -> None:
    with pytest.raises(ConversionError, match=r"example: found torch\.int64"):
        converters.from_brevitas(nn.Sequential(nn.Linear(3, 2)), torch.randint(0, 9, (6, 3)))
