"""One number for all bits that the kernels of an instruction set compute, without NumPy.

    python tests/golden.py zdlfast/_kernels_*.so

prints the hash of what each rule makes of values of all kinds: ordinary ones, tiny and huge
ones, subnormal ones, infinities and NaN (which count as equal, whatever their payload), with the
parameter and the gradient of one dtype, and of two. It is the same for every compiler, CPU and
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
    "sgd": "88af1ed4983166afdb398e022affe78dfebae944094320e82060d40b3ae0f3cc",
    "momentum": "eac9f7f3f104d2ebf6c632340f6d2e28f212e81a251d99bd83243447a6534a62",
    "nesterov": "3a62854abb6b00dfcb067d803e0b1b22b632e484177bcf1186661c4e4f417a1a",
    "adagrad": "08d519905e8aa2c459be649cb35b577058fd09039fe4943e3e404a8bcaa5a780",
    "rmsprop": "e1bad4a866a394088ee656566cddc61fa50ab7ab48bb85301177a78ac9608908",
    "adam": "c556923589b1b0049347e8096616474d5e884f8a424476c2372fbc88f19fce55",
    "nesterovbook2": "d8fedf860c6abf4b347e0386436a6884627d79bb68c377f91ec2f00505b6b471",
    "adamw": "4f7f6dfb9cec424705285343ca963a323ba26ecb95a0a8f71fa9b44f5353cc55",
    "amsgrad": "c14dcdfde6e22f6e670f352345ebc2de5702aeacbe00706e89831ba82f65bbfb",
    "nadam": "77a2f40b9b797e7aa56df8614ae8fa05d57ed12a477b3c212aa21155d4dac432",
    "radam": "010acc2516657a31d0585745559293d3bcd4df89de4025b9e1874fe4f94834f9",
    "adamax": "c5e8725beac217f892c736d65a099e20b27363b6bd6767373c6492f48d50b3d8",
    "adadelta": "a723bb15375e92f61dab4bd68593f763ed255182167b234aaf32d3536f8121d1",
    "adabound": "4043c27807bb34c02ddbb66077af60bef9c627f9f34c3abe96af5d4a4cbf974b",
    "amsbound": "08d30d96c21fed6ca4a75bd4ac63864bb6cc0d59ffb172da2b3763693b129bf6",
    "adabelief": "3c76c4e6b63b6e25eef357665dfbc155e6ed9f2ef128e7ab5b64be61097a9b22",
    "lion": "fc02df19881c130c82ac675805f8b1038d177584a5c9c4129604bf53aa030ce9",
    "adopt": "292e3cfe40025c367eab1a46808bb73556cd9a0148414965eed86967a09c40df",
    "schedulefreeadamw": "b626f87a5057b7abad823b5972237043a074d737a3100d7b3a9c3ab27fd951d7",
    "torchmomentum": "622301f81dab99f39177ae195932f3cd688ccd7eb4b1a902ba4c1a6cb1a40140",
    "torchnesterov": "cb6ad00d199247a8e715cb42a7c944d6c36acdbe6daca22c4fde5041e5aa93c3",
    "torchadagrad": "f9f45b0153f5722487d88a1e9a2c87b6e7750bb53c9bb108bd1446d3c20d9c80",
    "torchrmspropmomentum": "98c3d8fc646b6975141b8167947cec4cc9a11ac022d61c0e0468f4bff1d004b8",
    "torchrmspropcentered": "d7c6718453a4a2801f7a24b47719a0ab596a26323472056da69aa14085ba36fb",
    "torchrmspropcenteredmomentum": "69fea00bcd63b556d576907428ced02dd667d799688dde14854462f7107a3834",  # noqa: E501
}
COUNT, STEPS = 4099, 5
MAX_SCALARS, FIRST_SCALAR, MAX_NUMBERS, MAX_ARRAYS = 16, 3, 4, 6
DOUBLES = ctypes.POINTER(ctypes.c_double)
ARRAYS = ctypes.POINTER(ctypes.c_void_p)
SCALARS = ctypes.CFUNCTYPE(None, DOUBLES, ctypes.c_double, DOUBLES, ctypes.c_void_p)
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
    "nesterovbook2": [0.1, 0.9],
    "adamw": [0.1, 0.5, 0.75, 1e-7],
    "amsgrad": [0.1, 0.5, 0.75, 1e-7],
    "nadam": [0.1, 0.5, 0.75, 0.0, 1e-7],
    "radam": [0.1, 0.5, 0.9375, 1e-7],
    "adamax": [0.1, 0.5, 0.75, 1e-7],
    "adadelta": [1.0, 0.9, 1e-6],
    "adabound": [0.1, 0.5, 0.75, 0.2, 0.1, 1e-7],
    "amsbound": [0.1, 0.5, 0.75, 0.2, 0.1, 1e-7],
    "adabelief": [0.1, 0.5, 0.75, 1e-7],
    "lion": [0.1, 0.9, 0.99],
    "adopt": [0.1, 0.5, 0.75, 1e-6, 0.1],
    "schedulefreeadamw": [0.5, 0.5, 0.75, 4.0, 1.0, 2.0, 1e-7, 0.1],
    "torchmomentum": [0.1, 0.9, 0.5],
    "torchnesterov": [0.1, 0.9, 0.5],
    "torchadagrad": [0.1, 0.5, 1e-7],
    "torchrmspropmomentum": [0.1, 0.99, 0.9, 1e-7],
    "torchrmspropcentered": [0.1, 0.99, 1e-7],
    "torchrmspropcenteredmomentum": [0.1, 0.99, 0.9, 1e-7],
}


class Rule(ctypes.Structure):
    """A row of the table in _kernels.pxd."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("options", ctypes.c_int),
        ("slots", ctypes.c_int),
        ("numbers", ctypes.c_int),
        ("scalars", SCALARS),
        ("loop", LOOP),
    )


