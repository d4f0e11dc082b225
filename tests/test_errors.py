"""Errors: of the book's types, with names and shapes in them, and nothing changed by them."""

import copy
import sys
from collections import UserDict
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pytest
from table import assert_same_bits

import zdlfast
from zdlfast import optimizers

pytestmark = pytest.mark.each_kind


class Evil(np.ndarray):
    """An array that breaks half-way through an update."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if out is not None:
            out[0].view(np.ndarray)[...] = 99
            raise RuntimeError("evil")
        plain = [x.view(np.ndarray) if isinstance(x, Evil) else x for x in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)


def frozen(array):
    array.flags.writeable = False
    return array


def bad(params=None, grads=None, drop=None):
    return {"params": params or {}, "grads": grads or {}, "drop": drop}


WRONG = {
    "missing gradient": (bad(drop="z"), KeyError, r"params\['z'\] has no gradient"),
    "a list for a gradient": (bad(grads={"z": [1.0] * 3}), TypeError, r"grads\['z'\].*got list"),
    "a string for a gradient": (bad(grads={"z": "x"}), TypeError, r"grads\['z'\].*got str"),
    "an array of strings": (
        bad(grads={"z": np.array(["a"] * 3)}), TypeError, r"grads\['z'\].*dtype <U1"
    ),
    "larger gradient": (
        bad(grads={"z": np.ones((1, 3))}), ValueError,
        r"grads\['z'\] has shape \(1, 3\), which does not fit params\['z'\] of shape \(3,\)",
    ),
    "gradient of another shape": (
        bad(grads={"z": np.ones(5)}), ValueError, r"\(5,\).*params\['z'\] of shape \(3,\)"
    ),
    "one element for a 0-d array": (
        bad(params={"z": np.array(1.0)}, grads={"z": np.ones(1)}), ValueError, r"\(1,\).*\(\)"
    ),
    "an array for a number": (
        bad(params={"z": 1.0}, grads={"z": np.ones(2)}), ValueError, r"\(2,\).*\(\)"
    ),
    "read-only parameter": (
        bad(params={"z": frozen(np.ones(3))}), ValueError, r"params\['z'\] is read-only"
    ),
    "integer parameter": (
        bad(params={"z": np.ones(3, int)}), TypeError, r"params\['z'\] has dtype int64.*float64"
    ),
    "boolean parameter": (
        bad(params={"z": np.ones(3, bool)}), TypeError, r"params\['z'\] has dtype bool"
    ),
    "complex gradient": (
        bad(grads={"z": np.ones(3, complex)}), TypeError, r"float64.*complex128"
    ),
    "a parameter that is no number": (
        bad(params={"z": "x"}), TypeError, r"params\['z'\].*got str"
    ),
    "nothing for a parameter": (bad(params={"z": None}), TypeError, r"params\['z'\].*NoneType"),
    "dates": (
        bad(params={"z": np.ones(3, "M8[s]")}), TypeError, r"params\['z'\].*datetime64"
    ),
    "a structured array": (bad(params={"z": np.ones(3, "f8,f8")}), TypeError, r"params\['z'\]"),
    "objects that cannot be multiplied": (
        bad(params={"z": np.array([None] * 3)}), TypeError, "unsupported operand|no callable sqrt"
    ),
    "an array that breaks half-way": (
        bad(params={"z": np.ones(3).view(Evil)}), RuntimeError, "evil"
    ),
}  # fmt: skip
# By the operators of a parameter alone.
FOUND_WHILE_IT_IS_UPDATED = ("objects that cannot be multiplied", "an array that breaks half-way")


def network():
    """Entries of every path before the bad one: kernels, strided, NumPy, a number."""
    params = {
        "W": np.linspace(-1, 1, 600), "T": np.linspace(0, 1, 12).reshape(3, 4).T,
        "h": np.ones(4, np.float16), "o": np.array([1.0, 2.0], object), "x": -7.0,
        "z": np.ones(3),
    }  # fmt: skip
    grads = {
        "W": np.ones(600), "T": np.ones((4, 3)), "h": np.ones(4, np.float16),
        "o": np.ones(2), "x": 0.5, "z": np.ones(3),
    }  # fmt: skip
    return params, grads


def snapshot(optimizer, params):
    return copy.deepcopy((vars(optimizer), dict(params)))


def assert_unchanged(before, optimizer, params):
    attributes, values = before
    assert vars(optimizer).keys() == attributes.keys()
    for name, value in attributes.items():
        now = getattr(optimizer, name)
        if isinstance(value, dict):
            assert now.keys() == value.keys()
            for key in value:
                assert_same_bits(now[key], value[key], f"{name}[{key!r}]")
        else:
            assert now == value, name
    assert list(params) == list(values)
    for key, value in values.items():
        assert type(params[key]) is type(value)
        if isinstance(value, np.ndarray):
            assert_same_bits(params[key].view(np.ndarray), value.view(np.ndarray), key)
        else:
            assert params[key] == value


@pytest.mark.parametrize("twin", [False, True], ids=["fast", "numpy"])
@pytest.mark.parametrize("trained", [False, True], ids=["first update", "later update"])
@pytest.mark.parametrize("case", WRONG)
def test_an_error_changes_nothing(rule, twin, trained, case):
    change, error, text = WRONG[case]
    if rule.looks_first and not trained and case in FOUND_WHILE_IT_IS_UPDATED:
        return
    optimizer = rule.numpy() if twin else rule.fast()
    good_params, good_grads = network()
    if rule.slots and rule.name != "Momentum":  # no root of an object
        del good_params["o"]
    params = {k: v for k, v in good_params.items() if not trained or k != "z"}
    if trained:
        optimizer.update(params, good_grads)
        optimizer.update(params, good_grads)
        params["z"] = good_params["z"]
    params.update(copy.deepcopy(change["params"]))
    grads = {**good_grads, **change["grads"]}
    grads.pop(change["drop"], None)
    if case == "read-only parameter":
        frozen(params["z"])
    before = snapshot(optimizer, params)
    arrays = {k: v for k, v in params.items() if isinstance(v, np.ndarray)}
    with pytest.raises(error, match=text):
        optimizer.update(params, grads)
    assert_unchanged(before, optimizer, params)
    assert all(params[k] is v for k, v in arrays.items())
    # And it goes on as if nothing had been tried.
    del params["z"]
    for _ in range(1 + rule.looks_first):
        optimizer.update(params, good_grads)
    assert params["W"][0] != before[1]["W"][0]


def test_a_shorter_list_of_gradients_is_an_index_error(rule):
    for optimizer in (rule.fast(), rule.numpy()):
        params = [np.ones(2), np.ones(2)]
        with pytest.raises(IndexError, match=r"params\[1\] has no gradient: grads\[1\]"):
            optimizer.update(params, [np.ones(2)])
        assert params[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("params", [(np.ones(2),), np.ones(2), None, 3, {1, 2}, "ab"])
def test_params_is_a_mapping_or_a_list(rule, params):
    for optimizer in (rule.fast(), rule.numpy()):
        with pytest.raises(TypeError, match="params must be a mapping or a list, got"):
            optimizer.update(params, [np.ones(2)])


@pytest.mark.parametrize("grads", [None, 3, {1, 2}])
def test_grads_can_be_looked_up(rule, grads):
    for optimizer in (rule.fast(), rule.numpy()):
        with pytest.raises(TypeError, match="grads must be a mapping or a list, got"):
            optimizer.update({"W": np.ones(2)}, grads)


def test_a_number_in_a_mapping_that_takes_no_values_is_refused(rule):
    params = MappingProxyType({"W": np.ones(2), "x": 1.0})
    for optimizer in (rule.fast(), rule.numpy()):
        with pytest.raises(TypeError, match=r"params\['x'\].*mappingproxy takes no new values"):
            optimizer.update(params, {"W": np.ones(2), "x": 1.0})
    assert params["W"].tolist() == [1.0, 1.0]


def test_another_shape_under_a_known_key_is_never_broadcast(rule):
    if not rule.slots:
        return
    for optimizer in (rule.fast(), rule.numpy()):
        optimizer.update({"W": np.ones((1, 4))}, {"W": np.ones((1, 4))})
        params = {"W": np.ones((3, 4))}
        before = snapshot(optimizer, params)
        text = rf"{rule.slots[0]}\['W'\] has shape \(1, 4\), but its parameter has shape \(3, 4\)"
        with pytest.raises(ValueError, match=text):
            optimizer.update(params, {"W": np.ones((3, 4))})
        assert_unchanged(before, optimizer, params)


def test_a_dict_and_a_list_do_not_share_an_optimizer(rule):
    if not rule.slots:
        return
    for optimizer in (rule.fast(), rule.numpy()):
        optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
        with pytest.raises(TypeError, match="params is a list, but the state"):
            optimizer.update([np.ones(2)], [np.ones(2)])


def test_read_only_state_is_refused(rule):
    for slot in rule.slots:
        for optimizer in (rule.fast(), rule.numpy()):
            params = {"W": np.ones(2)}
            optimizer.update(params, {"W": np.ones(2)})
            getattr(optimizer, slot)["W"].flags.writeable = False
            before = snapshot(optimizer, params)
            with pytest.raises(ValueError, match=rf"{slot}\['W'\] is read-only"):
                optimizer.update(params, {"W": np.ones(2)})
            assert_unchanged(before, optimizer, params)


def trained(cls, container=dict):
    """An optimizer after two updates, with what a third one takes; a number comes last."""
    params, grads = network()
    for key in ("o", "z"):
        del params[key], grads[key]
    params["n"], grads["n"] = 1.0, 0.5
    params = container(params)
    optimizer = cls()
    optimizer.update(params, grads)
    optimizer.update(params, grads)
    return optimizer, params, grads


def fails(error, cls, container=dict, change=None, text=None):
    optimizer, params, grads = trained(cls, container)
    grads |= change or {}
    before = snapshot(optimizer, params)
    with pytest.raises(error, match=text):
        optimizer.update(params, grads)
    assert_unchanged(before, optimizer, params)


def test_a_container_that_refuses_new_values_gets_its_old_ones_back(rule):
    class Full(dict):
        closed = False

        def __setitem__(self, key, value):
            if self.closed and key == "n" and value != self[key]:
                raise RuntimeError("full")
            super().__setitem__(key, value)

    class Closing(Full):
        """Open for the two updates of the training."""

        writes = 0

        def __setitem__(self, key, value):
            self.writes += key == "n"
            self.closed = self.writes > 2 - rule.looks_first
            super().__setitem__(key, value)

    for cls in (rule.fast, rule.numpy):
        fails(RuntimeError, cls, Closing, text="full")


def test_a_second_interrupt_while_the_first_one_is_undone(rule):
    class Interrupting(UserDict):
        writes, bad = 0, ()

        def __setitem__(self, key, value):
            self.writes += 1
            if self.writes in self.bad:
                raise KeyboardInterrupt
            super().__setitem__(key, value)

    for cls in (rule.fast, rule.numpy):
        params, grads = Interrupting(a=1.0, b=2.0, c=3.0), {"a": 1.0, "b": 1.0, "c": 1.0}
        optimizer = cls()
        optimizer.update(params, grads)
        params.writes, params.bad = 0, (3, 4)
        before = snapshot(optimizer, params)
        with pytest.raises(KeyboardInterrupt):
            optimizer.update(params, grads)
        assert_unchanged(before, optimizer, params)


def test_a_python_number_that_overflows_takes_everything_back(rule):
    if rule.name == "Adam":  # whose rule has a power
        for cls in (rule.fast, rule.numpy):
            fails(OverflowError, cls, change={"n": 1e200})


def test_a_complex_gradient_of_a_number_is_refused_at_once(rule):
    if rule.slots:
        for cls in (rule.fast, rule.numpy):
            fails(TypeError, cls, change={"n": 1j}, text="complex128")
            params = {"h": np.ones(3, np.float16), "n": 1.0}
            before = snapshot(cls(), params)
            optimizer = cls()
            with pytest.raises(TypeError, match="complex128"):
                optimizer.update(params, {"h": np.ones(3, np.float16), "n": 1j})
            assert_unchanged(before, optimizer, params)


def test_warnings_that_are_errors_take_everything_back(rule):
    huge = {"h": np.full(4, 60000, np.float16)}
    for cls in (rule.fast, rule.numpy):
        if rule.squares:
            fails(RuntimeWarning, cls, change=huge)


def test_a_kernel_without_memory_takes_back_what_numpy_did(rule, monkeypatch):
    class NoMemory(optimizers.Rollback):
        def finish(self, *_):
            raise MemoryError("no memory")

    monkeypatch.setattr(optimizers, "Rollback", NoMemory)
    params, grads = {"n": 1, "W": np.ones(3)}, {"n": 1.0, "W": np.ones(3)}
    optimizer = rule.fast()
    before = snapshot(optimizer, params)
    with pytest.raises(MemoryError):
        optimizer.update(params, grads)
    assert_unchanged(before, optimizer, params)


@pytest.mark.parametrize("number", [float, np.float64])
def test_numbers_whose_rule_raises_take_back_those_before_them(rule, number):
    """Powers of Python's numbers overflow with an error, and NumPy's with a warning."""
    if not rule.squares:
        return
    for cls in (rule.fast, rule.numpy):
        params = {"m": number(2.0), "n": number(1.0), "W": np.ones(3)}
        optimizer = cls()
        for _ in range(2):
            optimizer.update(params, params)
        before = snapshot(optimizer, params)
        with pytest.raises(OverflowError if number is float else RuntimeWarning):
            optimizer.update(params, params | {"n": number(1e200)})
        assert_unchanged(before, optimizer, params)


def test_numbers_are_taken_back_if_the_kernels_cannot_run(rule):
    """A trace function takes an array away in the midst of the update."""
    optimizer, taken = rule.fast(), np.ones(3)
    params, grads = {"n": 2.0, "W": taken}, {"n": 1.0, "W": np.ones(3)}
    for _ in range(2):
        optimizer.update(params, grads)
    before = snapshot(optimizer, params)

    def trace(frame, event, argument):
        if frame.f_code.co_name == "_rule":
            taken.resize(70_000, refcheck=False)

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(RuntimeError, match="an array was resized or exchanged"):
            optimizer.update(params, grads)
    finally:
        sys.settrace(tracing)
    taken.resize(3, refcheck=False)
    assert_unchanged(before, optimizer, params)


@pytest.mark.parametrize("state", [(), np.zeros((1, 3)), UserDict(), 3])
def test_state_of_another_kind_is_refused(rule, state):
    for slot in rule.slots:
        for cls in (rule.fast, rule.numpy):
            optimizer, params = cls(), {"W": np.ones(3)}
            optimizer.update(params, {"W": np.ones(3)})
            setattr(optimizer, slot, state)
            values = params["W"].copy()
            with pytest.raises(TypeError, match=f"^the state {slot} must be a dict, a list or"):
                optimizer.update(params, {"W": np.ones(3)})
            assert_same_bits(params["W"], values)


def test_state_of_another_kind_is_refused_if_other_state_is_missing():
    for cls in (zdlfast.Adam, zdlfast.reference.Adam):
        optimizer, params = cls(), {"W": np.ones(3)}
        optimizer.update(params, {"W": np.ones(3)})
        optimizer.m, optimizer.v = None, "text"
        before = snapshot(optimizer, params)
        with pytest.raises(TypeError, match=r"^the state v must be a dict, a list or"):
            optimizer.update(params, {"W": np.ones(3)})
        assert_unchanged(before, optimizer, params)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("params", [{"W": np.ones(3)}, {"W": np.ones(3), "x": 1.0}])
def test_state_whose_setter_raises_leaves_everything_as_it_was(rule, params, trained):
    """A class of the user's own may have properties in the place of attributes."""
    for cls in (rule.fast, rule.numpy):
        for name in (*rule.slots, *(["iter"] if hasattr(cls(), "iter") else [])):

            class Own(cls):
                fails = False

                def read(self, name=name):
                    return vars(self)[f"_{name}"]

                def write(self, value, name=name):
                    if self.fails:
                        raise ZeroDivisionError(name)
                    vars(self)[f"_{name}"] = value

                locals()[name] = property(read, write)

            optimizer, mine = Own(), copy.deepcopy(params)
            if trained:
                optimizer.update(mine, params)
            before = snapshot(optimizer, mine)
            optimizer.fails = True
            with pytest.raises(ZeroDivisionError, match=name):
                optimizer.update(mine, params)
            del optimizer.fails
            assert_unchanged(before, optimizer, mine)


