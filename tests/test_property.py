"""Properties: whatever is drawn, both twins agree, in every bit and in every error.

The same 1,000 examples in every run; a million new ones, which take some hours:

    python -m pytest tests/test_property.py --examples 1000000
"""

import copy
import pickle
import warnings
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from conftest import EXAMPLES
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from table import RULES, assert_same_run

import zdlfast
from zdlfast import _engine

USUAL, OTHERS = ["f4", "f8"], [">f4", ">f8", "f2", "g", "i4", "u1", "?", "F", "O"]
DTYPES = st.sampled_from([*USUAL * 15, *OTHERS])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -1e-310, 1e-45, 1e-39, 1e-30, 1e30, 3.4e38,
           1e300, -1.7e308]  # fmt: skip
KEYS = ["W1", "b1", 7, ("a", 2), "", None, 2.5, "W2"]
MAPPINGS = [dict, dict, dict, OrderedDict, UserDict, lambda d: MappingProxyType(dict(d))]
TURNED = [lambda d: dict(reversed(d.items())), lambda d: {**d, "unused": None}]
BUFFER = 4096  # bytes of the memory that arrays may share


# ------------------------------------------------------------------ arrays


@dataclass(frozen=True)
class Spec:
    """An array to be: what it is, where it lies and what is in it."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int  # of its first byte in memory
    shared: bool  # in the buffer that other arrays lie in too
    seed: int | None  # None for what lies there

    def make(self, buffer):
        dtype = np.dtype(self.dtype)
        reach = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        start = self.offset - sum(r for r in reach if r < 0)
        length = start + sum(r for r in reach if r > 0) + dtype.itemsize
        if dtype.hasobject:
            array = np.empty(self.shape, object)
            array[...] = 0.5
        elif 0 in self.shape or (self.shared and length > len(buffer)):
            array = np.zeros(self.shape, dtype)
        else:
            memory = buffer if self.shared else np.zeros(length, np.uint8)
            array = np.ndarray(self.shape, dtype, memory, start, self.strides)
        if self.seed is not None:
            rng = np.random.default_rng(self.seed)
            values = rng.standard_normal(self.shape) * 3
            if rng.random() < 0.5:
                values = np.where(
                    rng.random(self.shape) < 0.2, rng.choice(SPECIAL, self.shape), values
                )
            array[...] = values.astype(dtype)
        return array


@st.composite
def specs(draw, shape, dtypes=DTYPES, large=False):
    dtype = draw(dtypes)
    itemsize = np.dtype(dtype).itemsize
    if large:
        return Spec(dtype, shape, (itemsize,), draw(st.integers(0, 63)), False, draw(SEEDS))
    # In any order of the axes, with gaps, backwards; now and then onto itself.
    strides, run = [0] * len(shape), itemsize
    for axis in draw(st.permutations(range(len(shape)))):
        step = draw(st.sampled_from([1, 1, 1, 1, 2, -1, -3, 0] if len(shape) else [1]))
        strides[axis] = run * step
        run *= max(abs(step) * shape[axis], 1)
    offset = draw(st.one_of(st.sampled_from([0, 16, itemsize]), st.integers(0, 200)))
    # The padding of a long double holds anything, which no other array is to see.
    shared = dtype != "g" and draw(st.sampled_from([False, False, False, True]))
    kept = shared and draw(st.booleans())
    return Spec(dtype, shape, tuple(strides), offset, shared, None if kept else draw(SEEDS))


SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.one_of(
    st.floats(), st.integers(-(2**70), 2**70), st.booleans(), st.sampled_from([1e-310, -0.0]),
    st.builds(np.float32, st.floats(width=32)), st.builds(np.float64, st.floats()),
)  # fmt: skip


@st.composite
def gradients(draw, shape, keys, large):
    """An array of its own, a parameter, a number, or something that does not fit."""
    if large:
        return draw(specs(shape, st.sampled_from(USUAL), large=True))
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(NUMBERS)
    if kind == 1 and keys:
        return ("parameter", draw(st.sampled_from(keys)))
    if kind == 2:
        return draw(specs(draw(st.sampled_from([shape[1:], (*shape, 2), (3,), ()]))))
    if kind == 3:
        return draw(st.sampled_from([None, "text", [1.0], ("missing",)]))
    return draw(specs(shape))


# ------------------------------------------------------------------ trainings


@dataclass(frozen=True)
class Training:
    """Parameters and what is done with them, to be made twice."""

    params: dict[Any, Any]
    steps: list[dict[str, Any]]
    listed: bool

    def world(self):
        """Parameters, and the gradients of each step, in memory of their own."""
        buffer = np.random.default_rng(0).standard_normal(BUFFER // 8).view(np.uint8)
        made = {k: s.make(buffer) if isinstance(s, Spec) else s for k, s in self.params.items()}
        grads = []
        for step in self.steps:
            own = {}
            for key, given_ in step["grads"].items():
                if isinstance(given_, Spec):
                    own[key] = given_.make(buffer)
                elif not (isinstance(given_, tuple) and given_[0] == "missing"):
                    own[key] = made[given_[1]] if isinstance(given_, tuple) else given_
            grads.append(own)
        return made, grads, buffer


@st.composite
def trainings(draw):
    large = draw(st.integers(0, 39)) == 0
    keys = draw(st.lists(st.sampled_from(KEYS), max_size=4, unique=True))
    params, shapes = {}, {}
    for i, key in enumerate(keys):
        shapes[key] = draw(SHAPES)
        if large and i == 0:
            shapes[key] = (draw(st.integers(40_000, 140_000)),)
            params[key] = draw(specs(shapes[key], st.sampled_from(USUAL), large=True))
        elif draw(st.integers(0, 9)) == 0:
            params[key], shapes[key] = draw(NUMBERS), ()
        else:
            params[key] = draw(specs(shapes[key]))
    steps = []
    for _ in range(draw(st.integers(1, 4))):
        used = [key for key in keys if draw(st.integers(0, 9))]
        steps.append({
            "used": used,
            "grads": {
                key: draw(gradients(shapes[key], keys, large and key == keys[0])) for key in used
            },
            "lr": draw(st.one_of(st.none(), RATES)),
            "way": draw(st.sampled_from([None, None, None, "pickle", "deepcopy", "state_dict"])),
            "params": draw(st.sampled_from(MAPPINGS)),
            "mapping": draw(st.sampled_from([*MAPPINGS, *TURNED])),
            "threads": draw(st.integers(1, 3)),
        })  # fmt: skip
    return Training(params, steps, draw(st.booleans()))


# NumPy 1 makes float64 of a float32 array times a number that is too large for float32.
HUGE = 1e300 if np.__version__ >= "2" else 1e30
RATES = st.one_of(st.sampled_from([0.01, 0.0, 1e-320, HUGE]), st.floats(0, 1e6))


@st.composite
def options(draw, row):
    drawn = {"nonfinite": draw(st.sampled_from(["propagate"] * 6 + ["raise", "skip"]))}
    for name in row.options:
        if name in row.fractions:
            drawn[name] = draw(st.floats(0, 1, exclude_max=True))
        else:
            drawn[name] = draw(RATES)
    return {} if draw(st.integers(0, 3)) == 0 else drawn


def run(optimizer, training):
    """Train; return what every step came to, with what it left behind."""
    params, gradients_, buffer = training.world()
    told = []
    for step, grads in zip(training.steps, gradients_, strict=True):
        if step["lr"] is not None:
            optimizer.lr = step["lr"]
        if np.__version__ < "2":
            # As with HUGE: AdaBound's bounds are products of options.
            assume(max(map(abs, optimizer._scalars())) < 3e38)
        if step["way"] == "pickle":
            optimizer = pickle.loads(pickle.dumps(optimizer))
        elif step["way"] == "deepcopy":
            optimizer = copy.deepcopy(optimizer)
        elif step["way"] == "state_dict":
            state, optimizer = optimizer.state_dict(), type(optimizer)()
            optimizer.load_state_dict(state)
        used = {key: params[key] for key in step["used"]}
        if training.listed:
            container = list(used.values())
            grads = [grads[key] for key in step["used"] if key in grads]
        else:
            container, grads = step["params"](used), step["mapping"](grads)
        before = snapshot(optimizer, container, buffer)
        try:
            with zdlfast.threads(step["threads"]):
                told.append(optimizer.update(container, grads))
        except Exception as error:
            told.append((type(error), str(error)))
            assert snapshot(optimizer, container, buffer) == before
        for place, key in enumerate(used):
            params[key] = container[place if training.listed else key]
    return optimizer, params, told


def snapshot(optimizer, container, buffer):
    """All bytes that an update may change."""
    values = container if isinstance(container, list) else list(container.values())
    held = [getattr(optimizer, slot) for slot in optimizer._slots]
    states = [s if isinstance(s, list | None) else list(s.items()) for s in held]
    return pickle.dumps((values, states, getattr(optimizer, "iter", None), buffer.tobytes()))


@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_twins_agree_on_anything(thousand, data):
    row = data.draw(st.sampled_from(RULES))
    training, chosen = data.draw(trainings()), data.draw(options(row))
    before = _engine.in_use()
    _engine.use(data.draw(st.sampled_from(_engine.available())))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            fast, ours, told = run(row.fast(**chosen), training)
            numpy, theirs, expected = run(row.numpy(**chosen), training)
    finally:
        _engine.use(before)
    for came in expected:
        event("skipped" if came is False else "done" if came is None else came[0].__name__)
    assert told == expected
    assert_same_run(fast, numpy, ours, theirs)
