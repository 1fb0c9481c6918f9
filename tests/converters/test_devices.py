"""A device that is not here is one line, in Python and on the command line; no backend is sent where it cannot run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import converters
from converters.backends.contract import backend_for
from converters.devices import usable
from converters.errors import ConversionError
from converters.testing.networks import NETWORKS, images
from tests.command_line import Calif


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:99", r"^device: found cuda:99, which cannot be used here \(PyTorch sees \w+ CUDA devices?\); use cpu$"),
        (torch.device("cuda:99"), "found cuda:99, which cannot be used here"),
        ("gpu", "^device: found 'gpu', which names no device; use cpu, cuda, cuda:1, ...$"),
        (3.5, "found 3.5, which names no device"),
        ("meta", r"found meta, which cannot be used here \(tensors on it have no values\)"),
        ("xla", "found xla, which cannot be used here"),
        ("privateuseone", "found privateuseone, which cannot be used here"),
    ],
)
def test_a_device_that_is_not_here(device: Any, said: str) -> None:
    q = NETWORKS["dense"]()
    with pytest.raises(ConversionError, match=said) as error:
        converters.run(converters.to_nir(q, T=3), images(q, 2), device=device)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_gpu() -> None:
    with pytest.raises(ConversionError, match=r"^device: found cuda, .+ \(PyTorch sees no CUDA devices\); use cpu$"):
        usable("cuda")


def test_the_command_line_says_it_at_once(calif: Calif) -> None:
    code, out, err = calif("run", "--checkpoint", "no such network", "--device", "cuda:99")
    assert (code, out) == (2, "")
    assert err.startswith("calif: --device: found cuda:99, which cannot be used here")
    assert err.count("\n") == 1


def test_the_command_line_runs_where_it_is_told(calif: Calif) -> None:
    arguments = ("--checkpoint", "lenet5-mnist-8", "--dataset", "digits", "--images", 3, "--backend", "snntorch")
    code, out, err = calif("run", *arguments, "--device", "cpu")
    assert (code, err) == (0, "")
    assert "lenet5 on digits" in out


@pytest.mark.parametrize("name", ["fast", "brian2"])
def test_backends_that_run_on_the_cpu_alone(name: str) -> None:
    assert "cuda" in backend_for(name, torch.device("cpu")).unusable(torch.device("cuda"))
    assert backend_for("auto", torch.device("cuda")).name == "snntorch"
