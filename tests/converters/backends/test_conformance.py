"""Every backend passes one suite, so does one from outside; and a backend with any one fault does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from converters.backends import backend_names, register, unregister
from converters.errors import ConversionError
from converters.testing import Case, conformance
from converters.testing.conforming import SCENARIOS
from converters.testing.networks import NETWORKS
from tests.converters.backends.numpy_backend import FAULTS, NumpyBackend

SHIPPED = ("fast", "snntorch", "brian2", "closed_form")


def parameters() -> Iterator[Any]:
    """All cases of all backends; of Brian2, whose networks take half a second each, every fourth one by default.

    Those are chosen so that each network is run in at least two ways, and each way is tried on at least one network.
    """
    for backend in SHIPPED:
        cases = conformance(backend)
        for k, case in enumerate(cases):
            row, column = divmod(k, len(SCENARIOS))
            later = backend == "brian2" and ((row + column) % 4 if row < len(NETWORKS) else "at a time" in case.name)
            yield pytest.param(case, id=f"{backend}-{case.name}", marks=pytest.mark.slow if later else ())


@pytest.mark.parametrize("case", [*parameters()])
def test_backend(case: Case) -> None:
    assert case.run() > 0


@pytest.mark.parametrize(
    "options", [{"dtype": "int8"}, {"dtype": "bfloat16"}, {"dtype": "float64"}, {"steps": 3}], ids=str
)
def test_options_of_its_own(options: dict[str, Any]) -> None:
    assert sum(case.run() for case in conformance("snntorch", **options)) > 100_000


def test_every_backend_is_tried() -> None:
    names = {str(p.id).split("-")[0] for p in parameters() if not p.marks}
    assert names == set(backend_names()) - {"auto"}
    unmarked = [p.id for p in parameters() if p.id.startswith("brian2") and not p.marks]
    for network in NETWORKS:
        assert sum(f"-{network}, " in name for name in unmarked) >= 2, network
    for scenario in SCENARIOS:
        assert any(name.endswith(f", {scenario.name}") for name in unmarked), scenario.name


def test_a_backend_from_outside() -> None:
    backend = NumpyBackend()
    cases = conformance(backend)
    assert len({case.name for case in cases}) == len(cases) > 60
    assert run_all(backend) > 100_000
    register(backend)
    try:
        assert [case.name for case in conformance("numpy")] == [case.name for case in cases]
        assert conformance("numpy")[0].run() > 0
        with pytest.raises(ConversionError, match="the name 'numpy' twice"):
            register(NumpyBackend())
    finally:
        unregister("numpy")
    with pytest.raises(ConversionError, match="'numpy'; use one of auto, fast"):
        conformance("numpy")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: getattr(f, "field", type(f).__name__))
def test_a_fault_is_caught(fault: NumpyBackend) -> None:
    with pytest.raises(AssertionError, match=r".+: .+"):
        run_all(fault)


def run_all(backend: NumpyBackend) -> int:
    return sum(case.run() for case in conformance(backend))


def test_what_a_difference_says() -> None:
    fault = next(f for f in FAULTS if type(f).__name__ == "TiesGoUp")
    case = next(case for case in conformance(fault) if case.name == "pooled, as many steps as levels")
    with pytest.raises(AssertionError, match=r"^counts of \w+: \d at \(image, \*neuron\) \(.*\), the reference has"):
        case.run()
