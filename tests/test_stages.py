"""The options that every rule takes: what is done to gradients, parameters and state around it."""

import itertools

import numpy as np
import pytest
from table import assert_same_bits, assert_same_run, both, copies, odd_beside_usual

import zdlfast

pytestmark = pytest.mark.each_kind

ALL = {
    "weight_decay": 0.3,
    "decoupled": True,
    "maximize": True,
    "clip_norm": 0.5,
    "clip_value": 0.1,
    "nonfinite": "skip",
    "flush_subnormals": True,
}
# Each alone, the two kinds of decay, and all together.
CASES = [
    {"weight_decay": 0.3},
    {"weight_decay": 0.3, "decoupled": True},
    {"decoupled": True},
    {"maximize": True},
    {"clip_norm": 0.5},
    {"clip_norm": 1e9},
    {"clip_value": 0.1},
    {"nonfinite": "raise"},
    {"flush_subnormals": True},
    ALL,
    ALL | {"decoupled": False},
]
# Around the widths of instructions, a block, a chunk of the norm, and what threads share.
SIZES = [0, 1, 7, 16, 33, 511, 513, 4095, 4097, 70_001]


@pytest.fixture(params=CASES, ids=lambda case: " ".join(case) if len(case) < 6 else "all")
def options(request):
    return request.param


def draw(rng, dtype, sizes=SIZES, scale=1.0):
    return {f"p{n}": (scale * rng.standard_normal(n)).astype(dtype) for n in sizes}


def assert_equal_training(rule, options, params, gradients):
    fast, numpy = both(rule, options)
    ours, theirs = params, copies(params)
    for grads in gradients:
        assert fast.update(ours, grads) == numpy.update(theirs, grads)
        assert fast.last == numpy.last
        assert_same_run(fast, numpy, ours, theirs)
    assert fast.updates == numpy.updates
    return fast


@pytest.mark.parametrize("dtypes", ["ff", "fd", "df", "dd"])
def test_the_bits_are_those_of_numpy(rule, options, rng, dtypes):
    params, gradients = draw(rng, dtypes[0]), [draw(rng, dtypes[1]) for _ in range(3)]
    assert_equal_training(rule, options, params, gradients)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(rule, options, rng, threads):
    with zdlfast.threads(threads):
        assert_equal_training(rule, options, draw(rng, "f"), [draw(rng, "f") for _ in range(3)])


def test_the_bits_are_those_of_numpy_in_any_memory_layout(rule, options, rng):
    def layouts():
        base = rng.standard_normal((3, 60, 50))
        swapped = base[0].astype(base.dtype.newbyteorder())
        unaligned = np.zeros(60 * 8 + 1, np.uint8)[1:].view(float)
        unaligned[...] = base[0, :, 0]
        return {
            "F": np.asfortranarray(base[1]),
            "transposed": base[2].copy().T.copy().T,
            "strided": base[0, ::2, ::-3],
            "swapped": swapped,
            "unaligned": unaligned,
            "0-d": np.array(0.7),
        }

    gradients = [layouts() for _ in range(3)]
    gradients[1] = {key: np.array(value, order="C") for key, value in gradients[1].items()}
    assert_equal_training(rule, options, layouts(), gradients)


def test_odd_entries_beside_usual_ones(rule, options, rng):
    fast, numpy = both(rule, options)
    ours = odd_beside_usual(rng, 70)
    theirs = copies(ours) | {"number": ours["number"], "scalar": ours["scalar"]}
    for _ in range(3):
        grads = odd_beside_usual(rng, 70)
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert fast.last == numpy.last
        assert_same_run(fast, numpy, ours, theirs)
        assert isinstance(ours["number"], float)


def test_numbers_beside_usual_entries(rule, options, rng):
    def drawn():
        x, y = rng.standard_normal(2)
        return {"W": rng.standard_normal(70), "x": float(x), "y": y, "0-d": y, "b": np.ones(3)}

    fast, numpy = both(rule, options)
    ours = drawn() | {"0-d": np.array(0.5)}
    theirs = copies(ours) | {"x": ours["x"], "y": ours["y"]}
    for _ in range(3):
        grads = drawn()
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert fast.last == numpy.last
        assert_same_run(fast, numpy, ours, theirs)


def test_tied_and_overlapping_parameters(rule, options, rng):
    """Each entry counts in the norm, and each is updated in its turn."""

    def params(values):
        whole = values.copy()
        return {
            "a": whole[:600],
            "tied": whole[:600],
            "overlaps": whole[300:],
            "own": values[:40].copy(),
        }

    values = rng.standard_normal(900)
    fast, numpy = both(rule, options)
    ours, theirs = params(values), params(values)
    for _ in range(3):
        grads = {key: rng.standard_normal(value.shape) for key, value in ours.items()}
        grads["own"] = ours["a"][:40]
        fast.update(ours, grads)
        numpy.update(theirs, grads | {"own": theirs["a"][:40]})
        assert fast.last == numpy.last
        assert_same_run(fast, numpy, ours, theirs)


