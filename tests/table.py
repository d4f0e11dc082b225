"""The table of rules with options for tests: a new optimizer is tested by its row."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np

import zdlfast
from zdlfast import _engine, _rules
from zdlfast._bfloat16 import is_bfloat16, widened
from zdlfast._encoded import EncodedState

_BOUND = {
    "lr": 0.1, "beta1": 0.5, "beta2": 0.9, "final_lr": 0.2, "gamma": 0.5, "eps": 1e-3
}  # fmt: skip

# Other than the defaults.
OPTIONS = {
    "SGD": {"lr": 0.3},
    "Momentum": {"lr": 0.2, "momentum": 0.7},
    "Nesterov": {"lr": 0.2, "momentum": 0.7},
    "AdaGrad": {"lr": 0.5, "eps": 1e-3},
    "RMSprop": {"lr": 0.1, "decay_rate": 0.8, "eps": 1e-3},
    "Adam": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "NesterovBook2": {"lr": 0.2, "momentum": 0.7},
    "AdamW": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "AMSGrad": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "NAdam": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "momentum_decay": 0.1, "eps": 1e-3},
    # The first step that is rectified is the sixth.
    "RAdam": {"lr": 0.1, "beta1": 0.5, "beta2": 0.95, "eps": 1e-3},
    "Adamax": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "AdaDelta": {"lr": 2.0, "decay_rate": 0.8, "eps": 1e-3},
    "AdaBound": _BOUND,
    "AMSBound": _BOUND,
    "AdaBelief": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "Lion": {"lr": 0.1, "beta1": 0.5, "beta2": 0.8},
    "ADOPT": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "ScheduleFreeAdamW": {
        "lr": 0.1,
        "beta1": 0.5,
        "beta2": 0.9,
        "warmup_steps": 4.0,
        "r": 1.0,
        "weight_lr_power": 1.0,
        "eps": 1e-3,
    },
    "SklearnAdam": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "SklearnNesterov": {"lr": 0.2, "momentum": 0.7},
    "TorchMomentum": {"lr": 0.2, "momentum": 0.7, "dampening": 0.5},
    "TorchNesterov": {"lr": 0.2, "momentum": 0.7, "dampening": 0.5},
    "TorchAdagrad": {"lr": 0.5, "lr_decay": 0.5, "eps": 1e-3},
    "TorchRMSpropMomentum": {"lr": 0.1, "alpha": 0.8, "momentum": 0.7, "eps": 1e-3},
    "TorchRMSpropCentered": {"lr": 0.1, "alpha": 0.8, "eps": 1e-3},
    "TorchRMSpropCenteredMomentum": {"lr": 0.1, "alpha": 0.8, "momentum": 0.7, "eps": 1e-3},
    "TorchNAdam": {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "momentum_decay": 0.1, "eps": 1e-3},
}


@dataclass(frozen=True)
class Row:
    """One rule: its two classes, and options that are right for it."""

    name: str
    slots: tuple[str, ...]
    options: dict[str, float]

    @property
    def fast(self):
        return _rules.RULES[self.name].fast

    @property
    def numpy(self):
        return _rules.RULES[self.name].twin

    @property
    def looks_first(self):
        """Whether the first update leaves all parameters as they are."""
        return self.name == "ADOPT"

    @property
    def squares(self):
        """Whether gradients are squared."""
        return bool(set(self.slots) & {"h", "s"}) or (len(self.slots) > 1 and "v" in self.slots)

    @property
    def shared(self):
        """The options that are the same for all parameters, because a number depends on them."""
        return {name for on in _rules.RULES[self.name].numbers.values() for name in on}

    @property
    def own_decay(self):
        return _rules.RULES[self.name].own_decay

    @property
    def fractions(self):
        """The options that have to lie in [0, 1)."""
        bounds = _rules.RULES[self.name].options
        return [name for name, bound in bounds.items() if bound == _rules.FRACTION]


RULES = [Row(name, rule.slots, OPTIONS[name]) for name, rule in _rules.RULES.items()]

#: One of each kind: with none to three slots, a step count, further numbers, a decay of its own.
#: What does not depend on a formula is tested with these.
KINDS = [
    row
    for row in RULES
    if row.name in ("SGD", "Momentum", "Adam", "AMSGrad", "NAdam", "ScheduleFreeAdamW")
]


def past_the_first(optimizer):
    """The optimizer: ADOPT as if it had been updated before, so that it will move parameters."""
    if type(optimizer).__name__ == "ADOPT":
        optimizer.iter = 1
    return optimizer


def go_on_from(optimizer, other):
    """Take over the step count and the numbers of another optimizer, and no arrays."""
    for name in (*type(other)._numbers, *(["iter"] if hasattr(other, "iter") else [])):
        setattr(optimizer, name, getattr(other, name))


def keys_of(container):
    return container.keys() if hasattr(container, "keys") else range(len(container))


def both(rule, options):
    """The optimizers of both twins, with these options beside those of the table."""
    options = {**rule.options, **options}
    return rule.fast(**options), rule.numpy(**options)


def copies(params):
    """The parameters again, as arrays that lie in the same order."""
    return {key: np.array(value, order="K") for key, value in params.items()}


def odd_beside_usual(rng, n):
    """Parameters, or gradients, of which kernels take the first and the last, of `n` elements."""
    return {
        "usual": rng.standard_normal(5000),
        "half": rng.standard_normal(9).astype("f2"),
        "number": float(rng.standard_normal()),
        "scalar": np.float32(rng.standard_normal()),
        "again": rng.standard_normal(n).astype("f4"),
    }


def tied_and_overlapping(values):
    """Three parameters of 600 elements in a copy of these 900 values."""
    whole = values.copy()
    return {"a": whole[:600], "tied": whole[:600], "overlaps": whole[300:]}


def assert_neither_start_nor_cuts_nor_threads_change_a_bit(make, dtype, values, grad, every=1):
    """Wherever a parameter begins in a cache line, and wherever threads cut it.

    Parameters
    ----------
    every : int
        How many elements lie between one beginning and the next.
    """
    memory = np.zeros(values.size + 64, dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize
    before, found = _engine.get_tuning(), []
    try:
        for threads, chunk in ((1, 65536), (2, 5000), (3, 12345), (4, 64)):
            _engine.set_tuning(
                {**before, "shortest_chunk": chunk, "longest_chunk": chunk,
                 "help_from": 0, "help_from_awake": 0, "release_from": 0}
            )  # fmt: skip
            for place in range(start, start + 64 // memory.itemsize, every):
                param, optimizer = memory[place : place + values.size], make()
                param[...] = values
                with zdlfast.threads(threads):
                    for _ in range(2):
                        optimizer.update({"W": param}, {"W": grad})
                found.append((optimizer, {"W": param.copy()}))
    finally:
        _engine.set_tuning(before)
    first, params = found[0]
    for optimizer, others in found[1:]:
        assert_same_run(optimizer, first, others, params)


def assert_same_bits(actual, expected, what=""):
    """Equal values, dtypes and shapes; NaN equals NaN whatever its payload, -0.0 is not 0.0.

    Of encoded state all parts are equal.
    """
    if isinstance(expected, EncodedState):
        assert isinstance(actual, EncodedState), what
        parts = actual.to_dict()
        for name, part in expected.to_dict().items():
            if isinstance(part, np.ndarray):
                assert_same_bits(parts[name], part, f"{what}.{name}")
            else:
                assert parts[name] == part, f"{what}.{name}"
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, what
    if is_bfloat16(expected.dtype):
        actual, expected = widened(actual), widened(expected)
    assert actual.shape == expected.shape, what
    if actual.dtype.kind != "O" and actual.tobytes() == expected.tobytes():
        return
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


def assert_same_run(fast, numpy, fast_params, numpy_params, what=""):
    """Parameters, state and step count of two optimizers are the same."""
    for key in keys_of(numpy_params):
        assert_same_bits(fast_params[key], numpy_params[key], f"{what} params[{key!r}]")
    for slot in numpy._slots:
        ours, theirs = getattr(fast, slot), getattr(numpy, slot)
        assert type(ours) is type(theirs)
        if theirs is not None:
            assert list(keys_of(ours)) == list(keys_of(theirs))
            for key in keys_of(theirs):
                assert_same_bits(ours[key], theirs[key], f"{what} {slot}[{key!r}]")
    for name in type(numpy)._numbers:
        assert_same_bits(getattr(fast, name), getattr(numpy, name), f"{what} {name}")
    assert getattr(fast, "iter", None) == getattr(numpy, "iter", None)


def steps_past_python(rule, monkeypatch, ours, draw):
    """Take steps on both twins, from the second on without Python's look at odd entries.

    `draw` returns the gradients of a step. After each, the parameters by NumPy are yielded: they
    are equal to `ours`, bit for bit.
    """
    fast, numpy, theirs = rule.fast(), rule.numpy(), copy.deepcopy(ours)
    for step in range(4):
        if step == 1:
            monkeypatch.setattr(rule.fast, "_update_rest", None)
        grads = draw()
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)
        yield theirs


def kept(optimizer, folder):
    """An optimizer as it comes back from a copy, a pickle, a state dict and a file."""
    loaded = type(optimizer)()
    loaded.load_state_dict(optimizer.state_dict())
    zdlfast.save(folder / "a.npz", optimizer)
    return [
        copy.deepcopy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
        loaded,
        zdlfast.load(folder / "a.npz")[0],
    ]


def is_same_run(fast, numpy, fast_params, numpy_params):
    try:
        assert_same_run(fast, numpy, fast_params, numpy_params)
    except AssertionError:
        return False
    return True
