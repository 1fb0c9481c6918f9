"""Tensors that a file declares: their sizes are looked at before anything is made of them."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from converters.errors import FileFormatError

__all__ = ["LARGEST", "array_of", "bits_of", "count_of", "kind_of"]

LARGEST = 2**28
"""Values of one tensor."""
_TODO = "export the model again"
_FIELDS = {
    "float_data": (TensorProto.FLOAT,),
    "double_data": (TensorProto.DOUBLE,),
    "int64_data": (TensorProto.INT64,),
    "uint64_data": (TensorProto.UINT32, TensorProto.UINT64),
}
_WIDTHS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}


def kind_of(where: str, data_type: int) -> np.dtype:
    """NumPy's type for one of ONNX's; those of 4 bits are those of ``ml_dtypes``."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, ValueError, TypeError):
        raise FileFormatError(where, f"a tensor of the unknown type {data_type}", _TODO) from None


def bits_of(kind: np.dtype) -> int:
    """Bits that a value takes in a file."""
    return _WIDTHS.get(kind.name, 8 * kind.itemsize)


def count_of(where: str, dims: tuple[int, ...]) -> int:
    """How many values a tensor of declared sizes has.

    Raises
    ------
    FileFormatError
        If a size is negative, or there are more than :data:`LARGEST`.
    """
    if any(d < 0 for d in dims) or len(dims) > 16:
        raise FileFormatError(where, f"a tensor of shape {dims[:16]}", _TODO)
    count = math.prod(dims)
    if count > LARGEST:
        raise FileFormatError(where, f"a tensor of shape {dims}", f"at most {LARGEST:,} values are read")
    return count


def array_of(where: str, tensor: TensorProto) -> np.ndarray:
    """The values of a tensor that stands in the model itself.

    Raises
    ------
    FileFormatError
        If it has another number of values than it declares, or a type that is none.
    """
    dims = tuple(tensor.dims)
    count, kind = count_of(where, dims), kind_of(where, tensor.data_type)
    if tensor.data_location == TensorProto.EXTERNAL:
        raise FileFormatError(where, "values in a file of their own", "give the path of the model")
    if tensor.data_type == TensorProto.STRING:
        raise FileFormatError(where, "a tensor of text", "leave it out")
    _check_data(where, tensor, count, kind)
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise FileFormatError(where, f"a tensor that cannot be read ({str(error)[:80]})", _TODO) from None


def _check_data(where: str, tensor: TensorProto, count: int, kind: np.dtype) -> None:
    if tensor.HasField("raw_data"):
        found, wanted = len(tensor.raw_data), -(-count * bits_of(kind) // 8)
        if found != wanted:
            raise FileFormatError(
                where, f"{found:,} bytes for a tensor of shape {tuple(tensor.dims)}, which takes {wanted:,}", _TODO
            )
        return
    name = next((f for f, kinds in _FIELDS.items() if tensor.data_type in kinds), "int32_data")
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        raise FileFormatError(where, "a tensor of complex numbers", "leave it out")
    found = len(getattr(tensor, name))
    wanted = -(-count * bits_of(kind) // 8) if bits_of(kind) < 8 else count
    if found != wanted:
        raise FileFormatError(
            where, f"{found:,} values for a tensor of shape {tuple(tensor.dims)}, which has {count:,}", _TODO
        )
