"""Eight threads at once: nothing is lost, torn or freed too early.

With the GIL these hold as well; a Python without it (3.13t and later) is what they are for. They
count: each update subtracts exactly one from each parameter, so that whole numbers tell how many
updates an array has seen.
"""

import copy
import pickle
import sysconfig
import threading
from contextlib import suppress

import numpy as np
import pytest
from process import python
from table import assert_same_bits, assert_same_run

import zdlfast

pytestmark = pytest.mark.each_kind

THREADS = 8
KEYS = "abcdefgh"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="has a GIL")
def test_importing_the_package_does_not_switch_the_gil_on():
    # Empty: nobody has asked for either.
    done = python("import sys, zdlfast; print(sys._is_gil_enabled())", PYTHON_GIL="")
    assert done.stdout == "False\n", done.stderr


def at_once(*works):
    """Run each function in a thread of its own; all begin together. What one raises is raised."""
    errors, start = [], threading.Barrier(len(works))

    def run(work):
        start.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def until(done, work):
    """A function that works again and again until the event has happened."""

    def run():
        while not done.is_set():
            work()

    return run


def then(done, *works):
    """The same functions; when the last of them has ended, the event happens."""
    left, guard = [len(works)], threading.Lock()

    def ending(work):
        def run():
            try:
                work()
            finally:
                with guard:
                    left[0] -= 1
                    if left[0] == 0:
                        done.set()

        return run

    return [ending(work) for work in works]


def small(rng, dtype):
    return {key: rng.standard_normal(n + 1).astype(dtype) for n, key in enumerate(KEYS)}


def copy_of(arrays):
    return {key: value.copy() for key, value in arrays.items()}


def test_different_optimizers_in_parallel(rule, dtype, rng):
    start, grads = small(rng, dtype), [small(rng, dtype) for _ in range(7)]
    runs = [(rule.fast(**rule.options), copy_of(start)) for _ in range(THREADS)]

    def train(optimizer, params):
        for step in range(100):
            optimizer.update(params, grads[step % 7])

    at_once(*(lambda run=run: train(*run) for run in runs))
    twin, expected = rule.numpy(**rule.options), copy_of(start)
    train(twin, expected)
    for optimizer, params in runs:
        assert_same_run(optimizer, twin, params, expected)


@pytest.mark.parametrize("kind", [dict, list])
def test_one_optimizer_shared(rule, dtype, rng, kind):
    start, grads = small(rng, dtype), small(rng, dtype)
    if kind is list:
        start, grads = list(start.values()), list(grads.values())
    optimizer, params = rule.fast(**rule.options), copy.deepcopy(start)

    def train(optimizer, params, steps):
        for _ in range(steps):
            optimizer.update(params, grads)

    at_once(*[lambda: train(optimizer, params, 50)] * THREADS)
    twin, expected = rule.numpy(**rule.options), copy.deepcopy(start)
    train(twin, expected, 50 * THREADS)
    assert_same_run(optimizer, twin, params, expected)


class Counted:
    """One optimizer, whose updates subtract one each, and how many of them were done."""

    def __init__(self):
        self.optimizer = zdlfast.Momentum(lr=1.0, momentum=0.0)
        self.guard, self.done, self.refused = threading.Lock(), 0, 0

    def update(self, params, grads, refusals):
        try:
            self.optimizer.update(params, grads)
        except refusals:
            with self.guard:
                self.refused += 1
        else:
            with self.guard:
                self.done += 1

    def updates(self, params, grads, refusals=(), times=1500):
        def run():
            for _ in range(times):
                self.update(params, grads, refusals)

        return run


def total(arrays):
    """How many updates arrays have seen in all, each of which has seen every one as a whole."""
    for array in arrays:
        assert np.all(array == array.flat[0])
    return -sum(array.flat[0] for array in arrays)


def zeros(n=5):
    return np.zeros(n)


@pytest.mark.parametrize("odd", [False, True], ids=["usual", "odd"])
def test_dicts_whose_arrays_another_thread_exchanges(odd):
    params, grads = {key: zeros() for key in KEYS}, {key: np.ones(5) for key in KEYS}
    if odd:
        params["odd"], grads["odd"] = np.zeros(5, np.float16), np.ones(5, np.float16)
    counted, over, kept = Counted(), threading.Event(), [params["a"]]

    def exchange():
        kept.append(zeros())
        params["a"] = kept[-1]
        params["b"] = zeros()  # and the one before is gone
        grads["c"] = np.ones(5)
        grads["a"] = np.ones(5)

    updates = then(over, *[counted.updates(params, grads)] * (THREADS - 1))
    at_once(*updates, until(over, exchange))
    assert counted.done == (THREADS - 1) * 1500
    assert total(kept) == counted.done  # each update has hit one of the arrays, as a whole
    for key in "cdefgh":
        assert total([params[key]]) == counted.done


