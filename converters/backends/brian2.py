"""The Brian2 backend: every layer as equations, every synapse spelled out. Slow, float64, readable.

It runs :class:`~converters.backends.brian2_network.BrianNetwork`, which :func:`converters.to_brian2` hands out. One is
built for batches of a size and reused: state is set back, input counts are set anew.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import brian2
import torch
from torch import Tensor

from converters.backends.brian2_network import BrianNetwork
from converters.backends.contract import Backend, Settings
from converters.errors import ConversionError
from converters.network import Network
from converters.results import RunResult, empty_result

__all__ = ["BACKEND", "TARGETS", "Brian2", "estimate"]

TARGETS = ("numpy", "cython", "cpp_standalone")
BYTES_PER_SYNAPSE = 48  # measured, see tutorials/brian2_cost.py
MAX_SYNAPSES = 60_000_000


@dataclass(frozen=True)
class Brian2Options:
    """Options of backend ``brian2``.

    Attributes
    ----------
    target : {"numpy", "cython", "cpp_standalone"}
        Brian2's code generation.
    max_synapses : int
        Refuse to build more than so many.
    """

    target: str = "numpy"
    max_synapses: int = MAX_SYNAPSES

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ConversionError("target", f"{self.target!r}", f"use one of {', '.join(TARGETS)}")
        if type(self.max_synapses) is not int or self.max_synapses < 1:
            raise ConversionError("max_synapses", f"{self.max_synapses!r}", "give a whole number of at least 1")


class Brian2(Backend):
    """Every layer a ``NeuronGroup``, every connection a synapse of Brian2's."""

    name = "brian2"
    own_options = Brian2Options

    def unusable(self, device: torch.device) -> str:
        return "" if device.type == "cpu" else f"does not run on {device.type}"

    def batch_size(self, network: Network) -> int:
        """Images side by side by default: as many as keep the synapses at a few million."""
        return max(1, min(32, 4_000_000 // max(estimate(network), 1)))

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Brian2Options) -> RunResult:
        n = len(integers)
        if threading.current_thread() is not threading.main_thread():  # it handles signals, and its state is global
            raise ConversionError(
                "brian2", "a thread other than the main one", "run it there, or in a process of its own"
            )
        if not n:  # Brian2 has no empty groups
            return empty_result(network, integers, backend=self.name, phase=settings.phase, record=settings.record)
        _check_size(network, n, options.max_synapses)
        with _quiet(), _code_generation(options.target) as standalone:
            built = _prepared(network, integers, settings, options.target, standalone)
            built.run(integers, standalone=standalone)
            return built.result(integers, record=settings.record)


def estimate(network: Network) -> int:
    """Synapses of one image's network (synapses of weight zero, which are not built, included)."""
    shapes = network.shapes
    skip = set(network.specs) if network.coding == "direct" else set()
    counted = [s for stage in network.stages for s in stage.synapses if s.linear and not set(s.sources) <= skip]
    return int(sum(s.connections(*(shapes[name] for name in s.sources)) for s in counted))


def _check_size(network: Network, n: int, limit: int) -> None:
    one = estimate(network)
    if one * n <= limit:
        return
    way_out = (
        f"use batch={max(1, limit // one)}, or raise max_synapses"
        if one <= limit
        else "check a sample of its neurons (cross-check --sample K), use another backend, or raise max_synapses"
    )
    raise ConversionError(
        "brian2",
        f"{one * n:,} synapses for {n} images, about {one * n * BYTES_PER_SYNAPSE / 2**30:.1f} GB (limit {limit:,})",
        way_out,
    )


def _prepared(network: Network, integers: Tensor, settings: Settings, target: str, standalone: bool) -> BrianNetwork:
    def build() -> BrianNetwork:
        return BrianNetwork(
            network,
            integers,
            phase=settings.phase,
            settle_from=settings.settle_from,
            trains=settings.record == "spikes",
        )

    if standalone or network.coding == "direct":  # built for these very images
        return build()
    key = ("brian2", len(integers), target, settings.phase, settings.settle_from, settings.record == "spikes")
    if not network.keeps(key):
        network.forget("brian2")  # one at a time: they are large
    return network.keep(key, build)


@contextmanager
def _code_generation(target: str) -> Iterator[bool]:
    """Brian2's global settings for one run, and back."""
    before = brian2.prefs.codegen.target
    if target != "cpp_standalone":
        brian2.prefs.codegen.target = target
        try:
            yield False
        finally:
            brian2.prefs.codegen.target = before
        return
    folder = tempfile.mkdtemp(prefix="calif-brian2-")
    brian2.set_device("cpp_standalone", directory=folder, build_on_run=True)
    try:
        yield True
    finally:
        brian2.device.reinit()
        brian2.set_device("runtime")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Brian2's advice on code generation."""
    logger = logging.getLogger("brian2")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


BACKEND = Brian2()
