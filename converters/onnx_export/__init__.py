"""A quantised network as an ONNX model: for whatever runs ONNX, or exactly."""

from __future__ import annotations

import os
from pathlib import Path

from converters.errors import ConversionError, MissingExtraError

try:
    import onnx
    from onnx import TensorProto, helper
except ImportError as error:
    raise MissingExtraError("onnx", "onnx", str(error)) from None

from converters.files.atomic import atomic_path
from converters.files.endings import ONNX, check_ending
from converters.onnx_export import pooling  # noqa: F401  it enters its operations
from converters.onnx_export.quantised_network import write_quantised
from converters.onnx_export.quantised_operations import QUANTISED, Real
from converters.onnx_export.tails import write_tail
from converters.onnx_export.whole_network import write_whole
from converters.onnx_export.whole_operations import WHOLE, Whole
from converters.onnx_export.writer import Writer, Written
from converters.ports.outputs import places
from converters.ports.tails import shape_behind
from converters.quantised import QuantGraph

__all__ = ["QUANTISED", "WHOLE", "Real", "Whole", "to_onnx"]


def to_onnx(
    q: QuantGraph, path: str | os.PathLike | None = None, *, exact: bool = False, integers: bool = False
) -> onnx.ModelProto:
    """The quantised network as an ONNX model (opset 21), and as a file at ``path``.

    Parameters
    ----------
    q : QuantGraph
    path : str or path, optional
    exact : bool
        False: **QDQ**, what toolkits exchange. Quantisers and dequantisers stand around float operations, which
        runtimes replace by integer kernels of theirs. onnxruntime computes these in float32, so a value may come out
        one level aside where the exact quotient lies within the rounding of a float32 sum of a tie.
        True: **whole numbers**. Every layer is the integer accumulator itself, in float64, and one division that
        provably rounds as the exact quotient does; the integers are those of ``q.execute``, all of them, on any CPU.
    integers : bool
        Whether these tensors of every input and layer are outputs too, behind the others.

    Returns
    -------
    onnx.ModelProto
        Inputs are images, float32 ``(N, *shape)``, by the names that ``q`` has for them. Outputs are in real units:
        ``output`` is one that is all that there is; else ``output.`` and the keys that lead to it. They are float32, or
        float64 with ``exact``. The integers of a layer are the tensor that has its name; of a last layer
        without a quantiser this is, in QDQ, its real value.

    Raises
    ------
    ConversionError
        That names the layer whose operation, tie rule or activation cannot be said; if ``path`` has the ending of
        another kind of file, or cannot be written.
    MissingExtraError
        If ONNX is not installed.

    Examples
    --------
    >>> import onnxruntime, torch
    >>> from converters.zoo.named import load_checkpoint
    >>> q, _ = load_checkpoint("lenet5-mnist-8")
    >>> session = onnxruntime.InferenceSession(to_onnx(q, exact=True).SerializeToString())
    >>> images = torch.rand(2, 1, 32, 32)
    >>> (logits,) = session.run(None, {"input": images.numpy()})
    >>> bool((torch.from_numpy(logits) == q.logits(q.execute(images))).all())
    True
    """
    if not isinstance(q, QuantGraph):
        raise ConversionError("q", type(q).__name__, "give a quantised network, as from_pt2e returns it")
    if path is not None:
        check_ending(path, ONNX)
    w = Writer(list(q.shapes))
    names = _names(w, q)
    written = (write_whole if exact else write_quantised)(w, q)
    outputs = _results(w, q, written, names)
    if integers:
        outputs += [_batch(*of, q.shapes[layer]) for layer, of in written.integers.items()]
    kinds = [TensorProto.FLOAT if spec.table is None else TensorProto.INT64 for spec in q.inputs]
    inputs = [_batch(spec.name, kind, spec.given) for spec, kind in zip(q.inputs, kinds, strict=True)]
    model = w.model(inputs, outputs, "whole numbers" if exact else "QDQ")
    if path is not None:
        with atomic_path(path) as temporary:
            Path(temporary).write_bytes(model.SerializeToString(deterministic=True))
    return model


def _batch(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["N", *shape])


def _names(w: Writer, q: QuantGraph) -> list[str]:
    """One for each output, by the keys that lead to it."""
    return [w.free(".".join(["output", *map(str, place)])) for place, _ in places(q.outputs)]


def _results(w: Writer, q: QuantGraph, written: Written, names: list[str]) -> list[onnx.ValueInfoProto]:
    """Functions behind the layers that are returned, and the outputs themselves."""
    found = []
    for name, (_, output) in zip(names, places(q.outputs), strict=True):
        w.prefix = f"{name}/"
        x, kind, shape = written.real[output.layer], written.kind, q.shapes[output.layer]
        for k, tail in enumerate(output.tail):
            after = shape_behind(output.layer, output.tail[: k + 1], q.shapes[output.layer])
            x, kind = write_tail(w, tail, x, kind, shape, after)
            shape = after
        made = x != written.real[output.layer]  # by a function; else others may return that layer, too
        found.append(_batch(w.called(x, name) if made else w.node("Identity", x, name=name), kind, shape))
    return found
