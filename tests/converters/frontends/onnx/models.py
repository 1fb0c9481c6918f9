"""Networks of PyTorch as ONNX files, quantised by onnxruntime: what the tests of the front-end read."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

__all__ = ["exported", "quantised"]


def exported(model: nn.Module, x: Tensor, *, opset: int = 17, any_batch: bool = True) -> onnx.ModelProto:
    """A float network, by the exporter of PyTorch that needs nothing else."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", DeprecationWarning)
        path = str(Path(folder) / "float.onnx")
        torch.onnx.export(
            model.eval(), (x[:1],), path, dynamo=False, opset_version=opset, input_names=["x"],
            dynamic_axes={"x": {0: "N"}} if any_batch else None,
        )  # fmt: skip
        return onnx.load(path)


class _Images(CalibrationDataReader):
    def __init__(self, x: Tensor) -> None:
        self.images = iter(x.numpy())

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"x": image[None]}


def quantised(
    model: onnx.ModelProto, x: Tensor, *, symmetric: bool = False, per_channel: bool = False, operators: bool = False,
    **options: Any,
) -> onnx.ModelProto:  # fmt: skip
    """By ``quantize_static``: as pairs of quantisers, or in integer ``operators``."""
    activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("float.onnx", "quantised.onnx")]
        onnx.save(model, paths[0])
        quantize_static(
            *paths, _Images(x), quant_format=QuantFormat.QOperator if operators else QuantFormat.QDQ,
            per_channel=per_channel, activation_type=activations, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric, **options},
        )  # fmt: skip
        return onnx.load(paths[1])