# ------------------------------------------------------------------ what each one does


def steps(make, rule, params, gradients, **options):
    optimizer = make(**{**rule.options, **options})
    for grads in gradients:
        optimizer.update(params, grads)
    return params


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


@pytest.fixture(params=["f", "d"])
def training(request, rng):
    gradients = [draw(rng, request.param, [700, 3]) for _ in range(3)]
    return draw(rng, request.param, [700, 3]), gradients


def assert_same_params(actual, expected):
    for key, value in expected.items():
        assert_same_bits(actual[key], value, key)


COUPLED = {"weight_decay": 0.25, "decoupled": False}


def test_weight_decay_adds_to_the_gradient(make, rule, training):
    params, gradients = training
    optimizer, expected = make(**rule.options), copies(params)
    for grads in gradients:
        optimizer.update(expected, {k: g + 0.25 * expected[k] for k, g in grads.items()})
    assert_same_params(steps(make, rule, params, gradients, **COUPLED), expected)


def test_decoupled_weight_decay_shrinks_the_parameter_before_the_step(make, rule, training):
    if rule.own_decay:
        pytest.skip("tests/test_official.py has what it does")
    params, gradients = training
    optimizer, expected = make(**rule.options), copies(params)
    for grads in gradients:
        for value in expected.values():
            value *= 1.0 - optimizer.lr * 0.25
        optimizer.update(expected, grads)
    found = steps(make, rule, params, gradients, weight_decay=0.25, decoupled=True)
    assert_same_params(found, expected)


def test_maximize_goes_up_the_gradient(make, rule, training):
    params, gradients = training
    down = [{k: -g for k, g in grads.items()} for grads in gradients]
    expected = steps(make, rule, copies(params), down)
    assert_same_params(steps(make, rule, params, gradients, maximize=True), expected)


def test_clip_value_bounds_each_element(make, rule, training):
    params, gradients = training
    clipped = [{k: np.clip(g, -0.3, 0.3) for k, g in grads.items()} for grads in gradients]
    expected = steps(make, rule, copies(params), clipped)
    assert_same_params(steps(make, rule, params, gradients, clip_value=0.3), expected)


def test_clip_norm_bounds_the_norm_of_all_gradients_by_the_formula_of_book_2(make, rule, training):
    params, gradients = training
    optimizer, expected = make(**rule.options), copies(params)
    clipping = make(**{**rule.options, "clip_norm": 2.0})
    for grads in gradients:
        norm = np.sqrt(sum(np.sum(g.astype(float) ** 2) for g in grads.values()))
        clipping.update(params, grads)
        assert clipping.last.norm == pytest.approx(norm, rel=1e-14)
        assert clipping.last.clip_rate == 2.0 / (clipping.last.norm + 1e-6) < 1.0
        optimizer.update(expected, {k: clipping.last.clip_rate * g for k, g in grads.items()})
    assert_same_params(params, expected)


def test_a_norm_below_the_bound_changes_nothing(make, rule, training):
    params, gradients = training
    expected = steps(make, rule, copies(params), gradients)
    assert_same_params(steps(make, rule, params, gradients, clip_norm=1e6), expected)


def test_what_is_infinite_makes_nan_of_itself_and_zero_of_the_rest_as_in_book_2(make, rule):
    params = {"x": np.ones(3)}
    optimizer = make(**{**rule.options, "clip_norm": 1.0})
    with np.errstate(invalid="ignore"):
        optimizer.update(params, {"x": np.array([1.0, np.inf, 0.0])})
    assert optimizer.last.norm == np.inf
    assert optimizer.last.clip_rate == 0.0
    assert optimizer.last.nonfinite == "x"
    assert np.isnan(params["x"][1])


def test_squares_that_overflow_are_no_infinite_gradient(make, rule):
    params, grads = {"x": np.ones(3)}, {"x": np.full(3, 1e200)}
    optimizer = make(**{**rule.options, "clip_norm": 1.0, "nonfinite": "raise"})
    optimizer.update(params, grads)
    assert optimizer.last.nonfinite is None
    assert optimizer.last.norm == np.inf


