"""What only some rules have: a variant, two modes, numbers as state, a first step of its own."""

import copy
import pickle

import numpy as np
import pytest
from table import OPTIONS, assert_same_bits, assert_same_run

import zdlfast
from zdlfast import _rules, reference, schedules


@pytest.fixture(params=[reference, zdlfast], ids=["numpy", "fast"])
def module(request):
    return request.param


def draw(rng, dtype=np.float64):
    """Entries of every kind: for kernels, strided, for NumPy, a number."""
    return {
        "W": rng.standard_normal((7, 5)).astype(dtype),
        "turned": rng.standard_normal((4, 6)).astype(dtype).T,
        "half": rng.standard_normal(9).astype(np.float16),
        "x": float(rng.standard_normal()),
        "0-d": np.array(rng.standard_normal()),
    }


# ------------------------------------------------------------------ AdamW with and without amsgrad


def test_amsgrad_gives_adamw_the_maximum_and_the_bits_of_its_twin(dtype, simd, rng):
    fast, numpy = (m.AdamW(lr=0.1, beta2=0.5, amsgrad=True) for m in (zdlfast, reference))
    ours = draw(rng, dtype)
    theirs = copy.deepcopy(ours)
    for _ in range(9):
        grads = draw(rng, dtype)
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)
    assert np.any(fast.v_max["W"] > fast.v["W"])


def test_without_amsgrad_there_is_no_maximum(module):
    optimizer = module.AdamW()
    optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    assert list(optimizer.state_dict()["state"]) == ["m", "v"]
    with pytest.raises(AttributeError, match="AdamW has no attribute 'v_max'"):
        _ = optimizer.v_max


def test_amsgrad_may_be_assigned_before_the_first_update_only(module, rng):
    assigned, given = module.AdamW(), module.AdamW(amsgrad=True)
    assigned.amsgrad = True
    params = {"W": np.ones(3)}
    expected = {"W": np.ones(3)}
    for _ in range(3):
        grads = {"W": rng.standard_normal(3)}
        assigned.update(params, grads)
        given.update(expected, grads)
    assert_same_run(assigned, given, params, expected)
    with pytest.raises(ValueError, match="amsgrad cannot become False: there is state"):
        assigned.amsgrad = False
    assigned.amsgrad = True
    assert assigned.amsgrad


def test_amsgrad_is_a_flag(module):
    with pytest.raises(TypeError, match="amsgrad must be True or False, got 1"):
        module.AdamW(amsgrad=1)
    assert "amsgrad=True" in repr(module.AdamW(amsgrad=True))
    assert "amsgrad" not in repr(module.AdamW())


def copies(optimizer, tmp_path):
    """The same optimizer as by every way of keeping one."""
    loaded = type(optimizer)()
    loaded.load_state_dict(optimizer.state_dict())
    zdlfast.save(tmp_path / "o.npz", optimizer)
    yield loaded
    yield copy.deepcopy(optimizer)
    yield pickle.loads(pickle.dumps(optimizer))
    yield zdlfast.load(tmp_path / "o.npz")[0]


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("AdamW", {"amsgrad": True}),
        ("NAdam", {"momentum_decay": 0.5}),
        ("AdaBound", {"gamma": 0.5}),
        ("AMSBound", {"gamma": 0.5}),
        ("ScheduleFreeAdamW", {"warmup_steps": 5}),
    ],
)
def test_all_that_is_state_is_kept(rule, options, tmp_path, rng):
    optimizer = getattr(zdlfast, rule)(**options)
    params = {"W": rng.standard_normal(5)}
    for _ in range(3):
        optimizer.update(params, {"W": rng.standard_normal(5)})
    optimizer.lr /= 2
    grads = [{"W": rng.standard_normal(5)} for _ in range(3)]
    twins = [(twin, copy.deepcopy(params)) for twin in copies(optimizer, tmp_path)]
    for grad in grads:
        optimizer.update(params, grad)
        for twin, theirs in twins:
            twin.update(theirs, grad)
            assert_same_run(twin, optimizer, theirs, params)


