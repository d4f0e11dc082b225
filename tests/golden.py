"""One number for all bits that the kernels of an instruction set compute, without NumPy.

    python tests/golden.py zdlfast/_kernels_*.so

prints the hashes of what every rule makes of values of all kinds: ordinary ones, tiny and huge
ones, subnormal ones, infinities and NaN (which count as equal, whatever their payload), with the
parameter and the gradient of one dtype, and of two. They are the same for every compiler, CPU and
instruction set, or something is wrong with one of them. (Adam's options here have powers that are
exact: the last bit of others is the C library's.) Each file is loaded in a process of its own,
which may die of an instruction that this CPU has not got.
"""

import ctypes
import hashlib
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

EXPECTED = {
    "one dtype": "3e318f0eea8874578a856b70a54fd18f3bd3902adb09dc33e41bd8dee3c4fe30",
    "two dtypes": "7ee672bf15cb7fea837abb994d811324978ae91e68b0c25537c84e01c18206d6",
}
COUNT, STEPS = 4099, 5
MAX_SCALARS, FIRST_SCALAR = 16, 2
DOUBLES = ctypes.POINTER(ctypes.c_double)
ARRAYS = ctypes.POINTER(ctypes.c_void_p)
SCALARS = ctypes.CFUNCTYPE(None, DOUBLES, ctypes.c_double, ctypes.c_void_p)
LOOP = ctypes.CFUNCTYPE(None, ctypes.c_int, ARRAYS, ctypes.c_ssize_t, DOUBLES)
KINDS = (ctypes.c_float, ctypes.c_double)
PARAM_DOUBLE, GRAD_DOUBLE = 1, 2
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
        ("scalars", SCALARS),
        ("loop", LOOP),
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


def run(rule, options, step, arrays, kind, g_scale=1.0, p_decay=1.0):
    """One step of a rule over arrays of ctypes: the parameter's, the gradient's, the state's."""
    given = (ctypes.c_double * MAX_SCALARS)(*options)
    scalars = (ctypes.c_double * MAX_SCALARS)(g_scale, p_decay)
    own = ctypes.addressof(scalars) + FIRST_SCALAR * ctypes.sizeof(ctypes.c_double)
    rule.scalars(given, float(step), own)
    pointers = (ctypes.c_void_p * len(arrays))(*map(ctypes.addressof, arrays))
    rule.loop(kind, pointers, len(arrays[0]), scalars)


def golden(path):
    """The hashes of all rules, dtypes and steps."""
    rules, module = table(path)
    found = {}
    for what, same in (("one dtype", True), ("two dtypes", False)):
        digest = hashlib.sha256()
        for name, options in OPTIONS.items():
            rule = rules[name]
            for wide, kind in enumerate(KINDS):
                grad_wide = wide if same else 1 - wide
                state = [values(2 + i, kind, True) for i in range(rule.slots)]
                p = values(1, kind, False)
                for step in range(1, STEPS + 1):
                    g = values(10 + step, KINDS[grad_wide], False)
                    loop = PARAM_DOUBLE * wide + GRAD_DOUBLE * grad_wide
                    run(rule, options, step, [p, g, *state], loop)
                    for array in (p, *state):
                        digest.update(bits_of(array, kind))
        found[what] = digest.hexdigest()
    del module
    return found


def main(paths):
    if len(paths) == 1:
        found = golden(paths[0])
        for what, digest in found.items():
            verdict = "as expected" if digest == EXPECTED[what] else "NOT AS EXPECTED"
            print(f"{digest} {verdict}, {what}: {paths[0]}")
        return 0 if found == EXPECTED else 1
    status = 0
    for path in paths:
        done = subprocess.run([sys.executable, __file__, path], check=False)
        if done.returncode < 0:
            print(f"not run, signal {-done.returncode}: does this CPU have it? {path}")
        status = max(status, done.returncode)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