def test_dicts_that_another_thread_makes_longer_and_shorter():
    params, grads = {key: zeros() for key in KEYS}, {key: np.ones(5) for key in KEYS}
    counted, over = Counted(), threading.Event()

    def change():
        for i in range(50):
            grads[f"more {i}"] = np.ones(5)
        del grads["h"]
        for i in range(50):
            del grads[f"more {i}"]
        grads["h"] = np.ones(5)
        params["one more"] = zeros()  # which has no gradient
        del params["one more"]

    # A walk in Python, to tell what is wrong, may itself meet a change.
    refusals = (KeyError, RuntimeError)
    updates = then(over, *[counted.updates(params, grads, refusals)] * (THREADS - 1))
    at_once(*updates, until(over, change))
    assert counted.done + counted.refused == (THREADS - 1) * 1500
    for key in KEYS:
        assert total([params[key]]) == counted.done


def test_lists_that_another_thread_changes():
    params, grads = [zeros() for _ in KEYS], [np.ones(5) for _ in KEYS]
    counted, over, kept = Counted(), threading.Event(), [params[0]]

    def change():
        kept.append(zeros())
        params[0] = kept[-1]
        grads[1] = np.ones(5)
        grads.append(np.ones(5))
        grads.pop()
        last = grads.pop()
        grads.append(last)

    updates = then(over, *[counted.updates(params, grads, IndexError)] * (THREADS - 1))
    at_once(*updates, until(over, change))
    assert counted.done + counted.refused == (THREADS - 1) * 1500
    assert total(kept) == counted.done
    for array in params[1:]:
        assert total([array]) == counted.done


def test_attributes_that_another_thread_sets():
    params, grads = {key: zeros() for key in KEYS}, {key: np.ones(5) for key in KEYS}
    counted, over = Counted(), threading.Event()
    counted.optimizer.update(params, grads)
    counted.done += 1

    def change():
        counted.optimizer.lr = float("1.0")
        counted.optimizer.momentum = float("0.0")
        # State that does not matter, because momentum is 0.
        counted.optimizer.v = {key: zeros() for key in KEYS}

    updates = then(over, *[counted.updates(params, grads)] * (THREADS - 1))
    at_once(*updates, until(over, change))
    for key in KEYS:
        assert total([params[key]]) == counted.done


def test_saved_copied_and_loaded_while_others_update(tmp_path):
    """Each copy is the state after a whole number of steps, and so is what is loaded."""
    steps, threads = 300, 3
    grads = {key: np.full(5, 0.3) for key in KEYS}
    optimizer, params = zdlfast.Adam(), {key: zeros() for key in KEYS}
    optimizer.update(params, grads)
    taken, guard, over = [], threading.Lock(), threading.Event()

    def update():
        for _ in range(steps):
            optimizer.update(params, grads)

    def keep(state):
        with guard:
            taken.append((state["iter"], state["state"]))

    def save():
        zdlfast.save(tmp_path / "saved.npz", optimizer)
        loaded, _ = zdlfast.load(tmp_path / "saved.npz")
        keep(loaded.state_dict())

    def load():
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)

    at_once(
        *then(over, *[update] * threads),
        until(over, lambda: keep(optimizer.state_dict())),
        until(over, lambda: keep(pickle.loads(pickle.dumps(optimizer)).state_dict())),
        until(over, lambda: keep(copy.deepcopy(optimizer).state_dict())),
        until(over, save),
        until(over, load),
    )
    keep(optimizer.state_dict())
    twin, expected = zdlfast.reference.Adam(), {key: zeros() for key in KEYS}
    after = {}
    for step in range(1, steps * threads + 2):
        twin.update(expected, grads)
        after[step] = twin.m["a"].copy(), twin.v["a"].copy()
    assert taken
    for step, state in taken:
        for slot, array in zip(("m", "v"), after[step], strict=True):
            assert list(state[slot]) == list(KEYS)
            for key in KEYS:
                assert_same_bits(state[slot][key], array)


def test_garbage_is_collected_while_others_update():
    """Fresh containers at every step, as a training loop has them, and dead circles among them."""
    counted, over = Counted(), threading.Event()
    params = {key: zeros() for key in KEYS}

    def update():
        for _ in range(1500):
            grads = {key: np.ones(5) for key in KEYS}
            grads["circle"] = grads
            counted.update(params, grads, ())

    def read():
        with suppress(RuntimeError):  # it changed its length
            for value in (counted.optimizer.v or {}).values():
                value.sum()

    at_once(*then(over, *[update] * (THREADS - 1)), until(over, read))
    for key in KEYS:
        assert total([params[key]]) == counted.done == (THREADS - 1) * 1500