def test_the_state_of_one_variant_is_not_that_of_the_other(module):
    with_maximum, without = module.AdamW(amsgrad=True), module.AdamW()
    for optimizer in (with_maximum, without):
        optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    before = copy.deepcopy(without.state_dict())
    for one, other in ((with_maximum, without), (without, with_maximum)):
        with pytest.raises(ValueError, match="amsgrad cannot become"):
            other.load_state_dict(one.state_dict())
    assert str(without.state_dict()) == str(before)
    # One that has no state yet takes either.
    fresh = module.AdamW(amsgrad=True)
    fresh.load_state_dict(without.state_dict())
    fresh.update({"W": np.ones(3)}, {"W": np.ones(3)})
    assert list(fresh.state_dict()["state"]) == ["m", "v"]


def test_adamw_and_lion_decay_decoupled_if_nothing_else_is_said(module):
    assert (module.AdamW().weight_decay, module.AdamW().decoupled) == (0.01, True)
    assert (module.Lion().weight_decay, module.Lion().decoupled) == (0.0, True)
    params = {"W": np.ones(3)}
    module.Lion(lr=0.1, weight_decay=0.5).update(params, {"W": np.zeros(3)})
    assert_same_bits(params["W"], np.full(3, 1.0 - 0.1 * 0.5))


# ------------------------------------------------------------------ numbers as state


@pytest.mark.parametrize("rule", ["NAdam", "AdaBound", "ScheduleFreeAdamW"])
def test_an_update_that_does_not_happen_leaves_the_numbers(module, rule):
    optimizer = getattr(module, rule)(nonfinite="skip")
    params = {"W": np.ones(3), "half": np.ones(3, np.float16)}
    optimizer.update(params, params)
    before = {name: getattr(optimizer, name) for name in optimizer._numbers}
    assert optimizer.update(params, {"W": np.full(3, np.nan), "half": np.ones(3)}) is False
    with pytest.raises(ValueError, match="has shape"):
        optimizer.update(params, {"W": np.ones(4), "half": np.ones(3)})
    assert {name: getattr(optimizer, name) for name in before} == before
    optimizer.update(params, params)
    if rule != "AdaBound":
        assert all(getattr(optimizer, name) != before[name] for name in list(before)[:1])


def test_what_numbers_depend_on_is_the_same_for_all_parameters(module):
    for rule, option in (("NAdam", "beta1"), ("AdaBound", "lr"), ("ScheduleFreeAdamW", "lr")):
        with pytest.raises(ValueError, match=f"{option}.* cannot differ from one parameter"):
            getattr(module, rule)(overrides={"W": {option: 0.5}})
    module.NAdam(overrides={"W": {"lr": 0.5}})


# ------------------------------------------------------------------ AdaBound


def step_of_one(optimizer):
    """By how much it moves a parameter in a first step with a gradient of 1."""
    params = {"W": np.zeros(1)}
    optimizer.update(params, {"W": np.ones(1)})
    return -params["W"][0]


def test_the_bounds_follow_a_learning_rate_that_changes(module):
    steps = []
    for lr in (0.001, 0.0001):
        optimizer = module.AdaBound(lr=0.001, final_lr=0.1, gamma=0.9)
        optimizer.lr = lr
        steps.append(step_of_one(optimizer))
    assert steps[1] == pytest.approx(steps[0] / 10, rel=1e-12)


def test_the_bounds_of_a_schedule_belong_to_its_highest_rate(module):
    plain = module.AdaBound(lr=0.001, gamma=0.9)
    warm = module.AdaBound(lr=schedules.Constant(0.001, warmup=4), gamma=0.9)
    assert warm.base_lr == plain.base_lr == 0.001
    params = {"W": np.zeros(1)}
    warm.update(params, {"W": np.ones(1)})
    assert params["W"][0] == 0.0  # its first rate is 0.0
    # Of a function nothing is known before it is called.
    own = module.AdaBound(lr=lambda done: 0.001 * min(1.0, done / 4), gamma=0.9)
    assert own.base_lr == 0.0
    for _ in range(3):
        own.update(params, {"W": np.ones(1)})
    assert own.base_lr == 0.001 / 4


def test_without_gamma_there_are_no_bounds(module):
    bound, adam = module.AdaBound(gamma=0.0, eps=1e-3), module.Adam(eps=1e-3)
    assert step_of_one(bound) == pytest.approx(step_of_one(adam), rel=1e-12)


# ------------------------------------------------------------------ first steps


