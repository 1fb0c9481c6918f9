"""One conformance suite for every backend, of this package or from outside: named cases that compare numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from calif_plugins.parameters import PHASES, Phase
from converters.backends import Backend, run
from converters.backends.contract import backend_for
from converters.errors import ConversionError
from converters.network import Network
from converters.nodes import CODINGS
from converters.ports.outputs import places, returned
from converters.quantised import QuantGraph
from converters.results import RECORDS, RunResult, read_out
from converters.testing.by_reference import Expected, by_reference
from converters.testing.networks import LEVELS, NETWORKS, images, network

__all__ = ["Case", "conformance"]

_IMAGES = 4


@dataclass(frozen=True)
class Case:
    """One thing that must hold of a backend.

    Attributes
    ----------
    name : str
    run : callable
        Returns how many things were compared, at least 1.

    Raises
    ------
    AssertionError
        From ``run``: what differs, where, and by how much.
    """

    name: str
    run: Callable[[], int]


@dataclass(frozen=True)
class Scenario:
    """How a network is run."""

    name: str
    window: int = LEVELS
    coding: str = "isi"
    phase: Phase = "settle"
    settle_from: int | None = None


SCENARIOS = (
    Scenario("as many steps as levels"),
    Scenario("fewer steps", window=2),
    Scenario("more steps", window=9),
    Scenario("thresholds half from the first step", settle_from=0),
    Scenario("thresholds half within the window", window=7, settle_from=4),
    Scenario("phase paper", phase="paper"),
    Scenario("phase none", window=4, phase="none"),
    Scenario("direct input", window=6, coding="direct"),
    Scenario("direct input, phase paper", window=3, coding="direct", phase="paper"),
)


def conformance(backend: str | Backend, **options: Any) -> list[Case]:
    """All that a backend must do, as cases to run one by one, on small networks that are made here.

    Final counts equal the quantised network's integers (:meth:`QuantGraph.execute`); spike trains, membranes, latency,
    spikes by sign, synaptic operations and multiplications equal the NumPy reference's, in every phase, coding and
    record level that the backend declares. What it does not declare is refused. Batches change nothing, and none is
    too small.

    Parameters
    ----------
    backend : str or Backend
        A name that :func:`converters.run` takes, or a backend that need not be registered.
    **options
        Options of its own, and ``device``; the same for all cases.

    Returns
    -------
    list of Case
        The networks times the ways to run them first, network by network; then the rest.

    Raises
    ------
    ConversionError
        For an unknown name.

    Examples
    --------
    >>> cases = conformance("closed_form")
    >>> cases[0].name, cases[0].run() > 50
    ('dense, as many steps as levels', True)
    >>> [case.name for case in cases if "refuses" in case.name]
    ["refuses phase 'paper'", "refuses phase 'none'", "refuses record 'spikes'", 'refuses unknown options']
    """
    chosen = backend if isinstance(backend, Backend) else backend_for(backend, torch.device("cpu"))
    suite = _Suite(chosen, options)
    cases = [
        Case(f"{name}, {scenario.name}", partial(suite.every_number, name, scenario))
        for name in NETWORKS
        for scenario in SCENARIOS
        if scenario.phase in chosen.phases
        and scenario.coding in chosen.codings
        and (chosen.several_inputs or name != "two inputs")
    ]
    for name in ("pooled", "counting"):
        cases.append(Case(f"{name}, one image at a time", partial(suite.batches, name)))
    cases.append(Case("no image", suite.no_image))
    cases += [Case(f"record {record!r}", partial(suite.record, record)) for record in chosen.records]
    for what, known, possible in (
        ("phase", PHASES, chosen.phases),
        ("record", RECORDS, chosen.records),
        ("coding", CODINGS, chosen.codings),
    ):
        cases += [
            Case(f"refuses {what} {value!r}", partial(suite.refusal, what, value)) for value in known
            if value not in possible
        ]  # fmt: skip
    if not chosen.several_inputs:
        cases.append(Case("refuses two inputs", suite.two_inputs))
    return [*cases, Case("refuses unknown options", suite.unknown_options)]


class _Suite:
    def __init__(self, backend: Backend, options: dict[str, Any]) -> None:
        self.backend, self.options = backend, options
        self.most = RECORDS[max(RECORDS.index(record) for record in backend.records)]

    def run(self, net: Network, integers: Tensor, **settings: Any) -> RunResult:
        settings = {"record": self.most, "phase": self.phase, "check": False, **settings}
        return _here(run(net, integers=net.by_input(integers), backend=self.backend, **settings, **self.options))

    @property
    def phase(self) -> Phase:
        return "settle" if "settle" in self.backend.phases else self.backend.phases[0]  # type: ignore[return-value]

    @property
    def coding(self) -> str:
        return "isi" if "isi" in self.backend.codings else self.backend.codings[0]

    def every_number(self, name: str, how: Scenario) -> int:
        q, net, integers = _made(name, how.window, how.coding)
        result = self.run(net, integers, phase=how.phase, settle_from=how.settle_from)
        compared = _compare(result, net, integers, _expected(name, how), self.backend.name, how.phase, self.most)
        if how.phase != "settle":
            return compared
        values = q.execute(integers=net.by_input(integers))
        for layer in q.layers:
            if layer.spiking and (self.most != "output" or layer.name in q.output_names):
                compared += _same(f"counts of {layer.name}", result.counts[layer.name], values[layer.name])
        close = torch.allclose(result.logits, q.logits(values), rtol=0, atol=1e-9)
        assert close, f"logits: {result.logits.tolist()}, the quantised network has {q.logits(values).tolist()}"
        pairs = zip(places(result.outputs), places(q.returned(values)), strict=True)
        for (place, found), (expected_place, expected) in pairs:
            _equal("the structure of outputs", place, expected_place)
            what = ".".join(["outputs", *map(str, place)])
            close = torch.allclose(found.double(), expected.double(), rtol=0, atol=1e-9)
            assert close, f"{what}: {found.tolist()}, the quantised network has {expected.tolist()}"
        return compared

    def batches(self, name: str) -> int:
        how = Scenario("", coding=self.coding, phase=self.phase)
        _, net, integers = _made(name, how.window, how.coding)
        result = self.run(net, integers, batch=1)
        return _compare(result, net, integers, _expected(name, how), self.backend.name, how.phase, self.most)

    def record(self, record: str) -> int:
        how = Scenario("", coding=self.coding, phase=self.phase)
        _, net, integers = _made("dense", how.window, how.coding)
        result = self.run(net, integers, record=record)
        return _compare(result, net, integers, _expected("dense", how), self.backend.name, how.phase, record)

    def no_image(self) -> int:
        compared = 0
        for record in self.backend.records:
            _, net, integers = _made("pooled", LEVELS, self.coding)
            result = self.run(net, integers[:0], record=record)
            _equal("logits of no image: shape", tuple(result.logits.shape), (0, *net.output.shape))
            kept = net.stages if record != "output" else net.output_stages
            _equal("counts of no image: layers", sorted(result.counts), sorted(s.name for s in kept))
            for stage in kept:
                _equal(f"counts of no image, {stage.name}", tuple(result.counts[stage.name].shape), (0, *stage.shape))
            compared += 1 + len(kept)
        return compared

    def refusal(self, what: str, value: str) -> int:
        coding = value if what == "coding" else self.coding
        _, net, integers = _made("dense", LEVELS, coding)
        self._refused(net, integers, **({} if what == "coding" else {what: value}))
        return 1

    def two_inputs(self) -> int:
        _, net, integers = _made("two inputs", LEVELS, self.coding)
        self._refused(net, integers)
        return 1

    def unknown_options(self) -> int:
        _, net, integers = _made("dense", LEVELS, self.coding)
        self._refused(net, integers, an_option_that_no_backend_has=1)
        return 1

    def _refused(self, net: Network, integers: Tensor, **settings: Any) -> None:
        try:
            self.run(net, integers, **settings)
        except ConversionError:
            return
        raise AssertionError(f"{settings or net.coding}: accepted; a ConversionError is due")


def _here(r: RunResult) -> RunResult:
    """The result with all of its tensors on the CPU."""
    values = {f.name: getattr(r, f.name) for f in fields(r) if f.name != "output_structure"}
    return replace(r, **tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, values))


@cache
def _made(name: str, window: int, coding: str) -> tuple[QuantGraph, Network, Tensor]:
    q = NETWORKS[name]().at_window(window, coding)
    net = network(q, window, coding)
    return q, net, net.accept(images(q, _IMAGES), None)


@cache
def _expected(name: str, how: Scenario) -> Expected:
    _, net, integers = _made(name, how.window, how.coding)
    return by_reference(net, integers, phase=how.phase, settle_from=how.settle_from)


def _compare(
    r: RunResult, net: Network, integers: Tensor, expected: Expected, backend: str, phase: str, record: str
) -> int:
    """All that a result says, and that it says all that was asked for."""
    _equal("backend", r.backend, backend)
    _equal("phase", r.phase, phase)
    _equal("window", r.window, net.window)
    _equal("output", r.output_name, net.output.name)
    kept = [s.name for s in net.stages if record != "output" or s in net.output_stages]
    _equal("layers with counts", sorted(r.counts), sorted(k for k in kept if net.reach[k]))
    compared = sum(_same(f"counts of {k}", v, expected.counts[k]) for k, v in r.counts.items())
    wanted = [s.name for s in net.stages if record == "spikes" or s in net.output_stages]
    _equal("layers with membranes", sorted(r.membranes), sorted(wanted))
    compared += sum(_same(f"membranes of {k}", v, expected.membranes[k]) for k, v in r.membranes.items())
    real = {s.name: read_out(s, expected.counts[s.name], expected.membranes[s.name]) for s in net.output_stages}
    compared += _same("logits", r.logits, real[net.output.name])
    for (place, found), (_, wanted_there) in zip(places(r.outputs), places(returned(net.outputs, real)), strict=True):
        compared += _same(".".join(["outputs", *map(str, place)]), found, wanted_there)
    if r.exact_from == "closed form":
        said = r.spikes, r.positive, r.negative, r.latency, r.sops
        _equal("spikes of a closed form", said, (None, {}, {}, None, None))
        return compared
    _equal("exact_from", r.exact_from, "simulation")
    sending = list(net.shapes) if net.coding != "direct" else [s.name for s in net.stages]
    for sign, totals in ((1, r.positive), (-1, r.negative)):
        _equal("layers with spikes by sign", sorted(totals), sorted(sending))
        for name in sending:
            sent = (expected.trains[name] == sign).flatten(2).sum((0, 2))
            compared += _same(f"{'positive' if sign > 0 else 'negative'} spikes of {name}", totals[name], sent)
    compared += _same("extra_steps", r.extra_steps, expected.extra_steps)
    compared += _same("sops", r.sops, expected.sops)
    compared += _same("macs", r.macs, expected.macs)
    if record != "spikes":
        _equal("trains", r.spikes, None)
        return compared
    trains = r.spikes or {}
    _equal("layers with trains", sorted(trains), sorted(net.shapes))
    for name, train in trains.items():
        assert len(train) >= net.window, f"trains of {name}: {len(train)} steps of a window of {net.window}"
        steps = max(len(train), len(expected.trains[name]))
        compared += _same(f"trains of {name}", _padded(train, steps), _padded(expected.trains[name], steps))
    return compared


def _padded(train: Tensor, steps: int) -> Tensor:
    return torch.cat([train, train.new_zeros(steps - len(train), *train.shape[1:])])


def _equal(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what}: {found}, expected {expected}"


def _same(what: str, found: Tensor | None, expected: Tensor) -> int:
    """How many numbers were compared; the first that differs is an error."""
    assert isinstance(found, Tensor), f"{what}: {found}, expected a tensor"
    _equal(f"{what}: shape", tuple(found.shape), tuple(expected.shape))
    a, b = found.detach().cpu().to(torch.float64), expected.to(torch.float64)
    differ = a != b
    if bool(differ.any()):
        where = tuple(differ.nonzero()[0].tolist())
        n = int(differ.sum())
        axes = "(step, image, *neuron)" if what.startswith("trains") else "(image, *neuron)"
        raise AssertionError(
            f"{what}: {a[where]:g} at {axes} {where}, the reference has {b[where]:g}; {n} of {a.numel()} differ"
        )
    return a.numel()