@pytest.mark.parametrize(
    ("param", "grad", "name"),
    [(10**400, 1.0, "params"), (1.0, 10**400, "grads"), (np.ones(3), 10**400, "grads")],
    ids=["parameter", "gradient", "gradient of an array"],
)
def test_whole_numbers_that_no_float_holds_are_named_and_not_printed(rule, param, grad, name):
    text = rf"^{name}\['x'\] is a whole number that is too large for a float$"
    for cls in (rule.fast, rule.numpy):
        with pytest.raises(OverflowError, match=text):
            cls().update({"x": param}, {"x": grad})


def test_whole_numbers_that_a_float_holds_are_taken(rule):
    for cls in (rule.fast, rule.numpy):
        values = []
        for grad in (2**70, 2.0**70):
            params = {"W": np.ones(3), "x": 1.0}
            cls().update(params, {"W": grad, "x": grad})
            values.append(params)
        assert_same_bits(values[0]["W"], values[1]["W"])
        assert values[0]["x"] == values[1]["x"]


@pytest.mark.parametrize("count", [10**400, -(10**400)], ids=["positive", "negative"])
def test_a_step_count_that_no_float_holds_is_refused(count):
    for cls in (zdlfast.Adam, zdlfast.reference.Adam):
        optimizer = cls()
        with pytest.raises(ValueError, match=r"^iter must fit into a float, got a larger"):
            optimizer.iter = count
        assert optimizer.iter == 0


