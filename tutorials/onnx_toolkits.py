"""Networks that NVIDIA ModelOpt and Intel's ONNX Neural Compressor have quantised, against onnxruntime, layer by layer.

    pip install "nvidia-modelopt[onnx]" onnx-neural-compressor    # in an environment of their own
    python tutorials/onnx_toolkits.py

Random weights; 16 images of noise for calibration, 200 for the comparison. Either toolkit is left out where it is not
installed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import converters


class LeNet(nn.Sequential):
    """Wide enough for both toolkits: ModelOpt leaves small layers in float."""

    shape = (1, 32, 32)

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(1600, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 20),
        )  # fmt: skip


class Residual(nn.Module):
    """A block with a batch norm and an addition."""

    shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.a = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.b = nn.Conv2d(32, 32, 3, padding=1)
        self.fc = nn.Linear(32, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.fc(torch.relu(x + self.b(self.a(x))).mean((2, 3)))


def modelopt(source: Path, target: Path, images: np.ndarray) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        onnx_path=str(source),
        output_path=str(target),
        quantize_mode="int8",
        calibration_method="max",
        calibration_data={"images": images},
        calibration_shapes="images:" + "x".join(map(str, images.shape)),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        nodes_to_quantize=[".*"],
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "ReduceMean", "GlobalAveragePool"],
    )


def neural_compressor(kind: str) -> Callable[[Path, Path, np.ndarray], None]:
    def run(source: Path, target: Path, images: np.ndarray) -> None:
        from onnx_neural_compressor import data_reader
        from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

        class Reader(data_reader.CalibrationDataReader):
            def __init__(self) -> None:
                self.rewind()

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.left, None)

            def rewind(self) -> None:
                self.left: Iterator[dict[str, np.ndarray]] = iter([{"images": x[None]} for x in images])

        settings = config.StaticQuantConfig(
            calibration_data_reader=Reader(),
            activation_type=getattr(QuantType, kind),
            weight_type=QuantType.QInt8,
            per_channel=True,
            quant_format=QuantFormat.QDQ,
        )
        quantize(str(source), str(target), settings)

    return run


TOOLKITS = {
    "ModelOpt": modelopt,
    "ONNX Neural Compressor, int8": neural_compressor("QInt8"),
    "ONNX Neural Compressor, uint8": neural_compressor("QUInt8"),
}


def main() -> None:
    print("| network | toolkit | integers | differ | near-ties | others | optimised |\n|---|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for make in (LeNet, Residual):
            torch.manual_seed(0)
            net = make().eval()
            images = torch.rand(16, *make.shape)
            source = Path(folder) / f"{make.__name__}.onnx"
            torch.onnx.export(
                net, (images,), source, input_names=["images"], output_names=["logits"], opset_version=17,
                dynamic_axes={"images": {0: "N"}}, dynamo=False,
            )  # fmt: skip
            for name, quantise in TOOLKITS.items():
                target = source.with_suffix(".quantised.onnx")
                try:
                    quantise(source, target, images.numpy())
                    report = converters.parity(str(target), 200)
                except ImportError as error:
                    print(f"{name} is not installed: {error}", file=sys.stderr)
                except converters.ConversionError as error:
                    print(f"| {make.__name__} | {name} | refused: {error} | | | | |", flush=True)
                else:
                    numbers = (report.integers, report.differing, report.near_ties, report.wrong, report.optimised or 0)
                    print(f"| {make.__name__} | {name} | {' | '.join(f'{n:,}' for n in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
