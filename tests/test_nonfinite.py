"""NaN and infinity in gradients: propagated as by NumPy, refused, or skipped over."""

import copy
import inspect
import pickle

import numpy as np
import pytest
from table import assert_same_run

pytestmark = pytest.mark.each_kind

BAD = [np.nan, np.inf, -np.inf]


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


def draw(rng, dtype):
    shapes = {"W": (4, 5), "b": (5,), "late": (70,)}
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("steps", [0, 2])
def test_skip_leaves_everything_and_says_so(make, rule, dtype, rng, bad, steps):
    optimizer, params = make(**rule.options, nonfinite="skip"), draw(rng, dtype)
    for _ in range(steps):
        assert optimizer.update(params, draw(rng, dtype)) is None
    before = copy.deepcopy((optimizer, params))
    grads = draw(rng, dtype)
    grads["late"][69] = bad
    assert optimizer.update(params, grads) is False
    assert_same_run(optimizer, before[0], params, before[1])
    assert repr(optimizer) == repr(before[0])
    assert optimizer.update(params, draw(rng, dtype)) is None
    assert getattr(optimizer, "iter", steps + 1) == steps + 1


@pytest.mark.parametrize("bad", BAD)
def test_raise_names_the_first_key_and_changes_nothing(make, rule, dtype, rng, bad):
    optimizer, params = make(**rule.options, nonfinite="raise"), draw(rng, dtype)
    optimizer.update(params, draw(rng, dtype))
    before = copy.deepcopy((optimizer, params))
    grads = draw(rng, dtype)
    grads["late"][0] = grads["b"][4] = bad
    with pytest.raises(FloatingPointError, match=r"grads\['b'\] holds NaN or infinity"):
        optimizer.update(params, grads)
    assert_same_run(optimizer, before[0], params, before[1])


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_finite_gradients_give_the_same_bits_as_without_the_option(rule, dtype, rng, nonfinite):
    watched, plain = rule.fast(**rule.options, nonfinite=nonfinite), rule.fast(**rule.options)
    params = draw(rng, dtype)
    copies = copy.deepcopy(params)
    for _ in range(5):
        grads = draw(rng, dtype)
        watched.update(params, grads)
        plain.update(copies, grads)
        assert_same_run(watched, plain, params, copies)


def test_by_default_they_go_where_numpy_lets_them_go(rule, dtype, rng):
    fast, numpy = rule.fast(), rule.numpy()
    params = draw(rng, dtype)
    copies = copy.deepcopy(params)
    with np.errstate(all="ignore"):
        for bad in BAD:
            grads = draw(rng, dtype)
            grads["b"][:2] = bad
            assert fast.update(params, grads) is None
            numpy.update(copies, grads)
            assert_same_run(fast, numpy, params, copies)
    assert np.all(np.isnan(params["b"][:2]) | np.isinf(params["b"][:2]))


def test_every_kind_of_gradient_is_searched(make, rng):
    cases = [
        (1.0, float("nan")),
        (1.0, np.float32("inf")),
        (np.ones(3, np.float16), np.array([1, np.nan, 1], np.float16)),
        (np.ones(3), np.float64("nan")),
        (np.ones((3, 2)), np.array([1.0, np.inf])),
        (np.ones((2, 2)), np.array([[1.0, 9.0, np.nan, 9.0]] * 2)[:, ::2]),
    ]
    for param, grad in cases:
        optimizer = make(nonfinite="skip")
        params = [param]
        assert optimizer.update(params, [grad]) is False
        assert params[0] is param
    optimizer = make(nonfinite="skip")
    grads = {"x": np.array([1, 2, 3])}
    assert optimizer.update({"x": np.ones(3)}, grads) is None  # whole numbers are finite
    # What is not used is not searched.
    extra = {"x": np.ones(3), "unused": np.array([np.nan])}
    assert optimizer.update({"x": np.ones(3)}, extra) is None


def test_other_errors_come_first(make):
    optimizer = make(nonfinite="skip")
    with pytest.raises(KeyError, match="b"):
        optimizer.update({"a": np.ones(2), "b": np.ones(2)}, {"a": np.array([np.nan, 1])})


def test_the_option_is_checked_kept_and_shown(make):
    for wrong in ("ignore", None, True, 1.0):
        with pytest.raises(ValueError, match="nonfinite must be one of"):
            make(nonfinite=wrong)
    optimizer = make(nonfinite="skip")
    with pytest.raises(ValueError, match="got 'never'"):
        optimizer.nonfinite = "never"
    assert optimizer.nonfinite == "skip"
    assert "nonfinite='skip'" in repr(optimizer)
    assert "nonfinite" not in repr(make())
    other = make()
    other.load_state_dict(optimizer.state_dict())
    for again in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer), other):
        assert again.nonfinite == "skip"
        assert again.update({"x": np.ones(2)}, {"x": np.array([np.nan, 0])}) is False
    optimizer.nonfinite = "propagate"
    params = {"x": np.ones(2)}
    assert optimizer.update(params, {"x": np.array([np.nan, 0])}) is None
    assert np.isnan(params["x"][0])


def test_it_is_keyword_only(make):
    parameters = inspect.signature(make.__init__).parameters
    assert parameters["options"].kind is inspect.Parameter.VAR_KEYWORD
    assert make().nonfinite == "propagate"
