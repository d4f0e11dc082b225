"""Options of some parameters that differ from those of the others."""

import numpy as np
import pytest
from table import assert_same_bits, assert_same_run, kept

import zdlfast
from zdlfast import reference

pytestmark = pytest.mark.each_kind


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


def lr_of_some(rule, value):
    """A learning rate of its own; or another option where that is the same for all."""
    return {"eps": value} if "lr" in rule.shared else {"lr": value}


def net(rng, dtype=float):
    shapes = {"W1": (40, 30), "b1": (30,), "W2": (30, 7), "b2": (7,), "embed_in": (9, 5)}
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}


def copies(params):
    return {key: value.copy() for key, value in params.items()}


def trained(optimizer, params, gradients):
    for grads in gradients:
        optimizer.update(params, grads)
    return params


def test_each_parameter_is_updated_as_by_an_optimizer_with_its_options(make, rule, rng):
    params, gradients = net(rng), [net(rng) for _ in range(3)]
    overrides = {
        "b*": {"weight_decay": 0.0, "maximize": True},
        "W2": {**lr_of_some(rule, 0.07), "decoupled": True},
        "[bW]2": {"clip_value": 0.2},
    }
    options = {**rule.options, "weight_decay": 0.1}
    of_each = {
        "W1": {},
        "b1": {"weight_decay": 0.0, "maximize": True},
        "W2": {**lr_of_some(rule, 0.07), "decoupled": True, "clip_value": 0.2},
        "b2": {"weight_decay": 0.0, "maximize": True, "clip_value": 0.2},
        "embed_in": {},
    }
    expected = {}
    for key, own in of_each.items():
        alone = trained(
            make(**{**options, **own}),
            {key: params[key].copy()},
            [{key: grads[key]} for grads in gradients],
        )
        expected |= alone
    trained(make(**options, overrides=overrides), params, gradients)
    for key in params:
        assert_same_bits(params[key], expected[key], key)


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_bits_are_those_of_numpy(rule, rng, dtype, threads):
    halves = {k: v / 2 for k, v in rule.options.items() if k not in rule.shared}
    overrides = {"W1": lr_of_some(rule, 0.07), "b*": halves}
    overrides["embed*"] = {"frozen": True}
    options = {**rule.options, "overrides": overrides, "clip_norm": 1.0, "weight_decay": 0.2}
    fast, numpy = rule.fast(**options), rule.numpy(**options)
    ours = net(rng, dtype) | {"large": rng.standard_normal(400_000).astype(dtype)}
    theirs = copies(ours)
    with zdlfast.threads(threads):
        for _ in range(3):
            grads = {key: rng.standard_normal(value.shape) for key, value in ours.items()}
            fast.update(ours, grads)
            numpy.update(theirs, grads)
            assert fast.last == numpy.last
            assert_same_run(fast, numpy, ours, theirs)


def test_what_is_frozen_keeps_its_value_and_counts_in_no_norm(make, rule, rng):
    params, grads = net(rng), net(rng)
    before = copies(params)
    optimizer = make(**rule.options, clip_norm=1e9, overrides={"embed*": {"frozen": True}})
    optimizer.update(params, grads)
    assert_same_bits(params["embed_in"], before["embed_in"])
    assert not np.any(params["W1"] == before["W1"])
    norm = np.sqrt(sum(np.sum(g**2) for key, g in grads.items() if key != "embed_in"))
    assert optimizer.last.norm == pytest.approx(norm)
    for slot in rule.slots:
        assert "embed_in" not in getattr(optimizer, slot)


def test_in_a_list_it_is_indices_and_ranges(make, rule, rng):
    values = [rng.standard_normal(5) for _ in range(5)]
    gradients = [rng.standard_normal(5) for _ in range(5)]
    params = [value.copy() for value in values]
    own = lr_of_some(rule, 0.5)
    optimizer = make(**rule.options, overrides={0: own, range(2, 4): {"frozen": True}})
    optimizer.update(params, gradients)
    expected = {}
    for i in (0, 1, 4):
        one = [values[i].copy()]
        make(**rule.options | (own if i == 0 else {})).update(one, [gradients[i]])
        expected[i] = one[0]
    for i in range(5):
        assert_same_bits(params[i], expected.get(i, values[i]))


def test_keys_that_are_no_strings_are_matched_as_they_are(make):
    params = {("layer", 0): np.ones(2), 7: np.ones(2), "7": np.ones(2)}
    optimizer = make(overrides={("layer", 0): {"frozen": True}, 7: {"frozen": True}})
    optimizer.update(params, {key: np.ones(2) for key in params})
    assert np.all(params["layer", 0] == 1)
    assert np.all(params[7] == 1)
    assert not np.any(params["7"] == 1)


def test_the_learning_rate_of_some_may_be_a_schedule(make, rule, rng):
    if "lr" in rule.shared:
        pytest.skip("its learning rate is the same for all")
    params, gradients = net(rng), [net(rng) for _ in range(3)]
    optimizer = make(**rule.options, overrides={"W*": {"lr": lambda done: 0.1 / (1 + done)}})
    expected = copies(params)
    other = make(**rule.options, overrides={"W*": {"lr": 0.1}})
    for done, grads in enumerate(gradients):
        other.overrides = {"W*": {"lr": 0.1 / (1 + done)}}
        optimizer.update(params, grads)
        other.update(expected, grads)
    for key in params:
        assert_same_bits(params[key], expected[key], key)


