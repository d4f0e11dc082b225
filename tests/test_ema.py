"""Moving averages of parameters: their bits, their exchange with the parameters, their state."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from table import assert_same_bits, keys_of

import zdlfast
from zdlfast import EMA, Adam, _rules, reference
from zdlfast.schedules import Cosine, Step

SIZES = [*range(35), 63, 64, 65, 511, 512, 513, 1031]


def values(rng, n, dtype):
    x = rng.standard_normal(n) * 10.0 ** rng.integers(-6, 3, n)
    x[rng.random(n) < 0.05] = 0.0
    x[rng.random(n) < 0.05] *= -1.0
    return x.astype(dtype)


def assert_same(ema, other):
    assert type(ema.params) is type(other.params)
    assert list(keys_of(ema.params)) == list(keys_of(other.params))
    for key in keys_of(other.params):
        assert type(ema.params[key]) is type(other.params[key])
        assert_same_bits(ema.params[key], other.params[key], f"averages[{key!r}]")
    assert ema.iter == other.iter
    assert ema.decay == other.decay


def bits(container):
    """What a container holds, to compare later."""
    items = container.items() if hasattr(container, "items") else enumerate(container)
    return {key: np.array(value).tobytes() for key, value in items}


def move(params, rng):
    """Change parameters as an optimizer does: arrays in place, numbers in their container."""
    for key in keys_of(params):
        step = rng.standard_normal(np.shape(params[key]))
        if isinstance(params[key], np.ndarray):
            params[key] -= step.astype(params[key].dtype)
        else:
            params[key] -= float(step)


def follow(params, rng, steps=9, decay=0.9):
    """Let both classes follow parameters, and compare at every step."""
    fast, numpy = EMA(params, decay), reference.EMA(params, decay)
    for _ in range(steps):
        assert_same(fast, numpy)
        move(params, rng)
        before = bits(params)
        fast.update(params)
        numpy.update(params)
        assert bits(params) == before
    assert_same(fast, numpy)
    assert fast.iter == steps
    return fast


# ---------------------------------------------------------------- bits


def test_every_size_gives_the_bits_of_numpy(dtype, simd, rng):
    follow({f"W{n}": values(rng, n, dtype) for n in SIZES}, rng)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_arrays_give_the_bits_of_numpy_with_threads_too(dtype, simd, rng, threads):
    with zdlfast.threads(threads):
        follow([values(rng, 300_003, dtype), values(rng, 500_000, dtype)], rng, steps=3)


def test_float64_equals_python_floats_bit_for_bit(rng):
    params = {"W": rng.standard_normal(50)}
    ema, expected = EMA(params, 0.7), params["W"].tolist()
    for _ in range(30):
        move(params, rng)
        ema.update(params)
        expected = [a + (1 - 0.7) * (p - a) for a, p in zip(expected, params["W"], strict=True)]
    assert ema.params["W"].tolist() == expected


def test_arrays_of_all_kinds_give_the_bits_of_numpy(rng):
    wide = rng.standard_normal((40, 60))
    record = np.zeros(30, [("a", "i1"), ("b", "f8")])
    record["b"] = rng.standard_normal(30)
    params = {
        "transposed": wide.T.copy().T,
        "strided": wide[::2, ::3],
        "view": wide[1::2, 1::3].astype(np.float32)[::-1],
        "unaligned": record["b"],
        "swapped": rng.standard_normal(33).astype(">f8"),
        "half": rng.standard_normal(17).astype(np.float16),
        "complex": rng.standard_normal(5) + 1j,
        "0-d": np.array(1.5),
        "empty": np.ones((0, 3)),
        "objects": np.array([1.5, 2.5], object),
        "float": 0.25,
        "number": np.float32(3.0),
        7: np.ones(3),
        ("t", 1): np.ones(3, np.float32),
    }
    ema = follow(params, rng)
    assert ema.params["half"].dtype == np.float16
    assert ema.params["swapped"].dtype == np.dtype("f8")
    assert ema.params["transposed"].flags.f_contiguous
    assert isinstance(ema.params["float"], float)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_parameter_of_another_dtype_is_promoted_as_numpy_does(kind, rng):
    other = np.float64 if kind is np.float32 else np.float32
    fast = EMA({"W": values(rng, 100, kind)}, 0.9)
    numpy = reference.EMA(fast.params, 0.9)
    for _ in range(5):
        params = {"W": values(rng, 100, other)}
        fast.update(params)
        numpy.update(params)
        assert_same(fast, numpy)
        assert fast.params["W"].dtype == kind


def test_tied_parameters_have_equal_averages(rng):
    W = rng.standard_normal((4, 5))
    ema = follow({"W": W, "tied": W, "transposed": W.T, "part": W[1:3]}, rng)
    assert_same_bits(ema.params["tied"], ema.params["W"])
    assert_same_bits(ema.params["transposed"], ema.params["W"].T)
    assert_same_bits(ema.params["part"], ema.params["W"][1:3])


def test_averages_follow_an_optimizer_s_parameters(rng):
    params = {"W": rng.standard_normal(1000)}
    ema, optimizer = EMA(params, 0.0), Adam()
    for _ in range(5):
        optimizer.update(params, {"W": rng.standard_normal(1000)})
        ema.update(params)
        # With a decay of 0 an average is the parameter, but for a rounding.
        np.testing.assert_allclose(ema.params["W"], params["W"], rtol=1e-15, atol=1e-15)


# ---------------------------------------------------------------- decay


@pytest.mark.parametrize("cls", [EMA, reference.EMA])
def test_the_decay_may_be_a_function_of_the_number_of_updates(cls):
    def decay(done):
        return min(0.99, (1 + done) / (10 + done))

    for schedule in (decay, Step(0.5, 2, 0.5)):
        params = {"x": 1.0}
        ema, expected = cls(params, schedule), 1.0
        for done in range(6):
            params["x"] = float(done)
            ema.update(params)
            expected = expected + (1 - schedule(done)) * (done - expected)
            assert ema.params["x"] == expected
        assert ema.decay is schedule


@pytest.mark.parametrize("cls", [EMA, reference.EMA])
@pytest.mark.parametrize("wrong", [1.0, -0.1, float("nan"), "high", None, True])
def test_a_decay_out_of_range_changes_nothing(cls, wrong):
    params = {"W": np.ones(3)}
    with pytest.raises((TypeError, ValueError), match="decay must be"):
        cls(params, wrong)
    ema = cls(params)
    with pytest.raises((TypeError, ValueError), match="decay must be"):
        ema.decay = wrong
    assert ema.decay == 0.999
    ema.decay = lambda done: wrong
    params["W"] += 1
    with pytest.raises((TypeError, ValueError), match="decay must be"):
        ema.update(params)
    assert (ema.iter, ema.params["W"].tolist()) == (0, [1.0, 1.0, 1.0])


def test_the_decay_may_be_assigned_between_updates():
    params = {"x": 0.0}
    ema = EMA(params)
    params["x"] = 1.0
    for decay, expected in ((0.5, 0.5), (lambda done: 0.75, 0.625), (0.0, 1.0)):
        ema.decay = decay
        ema.update(params)
        assert ema.params["x"] == expected


# ---------------------------------------------------------------- containers and mistakes


@pytest.fixture(params=[EMA, reference.EMA], ids=["kernels", "numpy"])
def cls(request):
    return request.param


def test_a_parameter_that_comes_later_begins_an_average(cls, rng):
    params = {"a": rng.standard_normal(3), "b": rng.standard_normal(3)}
    ema = cls(params, 0.5)
    params = {"c": rng.standard_normal(2), "d": 4.0, **params}
    first = params["c"].copy()
    ema.update(params)
    assert list(ema.params) == ["a", "b", "c", "d"]
    assert_same_bits(ema.params["c"], first)
    assert not np.shares_memory(ema.params["c"], params["c"])
    move(params, rng)
    ema.update(params)
    assert_same_bits(ema.params["c"], first + 0.5 * (params["c"] - first))

    of_a_list = cls([np.ones(2)], 0.5)
    of_a_list.update([np.full(2, 2.0), np.full(3, 7.0)])
    assert [average.tolist() for average in of_a_list.params] == [[1.5, 1.5], [7.0, 7.0, 7.0]]


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"a": np.ones(3)}, KeyError, r"params\['b'\] is missing, but it has an average"),
        ({"a": np.ones(3), "x": 1.0}, KeyError, r"params\['b'\] is missing, but it has an av"),
        ({"a": np.ones(3), "b": np.ones(4)}, ValueError,
         r"params\['b'\] has shape \(4,\), but its average has shape \(2,\)"),
        ({"a": np.ones(3), "b": np.ones(2), "c": "text"}, TypeError,
         r"params\['c'\] must be an array or a number, got str"),
        ({"a": np.ones(3), "b": np.ones(2), "c": np.ones(2, int)}, TypeError,
         r"params\['c'\] must be an array of floats, got one of dtype int64"),
        ([np.ones(3), np.ones(2)], TypeError, "params is a list, but the averages are in a dict"),
        (3.0, TypeError, "params is a float, but the averages are in a dict"),
        ({"a": np.ones(3), "b": np.ones(1)}, ValueError, r"params\['b'\] has shape \(1,\)"),
        ({"a": np.ones(3), "b": None}, TypeError, r"params\['b'\] must be .*, got None"),
        ({"a": np.ones(3), "b": None, "c": 1.0}, TypeError, r"params\['b'\] must be .*, got None"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_and_changes_nothing(cls, params, error, text):
    ema = cls({"a": np.zeros(3), "b": np.zeros(2)}, 0.5)
    before = bits(ema.params)
    with pytest.raises(error, match=text):
        ema.update(params)
    assert (bits(ema.params), ema.iter) == (before, 0)


def test_none_is_not_the_average_of_a_number_either(cls):
    ema = cls({"x": 1.0, "y": np.array(2.0)}, 0.5)
    for params in ({"x": None, "y": np.array(2.0)}, {"x": 1.0, "y": None}):
        with pytest.raises(TypeError, match="got None"):
            ema.update(params)
    assert (ema.params, ema.iter) == ({"x": 1.0, "y": 2.0}, 0)


def test_a_missing_parameter_of_a_list_is_an_index_error(cls):
    with pytest.raises(IndexError, match=r"params\[1\] is missing, but it has an average"):
        cls([np.ones(2), np.ones(2)]).update([np.ones(2)])


@pytest.mark.parametrize(
    "params",
    [None, 3.0, (np.ones(3),), *({"W": W} for W in (None, [1.0], np.ones(3, int), True, "text"))],
)
def test_only_containers_of_arrays_and_numbers_are_taken(cls, params):
    with pytest.raises(TypeError, match=r"^params(\['W'\])? must be"):
        cls(params)


def test_names_that_it_has_not_got_are_refused(cls):
    ema = cls({"W": np.ones(3)})
    with pytest.raises(
        AttributeError, match="EMA has no attribute 'rate'; it has decay, iter and"
    ):
        ema.rate = 0.5
    with pytest.raises(AttributeError):
        ema.iter = 5
    with pytest.raises(TypeError, match="momentum"):
        cls({"W": np.ones(3)}, momentum=0.5)
    assert repr(ema) == "EMA(decay=0.999)"


def test_a_container_that_updates_what_it_belongs_to_is_an_error(cls):
    class Circle(dict):
        def __getitem__(self, key):
            ema.update({"W": np.ones(3)})

    ema = cls({"W": np.ones(3)})
    with pytest.raises(RuntimeError, match="in use by this very thread"):
        ema.update(Circle(W=np.ones(3)))
    assert ema.iter == 0
    ema.update({"W": np.ones(3)})


# ---------------------------------------------------------------- the exchange


def two_states(cls, rng):
    """Parameters of many kinds, some tied, with averages that are not equal to them."""
    W = rng.standard_normal((3, 4))
    params = {
        "W": W, "tied": W, "transposed": W.T, "strided": rng.standard_normal(20)[::2],
        "swapped": rng.standard_normal(3).astype(">f8"), "half": np.ones(5, np.float16),
        "0-d": np.array(2.0), "empty": np.ones((0, 2)), "x": 1.5, "n": np.float32(0.5),
    }  # fmt: skip
    ema = cls(params, 0.5)
    for key in ("W", "strided", "swapped", "half", "0-d"):
        params[key] += np.asarray(0.5, params[key].dtype)
    params["x"], params["n"] = 3.0, np.float32(2.0)
    ema.update(params)
    return ema, params


def test_an_exchange_is_in_place_and_its_own_opposite(cls, rng):
    ema, params = two_states(cls, rng)
    arrays = {key: value for key, value in params.items() if isinstance(value, np.ndarray)}
    averages = dict(ema.params)
    addresses = {key: value.ctypes.data for key, value in arrays.items()}
    of_params, of_averages = copy.deepcopy(params), copy.deepcopy(ema.params)
    for new_params, new_averages in ((of_averages, of_params), (of_params, of_averages)):
        ema.swap(params)
        for key in params:
            assert np.array_equal(params[key], new_params[key])
            assert np.array_equal(ema.params[key], new_averages[key])
    assert not np.array_equal(of_params["W"], of_averages["W"])
    for key, array in arrays.items():
        assert params[key] is array
        assert array.ctypes.data == addresses[key]
        assert ema.params[key] is averages[key]


def test_an_update_while_they_are_exchanged_is_an_error(cls, rng):
    ema, params = two_states(cls, rng)
    ema.swap(params)
    before = bits(params), bits(ema.params)
    with pytest.raises(RuntimeError, match=r"call swap\(params\) once more before"):
        ema.update(params)
    assert (bits(params), bits(ema.params)) == before
    ema.swap(params)
    ema.update(params)
    assert ema.iter == 2


def test_a_block_evaluates_with_the_averages(cls, rng):
    ema, params = two_states(cls, rng)
    of_params, of_averages = bits(params), bits(ema.params)
    with ema.averaged(params):
        assert np.array_equal(params["W"], np.frombuffer(of_averages["W"]).reshape(3, 4))
    assert (bits(params), bits(ema.params)) == (of_params, of_averages)
    with pytest.raises(ZeroDivisionError), ema.averaged(params):
        raise ZeroDivisionError
    assert (bits(params), bits(ema.params)) == (of_params, of_averages)
    ema.update(params)


def read_only(params):
    params["0-d"].flags.writeable = False


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda p: p.pop("half"), KeyError, r"params\['half'\] is missing"),
        (lambda p: p.update(half=np.ones(4, np.float16)), ValueError, r"'half'\] has shape \(4"),
        (lambda p: p.update(half=np.ones(5)), TypeError,
         r"params\['half'\] has dtype float64, but its average has float16"),
        (read_only, ValueError, r"params\['0-d'\] is read-only"),
        (lambda p: p.update(x=np.ones(())), TypeError, r"'x'\] is a ndarray, but .* float"),
    ],
)  # fmt: skip
def test_an_exchange_that_is_refused_changes_nothing(cls, rng, spoil, error, text):
    ema, params = two_states(cls, rng)
    spoil(params)
    before = bits(params), bits(ema.params)
    with pytest.raises(error, match=text):
        ema.swap(params)
    assert (bits(params), bits(ema.params)) == before
    with pytest.raises(TypeError, match="params is a list"):
        ema.swap(list(params.values()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exchange_that_is_interrupted_is_taken_back(cls, rng, error):
    class Stops(dict):
        armed = False

        def __setitem__(self, key, value):
            if self.armed and key == "n":
                self.armed = False
                raise error
            super().__setitem__(key, value)

    ema, params = two_states(cls, rng)
    params = Stops(params)
    before = bits(params), bits(ema.params)
    params.armed = True
    with pytest.raises(error):
        ema.swap(params)
    assert (bits(params), bits(ema.params)) == before
    ema.update(params)  # they are not taken for exchanged


# ---------------------------------------------------------------- state


def go_on(ema, steps=4):
    rng = np.random.default_rng(3)
    for _ in range(steps):
        ema.update({"W": rng.standard_normal((3, 4)), "x": rng.random()})
    return ema


@pytest.mark.parametrize("decay", [0.75, Cosine(0.9, 6)])
def test_copies_of_all_kinds_go_on_with_the_same_bits(cls, decay):
    params = {"W": np.ones((4, 3)).T, "x": 0.5}
    ema = go_on(cls(params, decay))
    other = cls(params)
    other.load_state_dict(ema.state_dict())
    copies = [other, copy.copy(ema), copy.deepcopy(ema)]
    copies += [pickle.loads(pickle.dumps(ema, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
    go_on(ema)
    for again in copies:
        assert type(again) is cls
        assert_same(go_on(again), ema)
        assert again.params["W"].flags.f_contiguous


def test_a_state_goes_from_one_class_to_the_other():
    params = {"W": np.ones((3, 4)), "x": 0.5}
    ema, twin = go_on(EMA(params)), reference.EMA(params)
    twin.load_state_dict(ema.state_dict())
    assert_same(go_on(twin), go_on(ema))


def test_a_state_knows_that_they_are_exchanged(cls):
    params = {"W": np.zeros((3, 4)), "x": 0.5}
    ema = go_on(cls(params, 0.5))
    ema.swap(params)
    other = cls(params)
    other.load_state_dict(ema.state_dict())
    for again in (other, copy.deepcopy(ema)):
        with pytest.raises(RuntimeError, match="swap"):
            again.update(params)


def test_a_function_of_one_s_own_is_not_stored(cls):
    params = {"W": np.ones((3, 4)), "x": 0.5}
    ema = go_on(cls(params, lambda done: 0.5))
    state = ema.state_dict()
    (name,) = state["options"]["decay"].values()
    assert "test_a_function_of_one_s_own_is_not_stored" in name
    other = cls(params)
    with pytest.raises(ValueError, match="set decay to it before load_state_dict"):
        other.load_state_dict(state)
    assert_same(other, cls(params))
    other.decay = ema.decay
    other.load_state_dict(state)
    assert_same(go_on(other), go_on(ema))


def changed(**changes):
    return lambda state: {**state, **changes}


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda state: None, TypeError, "the state must be a dict, got NoneType"),
        (lambda state: {}, ValueError, "the state has no 'format'"),
        (changed(more=1), ValueError, "unknown key 'more'"),
        (changed(format=99), ValueError, "newer than this zdlfast reads"),
        (changed(**{"class": "Adam"}), ValueError, "the state of 'Adam', expected 'EMA'"),
        (changed(options={}), ValueError, "the dict of options has no 'decay'"),
        (changed(options={"decay": 1.5}), ValueError, "decay must be in"),
        (changed(options={"decay": {"schedule": "x"}}), ValueError, "the schedule must be one of"),
        (changed(iter=-1), ValueError, "iter must be >= 0"),
        (changed(iter=1.0), TypeError, "iter must be a whole number"),
        (changed(swapped=1), TypeError, "swapped must be True or False, got 1"),
        (changed(params=None), TypeError, "params must be a mapping or a list"),
        (changed(params=[np.ones(3)]), TypeError, "the state params is a list"),
        (changed(params={"W": np.ones((3, 4))}), KeyError, r"state params\['x'\] is missing"),
        (changed(params={"W": np.ones(3), "x": 1.0}), ValueError, r"\['W'\] has shape \(3,\)"),
        (changed(params={"W": np.ones((3, 4), "f"), "x": 1.0}), TypeError, "dtype float32"),
        (changed(params={"W": np.ones((3, 4)), "x": 1.0, "y": 1.0}), ValueError, "more keys"),
        (changed(params={"W": np.ones((3, 4)), "x": "1"}), TypeError, "must be an array or a num"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(cls, spoil, error, text):
    ema = go_on(cls({"W": np.ones((3, 4)), "x": 0.5}))
    before = bits(ema.params), ema.iter, ema.decay
    with pytest.raises(error, match=text):
        ema.load_state_dict(spoil(ema.state_dict()))
    assert (bits(ema.params), ema.iter, ema.decay) == before


def test_a_state_is_a_copy(cls):
    ema = go_on(cls({"W": np.ones((3, 4)), "x": 0.5}))
    state = ema.state_dict()
    before = bits(state["params"])
    other = cls({"W": np.ones((3, 4)), "x": 0.5})
    other.load_state_dict(state)
    go_on(ema)
    go_on(other)
    assert bits(state["params"]) == before


# ---------------------------------------------------------------- where it is and where not


def test_it_is_no_rule_and_the_drop_in_has_none():
    assert "EMA" in zdlfast.__all__
    assert "EMA" not in _rules.RULES
    code = "import zdlfast; zdlfast.patch(); from common.optimizer import EMA"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError" in done.stderr


def test_the_documentation_is_that_of_the_twin():
    assert EMA.__doc__ == reference.EMA.__doc__
    assert EMA.__module__ == "zdlfast.ema"
    assert reference.EMA.__module__ == "zdlfast.reference"
