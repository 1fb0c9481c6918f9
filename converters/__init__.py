"""From a quantisation-aware trained PyTorch network to Ca-LIF spikes on any backend, exactly.

::

    m = converters.prepare_qat(model, example, levels=127)   # then train as usual
    q = converters.from_pt2e(m)                              # QuantGraph: integers, scales, topology
    g = converters.to_nir(q, T=128)                          # NIR graph of CaLIF nodes
    r = converters.run(g, images)                            # spikes; counts equal q's integers
    net = converters.to_snntorch(g)                          # the same network, as a module of snnTorch neurons

Names are imported when they are first used, so that ``import converters`` needs no simulator.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from converters.console.notices import silenced
from converters.extras import naming_extras

_HOMES = {
    "anytime_curve": "converters.measuring.anytime",
    "cross_check": "converters.measuring.cross_checking",
    "ConversionError": "converters.errors",
    "QuantGraph": "converters.quantised",
    "load_quantised": "converters.files.quantised_file",
    "save_quantised": "converters.files.quantised_file",
    "prepare_qat": "converters.frontends.pt2e",
    "quantise": "converters.calibration",
    "quantisation_noise": "converters.calibration",
    "from_pt2e": "converters.frontends.pt2e",
    "from_brevitas": "converters.frontends.brevitas",
    "from_torch_ao": "converters.frontends.torch_ao",
    "from_onnx": "converters.frontends.onnx.model",
    "from_snntorch": "converters.frontends.snntorch",
    "swap_if": "converters.frontends.snntorch_swap_if",
    "to_nir": "converters.nir_export",
    "to_onnx": "converters.onnx_export",
    "parity": "converters.frontends.parity",
    "to_brian2": "converters.backends.brian2_network",
    "to_snntorch": "converters.backends.snntorch_network",
    "read": "converters.files.nir_file",
    "write": "converters.files.nir_file",
    "register": "converters.files.nir_file",
    "register_activation": "converters.operations.activations",
    "lower": "converters.lowering",
    "run": "converters.backends",
    "make_report": "converters.reporting.make_report",
    "simulate_stock": "converters.graphs.stock_simulation",
    "RunResult": "converters.results",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'converters' has no attribute {name!r}")
    with silenced(), naming_extras():
        value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
