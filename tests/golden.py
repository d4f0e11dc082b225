"""One number for all bits that the kernels of an instruction set compute, without NumPy.

    python tests/golden.py zdlfast/_kernels_avx2.abi3.so

prints the hash of what every rule makes of values of all kinds: ordinary ones, tiny and huge
ones, subnormal ones, infinities and NaN (which count as equal, whatever their payload). It is
the same for every compiler, CPU and instruction set, or something is wrong with one of them.
"""

import ctypes
import hashlib
import importlib.util
import struct
import sys
from pathlib import Path

EXPECTED = "3e318f0eea8874578a856b70a54fd18f3bd3902adb09dc33e41bd8dee3c4fe30"
COUNT, STEPS = 4099, 5
MAX_SCALARS, MAX_SLOTS = 8, 2
DOUBLES = ctypes.POINTER(ctypes.c_double)
SCALARS = ctypes.CFUNCTYPE(None, DOUBLES, ctypes.c_double, DOUBLES)
LOOP = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_ssize_t, DOUBLES)
OPTIONS = {
    "sgd": [0.1],
    "momentum": [0.1, 0.9],
    "nesterov": [0.1, 0.9],
    "adagrad": [0.1, 1e-7],
    "rmsprop": [0.1, 0.99, 1e-7],
    # Powers of these are exact, whoever wrote pow.
    "adam": [0.1, 0.5, 0.75, 1e-7],
}


class Rule(ctypes.Structure):
    """A row of the table in _kernels.pxd."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("options", ctypes.c_int),
        ("slots", ctypes.c_int),
        ("wide_state", ctypes.c_int),
        ("scalars", SCALARS),
        ("loops", LOOP * 4),
    )


def table(path):
    """The rules of a kernel module, by name; the module itself, lest it be unloaded."""
    name = Path(path).name.split(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    rows = ctypes.cast(get(module.table, b"zdlfast.rules"), ctypes.POINTER(Rule))
    rules = {}
    while rows[len(rules)].name:
        rules[rows[len(rules)].name.decode()] = rows[len(rules)]
    return rules, module


def values(seed, kind, positive):
    """Values of all kinds, from a generator that is the same everywhere."""
    bits = 32 if kind is ctypes.c_float else 64
    state, numbers = seed, []
    for i in range(COUNT):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        if i % 8 < 5:  # ordinary: a fraction of -4 to 4
            number = (state >> 11) / 2**50 - 4.0
        else:  # any pattern of bits
            pattern = (state >> (64 - bits)).to_bytes(bits // 8, "little")
            (number,) = struct.unpack("<f" if bits == 32 else "<d", pattern)
        numbers.append(abs(number) if positive else number)
    return (kind * COUNT)(*numbers)


def bits_of(array, kind):
    """The bytes of an array, with one pattern for all NaN."""
    nan = struct.pack("<f" if kind is ctypes.c_float else "<d", float("nan"))
    size = len(nan)
    data = bytes(array)
    return b"".join(
        nan if array[i] != array[i] else data[i * size : (i + 1) * size] for i in range(COUNT)
    )


def golden(path):
    """The hash of all rules, dtypes and steps."""
    rules, module = table(path)
    digest = hashlib.sha256()
    for name, options in OPTIONS.items():
        rule = rules[name]
        for wide, kind in enumerate((ctypes.c_float, ctypes.c_double)):
            p, state = values(1, kind, False), [values(2 + i, kind, True) for i in range(2)]
            for step in range(1, STEPS + 1):
                g = values(10 + step, kind, False)
                given = (ctypes.c_double * MAX_SCALARS)(*options)
                scalars = (ctypes.c_double * MAX_SCALARS)()
                rule.scalars(given, float(step), scalars)
                rule.loops[3 * wide](p, g, *state[:MAX_SLOTS], COUNT, scalars)
                for array in (p, *state[: rule.slots]):
                    digest.update(bits_of(array, kind))
    del module
    return digest.hexdigest()


if __name__ == "__main__":
    for file in sys.argv[1:]:
        found = golden(file)
        print(found, "as expected" if found == EXPECTED else "NOT AS EXPECTED", file)
