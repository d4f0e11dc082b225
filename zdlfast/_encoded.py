"""State in few bits: the object that holds it, and how the state of one update is encoded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from zdlfast import _bfloat16
from zdlfast import _formats as formats
from zdlfast._bfloat16 import holds_bfloat16

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

_ALIGNMENT = 64  # bytes, of a cache line
_DTYPES = {name: np.dtype(name) for name in ("float32", "float64")}
_CODES: dict[str, np.dtype[Any]] = {"8bit": np.dtype(np.uint8), "bfloat16": np.dtype(np.uint16)}
_SCALE = np.dtype(np.float32)


class EncodedState:
    """The state of one parameter in fewer bits than an element of it has.

    What an optimizer has in the place of an array if ``state="8bit"`` or ``"bfloat16"`` was given.
    Updates change its arrays in place.

    Parameters
    ----------
    format : {"8bit", "bfloat16"}
        How it is encoded.
    dtype : dtype
        That of the array which it stands for: float32 or float64. The state of a parameter of
        bfloat16 is one of float32, as its rule computes it.
    shape : tuple of int
        The same of its shape.
    signed : bool
        Whether there may be negative elements.
    codes : ndarray
        One for each element, in the order of C. In 8 bits there are 512 for each 512 elements
        or less, and number ``4 * j + k`` of these is that of element ``j + 128 * k``.
    scales : ndarray or None
        In 8 bits: for each 32 elements the largest magnitude, or NaN.

    Attributes
    ----------
    format, dtype, shape, signed, codes, scales
        As they were given.

    Examples
    --------
    >>> from zdlfast import Adam
    >>> optimizer = Adam(state="8bit")
    >>> optimizer.update({"W": np.zeros(4096)}, {"W": np.linspace(0.0, 1.0, 4096)})
    >>> optimizer.m["W"]
    EncodedState('8bit', float64, (4096,), 4608 bytes)
    >>> optimizer.m["W"].numpy()[-1].round(4)
    np.float64(0.1)
    """

    __slots__ = ("codes", "dtype", "format", "scales", "shape", "signed")

    def __init__(
        self,
        format: str,
        dtype: Any,
        shape: tuple[int, ...],
        signed: bool,
        codes: NDArray[Any],
        scales: NDArray[np.float32] | None,
    ) -> None:
        # The one object that NumPy has for such a dtype, which the engine knows by its address.
        self.format, self.dtype = format, np.dtype(_bfloat16.computed(np.dtype(dtype)).type)
        self.shape = tuple(shape)
        self.signed, self.codes, self.scales = signed, codes, scales

    @classmethod
    def zeros(cls, format: str, dtype: Any, shape: tuple[int, ...], signed: bool) -> Self:
        """Fresh state."""
        codes, scales = _lengths(format, shape)
        return cls(
            format, dtype, shape, signed, _zeros(codes, _CODES[format]),
            None if scales is None else _zeros(scales, np.float32),
        )  # fmt: skip

    @classmethod
    def of(cls, array: NDArray[Any], format: str, signed: bool) -> Self:
        """An array in this format, each element rounded to the nearest."""
        encoded = cls.zeros(format, array.dtype, array.shape, signed)
        encoded.store(array)
        return encoded

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[NDArray[Any]]:
        """Those that hold it."""
        return [self.codes] if self.scales is None else [self.codes, self.scales]

    def numpy(self) -> NDArray[Any]:
        """The array that it stands for."""
        if self.scales is None:
            values = formats.decode_bfloat16(self.codes)
        else:
            with np.errstate(all="ignore"):
                values = formats.decode_8bit(self.codes, self.scales, self.signed)
        return values[: self.size].astype(self.dtype, copy=False).reshape(self.shape)

    def store(self, array: NDArray[Any], random: NDArray[np.uint32] | None = None) -> None:
        """Encode the elements of an array of this shape.

        Parameters
        ----------
        random : array, optional
            Bits that decide if an element is rounded up; else it is rounded to the nearest.
        """
        x = np.zeros(formats.blocks_of(self.size) * formats.BLOCK, np.float32)
        with np.errstate(all="ignore"):
            x[: self.size] = array.reshape(-1)
            if self.scales is None:
                self.codes[...] = formats.encode_bfloat16(x, random)[: self.size]
            else:
                self.codes[...], self.scales[...] = formats.encode_8bit(x, self.signed, random)

    def copy(self) -> Self:
        """The same in memory of its own."""
        return self.from_dict("", self.to_dict())

    def __reduce__(self) -> Any:
        return type(self).from_dict, ("", self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Its parts as plain values and arrays, which are not copied."""
        return {
            "format": self.format,
            "dtype": self.dtype.name,
            "shape": list(self.shape),
            "signed": self.signed,
            "codes": self.codes,
            "scales": self.scales,
        }

    @classmethod
    def from_dict(cls, name: str, parts: Mapping[str, Any]) -> Self:
        """What `to_dict` returned, in memory of its own; errors call it `name`."""
        for key in ("format", "dtype", "shape", "signed", "codes", "scales"):
            if key not in parts:
                raise ValueError(f"the encoded state {name} has no {key!r}")
        for key, known in (("format", _CODES), ("dtype", _DTYPES)):
            if not (isinstance(parts[key], str) and parts[key] in known):
                raise ValueError(
                    f"the encoded state {name} has {key} {parts[key]!r}, expected one of "
                    f"{[*known]}"
                )
        shape, signed = parts["shape"], parts["signed"]
        if not (isinstance(shape, list | tuple) and _is_shape(shape)):
            raise ValueError(f"the encoded state {name} has the shape {shape!r}")
        if not isinstance(signed, bool):
            raise TypeError(f"signed of the encoded state {name} must be a bool, got {signed!r}")
        format, shape = parts["format"], tuple(shape)
        # Before anything is allocated: a damaged file may have any shape.
        codes, scales = _lengths(format, shape)
        fits = {
            "codes": _is_memory(parts["codes"], _CODES[format], codes),
            "scales": _is_memory(parts["scales"], _SCALE, scales),
        }
        for key in fits:
            if not fits[key]:
                raise ValueError(
                    f"{key} of the encoded state {name} do not fit {format} of the shape {shape}"
                )
        made = cls.zeros(format, parts["dtype"], shape, signed)
        made.codes[...] = parts["codes"]
        if made.scales is not None:
            made.scales[...] = parts["scales"]
        return made

    def is_whole(self) -> bool:
        """Whether its arrays are as its format, dtype and shape have them."""
        if self.format not in _CODES or not _is_shape(self.shape):
            return False
        codes, scales = _lengths(self.format, self.shape)
        return (
            _is_memory(self.codes, _CODES[self.format], codes)
            and _is_memory(self.scales, _SCALE, scales)
            and all(array.flags.writeable for array in self.arrays())
        )

    def __repr__(self) -> str:
        return f"EncodedState({self.format!r}, {self.dtype}, {self.shape}, {self.nbytes} bytes)"