def test_state_that_decays_below_the_normal_numbers_becomes_zero(make, rule):
    if not rule.slots:
        pytest.skip("a rule without state")
    for dtype in "fd":
        tiny = np.finfo(dtype).smallest_normal
        params = {"x": np.ones(40, dtype)}
        optimizer = make(**{**rule.options, "flush_subnormals": True})
        optimizer.update(params, {"x": np.ones(40, dtype)})
        for slot in rule.slots:
            getattr(optimizer, slot)["x"][...] = tiny * np.linspace(0.5, 2, 40)
        for _ in range(300):
            optimizer.update(params, {"x": np.zeros(40, dtype)})
            for slot in rule.slots:
                state = getattr(optimizer, slot)["x"]
                assert np.all((state == 0) | (abs(state) >= tiny))


def test_the_norm_is_the_same_at_any_number_of_threads_layout_and_way(rule, rng):
    grad = rng.standard_normal((300, 700)).astype("f")
    found = set()
    for threads, laid_out in itertools.product((1, 2, 4), (np.array, np.asfortranarray)):
        for kind in ("fast", "numpy"):
            optimizer = getattr(rule, kind)(clip_norm=1.0)
            with zdlfast.threads(threads):
                optimizer.update({"W": laid_out(grad)}, {"W": laid_out(grad)})
            found.add(optimizer.last.norm)
    assert len(found) == 1


# ------------------------------------------------------------------ what is told


def test_last_says_what_was_done(make, rule):
    optimizer = make(**{**rule.options, "nonfinite": "skip", "clip_norm": 1.0})
    assert optimizer.last is None
    params = {"a": np.ones(2), "b": np.ones(2)}
    optimizer.update(params, {"a": np.zeros(2), "b": np.array([3.0, 4.0])})
    last = optimizer.last
    assert (last.applied, last.norm, last.clip_rate, last.lr, last.nonfinite) == (
        True, 5.0, 1.0 / 5.000001, optimizer.lr, None
    )  # fmt: skip
    before = copies(params)
    assert optimizer.update(params, {"a": np.ones(2), "b": np.array([np.nan, 1])}) is False
    last = optimizer.last
    assert (last.applied, last.nonfinite, last.clip_rate) == (False, "b", 1.0)
    assert_same_params(params, before)
    assert optimizer.updates == 1


def test_no_gradient_is_looked_at_unless_an_option_asks(make, rule):
    """A pass over memory that would make every update slower, the twin's too."""
    params, grads = {"x": np.ones(2)}, {"x": np.array([np.nan, 1.0])}
    optimizer = make(**rule.options)
    with np.errstate(invalid="ignore"):
        optimizer.update(params, grads)
    last = optimizer.last
    assert (last.applied, last.norm, last.nonfinite) == (True, None, None)


def test_an_update_that_raises_is_not_the_last_one(make, rule):
    optimizer = make(**{**rule.options, "nonfinite": "raise"})
    params = {"a": np.ones(2)}
    optimizer.update(params, {"a": np.ones(2)})
    last = optimizer.last
    with pytest.raises(FloatingPointError, match=r"grads\['a'\] holds NaN"):
        optimizer.update(params, {"a": np.array([np.inf, 1])})
    with pytest.raises(KeyError):
        optimizer.update(params, {})
    assert optimizer.last == last
    assert optimizer.updates == 1


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("weight_decay", -1, ValueError, "weight_decay must be >= 0 and finite, got -1"),
        ("weight_decay", "big", TypeError, "weight_decay must be a number, got 'big'"),
        ("decoupled", 1, TypeError, "decoupled must be True or False, got 1"),
        ("maximize", None, TypeError, "maximize must be True or False, got None"),
        ("clip_norm", 0, ValueError, "clip_norm must be > 0, or None for no limit, got 0"),
        ("clip_norm", np.inf, ValueError, "clip_norm must be >= 0 and finite, got inf"),
        ("clip_value", -0.5, ValueError, "clip_value must be >= 0 and finite, got -0.5"),
        ("flush_subnormals", "yes", TypeError, "flush_subnormals must be True or False"),
    ],
)
def test_a_wrong_value_is_told_where_it_is_given_and_assigned(make, name, value, error, message):
    optimizer = make()
    with pytest.raises(error, match=message):
        make(**{name: value})
    with pytest.raises(error, match=message):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == getattr(make, name)


def test_options_are_live_and_shown(make, rule, training):
    params, gradients = training
    optimizer = make(**{**rule.options, "maximize": True})
    assert repr(optimizer).endswith("maximize=True)")
    expected = copies(params)
    optimizer.update(params, gradients[0])
    optimizer.maximize = False
    optimizer.update(params, gradients[1])
    other = make(**{**rule.options, "maximize": True})
    other.update(expected, gradients[0])
    other.update(expected, {k: -g for k, g in gradients[1].items()})
    assert_same_params(params, expected)
    assert "maximize" not in repr(optimizer)
