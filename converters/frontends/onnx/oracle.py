"""The model itself, run by onnxruntime without its optimisations, its tensors of integers shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.graph import QONNX
from converters.frontends.onnx.qonnx_nodes import in_standard_operations

__all__ = ["Oracle", "runtime"]

_QUIET = 4


def runtime() -> str:
    """What models are run with here: ``onnxruntime``, or, where it is not installed, ``onnx.reference``."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return "onnx.reference"
    return "onnxruntime"


class Oracle:
    """A model that shows tensors of its inside.

    Parameters
    ----------
    model : ModelProto
        All values in it.
    shown : sequence of str
        Names of the tensors, beside its outputs.
    batch : int or None
        How many images it takes at once; None: any number.
    optimised : bool
        Whether onnxruntime may fuse operations, as it does by default.
    narrow : set of str
        Tensors of less than 8 bits, which are put out wider.
    """

    def __init__(
        self, model: ModelProto, shown: Sequence[str], batch: int | None, *, optimised: bool = False,
        narrow: AbstractSet[str] = frozenset(),
    ) -> None:  # fmt: skip
        own = ModelProto()
        own.CopyFrom(model)
        self.outputs = [o.name for o in own.graph.output]
        self.shown = [name for name in dict.fromkeys(shown) if name not in self.outputs]
        inputs = {i.name for i in own.graph.input}
        if any(node.domain != "" for node in own.graph.node):
            in_standard_operations(own, QONNX)
        asked = [_widened(own, n) if n in narrow else n for n in self.shown]
        own.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in asked if n not in inputs)
        self.batch, self.kind = batch, runtime()
        self._run = _by_runtime(own, optimised) if self.kind == "onnxruntime" else _by_reference(own)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs and shown tensors by name, of inputs ``(N, ...)`` by name."""
        count = len(next(iter(feeds.values())))
        step = self.batch or count
        parts: list[dict[str, np.ndarray]] = []
        for k in range(0, count, step):
            some = {name: _filled(x[k : k + step], step) for name, x in feeds.items()}
            parts.append(dict(zip([*self.outputs, *self.shown], self._run(some), strict=True)))
        if len(parts) == 1:  # the images may be along another axis
            return parts[0] if step == count else {name: x[:count] for name, x in parts[0].items()}
        return {name: np.concatenate([p[name] for p in parts])[:count] for name in parts[0]}


def _widened(model: ModelProto, name: str) -> str:
    """A tensor with the values of one of less than 8 bits, in 16."""
    wide = f"{name}/widened"
    model.graph.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.INT16))
    return wide


def _filled(x: np.ndarray, count: int) -> np.ndarray:
    """As many images as the model takes, the last one repeated."""
    return np.concatenate([x, np.repeat(x[-1:], count - len(x), axis=0)]) if len(x) < count else x


def _by_runtime(model: ModelProto, optimised: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own C++, of no one type
        reason = " ".join(str(error).split())
        raise ConversionError(
            "check", f"that onnxruntime does not load the model ({reason[:200]})", "check=False goes without it"
        ) from None
    return lambda feeds: session.run(None, feeds)


def _by_reference(model: ModelProto) -> Any:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda feeds: evaluator.run(None, dict(feeds))


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """float64, or int64 of integers."""
    kinds = {name: np.int64 if x.dtype.kind in "iub" else np.float64 for name, x in arrays.items()}
    return {name: torch.from_numpy(np.asarray(x).astype(kinds[name])) for name, x in arrays.items()}