def _is_shape(shape: Sequence[Any]) -> bool:
    return all(type(n) is int and n >= 0 for n in shape)


def _lengths(format: str, shape: tuple[int, ...]) -> tuple[int, int | None]:
    """How many codes state of a shape has, and how many scales, if any."""
    n = math.prod(shape)
    if format == "bfloat16":
        return n, None
    n = formats.blocks_of(n) * formats.BLOCK
    return n, n // formats.GROUP


def _is_memory(array: Any, dtype: np.dtype[Any], length: int | None) -> bool:
    """Whether a value is a contiguous array of this dtype and length; None if that is None."""
    if length is None:
        return array is None
    return (
        type(array) is np.ndarray
        and array.dtype == dtype
        and array.shape == (length,)
        and array.flags.c_contiguous
    )


def _zeros(n: int, dtype: Any) -> NDArray[Any]:
    """Zeros that begin at a cache line."""
    bytes = n * np.dtype(dtype).itemsize
    memory = np.zeros(bytes + _ALIGNMENT, np.uint8)
    past = -memory.ctypes.data % _ALIGNMENT
    return memory[past : past + bytes].view(dtype)


@dataclass(slots=True)
class Encoding:
    """How numbers are encoded of the parameters that have the same options.

    Attributes
    ----------
    format : str or None
        That of their state; None for arrays of the parameters' own dtypes.
    min_size : int
        The least number of elements that are in this format.
    stochastic : bool
        Whether state in 8 bits is rounded by chance, and parameters of bfloat16.
    seed : int
        What chance depends on, beside the step.
    positive, exact : tuple of str
        The slots that are never negative, and those that are in no format.
    """

    format: str | None
    min_size: int
    stochastic: bool
    seed: int
    positive: tuple[str, ...]
    exact: tuple[str, ...]

    def takes(self, slot: str, param: Any) -> bool:
        """Whether a slot of this parameter is encoded."""
        return (
            self.format is not None
            and slot not in self.exact
            and type(param) is np.ndarray
            and _bfloat16.computed(param.dtype).type in (np.float32, np.float64)
            and param.size >= self.min_size
        )

    def fresh(self, slot: str, param: NDArray[Any]) -> EncodedState:
        """Encoded zeros."""
        assert self.format is not None
        signed = slot not in self.positive
        return EncodedState.zeros(self.format, param.dtype, param.shape, signed)

    def converted(self, slot: str, state: Any, param: Any) -> Any:
        """The state of a parameter as it has to be kept: itself, or in another format."""
        format = self.format if self.takes(slot, param) else None
        if format == (state.format if isinstance(state, EncodedState) else None):
            return state
        return in_format(state, format, slot not in self.positive, param)

    def store(
        self, step: int, place: int, held: EncodedState | NDArray[Any], array: NDArray[Any]
    ) -> None:
        """Put new numbers into encoded state, or into an array of bfloat16.

        Parameters
        ----------
        step : int
            Whose numbers these are.
        place : int
            0 for the parameter, which is rounded to the nearest if nobody asks for chance; from 1
            on for the slots of its rule, which are rounded by chance in bfloat16.
        """
        format = held.format if isinstance(held, EncodedState) else "bfloat16"
        random = None
        if self.stochastic or (place > 0 and format == "bfloat16"):
            key = formats.mixed((step_key(self.seed, step) + place) % 2**64)
            random = formats.random_bits(key, formats.blocks_of(held.size))
        if isinstance(held, EncodedState):
            held.store(array, random)
        else:
            _bfloat16.store(held, array, random)


def encoding_of(optimizer: "Optimizer") -> Encoding:
    """How an optimizer's numbers are encoded."""
    return Encoding(
        optimizer.state,
        optimizer.state_min_size,
        optimizer.state_rounding == "stochastic",
        optimizer.state_seed,
        optimizer._positive,
        optimizer._exact,
    )


def step_key(seed: int, step: int) -> int:
    """What the chance of one step depends on."""
    # As the kernels have it: a count that no float holds is the next float.
    return formats.mixed((formats.mixed(seed % 2**64) + int(float(step))) % 2**64)


def in_format(state: Any, format: str | None, signed: bool, param: Any) -> Any:
    """The state of a parameter in another format, or as an array of the parameter's dtype.

    Each number is rounded to the nearest.
    """
    array = decoded(state)
    if format is not None:
        return EncodedState.of(array, format, signed)
    if holds_bfloat16(param):
        rounded = np.empty(array.shape, param.dtype)
        _bfloat16.store(rounded, array)
        return rounded
    return array


def decoded(value: Any) -> Any:
    """A parameter, a gradient or state as a rule takes it: of float32 if it has fewer bits."""
    if isinstance(value, EncodedState):
        return value.numpy()
    return _bfloat16.widened(value) if holds_bfloat16(value) else value
