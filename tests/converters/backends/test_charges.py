"""Charges in the arithmetic that is asked for, where it is exact: the spikes are the same in every type."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import converters
from converters.backends.charges import DTYPES, Charges, exact_dtype
from converters.errors import ConversionError
from converters.network import Network
from converters.operations import Conv2d, Linear, Synapse
from converters.quantised import GraphBuilder
from converters.zoo.named import load_checkpoint
from tests.converters.sample_graphs import GRAPHS, images
from tests.networks import pixels

CPU = torch.device("cpu")


def arithmetic(network: Any, dtype: str) -> Any:
    return [Charges(network, stage, dtype, CPU).arithmetic for stage in network.stages]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_no_spike_differs(name: str, dtype: Any) -> None:
    """Against the fast simulator, which has kernels of its own."""
    network, x = Network.from_graph(converters.to_nir(GRAPHS[name](), T=15)), images(GRAPHS[name](), 4)
    one = converters.run(network, x, record="spikes", backend="snntorch", dtype=dtype)
    two = converters.run(network, x, record="spikes", backend="fast")
    assert one.backend == "snntorch"
    assert one.spikes is not None
    assert two.spikes is not None
    assert sum(int((one.spikes[k] != two.spikes[k]).sum()) for k in one.spikes) == 0
    assert torch.equal(one.logits, two.logits)
    wanted = getattr(torch, dtype)
    taken = [d for layer in arithmetic(network, dtype) for d in layer]
    assert wanted in taken, "the test is of this type"


def test_lenet_at_full_size() -> None:
    """Sums of this network reach beyond bfloat16 and float16: those layers take float32, and nothing differs."""
    network = Network.from_graph(converters.to_nir(load_checkpoint("lenet5-mnist-127")[0], T=20))
    x = pixels(1, (1, 32, 32)) ** 3
    counts = [converters.run(network, x, backend="snntorch", dtype=d).counts for d in DTYPES]
    for other in counts[1:]:
        assert all(torch.equal(other[k], counts[0][k]) for k in other)
    half, brain = (arithmetic(network, d) for d in ("float16", "bfloat16"))
    assert [half[0], half[2]] == [[torch.float16], [torch.float32]]  # at most 1,732 and 8,303
    assert [brain[0], brain[1]] == [[torch.float32], [torch.bfloat16]]  # a pool's sums are at most 4


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 2**8), ("float16", 2**11), ("float32", 2**24)])
def test_where_a_type_ends(dtype: str, limit: int) -> None:
    """Whole numbers up to the limit are exact, the next one is not; so a layer that reaches it goes to another type."""
    wanted = getattr(torch, dtype)
    assert torch.tensor(float(limit), dtype=torch.float64).to(wanted).item() == limit
    assert torch.tensor(float(limit + 1), dtype=torch.float64).to(wanted).item() != limit + 1
    assert exact_dtype(limit, wanted) == wanted
    assert exact_dtype(limit + 1, wanted) != wanted
    b = GraphBuilder()
    x = b.input((3,), scale=1.0, q_min=0, q_max=1)
    w = torch.tensor([[limit // 2, limit // 2, 1]], dtype=torch.int64)
    network = Network.from_graph(
        converters.to_nir(b.build(b.layer("fc", [(x, Linear(w))], threshold=1.0, y_min=0, y_max=9, scale=1.0)), T=1)
    )
    charge = Charges(network, network.stages[0], dtype, CPU)({network.encoder_name: torch.ones(1, 3)})
    assert charge.item() == limit + 1


def test_sums_beyond_float64_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"weights: found sums of up to .*float64 holds"):
        exact_dtype(2**53 + 1)


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize(
    ("size", "kernel", "geometry"),
    [((3, 9, 7), (3, 2), {}), ((3, 9, 7), (3, 3), {"padding": (1, 2), "stride": (2, 1)}),
     ((2, 8, 8), (2, 2), {"dilation": (2, 3)}), ((5, 1, 1), (1, 1), {})],
)  # fmt: skip
def test_integer_matrix_products(
    size: tuple[int, int, int], kernel: tuple[int, int], geometry: Any, batch: int
) -> None:
    """A convolution of bytes with sums in int32 against float64."""
    gen = torch.Generator().manual_seed(0)
    op = Conv2d(torch.randint(-127, 128, (6, size[0], *kernel), generator=gen, dtype=torch.int8), **geometry)
    b = GraphBuilder()
    y = b.layer("c", [(b.input(size, scale=1.0, q_min=-1, q_max=1), op)], threshold=1.0, y_min=0, y_max=9, scale=1.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=1))
    charges = Charges(network, network.stages[0], "int8", CPU)
    assert charges.arithmetic == [torch.int8]
    x = torch.randint(-1, 2, (batch, *size), generator=gen).to(torch.float32)
    assert torch.equal(charges({network.encoder_name: x}), Synapse(("",), (op,))(x.to(torch.float64)))


def test_other_devices_take_float64_where_products_may_be_rounded() -> None:
    """TF32 keeps 10 bits of a weight, and Winograd's transforms round: decided without the device at hand."""
    b = GraphBuilder()
    x = b.input((4, 6, 6), scale=1.0, q_min=0, q_max=1)
    small = Conv2d(torch.full((2, 4, 3, 3), 127, dtype=torch.int8))
    large = Conv2d(torch.full((2, 2, 3, 3), 1025, dtype=torch.int16))
    y = b.layer("small", [(x, small)], threshold=9.0, y_min=0, y_max=9, scale=1.0)
    y = b.layer("large", [(y, large)], threshold=9.0, y_min=0, y_max=9, scale=1.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=1))
    for device, wanted in ((CPU, torch.float32), (torch.device("cuda"), torch.float64)):
        assert [Charges(network, s, "float32", device).arithmetic for s in network.stages] == [
            [torch.float32],
            [wanted],
        ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4", "backend": "snntorch"}, "dtype: found 'int4'; use one of int8, bfloat16"),
        ({"dtype": "int8", "backend": "fast"}, r"options: found \['dtype'\]; backend fast takes none of its own"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    q = GRAPHS["lenet"]()
    with pytest.raises(ConversionError, match=message):
        converters.run(converters.to_nir(q, T=3), images(q, 1), **options)
