"""What params and grads may be: any mapping, or a list; arrays, or numbers."""

from collections import OrderedDict, UserDict, defaultdict
from types import MappingProxyType

import numpy as np
import pytest
from table import assert_same_bits, assert_same_run, go_on_from, keys_of, steps_past_python

pytestmark = pytest.mark.each_kind


def arrays(rng, dtype=np.float64):
    return {k: rng.standard_normal(s).astype(dtype) for k, s in {"W": (4, 3), "b": (3,)}.items()}


@pytest.mark.parametrize(
    "container",
    [dict, OrderedDict, UserDict, MappingProxyType, lambda d: defaultdict(list, d)],
    ids=["dict", "OrderedDict", "UserDict", "mappingproxy", "defaultdict"],
)
def test_any_mapping_is_updated_in_place(rule, rng, container):
    fast, numpy = rule.fast(), rule.numpy()
    ours, theirs = arrays(rng), {}
    theirs.update({k: v.copy() for k, v in ours.items()})
    held = dict(ours)
    for _ in range(3):
        grads = arrays(rng)
        assert fast.update(container(ours), container(grads)) is None
        numpy.update(theirs, grads)
    assert all(ours[k] is held[k] for k in held)
    assert_same_run(fast, numpy, ours, theirs)


def test_lists_have_their_state_in_lists(rule, rng):
    fast, numpy = rule.fast(), rule.numpy()
    ours = list(arrays(rng).values())
    theirs = [p.copy() for p in ours]
    for _ in range(3):
        grads = list(arrays(rng).values())
        fast.update(list(ours), grads)  # a fresh list each time, as book 2's Trainer passes it
        numpy.update(theirs, tuple(grads))
    assert_same_run(fast, numpy, ours, theirs)
    for slot in rule.slots:
        assert type(getattr(fast, slot)) is list
        assert [s.shape for s in getattr(fast, slot)] == [p.shape for p in ours]


