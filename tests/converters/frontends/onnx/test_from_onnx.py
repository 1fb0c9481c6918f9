"""Networks that onnxruntime and Brevitas have quantised, against onnxruntime and in every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import converters
from converters.zoo.brevitas_layers import with_brevitas
from converters.zoo.networks import LeNet5
from tests.converters.frontends.onnx.models import exported, quantised

WAYS = [(symmetric, per_channel) for symmetric in (True, False) for per_channel in (True, False)]


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two blocks, with batch norms, and one with a convolution in its short cut."""

    def __init__(self) -> None:
        super().__init__()

        def block(a: int, b: int, stride: int = 1) -> nn.Module:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b))

        self.first, self.second, self.third = block(1, 8), block(8, 8), block(8, 8)
        self.down, self.short, self.head = block(8, 16, 2), nn.Conv2d(8, 16, 1, 2), nn.Linear(16, 10)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.bias, -0.2, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.third(torch.relu(self.second(x))))
        x = torch.relu(self.down(x) + self.short(x))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """Blocks like those of MobileNetV3: depthwise, hardswish, squeeze-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.squeeze, self.excite, self.narrow = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 1)
        self.swish, self.gate, self.pool, self.head = (
            nn.Hardswish(),
            nn.Hardsigmoid(),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.swish(self.stem(x))
        y = self.swish(self.wide(x))
        y = y * self.gate(self.excite(torch.relu(self.squeeze(self.pool(y)))))
        x = x + self.narrow(y)
        return self.head(self.pool(self.swish(x)).flatten(1))


class Transformer(nn.Module):
    """Patches, a class token, places, and a block of attention, in which PyTorch puts tokens in front of images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16) / 8)
        self.places = nn.Parameter(torch.randn(1, 17, 16) / 8)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.block(x))[:, 0])


NETWORKS: dict[str, Callable[[], nn.Module]] = {"LeNet-5": lenet, "residual": Residual, "mobile": Mobile}


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(6, 1, 32, 32)


def check(model: onnx.ModelProto, images: Tensor, backends: tuple[str, ...] = ("fast",)) -> None:
    q = converters.from_onnx(model, images)
    assert q.checked is not None
    assert q.checked.model == "onnxruntime"
    assert q.checked.near_ties < q.checked.integers / 500  # averages of four on one scale: a quarter of them are ties
    integers = q.at_window(16).execute(images[:2])
    for backend in backends:
        r = converters.run(converters.to_nir(q, T=16), images[:2], backend=backend)
        assert all(torch.equal(counts.long(), integers[name]) for name, counts in r.counts.items()), backend


@pytest.mark.parametrize(("symmetric", "per_channel"), WAYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_in_pairs_of_quantisers(network: str, symmetric: bool, per_channel: bool, images: Tensor) -> None:
    model = exported(NETWORKS[network](), images)
    check(quantised(model, images, symmetric=symmetric, per_channel=per_channel), images)


@pytest.mark.parametrize(("symmetric", "per_channel"), WAYS)
@pytest.mark.parametrize("network", ["LeNet-5", "residual"])
def test_networks_in_integer_operators(network: str, symmetric: bool, per_channel: bool, images: Tensor) -> None:
    model = exported(NETWORKS[network](), images)
    check(quantised(model, images, symmetric=symmetric, per_channel=per_channel, operators=True), images)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_backend_has_the_same_counts(network: str, images: Tensor) -> None:
    model = quantised(exported(NETWORKS[network](), images, any_batch=False), images)
    check(model, images, ("fast", "snntorch", "closed_form"))


@pytest.mark.filterwarnings("ignore")  # of the exporter, about what it traces
def test_attention_as_pytorch_writes_it(images: Tensor) -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model = exported(Transformer(), images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    check(quantised(model, images), images)


@pytest.mark.slow
@pytest.mark.parametrize(("symmetric", "per_channel"), [(True, True), (False, False)])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_classifiers_of_torchvision(name: str, symmetric: bool, per_channel: bool) -> None:
    import torchvision

    torch.manual_seed(0)
    x = torch.rand(4, 3, 64, 64)
    model = exported(getattr(torchvision.models, name)(weights=None), x)
    check(quantised(model, x, symmetric=symmetric, per_channel=per_channel), x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:fast_hadamard_transform")  # of the exporters
@pytest.mark.parametrize("form", ["qcdq", "qonnx"])
def test_brevitas_by_its_exports_is_what_from_brevitas_reads(form: str, images: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnxoptimizer")  # which the exporter of Brevitas asks for
    from brevitas import export

    model = with_brevitas(LeNet5(), levels=15, weight_bits=4).train()
    model(images)
    model.eval()
    path = tmp_path / "model.onnx"
    write = {"qcdq": export.export_onnx_qcdq, "qonnx": export.export_qonnx}[form]
    write(model, images[:1], str(path), dynamo=False, opset_version=16)
    ours, theirs = converters.from_onnx(path, check=images), converters.from_brevitas(model, images)
    assert len(ours.layers) == len(theirs.layers)
    found, wanted = (list(q.execute(images).values()) for q in (ours, theirs))
    assert [int((a.flatten() != b.flatten()).sum()) for a, b in zip(found, wanted, strict=True)] == [0] * len(wanted)
