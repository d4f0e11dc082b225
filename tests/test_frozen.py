"""A gradient that is None: its parameter and its state are left alone, others are not."""

import copy
from collections import UserDict

import numpy as np
import pytest
from table import assert_same_bits, assert_same_run, go_on_from

pytestmark = pytest.mark.each_kind

# Entries of every kind: for kernels, strided, for NumPy, numbers.
NAMES = ["W", "turned", "half", "x", "empty", "0-d", "b"]


def values(rng):
    return {
        "W": rng.standard_normal((7, 5)),
        "turned": rng.standard_normal((4, 6)).T,
        "half": rng.standard_normal(9).astype(np.float16),
        "x": float(rng.standard_normal()),
        "empty": np.ones((0, 3)),
        "0-d": np.array(rng.standard_normal()),
        "b": rng.standard_normal(5).astype(np.float32),
    }


def as_list(values):
    return list(values.values())


def without(grads, frozen):
    return {name: None if name in frozen else grad for name, grad in grads.items()}


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


@pytest.mark.parametrize("container", [dict, UserDict, as_list])
@pytest.mark.parametrize(
    "frozen", [["W"], ["turned"], ["half", "x"], ["W", "0-d", "b"], ["x", "empty"], NAMES]
)
def test_the_twins_agree(rule, rng, container, frozen):
    """Frozen at the first update, then for a while not, then again."""
    fast, numpy = rule.fast(**rule.options), rule.numpy(**rule.options)
    start = values(rng)
    ours, theirs = container(copy.deepcopy(start)), container(copy.deepcopy(start))
    for step in range(6):
        grads = container(without(values(rng), frozen if step in (0, 1, 4) else []))
        assert fast.update(ours, grads) is None
        assert numpy.update(theirs, grads) is None
        assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("container", [dict, as_list])
@pytest.mark.parametrize("trained", [False, True], ids=["first update", "later update"])
def test_a_frozen_parameter_and_its_state_stay_and_the_others_do_as_without_it(
    make, rule, rng, name, container, trained
):
    optimizer, alone = make(**rule.options), make(**rule.options)
    params = values(rng)
    others = {k: copy.deepcopy(v) for k, v in params.items() if k != name}
    place = name if container is dict else NAMES.index(name)
    params, others = container(params), container(others)
    if trained:
        grads = values(rng)
        optimizer.update(params, container(grads))
        alone.update(others, container({k: v for k, v in grads.items() if k != name}))
    before = copy.deepcopy(params[place])
    state = [getattr(optimizer, slot)[place] if trained else None for slot in rule.slots]
    held = copy.deepcopy(state)
    for _ in range(2):
        grads = values(rng)
        optimizer.update(params, container(without(grads, [name])))
        alone.update(others, container({k: v for k, v in grads.items() if k != name}))
    assert type(params[place]) is type(before)
    assert_same_bits(params[place], before)
    for slot, array, copied in zip(rule.slots, state, held, strict=True):
        found = getattr(optimizer, slot)
        if trained:
            assert found[place] is array
            assert_same_bits(array, copied)
        elif container is dict:
            assert name not in found
        else:  # keeps the place of those behind it
            assert not np.any(found[place])
            assert np.shape(found[place]) == np.shape(before)
        rest = [found[k] for k in (found if container is dict else range(7)) if k != place]
        expected = as_list(getattr(alone, slot)) if container is dict else getattr(alone, slot)
        for ours, theirs in zip(rest, expected, strict=True):
            assert_same_bits(ours, theirs)
    rest = [params[k] for k in (params if container is dict else range(7)) if k != place]
    for ours, theirs in zip(rest, others.values() if container is dict else others, strict=True):
        assert_same_bits(ours, theirs)


def test_a_parameter_that_thaws_starts_with_state_of_zeros(make, rule, rng):
    for container in (lambda *v: dict(zip("ab", v, strict=True)), lambda *v: list(v)):
        optimizer, fresh = make(), make()
        first, second = rng.standard_normal(5), rng.standard_normal(5)
        params, alone = container(first, second.copy()), container(second.copy(), second.copy())
        key = "b" if isinstance(params, dict) else 1
        optimizer.update(params, container(np.ones(5), None))
        go_on_from(fresh, optimizer)
        optimizer.update(params, container(np.ones(5), np.ones(5)))
        fresh.update(alone, container(np.ones(5), np.ones(5)))
        assert_same_bits(params[key], alone[key])
        for slot in rule.slots:
            assert_same_bits(getattr(optimizer, slot)[key], getattr(fresh, slot)[key])


