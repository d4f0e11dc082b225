"""An exception at any moment: an update, or what was loaded, is there whole or not at all.

Signal handlers run between Python's bytecodes, and so does a trace function, which can count them:
each test here interrupts at counted places, the same ones in every run.
"""

import copy
import functools
import itertools
import sys
from collections import UserDict

import numpy as np
import pytest
from table import is_same_run, keys_of, past_the_first

import zdlfast

pytestmark = pytest.mark.each_kind

PLACES = 40  # of which the last ones are all tried


class Interrupt(BaseException):
    """Like KeyboardInterrupt, which would end the tests."""


def bytecodes(function, stop=None):
    """Call a function; count its bytecodes, and raise at the one with this number."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == stop:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


bytecodes(lambda: None)  # Python 3.12 tells of them from the second time on


def interrupted(function, stop):
    try:
        bytecodes(function, stop)
    except Interrupt:
        return True
    return False


def places(count, rng):
    """Numbers of bytecodes: some of all, and the last ones."""
    some = rng.choice(count, min(count, PLACES), replace=False) + 1
    return sorted({*some.tolist(), *range(max(1, count - 8), count + 1)})


def network(case):
    """Usual arrays; what NumPy updates beside what kernels do; shared memory; a list."""
    rng = np.random.default_rng(8)
    values = rng.standard_normal(150_000)
    half, turned = values[:300].astype(np.float16), values[:81].reshape(9, 9).copy().T
    odd = values[:300].astype(complex)
    return {
        "usual": {"W": values[:210].reshape(30, 7), "b": values[300:307]},
        "large": {"W": values},
        "slow": {"h": half, "x": 1.5, "W": turned, "c": odd, "0": np.array(3.0)},
        "shared": {"a": values[:300], "c": odd, "b": values[200:500], "x": 1.5},
        "container": UserDict(W=values[:70], x=1.5, c=odd),
        "list": [values[:70], odd, 2.5],
        "simple": {"W": values[:70], "h": half, "x": 1.5, "y": values[0]},
    }[case]


def clone(case, params):
    """The same values in arrays that share memory in the same way."""
    copies = network(case)
    for key in keys_of(params):
        if isinstance(params[key], np.ndarray):
            copies[key][...] = params[key]
        else:
            copies[key] = params[key]
    return copies


def test_no_python_runs_in_a_small_update_of_usual_arrays(rule):
    optimizer, params, grads = rule.fast(), network("usual"), network("usual")
    optimizer.update(params, grads)
    assert bytecodes(functools.partial(optimizer.update, params, grads)) == 0


@pytest.mark.parametrize("first", [True, False], ids=["first update", "later update"])
@pytest.mark.parametrize(
    "case", ["usual", "large", "slow", "shared", "container", "list", "simple"]
)
def test_an_interrupted_update_is_whole_or_not_at_all(rule, rng, case, first):
    grads = network(case)
    zdlfast.get_num_threads()  # looks at the environment the first time

    def prepared():
        optimizer, params = rule.fast(**rule.options), network(case)
        if not first:
            optimizer.update(params, grads)
        return optimizer, params

    optimizer, params = prepared()
    before, before_params = copy.deepcopy(optimizer), clone(case, params)
    count = bytecodes(functools.partial(optimizer.update, params, grads))
    after, after_params = optimizer, params
    outcomes = set()
    for place in places(count, rng) if count else []:
        optimizer, params = prepared()
        assert interrupted(functools.partial(optimizer.update, params, grads), place)
        whole = is_same_run(optimizer, after, params, after_params)
        assert whole or is_same_run(optimizer, before, params, before_params)
        outcomes.add(whole)
        optimizer.update(params, grads)  # and it can be used
    if case == "simple":  # of which only the rule is Python code
        assert False in outcomes
    elif case not in ("usual", "large"):  # which no Python code does
        assert outcomes == {True, False}


def test_an_interrupted_load_is_whole_or_not_at_all(rule, rng):
    params = {str(i): rng.standard_normal(9) for i in range(20)}
    states = []
    for lr in (0.1, 0.2):
        optimizer = rule.fast(lr=lr)
        for _ in range(int(lr * 10)):
            optimizer.update(params, params)
        states.append(optimizer.state_dict())

    def loaded(state):
        optimizer = rule.fast()
        optimizer.load_state_dict(state)
        return optimizer

    expected = [loaded(state) for state in states]
    outcomes = set()
    count = bytecodes(functools.partial(loaded(states[0]).load_state_dict, states[1]))
    for place in places(count, rng):
        optimizer = loaded(states[0])
        assert interrupted(functools.partial(optimizer.load_state_dict, states[1]), place)
        found = [is_same_run(optimizer, o, {}, {}) and optimizer.lr == o.lr for o in expected]
        assert any(found)
        outcomes.add(found.index(True))
    assert outcomes == {0, 1}


@pytest.mark.parametrize("times", [1, 2, 10, 1000])
def test_interrupts_in_a_row_during_the_rollback_do_not_stop_it(rule, times):
    class Interrupting(UserDict):
        """Interrupts the third write, and then so many more."""

        left = None

        def __setitem__(self, key, value):
            if self.left is not None:
                self.left -= 1
                if self.left < times - 1 and self.left >= -1:
                    raise Interrupt
            super().__setitem__(key, value)

    params, grads = Interrupting(a=1.0, b=2.0, c=3.0), {"a": 1.0, "b": 1.0, "c": 1.0}
    optimizer = past_the_first(rule.fast())
    before = copy.deepcopy(optimizer)
    params.left = times + 1
    with pytest.raises(Interrupt):
        optimizer.update(params, grads)
    assert params == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert is_same_run(optimizer, before, {}, {})
    params.left = None
    optimizer.update(params, grads)
    assert params["a"] < 1.0


class Failing(UserDict):
    """Raises what it is told to, write by write; None lets one succeed."""

    errors = iter(())

    def __setitem__(self, key, value):
        error = next(self.errors, None)
        if error is not None:
            raise error
        super().__setitem__(key, value)


@pytest.mark.parametrize("kind", ["fast", "numpy"])
def test_a_container_that_always_raises_ends_the_rollback_of_itself_alone(rule, kind):
    optimizer, array = getattr(rule, kind)(), np.ones(3, np.float16)
    params = Failing(array=array, a=1.0, b=2.0)
    grads = {"array": array.copy(), "a": 1.0, "b": 1.0}
    before = copy.deepcopy(optimizer)
    params.errors = itertools.chain([None], itertools.repeat(Interrupt))
    with pytest.raises(Interrupt):
        optimizer.update(params, grads)
    assert array.tolist() == [1.0, 1.0, 1.0]
    assert is_same_run(optimizer, before, {}, {})


@pytest.mark.parametrize("kind", ["fast", "numpy"])
def test_an_interrupt_of_the_rollback_is_told_beside_the_first_error(rule, kind):
    params = Failing(a=1.0, b=2.0)
    params.errors = iter([None, ZeroDivisionError, Interrupt])
    with pytest.raises(Interrupt) as told:
        getattr(rule, kind)().update(params, {"a": 1.0, "b": 1.0})
    assert isinstance(told.value.__context__, ZeroDivisionError)
    assert params == {"a": 1.0, "b": 2.0}
