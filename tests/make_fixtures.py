"""Write the state files and pickles of ``tests/fixtures``, and what is in the files.

Each begins with the version that wrote it and stays as it is: later versions have to load them bit
for bit. ``expected.json`` describes the objects that were saved, taken from memory and not from the
files: bytes as hexadecimal digits, in C order. Files of another format come beside them, by the
version that writes it::

    python tests/make_fixtures.py VERSION
"""

import json
import pickle
import sys
from pathlib import Path

import numpy as np

import zdlfast
from zdlfast import EncodedState, reference

FOLDER = Path(__file__).parent / "fixtures"
NUMBERS = ["lr", "momentum", "decay_rate", "beta1", "beta2", "eps", "iter"]
SLOTS = ["h", "m", "v"]


def numbers():
    """Python's and NumPy's numbers, and an array without dimensions."""
    params = {
        "float": 0.1,
        "int": 3,
        "f4": np.float32(0.1),
        "f8": np.float64(0.2),
        "0d": np.array(0.3),
    }
    optimizer = zdlfast.SGD(lr=0.3, nonfinite="skip")
    optimizer.update(params, dict.fromkeys(params, 0.7))
    return optimizer, params


def widened():
    """A velocity that became float64 by a gradient, beside a parameter of float32."""
    params = {"W": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}
    optimizer = zdlfast.Momentum(lr=0.2, momentum=0.7)
    optimizer.update(params, {"W": np.linspace(0.1, 0.7, 6).reshape(2, 3)})
    return optimizer, params


def in_a_list():
    params = [np.linspace(-1, 1, 6).reshape(3, 2).T, np.ones((0, 2)), np.ones(3, np.float32)]
    optimizer = zdlfast.Nesterov(lr=0.2)
    for _ in range(3):
        optimizer.update(params, [np.full_like(param, 0.3) for param in params])
    return optimizer, params


def keys():
    """Keys of all kinds; byte-swapped and half precision."""
    params = {
        "b/ 二": np.linspace(0, 1, 3),
        7: np.linspace(1, 2, 4, dtype=">f8"),
        ("a", 2): np.linspace(2, 3, 3, dtype=np.float16),
        ("a", ("b", -1)): np.linspace(3, 4, 2, dtype=np.float32),
    }
    optimizer = zdlfast.AdaGrad(lr=0.5, eps=1e-3)
    optimizer.update(params, {key: param / 3 for key, param in params.items()})
    return optimizer, params


def tied():
    """One array twice, a matrix and its transpose, and views of one memory."""
    matrix, buffer = np.linspace(-1, 1, 6).reshape(2, 3), np.linspace(0, 1, 20, dtype=np.float32)
    bias = np.ones(2)
    params = {
        "bias": bias,
        "embed": matrix,
        "embed.T": matrix.T,
        "again": bias,
        "a": buffer[2:15:3],
        "b": buffer[::-1],
    }
    optimizer = zdlfast.RMSprop(lr=0.1, decay_rate=0.8)
    for _ in range(2):
        optimizer.update(
            params, {key: np.full(p.shape, 0.3, p.dtype) for key, p in params.items()}
        )
    return optimizer, params


def special():
    """Values that are no usual numbers; a class of plain NumPy."""
    values = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1e-310, 1.5]
    params = {"f8": np.array(values), "f4": np.array([*values[:5], 1e-45, 1e-40], np.float32)}
    optimizer = reference.Adam(lr=0.1, beta1=0.5, beta2=0.9, eps=1e-3)
    for _ in range(4):
        optimizer.update(params, {key: np.full_like(param, 0.3) for key, param in params.items()})
    return optimizer, params


def fresh():
    return zdlfast.Adam(), None


def eight_bits():
    """State in 8 bits of more than a block, of less, and of none; with and without signs."""
    params = {"W": np.linspace(-1, 1, 600), "b": np.ones((2, 3), np.float32), "e": np.ones((0, 2))}
    optimizer = zdlfast.AdaBelief(state="8bit", state_min_size=1)
    for _ in range(2):
        optimizer.update(params, {key: np.cos(9 * param) for key, param in params.items()})
    return optimizer, params


def sixteen_bits():
    params = [np.linspace(-1, 1, 9), np.ones((2, 3), np.float32)]
    optimizer = zdlfast.Momentum(state="bfloat16", state_min_size=1, state_seed=7)
    optimizer.update(params, [np.cos(9 * param) for param in params])
    return optimizer, params


def pickled():
    """An optimizer of each class, after two updates."""
    optimizers = []
    for module in (zdlfast, reference):
        for name in ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"):
            optimizer = getattr(module, name)(lr=0.25)
            params = {"W": np.linspace(-1, 1, 4)}
            for _ in range(2):
                optimizer.update(params, {"W": np.linspace(0.5, 1, 4)})
            optimizers.append(optimizer)
    return optimizers


CASES = {
    "0.1.0": [numbers, widened, in_a_list, keys, tied, special, fresh],
    "0.3.0": [eight_bits, sixteen_bits],
}


def described(value):
    """A value of parameters or state, as JSON can hold it."""
    if isinstance(value, EncodedState):
        arrays = [described(array) for array in value.arrays()]
        return [value.format, value.dtype.name, list(value.shape), value.signed, arrays]
    if isinstance(value, np.ndarray | np.generic):
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        plain = value.astype(value.dtype.newbyteorder("<"))  # safetensors keep no byte order
        return [kind, value.dtype.name, list(value.shape), plain.tobytes().hex()]
    return [type(value).__name__, float(value).hex()]


def described_all(held):
    if held is None:
        return None
    pairs = enumerate(held) if isinstance(held, list) else held.items()
    return [type(held).__name__, [[repr(key), described(value)] for key, value in pairs]]


def description(optimizer, params):
    """All of an optimizer and its parameters, read from their attributes."""
    shared = [
        [repr(a), repr(b), params[a] is params[b]]
        for i, a in enumerate(params if isinstance(params, dict) else ())
        for b in list(params)[:i]
        if isinstance(params[a], np.ndarray) and np.shares_memory(params[a], params[b])
    ]
    return {
        "class": type(optimizer).__name__,
        "numbers": {k: described(getattr(optimizer, k)) for k in NUMBERS if hasattr(optimizer, k)},
        "nonfinite": optimizer.nonfinite,
        "state": {k: described_all(getattr(optimizer, k)) for k in SLOTS if hasattr(optimizer, k)},
        "params": described_all(params),
        "shared": shared,
    }


def main(version):
    expected = {}
    for case in CASES[version]:
        optimizer, params = case()
        expected[case.__name__] = description(optimizer, params)
        for ending in (".npz", ".safetensors"):
            zdlfast.save(FOLDER / f"{version}-{case.__name__}{ending}", optimizer, params)
    for protocol in (0, 1) if version == "0.1.0" else ():
        content = pickle.dumps(pickled(), protocol)
        (FOLDER / f"{version}-protocol-{protocol}.pickle").write_bytes(content)
    (FOLDER / f"{version}-expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