MAX_RULES = 64
STAGE = ctypes.CFUNCTYPE(
    None, ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_ssize_t, *[ctypes.c_double] * 3
)
SQUARE_SUM = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t)


class Kernels(ctypes.Structure):
    """What a kernel module hands to the engine."""

    _fields_ = (("rules", Rule * MAX_RULES), ("stage", STAGE), ("square_sum", SQUARE_SUM))


def load(path):
    """The kernels of a module; the module itself, lest it be unloaded."""
    name = Path(path).name.split(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get(module.table, b"zdlfast.kernels")
    return ctypes.cast(address, ctypes.POINTER(Kernels)).contents, module


def by_name(kernels):
    """The rules of a module's kernels."""
    rules = {}
    while kernels.rules[len(rules)].name:
        rules[kernels.rules[len(rules)].name.decode()] = kernels.rules[len(rules)]
    return rules


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


def run(rule, options, step, arrays, kind, numbers, neutral=(1.0, 1.0, 0.0)):
    """One step of a rule over arrays of ctypes: the parameter's, the gradient's, the state's."""
    given = (ctypes.c_double * MAX_SCALARS)(*options)
    scalars = (ctypes.c_double * MAX_SCALARS)(*neutral)
    own = ctypes.addressof(scalars) + FIRST_SCALAR * ctypes.sizeof(ctypes.c_double)
    rule.scalars(given, float(step), numbers, own)
    pointers = (ctypes.c_void_p * MAX_ARRAYS)(*map(ctypes.addressof, arrays))
    rule.loop(kind, pointers, len(arrays[0]), scalars)


def golden(path):
    """The hash of each rule, over all dtypes and steps."""
    kernels, module = load(path)
    rules, found = by_name(kernels), {}
    for name, options in OPTIONS.items():
        rule, digest = rules[name], hashlib.sha256()
        for wide, grad_wide in ((0, 0), (1, 1), (0, 1), (1, 0)):
            kind = KINDS[wide]
            state = [values(2 + i, kind, True) for i in range(rule.slots)]
            p, numbers = values(1, kind, False), (ctypes.c_double * MAX_NUMBERS)()
            for step in range(1, STEPS + 1):
                g = values(10 + step, KINDS[grad_wide], False)
                loop = PARAM_DOUBLE * wide + GRAD_DOUBLE * grad_wide
                run(rule, options, step, [p, g, *state], loop, numbers)
                for array in (p, *state):
                    digest.update(bits_of(array, kind))
        found[name] = digest.hexdigest()
    del kernels, module
    return found


def main(paths):
    if len(paths) == 1:
        found = golden(paths[0])
        for rule, digest in found.items():
            verdict = "as expected" if digest == EXPECTED.get(rule) else "NOT AS EXPECTED"
            print(f"{digest} {verdict}, {rule}: {paths[0]}")
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
