"""The paper's networks: parameters and multiplications against hand-made sums, shapes at every input size."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.zoo.networks import NETWORKS, build


def conv_bn(a: Any, b: Any, k: Any, groups: int = 1) -> Any:
    return a // groups * b * k * k + 2 * b


def dense(a: Any, b: Any) -> Any:
    return a * b + b


def vgg(plan: Any, hidden: Any, classes: int = 10) -> Any:
    total, channels = 0, 3
    for out in plan:
        total += conv_bn(channels, out, 3)
        channels = out
    return total + dense(hidden[0], hidden[1]) + dense(hidden[1], classes)


def residual(a: Any, b: Any) -> Any:
    return conv_bn(a, b, 3) + conv_bn(b, b, 3) + conv_bn(a, b, 1)


def basic(a: Any, b: Any) -> Any:
    return conv_bn(a, b, 3) + conv_bn(b, b, 3) + (0 if a == b else conv_bn(a, b, 1))


def transformer(width: int, hidden: int, tokens: int, stem: tuple[int, ...], classes: int = 10) -> int:
    convolutions = sum(conv_bn(a, b, 3) for a, b in pairwise((3, *stem))) + stem[-1] * width * 9 + width
    attention = dense(width, 3 * width) + dense(width, width)
    block = 2 * width + attention + 2 * width + dense(width, hidden) + dense(hidden, width)
    return convolutions + width * (1 + 1 + tokens) + 6 * block + 2 * width + dense(width, classes)


MOBILE = [32, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
PARAMETERS = {
    "lenet5": 61706 + 2 * 25 * 6,  # two more input channels
    "lenet5x4": 3 * 25 * 24 + 24 + 24 * 25 * 64 + 64 + dense(64 * 25, 480) + dense(480, 336) + dense(336, 10),
    "lenet5se": 61706 + 2 * 25 * 6 + 6 + 16 + dense(16, 4) + dense(4, 16),  # PReLUs, a squeeze-excite block
    "vgg9": vgg([64, 64, 128, 128, 256, 256, 256], (256 * 16, 1024)),
    "vgg16": vgg([64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512], (512, 512)),
    "resnet11h": conv_bn(3, 32, 3)
    + residual(32, 64)
    + residual(64, 128)
    + residual(128, 256)
    + residual(256, 256)
    + dense(256 * 4, 1024)
    + dense(1024, 10),
    "mobilenet20": conv_bn(3, 32, 3)
    + sum(
        conv_bn(a, a, 3, a) + conv_bn(a, b, 1)
        for a, b in pairwise(MOBILE)
    )
    + dense(1024, 10),
    "resnet18": conv_bn(3, 64, 3)
    + 2 * basic(64, 64)
    + basic(64, 128)
    + basic(128, 128)
    + basic(128, 256)
    + basic(256, 256)
    + basic(256, 512)
    + basic(512, 512)
    + dense(512, 10),
    "vit6": transformer(96, 192, tokens=8 * 8, stem=(32,)),
    "vit6w": transformer(128, 384, tokens=4 * 4, stem=(32, 64)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters(name: str) -> None:
    assert sum(p.numel() for p in build(name, 3, 10, 32).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("size", "classes"), [(32, 10), (64, 200), (128, 101)])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_and_class_count(name: str, size: int, classes: int) -> None:
    net = build(name, 3, classes, size).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, size, size)).shape == (1, classes)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("lenet5se", "vit6", "vit6w")])
def test_average_pooling_throughout(name: str) -> None:
    kinds = {type(m) for m in build(name, 3).modules()}
    assert not kinds & {nn.MaxPool2d, nn.AdaptiveMaxPool2d}
    if not name.startswith("lenet5"):
        assert nn.BatchNorm2d in kinds


def test_twenty_and_eleven_layers() -> None:
    def weighted(name: str) -> Any:
        return [m for m in build(name, 3).modules() if type(m) in (nn.Conv2d, nn.Linear)]

    assert len(weighted("lenet5")) == 5
    assert len(weighted("lenet5x4")) == 5
    assert len(weighted("vgg9")) == 9
    assert len(weighted("vgg16")) == 15
    assert len(weighted("mobilenet20")) == 20
    shortcuts = [m for m in weighted("resnet11h") if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(weighted("resnet11h")) - len(shortcuts) == 11


TRANSFORMERS = pytest.mark.parametrize(("name", "width", "tokens"), [("vit6", 96, 4 * 4), ("vit6w", 128, 2 * 2)])


@TRANSFORMERS
def test_a_transformer_is_made_of_attention_as_torch_computes_it(name: str, width: int, tokens: int) -> None:
    torch.manual_seed(0)
    net: Any = build(name, 1, 10, 16).eval()
    x = torch.randn(2, 1 + tokens, width)
    twin = nn.MultiheadAttention(width, 4, batch_first=True).eval()
    block = net.blocks[0]
    twin.load_state_dict(
        {
            "in_proj_weight": block.attn.qkv.weight,
            "in_proj_bias": block.attn.qkv.bias,
            "out_proj.weight": block.attn.proj.weight,
            "out_proj.bias": block.attn.proj.bias,
        }
    )
    y = block.norm1(x)
    assert torch.allclose(block.attn(y), twin(y, y, y, need_weights=False)[0], atol=1e-6)
    assert len(net.blocks) == 6


@TRANSFORMERS
def test_the_class_token_sees_no_pixels_before_the_first_block(name: str, width: int, tokens: int) -> None:
    torch.manual_seed(0)
    net: Any = build(name, 1, 10, 16).eval()
    nn.init.normal_(net.cls_token)
    seen: list[Tensor] = []
    net.blocks.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    net(torch.rand(3, 1, 16, 16))
    (found,) = seen
    assert found.shape == (3, 1 + tokens, width)
    assert torch.equal(found[:, 0], (net.cls_token + net.pos_embed[:, :1])[0].expand(3, -1))


@pytest.mark.parametrize("size", [7, 9, 33])
@pytest.mark.parametrize("name", ["vit6", "vit6w"])
def test_a_transformer_has_a_place_for_each_token_of_sizes_that_no_stride_divides(name: str, size: int) -> None:
    assert build(name, 1, 3, size).eval()(torch.rand(2, 1, size, size)).shape == (2, 3)


def test_parameters_of_vit6_have_the_names_that_its_checkpoints_have() -> None:
    stem = [name for name, _ in build("vit6").named_parameters() if name.startswith("patch_embed")]
    assert stem == [f"patch_embed.{name}" for name in ("0.weight", "1.weight", "1.bias", "3.weight", "3.bias")]


def test_unknown_network() -> None:
    with pytest.raises(ConversionError, match="network: found 'lenet6'; use one of lenet5"):
        build("lenet6")