def test_adopt_only_looks_at_the_first_gradient(module, dtype, rng):
    for decoupled in (False, True):
        optimizer = module.ADOPT(lr=0.1, weight_decay=0.5, decoupled=decoupled)
        params = {"W": rng.standard_normal(5).astype(dtype)}
        before, grad = params["W"].copy(), rng.standard_normal(5).astype(dtype)
        optimizer.update(params, {"W": grad})
        assert_same_bits(params["W"], before)
        assert_same_bits(optimizer.m["W"], np.zeros(5, dtype))
        seen = grad if decoupled else grad + dtype.type(0.5) * before
        assert_same_bits(optimizer.v["W"], seen * seen)
        optimizer.update(params, {"W": grad})
        assert np.all(params["W"] != before)


def test_a_parameter_that_adopt_meets_later_takes_bounded_steps(module):
    optimizer = module.ADOPT(lr=0.1)
    params = {"a": np.ones(3)}
    for _ in range(16):
        optimizer.update(params, {"a": np.ones(3)})
    params["b"] = np.zeros(3)
    optimizer.update(params, {"a": np.ones(3), "b": np.array([1.0, -1e-3, 0.0])})
    # Its gradient over eps, clipped to 16**(1/4).
    np.testing.assert_allclose(params["b"], [-0.1 * 0.1 * 2, 0.1 * 0.1 * 2, 0.0], rtol=1e-12)


def test_radam_rectifies_from_the_sixth_step_on(module):
    optimizer = module.RAdam(lr=0.1)
    params, moved = {"W": np.zeros(1)}, []
    for _ in range(7):
        before = params["W"].copy()
        optimizer.update(params, {"W": np.full(1, 100.0)})
        moved.append(float(before[0] - params["W"][0]))
    # As long as the gradient at first, then below the learning rate.
    np.testing.assert_allclose(moved[:5], 10.0)
    assert all(step < 0.1 for step in moved[5:])


# ------------------------------------------------------------------ to train and to evaluate


def as_list(values):
    return list(values.values())


@pytest.mark.parametrize("container", [dict, as_list])
def test_both_classes_move_to_the_same_bits(container, dtype, rng):
    optimizers = [m.ScheduleFreeAdamW(lr=0.1, beta1=0.7) for m in (zdlfast, reference)]
    start = draw(rng, dtype)
    params = [container(copy.deepcopy(start)) for _ in optimizers]
    for _ in range(3):
        grads = [container(draw(rng, dtype)) for _ in range(4)]
        for optimizer, values in zip(optimizers, params, strict=True):
            for grad in grads:
                optimizer.update(values, grad)
            optimizer.eval(values)
        assert_same_run(*optimizers, *params)
        for optimizer, values in zip(optimizers, params, strict=True):
            optimizer.train(values)
        assert_same_run(*optimizers, *params)


def trained(module, rng, **options):
    optimizer = module.ScheduleFreeAdamW(lr=0.1, **options)
    params = {"W": rng.standard_normal(5), "b": rng.standard_normal(3)}
    for _ in range(3):
        optimizer.update(params, {"W": rng.standard_normal(5), "b": rng.standard_normal(3)})
    return optimizer, params


def test_the_point_to_evaluate_at_is_the_mean_of_all_points(module, rng):
    """With the default weights each counts the same."""
    optimizer = module.ScheduleFreeAdamW(lr=0.1)
    params, points = {"W": rng.standard_normal(5)}, []
    for _ in range(20):
        optimizer.update(params, {"W": rng.standard_normal(5)})
        points.append(params["W"] + optimizer.d["W"])
    held = params["W"]
    optimizer.eval(params)
    assert params["W"] is held
    np.testing.assert_allclose(params["W"], np.mean(points, axis=0), rtol=1e-12)


def test_to_go_there_and_back_changes_no_more_than_last_digits(module, rng):
    optimizer, params = trained(module, rng)
    before = copy.deepcopy(params)
    optimizer.eval(params)
    assert not np.allclose(params["W"], before["W"])
    optimizer.train(params)
    for key in params:
        np.testing.assert_allclose(params[key], before[key], rtol=1e-14)


def test_to_go_where_one_is_changes_nothing(module, rng):
    optimizer, params = trained(module, rng)
    before = copy.deepcopy(params)
    optimizer.train(params)
    assert_same_bits(params["W"], before["W"])
    optimizer.eval(params)
    there = copy.deepcopy(params)
    optimizer.eval(params)
    assert_same_bits(params["W"], there["W"])