def test_an_update_in_which_all_is_frozen_is_a_step(make):
    for params in ({"W": np.ones(3), "x": 1.0}, [np.ones(3), 1.0]):
        optimizer = make()
        grads = dict.fromkeys(params) if isinstance(params, dict) else [None, None]
        for _ in range(2):
            assert optimizer.update(params, grads) is None
        assert getattr(optimizer, "iter", 2) == 2
        assert_same_bits(params["W" if isinstance(params, dict) else 0], np.ones(3))


def test_one_of_two_tied_parameters_is_frozen(rule, rng):
    start, gradients = rng.standard_normal((6, 4)), [rng.standard_normal((6, 4)) for _ in range(3)]

    def run(optimizer):
        tied = start.copy()
        params = {"in": tied, "out": tied, "view": tied[::2], "b": np.ones(3)}
        for grad in gradients:
            optimizer.update(params, {"in": None, "out": grad, "view": None, "b": np.ones(3)})
            optimizer.update(params, {"in": grad, "out": None, "view": grad[1::2], "b": None})
        return params

    fast, numpy = rule.fast(), rule.numpy()
    assert_same_run(fast, numpy, run(fast), run(numpy))


@pytest.mark.parametrize("dtype", [np.float64, np.float16], ids=["kernel", "NumPy"])
def test_nonfinite_looks_at_what_there_is(make, dtype):
    bad = np.array([np.inf, 1.0], dtype)
    params = {"a": np.ones(2, dtype), "b": np.ones(2, dtype)}
    optimizer = make(nonfinite="raise")
    optimizer.update(params, {"a": None, "b": np.ones(2, dtype)})
    with pytest.raises(FloatingPointError, match=r"grads\['b'\] holds NaN or infinity"):
        optimizer.update(params, {"a": None, "b": bad})
    skipping = make(nonfinite="skip")
    assert skipping.update(params, {"a": None, "b": bad}) is False
    assert skipping.update(params, {"a": None, "b": None}) is None


def test_an_error_beside_a_frozen_entry_changes_nothing(make, rule):
    for container in (dict, as_list):
        params = container({"a": np.ones(3), "b": np.ones(3), "c": np.ones(3)})
        optimizer = make()
        grads = {"a": np.ones(3), "b": None, "c": np.ones(4)}
        with pytest.raises(ValueError, match="has shape"):
            optimizer.update(params, container(grads))
        assert all(getattr(optimizer, slot) is None for slot in rule.slots)
        assert getattr(optimizer, "iter", 0) == 0
        for value in params.values() if container is dict else params:
            assert_same_bits(value, np.ones(3))


def test_a_frozen_parameter_may_be_read_only_or_no_array_at_all(make):
    frozen = np.ones(3)
    frozen.flags.writeable = False
    params = {"a": np.ones(3), "frozen": frozen, "name": "text", "whole": np.ones(3, int)}
    optimizer = make()
    for _ in range(2):
        optimizer.update(params, {"a": np.ones(3), "frozen": None, "name": None, "whole": None})
    assert params["a"][0] < 1


@pytest.mark.parametrize(
    "value", ["text", "f4", [1, [2]], {"a": 1}, None, object(), np.ones(3, int)]
)
def test_in_a_list_a_frozen_parameter_may_be_anything_too(make, rule, value):
    optimizer, params = make(), [value, np.ones(3)]
    for _ in range(2):
        optimizer.update(params, [None, np.ones(3)])
    assert params[0] is value
    assert params[1][0] < 1
    again = make()
    again.load_state_dict(optimizer.state_dict())
    for slot in rule.slots:
        assert len(getattr(again, slot)) == 2


def test_state_that_a_list_lacks_is_made_for_a_frozen_parameter(make, rule):
    optimizer, params = make(), [np.ones(3), np.ones(3)]
    for slot in rule.slots:
        setattr(optimizer, slot, [None, np.zeros(3)])
    optimizer.update(params, [None, np.ones(3)])
    for slot in rule.slots:
        assert_same_bits(getattr(optimizer, slot)[0], np.zeros(3))


def test_a_gradient_that_is_not_there_is_an_error_still(make):
    with pytest.raises(KeyError, match=r"params\['b'\] has no gradient"):
        make().update({"a": np.ones(3), "b": np.ones(3)}, {"a": None})
    with pytest.raises(IndexError, match=r"params\[1\] has no gradient"):
        make().update([np.ones(3), np.ones(3)], [None])
