"""The table of rules: a new optimizer is tested by its row here."""

from dataclasses import dataclass

import numpy as np

import zdlfast
from zdlfast import reference


@dataclass(frozen=True)
class Row:
    """One rule: its two classes, and options that are right and wrong for it."""

    name: str
    slots: tuple[str, ...]
    options: dict[str, float]  # other than the defaults
    fractions: tuple[str, ...]  # options that have to lie in [0, 1)

    @property
    def fast(self):
        return getattr(zdlfast, self.name)

    @property
    def numpy(self):
        return getattr(reference, self.name)


RULES = [
    Row("SGD", (), {"lr": 0.3}, ()),
    Row("Momentum", ("v",), {"lr": 0.2, "momentum": 0.7}, ("momentum",)),
    Row("Nesterov", ("v",), {"lr": 0.2, "momentum": 0.7}, ("momentum",)),
    Row("AdaGrad", ("h",), {"lr": 0.5, "eps": 1e-3}, ()),
    Row("RMSprop", ("h",), {"lr": 0.1, "decay_rate": 0.8, "eps": 1e-3}, ("decay_rate",)),
    Row("Adam", ("m", "v"), {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
        ("beta1", "beta2")),
]  # fmt: skip


def keys_of(container):
    return container.keys() if hasattr(container, "keys") else range(len(container))


def assert_same_bits(actual, expected, what=""):
    """Equal values, dtypes and shapes; NaN equals NaN whatever its payload, -0.0 is not 0.0."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, what
    assert actual.shape == expected.shape, what
    if actual.dtype.kind == "c":
        assert_same_bits(actual.real, expected.real, f"{what}.real")
        assert_same_bits(actual.imag, expected.imag, f"{what}.imag")
        return
    if actual.dtype.kind == "O":
        assert list(map(repr, actual.flat)) == list(map(repr, expected.flat)), what
        return
    if actual.dtype.kind == "f":
        both_nan = np.isnan(actual) & np.isnan(expected)
        same = (actual == expected) & (np.signbit(actual) == np.signbit(expected))
        different = np.flatnonzero(~(same | both_nan))
    else:
        different = np.flatnonzero(actual != expected)
    assert different.size == 0, f"{what}: {different.size} elements differ, first {different[:3]}"


def assert_same_run(fast, numpy, fast_params, numpy_params):
    """Parameters, state and step count of two optimizers are the same."""
    for key in keys_of(numpy_params):
        assert_same_bits(fast_params[key], numpy_params[key], f"params[{key!r}]")
    for slot in type(numpy)._slots:
        ours, theirs = getattr(fast, slot), getattr(numpy, slot)
        assert type(ours) is type(theirs)
        if theirs is not None:
            assert list(keys_of(ours)) == list(keys_of(theirs))
            for key in keys_of(theirs):
                assert_same_bits(ours[key], theirs[key], f"{slot}[{key!r}]")
    assert getattr(fast, "iter", None) == getattr(numpy, "iter", None)


def is_same_run(fast, numpy, fast_params, numpy_params):
    try:
        assert_same_run(fast, numpy, fast_params, numpy_params)
    except AssertionError:
        return False
    return True
