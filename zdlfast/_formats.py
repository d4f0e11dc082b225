"""The formats of state in few bits, in NumPy.

::

    8bit        a group of 32 elements has one scale: its largest magnitude. What is scaled by it
                is rounded as telephones round (mu-law): to 4 bits of mantissa behind 4 bits of
                exponent, or 3 and a sign. The error is at most 1/32 of the value and 1/7900 of
                the largest one; if there is no sign, 1/2000000 of that.
    bfloat16    the upper half of a float32, whose lower half decides by chance if it is rounded up

Both hold float32 values: of a float64 array, as many digits as a float32 has.
"""

import numpy as np
from numpy.typing import NDArray

#: Elements that have a random key and, in 8 bits, are packed together.
BLOCK = 512
#: Elements that have a scale.
GROUP = 32

_Bits = NDArray[np.uint32]
_Floats = NDArray[np.float32]

_CODE_BITS = np.uint32(19)  # of a float32, below a code
_HALF_CODE = np.uint32(1 << 18)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITE = np.uint32(0x7F800000)
_NOT_A_NUMBER = np.uint32(0x7FC00000)
_LEAST_SCALE = np.float32(2.0**-100)  # what a scale counts for at least: so no state is subnormal


def blocks_of(n: int) -> int:
    """How many blocks `n` elements take."""
    return -(-n // BLOCK)


# ---------------------------------------------------------------- 8 bits


def _range(signed: bool) -> tuple[np.float32, np.uint32, np.uint32, np.float32]:
    """Where codes begin: as a float32 and its bits; the last code, and what it stands for.

    A code is added to the bits of the start, where those for it are zero: to its exponent and the
    first 4 bits of its mantissa.
    """
    start = np.float32(2.0**-7 if signed else 2.0**-15)
    bits, last = start.view(np.uint32), np.uint32(127 if signed else 255)
    return start, bits, last, (bits + (last << _CODE_BITS)).view(np.float32) - start


def decode_8bit(codes: NDArray[np.uint8], scales: _Floats, signed: bool) -> _Floats:
    """The elements of all blocks; beyond the array's own, they are zeros."""
    start, start_bits, _, top = _range(signed)
    # Byte k of word j is element 128 * k + j of its block.
    code = codes.reshape(-1, BLOCK // 4, 4).transpose(0, 2, 1).reshape(-1, GROUP).astype(np.uint32)
    sign = np.zeros_like(code)
    if signed:
        code, sign = code & np.uint32(127), (code & np.uint32(128)) << np.uint32(24)
    factor = np.maximum(scales, _LEAST_SCALE) / top
    x = ((start_bits + (code << _CODE_BITS)).view(np.float32) - start) * factor[:, None]
    return (x.view(np.uint32) | sign).view(np.float32).reshape(-1)


def encode_8bit(
    x: _Floats, signed: bool, random: _Bits | None = None
) -> tuple[NDArray[np.uint8], _Floats]:
    """Codes and scales of whole blocks of elements.

    A group that holds NaN or infinity becomes NaN, all of it; so does one that has no sign and
    holds less than zero, or -0.0. What is larger than zero and has no sign never becomes zero: it
    may be divided by.

    Parameters
    ----------
    random : array, optional
        Bits that decide if an element is rounded up; else it is rounded to the nearest.
    """
    start, start_bits, last, top = _range(signed)
    bits = x.view(np.uint32).reshape(-1, GROUP)
    magnitude = bits & _MAGNITUDE if signed else bits
    largest = magnitude.max(axis=1, initial=0)
    finite = largest < _INFINITE
    scales = np.where(finite, largest, _NOT_A_NUMBER).view(np.float32)
    bits, magnitude = (np.where(finite[:, None], b, np.uint32(0)) for b in (bits, magnitude))
    factor = top / np.maximum(np.where(finite, scales, np.float32(0)), _LEAST_SCALE)
    scaled = (magnitude.view(np.float32) * factor[:, None] + start).view(np.uint32) - start_bits
    up: _Bits | np.uint32 = _HALF_CODE
    if random is not None:  # 16 bits of the 19 below a code, and half of what the last one means
        up = (random.reshape(-1, GROUP) << np.uint32(3)) + np.uint32(4)
    code = np.minimum((scaled + up) >> _CODE_BITS, last)
    if signed:
        code |= (bits >> np.uint32(24)) & np.uint32(128)
    else:
        code = np.maximum(code, np.minimum(magnitude, np.uint32(1)))
    words = code.astype(np.uint8).reshape(-1, 4, BLOCK // 4).transpose(0, 2, 1)
    return words.reshape(-1), scales


# ---------------------------------------------------------------- bfloat16


def decode_bfloat16(codes: NDArray[np.uint16]) -> _Floats:
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode_bfloat16(x: _Floats, random: _Bits | None = None) -> NDArray[np.uint16]:
    """Codes of whole blocks of elements.

    Parameters
    ----------
    random : array, optional
        Bits that decide if an element is rounded up; else it is rounded to the nearest.
    """
    bits = x.view(np.uint32)
    if random is None:
        random = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # to even
    code = (bits + random) >> np.uint32(16)
    return np.where(bits & _MAGNITUDE > _INFINITE, _NOT_A_NUMBER >> np.uint32(16), code).astype(
        np.uint16
    )


# ---------------------------------------------------------------- chance

_64_BITS = 2**64 - 1


def mixed(number: int) -> int:
    """A number of 64 bits that looks random: the output of SplitMix64."""
    x = (number + 0x9E3779B97F4A7C15) & _64_BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return x ^ (x >> 31)


def _noise() -> _Bits:
    """A number for each place of half a block, that looks random: MurmurHash3's finalizer."""
    x: _Bits = np.arange(BLOCK // 2, dtype=np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


_NOISE = _noise()


def random_bits(key: int, blocks: int) -> _Bits:
    """16 random bits for each element of an array of so many blocks.

    They depend on its place alone, so that it does not matter which thread asks for them.
    """
    words = [mixed((key + k) & _64_BITS) & 0xFFFFFFFF for k in range(blocks)]
    keys: _Bits = np.array(words, np.uint32)
    x: _Bits = np.bitwise_xor.outer(keys, _NOISE) * np.uint32(0x85EBCA6B)
    # 32 bits are enough for an element in each half of a block.
    return np.hstack([x >> np.uint32(16), x & np.uint32(0xFFFF)]).reshape(-1)
