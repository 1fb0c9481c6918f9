"""Names made safe are one for each name that comes in."""

from __future__ import annotations

from itertools import pairwise

import nir
import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import converters
from converters.files.nir_building import NAME
from converters.graphs.naming import Names

awkward = st.one_of(
    st.text(max_size=300),
    st.text("ab._-01", min_size=1, max_size=4),
    st.sampled_from(
        ["input", "image", "result", "output", "fc.1", "fc_1", "fc-1", "1", "_1", "lif.s0.0_linear", "lif"]
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(awkward, max_size=12))
def test_names_are_safe_and_differ(wanted: list[str]) -> None:
    names = Names()
    given_out = [names.take(n) for n in wanted]
    assert len(set(given_out)) == len(wanted)
    assert all(NAME.match(n) and len(n) <= 200 for n in given_out)
    first = [n for n in wanted if NAME.match(n) and len(n) <= 100][:1]
    assert [Names().take(n) for n in first] == first  # what is safe stays as it is


def chain(names: list[str], weights: list[int]) -> nir.NIRGraph:
    """IF networks whose nodes are called as one likes: two for each weight."""
    nodes: dict[str, nir.NIRNode] = {"source": nir.Input(input_type={"input": np.array([2])})}
    for k, w in enumerate(weights):
        nodes[names[2 * k]] = nir.Linear(weight=np.eye(2) * w)
        nodes[names[2 * k + 1]] = nir.IF(r=np.ones(2), v_threshold=np.ones(2))
    nodes["sink"] = nir.Output(output_type={"output": np.array([2])})
    return nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes)), type_check=False)


def test_swap_if_keeps_nodes_whose_names_differ_by_a_dot() -> None:
    swapped = converters.swap_if(chain(["fc.1", "lif.1", "fc_1", "lif_1"], [2, 3]), T=16)
    counts = converters.run(swapped, integers=torch.tensor([[1, 2]])).counts
    assert {k: v.tolist() for k, v in counts.items()} == {"lif.1": [[2, 4]], "lif_1": [[6, 12]]}


@settings(max_examples=20, deadline=None)
@example(["1", ":", "00", "", "0", "_"])  # ":" becomes "_", which another one is
@given(st.lists(awkward.filter(lambda n: n not in ("source", "sink")), min_size=6, max_size=6, unique=True))
def test_swap_if_of_random_names(names: list[str]) -> None:
    swapped = converters.swap_if(chain(names, [2, 3, 1]), T=16)
    r = converters.run(swapped, integers=torch.tensor([[1, 2]]))
    assert [c.tolist() for c in r.counts.values()] == [[[2, 4]], [[6, 12]], [[6, 12]]]
