"""Arrays that are not NumPy's, as those of a GPU: the rules run on their operators."""

import copy
import operator
import pickle

import numpy as np
import pytest
from table import assert_same_bits

pytestmark = pytest.mark.each_kind


class Device:
    """What lies elsewhere: it has a shape, a dtype and operators, and refuses to become NumPy's.

    Not an ndarray, nor a subclass; its operators take their own kind and numbers alone.
    """

    def __init__(self, data):
        self.data = data

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    def copy(self):
        return type(self)(self.data.copy())

    def all(self, axis=None, out=None):
        return self.data.all()

    def __setitem__(self, where, value):
        self.data[where] = value.data if isinstance(value, Device) else value

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion to a NumPy array")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        if method != "__call__" or any(isinstance(value, np.ndarray) for value in inputs):
            return NotImplemented
        inputs = [value.data if isinstance(value, Device) else value for value in inputs]
        kwargs |= {"out": tuple(value.data for value in out)} if out else {}
        result = getattr(ufunc, method)(*inputs, **kwargs)
        return out[0] if out else type(self)(np.asarray(result))

    def apply(self, function, *values):
        values = [value.data if isinstance(value, Device) else value for value in values]
        return type(self)(np.asarray(function(*values)))

    def apply_in_place(self, function, value):
        self.data = function(self.data, value.data if isinstance(value, Device) else value)
        return self


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _function = getattr(operator, f"__{_name}__")
    setattr(Device, f"__{_name}__", lambda a, b, f=_function: a.apply(f, a, b))
    setattr(Device, f"__r{_name}__", lambda a, b, f=_function: a.apply(f, b, a))
    _in_place = getattr(operator, f"__i{_name}__")
    setattr(Device, f"__i{_name}__", lambda a, b, f=_in_place: a.apply_in_place(f, b))


class Functions(Device):
    """With NumPy's functions too."""

    def __array_function__(self, function, types, args, kwargs):
        if function is np.all:
            return type(self)(np.all(self.data))
        return NotImplemented

    def __bool__(self):
        return bool(self.data)


@pytest.fixture(params=[Device, Functions])
def kind(request):
    return request.param


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


def values(rng, dtype):
    drawn = rng.standard_normal((4, 3)).astype(dtype)
    drawn[0] = [0.0, -0.0, np.inf]
    return {"W": drawn, "b": rng.standard_normal(3).astype(dtype)}


def unwrapped(value):
    return value.data if isinstance(value, Device) else value


def assert_same_state(optimizer, twin, rule, keys):
    assert getattr(optimizer, "iter", None) == getattr(twin, "iter", None)
    for slot in rule.slots:
        for key in keys:
            ours, theirs = getattr(optimizer, slot)[key], getattr(twin, slot)[key]
            assert_same_bits(unwrapped(ours), theirs, f"{slot}[{key!r}]")


