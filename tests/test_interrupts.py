"""Signals at any moment: an update, or what was loaded, is there whole or not at all."""

import copy
import functools
import itertools
import signal
import time

import numpy as np
import pytest
from table import is_same_run, keys_of

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
INTERRUPTS = 30


class Interrupt(BaseException):
    """Like KeyboardInterrupt, which would end the tests."""


@pytest.fixture
def interrupted():
    """Call a function, with a signal after so many seconds; tell whether it came in time."""

    def handle(*_):
        # Once: what is interrupted here is the function, not its end.
        if armed:
            armed.clear()
            raise Interrupt

    armed = []
    before = signal.signal(signal.SIGALRM, handle)

    def call(function, seconds):
        armed.append(True)
        try:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
            function()
            armed.clear()
        except Interrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False

    yield call
    armed.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def network(case):
    """Usual arrays; what NumPy updates beside what kernels do; shared memory; a list."""
    rng = np.random.default_rng(8)
    values = rng.standard_normal(150_000)
    half, turned = values[:300].astype(np.float16), values[:81].reshape(9, 9).copy().T
    return {
        "usual": {"W": values[:210].reshape(30, 7), "b": values[300:307]},
        "large": {"W": values},
        "slow": {"h": half, "x": 1.5, "W": turned, "y": 0.5, "0": np.array(3.0)},
        "shared": {"a": values[:300], "h": half, "b": values[200:500], "x": 1.5},
        "list": [values[:70], half, 2.5],
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


@pytest.mark.parametrize("first", [True, False], ids=["first update", "later update"])
@pytest.mark.parametrize("case", ["usual", "large", "slow", "shared", "list"])
def test_an_interrupted_update_is_whole_or_not_at_all(rule, rng, interrupted, case, first):
    optimizer, params, grads = rule.fast(), network(case), network(case)
    took, outcomes, interrupts = 1e-5, set(), 0
    end = time.monotonic() + 20
    while interrupts < INTERRUPTS and time.monotonic() < end:
        if first:
            optimizer, params = rule.fast(), network(case)
        before, before_params = copy.deepcopy(optimizer), clone(case, params)
        after, after_params = copy.deepcopy(optimizer), clone(case, params)
        start = time.perf_counter()
        after.update(after_params, grads)
        took = 0.9 * took + 0.1 * (time.perf_counter() - start)
        interrupts += interrupted(
            functools.partial(optimizer.update, params, grads), rng.uniform(0, 1.3 * took)
        )
        whole = is_same_run(optimizer, after, params, after_params)
        assert whole or is_same_run(optimizer, before, params, before_params)
        outcomes.add(whole)
        optimizer.update(params, grads)  # and it can be used
    assert interrupts > 10
    assert outcomes == {True, False}


def test_an_interrupted_load_is_whole_or_not_at_all(rule, rng, interrupted):
    params = {str(i): rng.standard_normal(9) for i in range(20)}
    states = []
    for lr in (0.1, 0.2):
        optimizer = rule.fast(lr=lr)
        for _ in range(int(lr * 10)):
            optimizer.update(params, params)
        states.append(optimizer.state_dict())
    optimizer, took = rule.fast(), 1e-4
    optimizer.load_state_dict(states[0])
    olds, seen = itertools.cycle([0, 1]), set()
    for old in itertools.islice(olds, 2 * INTERRUPTS):
        optimizer.load_state_dict(states[old])
        start = time.perf_counter()
        rule.fast().load_state_dict(states[1 - old])
        took = 0.9 * took + 0.1 * (time.perf_counter() - start)
        interrupted(
            lambda new=states[1 - old]: optimizer.load_state_dict(new), rng.uniform(0, 1.3 * took)
        )
        expected = []
        for state in states:
            expected.append(rule.fast())
            expected[-1].load_state_dict(state)
        found = [
            is_same_run(optimizer, other, {}, {}) and optimizer.lr == other.lr
            for other in expected
        ]
        assert any(found)
        seen.add(found.index(True) == old)
    assert seen == {True, False}
