"""What is not converted: one line that names the node, what was found, and the way out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import converters
from converters.errors import ConversionError
from tests.converters.frontends.onnx.building import Net, whole


def gemm(n: Net, x: str) -> str:
    return n.op("Gemm", x, n.weight(whole((6, 6))), name="fc")


def quantised(n: Net) -> str:
    return n.fake(n.input("N", 6))


CASES: dict[str, tuple[Callable[[Net], str], str]] = {
    "no quantiser at the input": (
        lambda n: gemm(n, n.input("N", 6)),
        "fc: found the unquantised input; put QuantizeLinear and DequantizeLinear behind the network's input",
    ),
    "no quantiser between layers": (
        lambda n: n.op("Gemm", gemm(n, quantised(n)), n.weight(whole((6, 3))), name="head"),
        "fc: found an unquantised activation, used by head; put QuantizeLinear and DequantizeLinear behind it",
    ),
    "float weights": (
        lambda n: n.op("Gemm", quantised(n), n.constant(np.ones((6, 3))), name="fc"),
        "fc: found unquantised weights; quantise the weights too",
    ),
    "weights that are computed": (
        lambda n: n.op("Conv", n.fake(n.input("N", 1, 3, 3)), n.nodes[-1].output[0], name="conv"),
        "conv: found weights that the network computes; give the layer weights of its own",
    ),
    "an unknown operation": (
        lambda n: n.fake(n.op("Hardmax", quantised(n), name="hard")),
        "hard: found the operation Hardmax, which is not converted; write it in operations that are",
    ),
    "an unknown domain": (
        lambda n: n.op("Thing", quantised(n), domain="somebody.else", name="thing"),
        "thing: found the operation Thing of the unknown domain 'somebody.else'; use operations of the ONNX standard",
    ),
    "recurrence": (
        lambda n: n.op("LSTM", n.fake(n.input("N", 2, 6)), n.constant([[[1.0]]]), n.constant([[[1.0]]]), name="memory"),
        "memory: found the operation LSTM; use convolutions or matrix products over time",
    ),
    "a division by an activation": (
        lambda n: n.op("Div", quantised(n), n.nodes[-1].output[0], name="share"),
        "share: found a division by an activation; multiply, or divide by a constant",
    ),
    "places of maxima": (
        lambda n: n.op("MaxPool", n.fake(n.input("N", 1, 4, 4)), outputs=2, kernel_shape=[2, 2], name="pool")[1],
        "pool: found a max pool that gives places as well; use its values alone",
    ),
    "a power": (
        lambda n: n.fake(n.op("Pow", quantised(n), n.constant(3.0), name="cube")),
        "cube: found a power that is no square; only squares are converted",
    ),
    "a part of the batch": (
        lambda n: n.op("Gather", quantised(n), n.constant([0], np.int64), axis=0, name="first"),
        "first: found a part of the batch; leave the axis of the images alone",
    ),
    "sizes from the images": (
        lambda n: n.op("Expand", n.input("N", 6), n.input("N", 2, name="sizes", kind=7), name="wide"),
        "wide: found sizes or axes that depend on the images; export the model with fixed shapes",
    ),
    "padding with a number": (
        lambda n: n.fake(n.op("Pad", quantised(n), n.constant([0, 0, 0, 1], np.int64), n.constant(1.5), name="pad")),
        "pad: found padding with 1.5; pad with 0, and add a constant behind it",
    ),
    "ranks that do not fit": (
        lambda n: n.op("Add", n.fake(n.input("N", 6)), n.fake(n.input("N", 2, 6, name="y")), name="add"),
        "add: found operands of shapes (2, 6) and (2, 2, 6); reshape them to as many axes",
    ),
    "a batch that is multiplied by weights": (
        lambda n: n.op("MatMul", n.weight(whole((3, 2))), quantised(n), name="mix"),
        "mix: found a MatMul of weights times images; put the images first",
    ),
    "a huge result": (
        lambda n: n.op("Tile", quantised(n), n.constant([1, 10**9], np.int64), name="tile"),
        "tile: found values of shape (2, 6000000000); at most 268,435,456 are converted",
    ),
    "a huge constant": (
        lambda n: n.op("Add", quantised(n), n.op("ConstantOfShape", n.constant([10**5, 10**5], np.int64), name="big")),
        "big: found a constant of more than 268,435,456 values; make it smaller",
    ),
    "a huge padding": (
        lambda n: n.op("MaxPool", n.fake(n.input("N", 1, 4, 4)), kernel_shape=[2, 2], pads=[10**9] * 4, name="c"),
        "c: found pads [1000000000, 1000000000, 1000000000, 1000000000] for 4 numbers from 0 to 65536",
    ),
    "an output that is a constant": (
        lambda n: n.op("Identity", n.constant([1.0, 2.0])) if n.input("N", 2) else "",
        "found an output that does not depend on the input; leave it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    build, message = CASES[case]
    n = Net()
    model = n.model(build(n))
    with pytest.raises(ConversionError) as caught:
        converters.from_onnx(model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
