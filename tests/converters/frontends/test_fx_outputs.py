"""Models of the traced front-ends that return several tensors."""

from __future__ import annotations

from typing import Any

import brevitas.nn as qnn
import torch
from torch import Tensor, nn

import converters
from converters.ports.outputs import described, places


class _Heads(nn.Module):
    """A hidden layer as Brevitas' own kind of tensor, beside two heads without quantisers."""

    def __init__(self) -> None:
        super().__init__()
        self.x = qnn.QuantIdentity(bit_width=4, return_quant_tensor=True)
        self.a = qnn.QuantLinear(6, 5, bias=False, weight_bit_width=4)
        self.h = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
        self.b = qnn.QuantLinear(5, 3, bias=False, weight_bit_width=4)
        self.c = qnn.QuantLinear(5, 2, bias=False, weight_bit_width=4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.h(self.a(self.x(x)))
        return {"b": self.b(h), "rest": (h, [self.c(h)])}


def test_brevitas_returns_a_dictionary() -> None:
    torch.manual_seed(0)
    model, x = _Heads(), torch.randn(20, 6)
    for _ in range(5):
        model(x)
    model.eval()
    q = converters.from_brevitas(model, x)
    assert described(q.outputs) == ["b: b", "rest.0: a", "rest.1.0: c"]
    assert q.checked is not None
    with torch.no_grad():
        expected = model(x)
    theirs = [expected["b"], expected["rest"][0].value, expected["rest"][1][0]]
    for backend in ("fast", "snntorch", "closed_form"):
        found = converters.run(converters.to_nir(q), x, backend=backend).outputs
        for (_, ours), wanted in zip(places(found), theirs, strict=True):
            torch.testing.assert_close(ours, wanted.double(), rtol=1e-5, atol=1e-5)