def test_lists_and_dicts_give_the_same_numbers(rule, rng):
    by_name, by_place = rule.fast(), rule.fast()
    params = arrays(rng)
    listed = [p.copy() for p in params.values()]
    for _ in range(3):
        grads = arrays(rng)
        by_name.update(params, grads)
        by_place.update(listed, list(grads.values()))
    for a, b in zip(params.values(), listed, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("keys", [(1, 2), (("a", 0), ("a", 1)), (None, "x"), (1.5, b"y")])
def test_keys_may_be_any_hashable(rule, rng, keys):
    fast, numpy = rule.fast(), rule.numpy()
    ours = dict(zip(keys, arrays(rng).values(), strict=True))
    theirs = {k: v.copy() for k, v in ours.items()}
    for _ in range(2):
        grads = dict(zip(keys, arrays(rng).values(), strict=True))
        fast.update(ours, dict(reversed(grads.items())))
        numpy.update(theirs, grads)
    assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.parametrize(
    ("of_params", "of_grads"),
    [
        (OrderedDict, dict),
        (dict, UserDict),
        (UserDict, OrderedDict),
        (lambda d: {(0, k): v for k, v in d.items()},) * 2,
        (lambda d: list(d.values()), lambda d: tuple(d.values())),
    ],
    ids=["OrderedDict", "UserDict", "both", "tuple keys", "tuple of gradients"],
)
def test_other_containers_of_usual_arrays_are_fast_too(
    rule, rng, monkeypatch, of_params, of_grads
):
    fast, params = rule.fast(), of_params(arrays(rng))
    fast.update(params, of_grads(arrays(rng)))  # makes the state
    monkeypatch.setattr("zdlfast.optimizers.make_entry", None)  # which makes what NumPy takes
    fast.update(params, of_grads(arrays(rng)))


def test_gradients_in_another_order_and_extra_ones_change_nothing(rule, rng):
    fast, numpy = rule.fast(), rule.numpy()
    ours = arrays(rng)
    theirs = {k: v.copy() for k, v in ours.items()}
    for _ in range(2):
        grads = arrays(rng)
        fast.update(ours, {"b": grads["b"], "unused": None, "W": grads["W"]})
        numpy.update(theirs, grads)
    assert_same_run(fast, numpy, ours, theirs)


def test_empty_containers_are_no_error(rule):
    for optimizer in (rule.fast(), rule.numpy()):
        optimizer.update({}, {})
        assert all(getattr(optimizer, slot) == {} for slot in rule.slots)
    rule.fast().update([], [])


@pytest.mark.parametrize("number", [-7.0, np.float64(-7.0), np.float32(-7.0), -7, np.int64(-7)])
def test_numbers_are_replaced_in_the_container(rule, number):
    fast, numpy = rule.fast(), rule.numpy()
    ours, theirs = {"x": number, "W": np.ones(3)}, {"x": number, "W": np.ones(3)}
    for gradient in (0, 1, 2.5, np.float32(0.5), True):
        fast.update(ours, {"x": gradient, "W": np.ones(3)})
        numpy.update(theirs, {"x": gradient, "W": np.ones(3)})
        assert type(ours["x"]) is type(theirs["x"])
    assert float(ours["x"]) < -7
    assert not isinstance(ours["x"], np.ndarray)
    assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.parametrize("kind", [dict, list])
@pytest.mark.parametrize(
    "number", [float, np.float64, np.float32, np.float16, np.longdouble, np.array]
)
def test_numbers_with_state_are_not_looked_at_by_python(rule, rng, monkeypatch, kind, number):
    def network():
        drawn = arrays(rng) | {"x": number(rng.standard_normal()), "y": number(0.25)}
        return drawn if kind is dict else list(drawn.values())

    ours = network()
    if number is np.array:  # of which NumPy's operators make numbers
        number = np.float64
    for theirs in steps_past_python(rule, monkeypatch, ours, network):
        for key in keys_of(ours):
            assert type(ours[key]) is type(theirs[key])


@pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1 makes all numbers float64")
def test_a_float32_number_stays_float32(rule):
    if rule.name == "SklearnAdam":
        pytest.skip("it lifts its last line on purpose: tests/test_sklearn.py")
    for cls in (rule.fast, rule.numpy):
        params = {"x": np.float32(1.0)}
        cls().update(params, {"x": np.float32(0.5)})
        assert type(params["x"]) is np.float32


def test_numbers_in_a_list_are_replaced_too(rule):
    params, optimizer = [1.0, np.ones(2)], rule.fast()
    for _ in range(1 + rule.looks_first):
        optimizer.update(params, [1.0, np.ones(2)])
    assert params[0] < 1.0
    assert params[0] == params[1][0]


def test_a_list_of_numbers_becomes_an_array(rule):
    for cls in (rule.fast, rule.numpy):
        params = {"W": [1, 2]}
        cls().update(params, {"W": np.ones(2)})
        array = np.array([1.0, 2.0])
        cls().update({"W": array}, {"W": np.ones(2)})
        assert_same_bits(params["W"], array)


def test_a_key_that_appears_later_starts_with_fresh_state(rule, rng):
    for kind in (dict, lambda d: list(d.values())):
        fast, alone = rule.fast(), rule.fast()
        params, grads = {"a": np.ones(5)}, {"a": np.full(5, 0.5)}
        fast.update(kind(params), kind(grads))
        params["b"], grads["b"] = np.ones(5), np.full(5, 0.5)
        go_on_from(alone, fast)
        lone = {"b": params["b"].copy()}
        fast.update(kind(params), kind(grads))
        alone.update(lone, grads)
        assert_same_bits(params["b"], lone["b"])
        assert all(len(getattr(fast, slot)) == 2 for slot in rule.slots)


def test_a_key_that_disappears_keeps_its_state(rule):
    fast = rule.fast()
    fast.update({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)})
    fast.update({"a": np.ones(2)}, {"a": np.ones(2)})
    assert all(set(getattr(fast, slot)) == {"a", "b"} for slot in rule.slots)


def test_one_optimizer_serves_two_networks_and_rebound_arrays(rule, rng):
    """Nothing is remembered by identity: state goes by key."""
    fast, numpy = rule.fast(), rule.numpy()
    for _ in range(3):
        params, grads = arrays(rng), arrays(rng)  # other arrays under the same keys
        copies = {k: v.copy() for k, v in params.items()}
        fast.update(params, grads)
        numpy.update(copies, grads)
        assert_same_run(fast, numpy, params, copies)


def test_state_that_was_taken_away_in_part_is_fresh(rule, rng):
    for slot in rule.slots:
        fast, numpy = rule.fast(), rule.numpy()
        ours = {"W": rng.standard_normal(9), "b": rng.standard_normal(4)}
        theirs = {key: value.copy() for key, value in ours.items()}
        for _ in range(2):
            grads = {key: rng.standard_normal(value.shape) for key, value in ours.items()}
            for optimizer, params in ((fast, ours), (numpy, theirs)):
                optimizer.update(params, grads)
                getattr(optimizer, slot).pop("W", None)
        for key in theirs:
            assert_same_bits(ours[key], theirs[key], f"{slot}, {key}")
