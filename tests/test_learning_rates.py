"""Learning rates that change: schedules and functions in the place of a number."""

import numpy as np
import pytest
from table import assert_same_bits, assert_same_run, kept

import zdlfast
from zdlfast.schedules import Cosine, Step

pytestmark = pytest.mark.each_kind

COSINE = Cosine(0.1, steps=20, warmup=3)


def falling(done):
    return 0.1 / (1 + done)


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


@pytest.fixture(params=[COSINE, falling], ids=["schedule", "function"])
def schedule(request):
    return request.param


def without_lr(rule):
    return {name: value for name, value in rule.options.items() if name != "lr"}


def test_each_update_takes_the_rate_of_the_updates_done(make, rule, schedule, rng):
    optimizer = make(schedule, **without_lr(rule))
    by_hand = make(**rule.options)
    params = {"W": rng.standard_normal((30, 20)), "b": rng.standard_normal(20)}
    expected = {key: value.copy() for key, value in params.items()}
    for done in range(8):
        grads = {key: rng.standard_normal(value.shape) for key, value in params.items()}
        by_hand.lr = schedule(done)
        optimizer.update(params, grads)
        by_hand.update(expected, grads)
        assert optimizer.last.lr == schedule(done)
        assert optimizer.updates == done + 1
    assert optimizer.lr == schedule
    for key in params:
        assert_same_bits(params[key], expected[key], key)


def test_the_bits_are_those_of_numpy_with_decay_that_follows_the_rate(rule, schedule, rng):
    options = without_lr(rule) | {"weight_decay": 0.1, "decoupled": True, "clip_norm": 1.0}
    fast, numpy = rule.fast(schedule, **options), rule.numpy(schedule, **options)
    ours, theirs = {"W": np.ones(5000), "x": 1.0}, {"W": np.ones(5000), "x": 1.0}
    for _ in range(6):
        grads = {"W": rng.standard_normal(5000), "x": 0.5}
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert fast.last == numpy.last
        assert_same_run(fast, numpy, ours, theirs)


def test_a_schedule_may_be_set_in_the_middle_and_the_count_too(make):
    optimizer, params = make(), {"x": np.ones(3)}
    for _ in range(4):
        optimizer.update(params, {"x": np.ones(3)})
    optimizer.lr = Step(1.0, step_size=5, gamma=0.5)
    optimizer.update(params, {"x": np.ones(3)})
    assert optimizer.last.lr == 1.0
    optimizer.update(params, {"x": np.ones(3)})
    assert optimizer.last.lr == 0.5
    optimizer.updates = 10
    optimizer.update(params, {"x": np.ones(3)})
    assert optimizer.last.lr == 0.25


@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf, "fast", None, 1j])
def test_a_rate_that_is_none_is_told_with_the_count_and_nothing_changes(make, wrong):
    params = {"x": np.ones(3)}
    optimizer = make(lambda done: 0.1 if done < 2 else wrong)
    for _ in range(2):
        optimizer.update(params, {"x": np.ones(3)})
    before = params["x"].copy()
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=r"lr\(2\) must be"):
            optimizer.update(params, {"x": np.ones(3)})
    assert_same_bits(params["x"], before)
    assert optimizer.updates == 2


def test_a_class_in_its_place_is_told(make):
    with pytest.raises(TypeError, match="lr must be a number"):
        make(Cosine)


def test_a_schedule_is_shown_and_kept_by_copies_pickles_state_and_files(rule, tmp_path, rng):
    gradients = [{"x": rng.standard_normal(3)} for _ in range(4)]
    for make in (rule.fast, rule.numpy):
        optimizer, params = make(COSINE), {"x": np.ones(3)}
        optimizer.update(params, gradients[0])
        assert repr(COSINE) in repr(optimizer)
        again = kept(optimizer, tmp_path)
        start = params["x"].copy()
        for grads in gradients[1:]:
            optimizer.update(params, grads)
        for other in again:
            assert other.lr == COSINE
            found = {"x": start.copy()}
            for grads in gradients[1:]:
                other.update(found, grads)
            assert other.updates == 4
            assert_same_bits(found["x"], params["x"])


def test_of_a_function_it_is_said_what_to_pass(rule, tmp_path):
    optimizer = rule.fast(falling)
    optimizer.update({"x": np.ones(3)}, {"x": np.ones(3)})
    state = optimizer.state_dict()
    text = "lr was a function, 'falling', which cannot be saved: set lr to it before load_state"
    with pytest.raises(ValueError, match=text):
        rule.fast().load_state_dict(state)
    other = rule.fast(lambda done: 0.5)
    other.load_state_dict(state)
    assert other.updates == 1
    assert other.lr(0) == 0.5
    zdlfast.save(tmp_path / "a.npz", optimizer)
    with pytest.raises(ValueError, match="give it to load as lr="):
        zdlfast.load(tmp_path / "a.npz")
    assert zdlfast.load(tmp_path / "a.npz", lr=falling)[0].lr is falling
