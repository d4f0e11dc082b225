"""Arrays of bfloat16: a dtype that another package, ml_dtypes, adds to NumPy's.

A rule computes in float32: it takes what such an array stands for, and its results are rounded
when they are put back.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zdlfast import _formats as formats

_FLOAT32 = np.dtype(np.float32)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is bfloat16, in the machine's byte order. Nothing is imported for that."""
    return (
        dtype.kind == "V"
        and dtype.itemsize == 2
        and dtype.type.__name__ == "bfloat16"
        and dtype.isnative
    )


def holds_bfloat16(value: Any) -> bool:
    """Whether a value is an array of bfloat16."""
    return type(value) is np.ndarray and is_bfloat16(value.dtype)


def bfloat16() -> np.dtype[Any]:
    """The dtype itself."""
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise ModuleNotFoundError(
            f"arrays of bfloat16 need the package ml_dtypes: {error}"
        ) from None
    dtype: np.dtype[Any] = np.dtype(bfloat16)
    return dtype


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which a rule computes with arrays of this one."""
    return _FLOAT32 if is_bfloat16(dtype) else dtype


def widened(array: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers of an array of bfloat16, in float32."""
    # NumPy's operators make a scalar of a 0-d array, and with these NumPy 1 computes in float64.
    return np.asarray(formats.decode_bfloat16(array.view(np.uint16)))


def store(
    array: NDArray[Any], values: NDArray[Any], random: NDArray[np.uint32] | None = None
) -> None:
    """Round numbers to bfloat16, and put them into an array.

    Parameters
    ----------
    random : array, optional
        Bits that decide if a number is rounded up, in the order of C; else it is rounded to the
        nearest.
    """
    with np.errstate(all="ignore"):
        x = np.array(values, np.float32, order="C").reshape(-1)
    bits = None if random is None else random[: x.size]
    array.view(np.uint16)[...] = formats.encode_bfloat16(x, bits).reshape(array.shape)