@pytest.mark.parametrize("container", [dict, lambda d: list(d.values())], ids=["dict", "list"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside NumPy's"])
def test_every_rule_trains_to_the_numbers_of_numpy(
    make, rule, kind, dtype, rng, container, beside
):
    optimizer, twin = make(**rule.options), rule.numpy(**rule.options)
    start = values(rng, dtype) | ({"x": 1.5, "N": rng.standard_normal(70)} if beside else {})
    wrap = {"W", "b"}

    def wrapped(given):
        copies = {k: kind(v.copy()) if k in wrap else copy.copy(v) for k, v in given.items()}
        return container(copies)

    params, expected = wrapped(start), container(copy.deepcopy(start))
    keys = list(start) if container is dict else range(len(start))
    held = [params[key] for key in keys]
    with np.errstate(invalid="ignore"):
        for _ in range(4):
            grads = values(rng, dtype)
            grads |= {"x": 0.5, "N": rng.standard_normal(70)} if beside else {}
            grads["W"][0] = 1.0
            optimizer.update(params, wrapped(grads))
            twin.update(expected, container(grads))
    for key, value in zip(keys, held, strict=True):
        assert params[key] is value or isinstance(value, float)
        assert_same_bits(unwrapped(params[key]), expected[key], str(key))
    assert_same_state(optimizer, twin, rule, keys)


def test_state_is_of_the_same_kind_and_starts_with_zeros(make, rule, kind):
    optimizer = make()
    start = np.array([-1.0, np.inf, np.nan, -0.0])
    optimizer.update({"W": kind(start.copy())}, {"W": kind(np.zeros(4))})
    twin = rule.numpy()
    twin.update({"W": start.copy()}, {"W": np.zeros(4)})
    for slot in rule.slots:
        assert type(getattr(optimizer, slot)["W"]) is kind
    assert_same_state(optimizer, twin, rule, ["W"])


@pytest.mark.parametrize("trained", [False, True], ids=["first update", "later update"])
def test_an_update_that_fails_later_is_rolled_back(make, rule, kind, trained):
    class Breaking(kind):
        """Breaks at an operation, after others have been updated."""

        armed = False

        def apply(self, function, *given):
            if Breaking.armed:
                raise RuntimeError("the device is gone")
            return super().apply(function, *given)

    optimizer = make()
    params = {"a": kind(np.ones(3)), "N": np.ones(70), "x": 1.0, "z": Breaking(np.ones(3))}
    grads = {"a": kind(np.ones(3)), "N": np.ones(70), "x": 1.0, "z": Breaking(np.ones(3))}
    if trained:
        optimizer.update(params, grads)
    before, held = copy.deepcopy((vars(optimizer), params)), dict(params)
    Breaking.armed = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the device is gone"):
            optimizer.update(params, grads)
        attributes, values = before
        assert getattr(optimizer, "iter", None) == attributes.get("iter")
        for key, value in values.items():
            assert params[key] is held[key] or key == "x"
            assert_same_bits(unwrapped(params[key]), unwrapped(value), key)
            for slot in rule.slots:
                if not trained:
                    assert getattr(optimizer, slot) is None
                else:
                    now, then = getattr(optimizer, slot)[key], attributes[slot][key]
                    assert_same_bits(unwrapped(now), unwrapped(then), f"{slot}[{key!r}]")
    Breaking.armed = False
    optimizer.update(params, grads)
    assert params["a"].data[0] < 1


def test_nonfinite_sees_them(make, kind):
    params, bad = {"W": kind(np.ones(3))}, {"W": kind(np.array([1.0, np.nan, 1.0]))}
    assert make(nonfinite="skip").update(params, bad) is False
    with pytest.raises(FloatingPointError, match=r"grads\['W'\] holds NaN or infinity"):
        make(nonfinite="raise").update(params, bad)
    assert_same_bits(params["W"].data, np.ones(3))


@pytest.mark.parametrize(
    ("param", "grad", "error", "text"),
    [
        (np.ones(3), np.ones(4), ValueError, r"grads\['W'\] has shape \(4,\)"),
        (np.ones(3, int), np.ones(3), TypeError, r"params\['W'\] has dtype int64"),
        (np.ones(3), np.ones(3, complex), TypeError, "complex128"),
        (np.array(["a"] * 3), np.ones(3), TypeError, r"params\['W'\] must hold numbers"),
    ],
)
def test_errors_come_before_anything_is_changed(make, kind, param, grad, error, text):
    first = kind(np.ones(2))
    with pytest.raises(error, match=text):
        make().update({"a": first, "W": kind(param)}, {"a": kind(np.ones(2)), "W": kind(grad)})
    assert_same_bits(first.data, np.ones(2))


def test_they_may_be_frozen_pickled_and_copied(make, rule, kind):
    optimizer, params = make(), {"W": kind(np.ones(3)), "b": kind(np.ones(2))}
    optimizer.update(params, {"W": kind(np.ones(3)), "b": None})
    assert_same_bits(params["b"].data, np.ones(2))
    held = copy.deepcopy(vars(optimizer))
    for again in (
        copy.copy(optimizer),
        copy.deepcopy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        own, also = copy.deepcopy(params), copy.deepcopy(params)
        again.update(own, {"W": kind(np.ones(3)), "b": kind(np.ones(2))})
        copy.deepcopy(optimizer).update(also, {"W": kind(np.ones(3)), "b": kind(np.ones(2))})
        for key in params:
            assert_same_bits(own[key].data, also[key].data)
    for slot in rule.slots:  # which no copy has changed
        assert_same_bits(getattr(optimizer, slot)["W"].data, held[slot]["W"].data)
