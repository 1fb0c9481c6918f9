"""Every place of a module is replaced, and what was one module stays one."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def test_modules_at_several_places() -> None:
    qnn = pytest.importorskip("brevitas.nn", reason="Brevitas is not installed")
    from converters.zoo.brevitas_layers import with_brevitas

    fc, relu = nn.Linear(3, 3), nn.ReLU()
    branch = nn.Sequential(fc, relu)
    model = nn.Sequential(fc, relu, branch, branch, fc, relu, nn.Linear(3, 2))
    net = with_brevitas(model).net
    assert [type(net[k]) for k in (0, 1, 4, 5)] == [qnn.QuantLinear, qnn.QuantReLU] * 2
    assert net[0] is net[4] is net[2][0]
    assert net[1] is net[5] is net[2][1]
    assert net[2] is net[3]
    assert torch.equal(net[0].weight, fc.weight)
    assert type(model[4]) is nn.Linear
