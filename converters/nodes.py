"""The NIR nodes of this project: data and equations only.

NIR has no neuron with a calcium gate, a soft reset or signed spikes, so there is a node of our own,
:class:`CaLIF`, and one for what turns an image into spikes, :class:`SpikeEncoder`. Everything that
defines behaviour is a typed field. Between them stand nodes of operations: stock ones where
there are (``Conv2d``, ``Linear``, ``Scale``...). Several edges into one CaLIF node add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from calif_plugins.parameters import TIE_RULES, CaLIFParameters
from converters.errors import ConversionError
from converters.operations.node import CaLIFOperation

__all__ = ["CODINGS", "NODES", "CaLIF", "SpikeEncoder"]

CODINGS = ("isi", "direct")
_LARGEST = 2.0**53
_SMALLEST = 2.0**-64


@dataclass(eq=False)
class CaLIF(nir.NIRNode):
    r"""A layer of calcium-gated bipolar leaky integrate-and-fire neurons (Gao et al. 2023).

    For ``window`` steps, in this order (equation 2 and section 3.2; thresholds per channel):

    .. math::
        v &\leftarrow v + I - \lambda \\
        s &= +1 \text{ if } v \ge v_{th} \wedge y < y_{max};\quad
             -1 \text{ if } v \le -v_{th} \wedge y > y_{min};\quad 0 \text{ otherwise} \\
        v &\leftarrow v - s\,v_{th};\qquad y \leftarrow y + s

    After the window: no leak, thresholds :math:`v_{th}/2`, until no neuron of the network fires; exactly at
    half a threshold ``tie`` decides. Then :math:`y = clip(round(z / v_{th}), y_{min}, y_{max})`.
    All layers act within the same time step, in graph order.

    Parameters
    ----------
    shape : int array ``(d,)``
        Shape of the layer, channels first, without batch.
    v_threshold, leak, v_init : float64 arrays ``(C,)``
        Threshold, leak per step, and membrane potential before the first step, per channel.
    y_min, y_max : int
        Calcium range. ``y_min = y_max = 0`` is an integrator that is read from its membrane.
    tie : {"even", "up"}
    window : int
        ``T``, in steps.
    scale : float
        Real value of one output count: the output of the network is ``scale * y``.

    Examples
    --------
    >>> node = CaLIF(shape=[2, 4, 4], v_threshold=[3.0, 5.0], leak=0.0, y_max=127, window=128)
    >>> node.parameters.threshold
    array([3., 5.])
    """

    shape: Any
    v_threshold: Any
    leak: Any
    v_init: Any = 0.0
    y_min: int = 0
    y_max: int = 127
    tie: str = "even"
    window: int = 128
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.shape = _shape("CaLIF", self.shape)
        channels = int(self.shape[0])
        for name in ("v_threshold", "leak", "v_init"):
            value = np.asarray(getattr(self, name))
            if value.dtype.kind not in "fiu" or value.size not in (1, channels):
                raise ConversionError(
                    f"CaLIF.{name}",
                    f"{value.dtype} of shape {value.shape}",
                    f"give one real number for each of the {channels} channels",
                )
            value = np.ascontiguousarray(np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,)))
            if not np.isfinite(value).all():
                raise ConversionError(f"CaLIF.{name}", "NaN or infinity", "all parameters must be finite")
            if (np.abs(value) > _LARGEST).any():
                raise ConversionError(
                    f"CaLIF.{name}", f"{np.abs(value).max():.4g}", "up to 2^53 float64 holds whole numbers"
                )
            setattr(self, name, value)
        if not (self.v_threshold > 0).all():
            raise ConversionError("CaLIF.v_threshold", f"{self.v_threshold.min()}", "thresholds must be positive")
        if (self.v_threshold < _SMALLEST).any():
            todo = "below 2^-64 of an integer charge a threshold decides nothing: scale weights and threshold up"
            raise ConversionError("CaLIF.v_threshold", f"{self.v_threshold.min():.4g}", todo)
        self.y_min, self.y_max = _whole("CaLIF.y_min", self.y_min), _whole("CaLIF.y_max", self.y_max)
        self.window = _whole("CaLIF.window", self.window, least=1)
        self.scale = _scale("CaLIF.scale", self.scale)
        if not self.y_min <= 0 <= self.y_max:
            raise ConversionError("CaLIF.y_min, y_max", f"[{self.y_min}, {self.y_max}]", "the range must contain 0")
        if self.tie not in TIE_RULES:
            raise ConversionError("CaLIF.tie", f"{self.tie!r}", f"use one of {', '.join(TIE_RULES)}")
        self.input_type = {"input": self.shape.copy()}
        self.output_type = {"output": self.shape.copy()}

    @property
    def parameters(self) -> CaLIFParameters:
        """The same, as every simulator plugin takes it."""
        return CaLIFParameters(
            threshold=self.v_threshold,
            leak=self.leak,
            y_min=self.y_min,
            y_max=self.y_max,
            tie=self.tie,  # type: ignore[arg-type]
            v_init=self.v_init,
        )


@dataclass(eq=False)
class SpikeEncoder(nir.NIRNode):
    r"""An image to signed spikes, through the quantised network's own input integers (section 4.1).

    :math:`n = clip(round(x / scale), q_{min}, q_{max})`, ties to even; coding ``isi``: the k-th of
    :math:`|n|` spikes comes at step :math:`\lfloor k\,T/|n| \rfloor`, counted from 1, with the sign of n.
    Coding ``direct``: no spikes; the charge :math:`w\,n` of the first layer comes evenly over the window,
    :math:`\lfloor (t+1) c/T \rfloor - \lfloor t c/T \rfloor` at step t.

    Parameters
    ----------
    shape : int array ``(d,)``
    scale : float
    q_min, q_max : int
        With coding ``isi`` at most ``window`` in absolute value.
    window : int
    coding : {"isi", "direct"}
    table : int array ``(vocabulary, size)``, optional
        The input is tokens, whole numbers from 0 of shape ``shape[:-1]``, and n are their rows, ``size = shape[-1]``.
    """

    shape: Any
    scale: float
    q_min: int = 0
    q_max: int = 127
    window: int = 128
    coding: str = "isi"
    table: Any = None

    def __post_init__(self) -> None:
        self.shape = _shape("SpikeEncoder", self.shape)
        self.scale = _scale("SpikeEncoder.scale", self.scale)
        self.q_min, self.q_max = _whole("SpikeEncoder.q_min", self.q_min), _whole("SpikeEncoder.q_max", self.q_max)
        self.window = _whole("SpikeEncoder.window", self.window, least=1)
        if not self.q_min <= 0 < self.q_max:
            raise ConversionError("SpikeEncoder", f"the range [{self.q_min}, {self.q_max}]", "it must contain 0 and 1")
        if self.coding not in CODINGS:
            raise ConversionError("SpikeEncoder.coding", f"{self.coding!r}", f"use one of {', '.join(CODINGS)}")
        if self.coding == "isi" and max(-self.q_min, self.q_max) > self.window:
            raise ConversionError(
                "SpikeEncoder",
                f"inputs up to {max(-self.q_min, self.q_max)} in a window of {self.window}",
                "one spike per step: lengthen the window, use fewer levels or coding 'direct'",
            )
        if self.table is not None:
            self.table = _table(self.table, self.shape, self.q_min, self.q_max)
        self.input_type = {"input": self.shape.copy()}
        self.output_type = {"output": self.shape.copy()}

    def to_dict(self) -> dict[str, Any]:
        """Its fields for a file; without a table there is none in it, as before there were any."""
        found = super().to_dict()
        return found if self.table is not None else {k: v for k, v in found.items() if k != "table"}


NODES: dict[str, type[nir.NIRNode]] = {"CaLIF": CaLIF, "CaLIFOperation": CaLIFOperation, "SpikeEncoder": SpikeEncoder}


def _shape(where: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 1 or array.size not in (1, 2, 3, 4) or array.dtype.kind not in "iu" or (array < 1).any():
        raise ConversionError(f"{where}.shape", f"{value!r}", "give 1 to 4 positive whole numbers, channels first")
    return array.astype(np.int64)


def _table(value: Any, shape: np.ndarray, low: int, high: int) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "iu" or array.shape[1] != shape[-1]:
        found = f"{array.dtype} of shape {array.shape}"
        raise ConversionError("SpikeEncoder.table", found, f"give integers, a row of {shape[-1]} for each token")
    if array.min() < low or array.max() > high:
        found = f"integers from {array.min()} to {array.max()}"
        raise ConversionError("SpikeEncoder.table", found, f"the input takes {low} to {high}")
    return array.astype(np.int64)


def _scale(where: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf" or not 0 < float(array.item()) < np.inf:
        raise ConversionError(where, _shown(value), "it must be a number, positive and finite")
    return float(array.item())


def _shown(value: Any) -> str:
    return "a number of many digits" if isinstance(value, int) and abs(value) >= 2**64 else f"{value!r}"


def _whole(where: str, value: Any, least: int | None = None) -> int:
    array = np.asarray(value)
    real = array.size == 1 and array.dtype.kind in "iuf" and np.isfinite(array).all()
    if not real or float(array.item()) != int(array.item()):
        raise ConversionError(where, _shown(value), "give a whole number")
    if abs(array.item()) >= 2**31 or (least is not None and array.item() < least):
        raise ConversionError(where, _shown(value), f"give a whole number from {least or -(2**31)} to {2**31 - 1}")
    return int(array.item())