@pytest.mark.parametrize("held", [np.zeros(3, complex), np.zeros(3, "U1"), np.zeros(3, "m8[s]")])
def test_state_that_does_not_fit_is_named(rule, held):
    for slot in rule.slots:
        for cls in (rule.fast, rule.numpy):
            optimizer, params = cls(), {"W": np.ones(3)}
            optimizer.update(params, {"W": np.ones(3)})
            getattr(optimizer, slot)["W"] = held.copy()
            before = snapshot(optimizer, params)
            with pytest.raises(TypeError, match=rf"state {slot}\['W'\]"):
                optimizer.update(params, {"W": np.ones(3)})
            assert_unchanged(before, optimizer, params)


@pytest.mark.parametrize(
    ("params", "grads", "text"),
    [
        ({"W": Fraction(1, 2)}, {"W": 1.0}, r"params\['W'\]"),
        ({"W": 1.0}, {"W": Decimal(1)}, r"grads\['W'\]"),
        ({"W": ["a", "b"]}, {"W": 1.0}, r"params\['W'\]"),
        ({"W": [[1.0], [1.0, 2.0]]}, {"W": 1.0}, r"params\['W'\]"),
        ({"W": np.ones(2)}, [np.ones(2)], r"grads\['W'\] cannot be looked up"),
    ],
)
def test_odd_values_are_named(rule, params, grads, text):
    for cls in (rule.fast, rule.numpy):
        with pytest.raises((TypeError, ValueError), match=text):
            cls().update(params, grads)


def test_a_key_that_changes_the_dicts_harms_no_memory():
    """The key's own comparison runs while the engine holds the arrays."""
    params, grads, others = {"W": np.ones(100_000)}, {}, []

    class Key(str):
        armed = False

        def __hash__(self):
            return hash("W")

        def __eq__(self, other):
            if Key.armed:
                Key.armed = False
                params.clear()
                others.extend(np.full(100_000, 7.0) for _ in range(5))
            return str.__eq__(self, other)

    grads[Key("W")] = np.ones(100_000)
    Key.armed = True
    zdlfast.SGD().update(params, grads)
    assert others
    assert all(np.all(other == 7.0) for other in others)


def test_numpy_told_to_raise_takes_everything_back(rule):
    params = {"W": np.ones(3), "z": np.array([1.79e308, 1.0, 1.0])}
    grads = {"W": np.ones(3), "z": np.array([-1e308, 1.0, 1.0])}
    optimizer = rule.numpy(lr=1e307)
    before = snapshot(optimizer, params)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        optimizer.update(params, grads)
    assert_unchanged(before, optimizer, params)