def test_before_the_first_update_all_points_are_one(module):
    optimizer, params = module.ScheduleFreeAdamW(), {"W": np.ones(3)}
    optimizer.eval(params)
    optimizer.train(params)
    assert_same_bits(params["W"], np.ones(3))


def test_an_update_while_one_evaluates_is_refused(module, rng):
    optimizer, params = trained(module, rng)
    optimizer.eval(params)
    state, before = str(optimizer.state_dict()), copy.deepcopy(params)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"to evaluate with: call train\(params\)"):
            optimizer.update(params, params)
        with pytest.raises(RuntimeError, match=r"call train\(params\)"):
            optimizer.update(params, {"W": np.ones(5, np.float16), "b": 1.0})
    assert str(optimizer.state_dict()) == state
    assert_same_bits(params["W"], before["W"])
    optimizer.train(params)
    assert optimizer.update(params, params) is None


def test_the_mode_is_kept_with_the_state(module, rng):
    optimizer, params = trained(module, rng)
    optimizer.eval(params)
    loaded = module.ScheduleFreeAdamW()
    loaded.load_state_dict(optimizer.state_dict())
    for twin in (loaded, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        theirs = copy.deepcopy(params)
        with pytest.raises(RuntimeError, match="call train"):
            twin.update(theirs, theirs)
        twin.train(theirs)
        twin.update(theirs, theirs)
    assert "training=False" in repr(optimizer)


def test_a_parameter_that_is_missing_is_told_and_nothing_is_moved(module, rng):
    optimizer, params = trained(module, rng)
    before = copy.deepcopy(params)
    with pytest.raises(KeyError, match="params has no 'b', of which this optimizer has state"):
        optimizer.eval({"W": params["W"]})
    with pytest.raises(TypeError, match="params is a list"):
        optimizer.eval(list(params.values()))
    params["b"].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.eval(params)
    assert optimizer.training
    assert_same_bits(params["W"], before["W"])


def test_what_was_never_updated_may_be_read_only_or_new(module, rng):
    optimizer = module.ScheduleFreeAdamW()
    frozen = np.ones(3)
    frozen.flags.writeable = False
    params = [np.ones(3), frozen]
    for _ in range(2):
        optimizer.update(params, [np.ones(3), None])
    params.append(np.ones(4))
    optimizer.eval(params)
    assert_same_bits(params[1], np.ones(3))
    assert_same_bits(params[2], np.ones(4))


def test_without_beta1_there_is_nothing_to_evaluate_at(module, rng):
    optimizer, params = trained(module, rng, beta1=0.0)
    with pytest.raises(ValueError, match=r"with beta1=0\.0 there is no point to evaluate at"):
        optimizer.eval(params)


def test_each_parameter_goes_by_its_own_beta1(module, rng):
    optimizer, params = trained(module, rng, overrides={"b": {"beta1": 0.5}})
    before, d = copy.deepcopy(params), copy.deepcopy(optimizer.d)
    optimizer.eval(params)
    np.testing.assert_allclose(params["W"], before["W"] + (1 - 1 / 0.9) * d["W"], rtol=1e-14)
    np.testing.assert_allclose(params["b"], before["b"] + (1 - 1 / 0.5) * d["b"], rtol=1e-14)


def test_every_rule_has_options_to_test_it_with():
    assert set(OPTIONS) == set(_rules.RULES)


@pytest.mark.parametrize("lr", [0.01, lambda step: 0.01], ids=["number", "schedule"])
def test_a_product_of_momenta_that_is_one_raises_as_in_python(lr):
    """In single precision, as torch keeps it, the next number below 1 is 1."""
    rule = _rules.RULES["TorchNAdam"]
    for make in (rule.fastest, rule.twin):
        optimizer = make(lr=lr, beta1=0.9999999999999998, momentum_decay=1e300)
        params = {"W": np.ones(3)}
        with pytest.raises(ZeroDivisionError):
            optimizer.update(params, {"W": np.ones(3)})
        assert params["W"].tolist() == [1.0] * 3
        assert (optimizer.iter, optimizer.mu_product, optimizer.m) == (0, 1.0, None)