def test_a_later_network_and_a_later_key_get_their_options_too(make, rule, rng):
    optimizer = make(**rule.options, overrides={"b*": {"frozen": True}})
    optimizer.update({"b1": np.ones(2)}, {"b1": np.ones(2)})
    later = {"b1": np.ones(2), "b9": np.ones(2), "W9": np.ones(2)}
    optimizer.update(later, {key: np.ones(2) for key in later})
    assert np.all(later["b9"] == 1)
    assert not np.any(later["W9"] == 1)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (5, TypeError, "overrides must be a mapping of patterns to options, got int"),
        ({"b": 0.1}, TypeError, r"overrides\['b'\] must be a mapping of options to values"),
        ({"b": {"weight_decay": -1}}, ValueError, r"\['b'\]\['weight_decay'\] must be >= 0"),
        ({"b": {"rate": 1}}, ValueError, r"\['rate'\] is no option of \w+, expected one of: fro"),
        ({"b": {"clip_norm": 1.0}}, ValueError, "concerns all parameters together"),
        ({"b": {"nonfinite": "skip"}}, ValueError, "concerns all parameters together"),
        ({"b": {"frozen": 1}}, TypeError, r"\['frozen'\] must be True or False"),
    ],
)
def test_what_is_wrong_is_told_at_once(make, overrides, error, message):
    with pytest.raises(error, match=message):
        make(overrides=overrides)
    optimizer = make()
    with pytest.raises(error, match=message):
        optimizer.overrides = overrides
    assert optimizer.overrides is None


def test_a_pattern_that_matches_nothing_is_an_error_and_nothing_changes(make):
    optimizer = make(overrides={"b*": {"weight_decay": 0.1}, "x*": {"weight_decay": 0.1}})
    params = {"b1": np.ones(2), "W1": np.ones(2)}
    text = r"overrides\['x\*'\] matches no parameter, expected some of: 'b1', 'W1'"
    for _ in range(2):
        with pytest.raises(ValueError, match=text):
            optimizer.update(params, {key: np.ones(2) for key in params})
    assert all(np.all(value == 1) for value in params.values())
    assert optimizer.updates == 0


def test_they_are_kept_by_copies_pickles_state_and_files(rule, rng, tmp_path):
    overrides = {
        "W*": lr_of_some(rule, 0.25),
        "b1": {"frozen": True},
        "embed_in": {"clip_value": 0.1},
    }
    gradients = [net(rng) for _ in range(3)]
    for make in (rule.fast, rule.numpy):
        optimizer, params = make(**rule.options, overrides=overrides), net(rng)
        optimizer.update(params, gradients[0])
        again = kept(optimizer, tmp_path)
        start = copies(params)
        trained(optimizer, params, gradients[1:])
        for other in again:
            assert other.overrides == optimizer.overrides
            found = trained(other, copies(start), gradients[1:])
            for key in params:
                assert_same_bits(found[key], params[key], key)


def test_ranges_and_tuples_are_kept_in_files(tmp_path):
    overrides = {range(1, 7, 2): {"lr": 0.5}, 0: {"frozen": True}, ("a", 1): {"lr": 0.125}}
    zdlfast.save(tmp_path / "a.npz", zdlfast.Adam(overrides=overrides))
    assert zdlfast.load(tmp_path / "a.npz")[0].overrides == overrides


def test_the_mapping_cannot_be_changed_behind_the_optimizers_back():
    given = {"b*": {"lr": 0.5}}
    for module in (zdlfast, reference):
        optimizer = module.SGD(overrides=given)
        given["b*"]["lr"] = 0.75
        assert optimizer.overrides == {"b*": {"lr": 0.5}}
        given["b*"]["lr"] = 0.5
        with pytest.raises(TypeError):
            optimizer.overrides["W*"] = {}
        with pytest.raises(TypeError):
            optimizer.overrides["b*"]["lr"] = 0.75


def test_a_parameter_that_was_met_in_vain_has_its_own_options_later():
    """As after an exchange of points that was refused."""
    trained_by = {}
    for cls in (zdlfast.ScheduleFreeAdamW, reference.ScheduleFreeAdamW):
        optimizer = cls(overrides={"a*": {"eps": 0.5}, "*1": {"weight_decay": 0.25}})
        params = {"a": np.ones(3), "c1": np.ones(3)}
        for _ in range(2):
            optimizer.update(params, {key: np.ones(3) for key in params})
        params["a1"] = np.ones(3)
        params["a"].flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            optimizer.eval(params)
        params["a"].flags.writeable = True
        optimizer.update(params, {key: np.full(3, 0.5) for key in params})
        trained_by[cls.__module__] = params
    fast, numpy = trained_by.values()
    for key in numpy:
        assert_same_bits(fast[key], numpy[key], key)


def test_a_step_has_the_options_with_which_it_began():
    """Whatever a learning rate of one's own does to them meanwhile."""
    before, after = {"h": {"eps": 0.5}, "W": {"eps": 0.1}}, {"h": {"eps": 0.25}}
    changed, expected = (zdlfast.Adam(lr=0.1, overrides=before) for _ in range(2))

    def lr(done):
        if done == 1:
            changed.overrides = after
        return 0.1

    changed.lr = lr
    ours, theirs = ({"h": np.ones(3, np.float16), "W": np.ones(3)} for _ in range(2))
    for done in range(4):
        if done == 2:
            expected.overrides = after
        for optimizer, params in ((changed, ours), (expected, theirs)):
            optimizer.update(params, {key: np.ones_like(value) for key, value in params.items()})
    for key in theirs:
        assert_same_bits(ours[key], theirs[key], key)
    assert changed.iter == expected.iter == 4
