"""One optimizer and several users: each has it alone, and nobody waits for ever."""

import os
import signal
import sys
import threading
import time
from collections import UserDict

import numpy as np
import pytest
from process import python
from table import assert_same_bits, assert_same_run

import zdlfast

LARGE = 300_000  # elements: an update of so many lets go of the GIL


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


def in_threads(count, work):
    """Run `work(place)` in so many threads at once; return what it raised."""
    errors, ready = [], threading.Barrier(count)

    def run(place):
        ready.wait()
        try:
            work(place)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
        assert not thread.is_alive()
    return errors


@pytest.fixture
def nervous_interpreter():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def networks():
    half = np.float16
    return {
        "small": ({"W": np.ones(70), "b": np.ones(3)}, 300),
        "large": ({"W": np.ones(LARGE), "b": np.ones(3)}, 15),
        "slow": ({"W": np.ones(3000, half), "x": 1.0, "b": np.ones(70)}, 50),
        "list": ([np.ones(70), np.ones((30, 50), half)], 50),
    }


@pytest.mark.parametrize("case", networks())
@pytest.mark.usefixtures("nervous_interpreter")
def test_updates_by_several_threads_happen_one_after_the_other(make, rule, case):
    params, updates = networks()[case]
    alone, grads = networks()[case][0], networks()[case][0]
    optimizer, twin = make(lr=0.01), rule.numpy(lr=0.01)

    def work(_):
        for _ in range(updates):
            optimizer.update(params, grads)

    assert in_threads(4, work) == []
    for _ in range(4 * updates):
        twin.update(alone, grads)
    assert_same_run(optimizer, twin, params, alone)


@pytest.mark.usefixtures("nervous_interpreter")
def test_a_file_or_a_state_dict_is_never_of_half_an_update(tmp_path):
    params = {"W": np.zeros(LARGE), "h": np.zeros(70, np.float16)}
    grads = {"W": np.ones(LARGE), "h": np.ones(70, np.float16)}
    optimizer = zdlfast.Adam()
    optimizer.update(params, grads)
    stop, seen = threading.Event(), []

    def work(place):
        try:
            while place == 0 and not stop.is_set():
                optimizer.update(params, grads)
            for i in range(10):
                zdlfast.save(tmp_path / f"{place}{i}.npz", optimizer, params)
                loaded, values = zdlfast.load(tmp_path / f"{place}{i}.npz")
                seen.append((loaded.state_dict(), values["W"]))
                seen.append((optimizer.state_dict(), None))
        finally:
            stop.set()

    assert in_threads(3, work) == []
    assert len({state["iter"] for state, _ in seen}) > 5
    for state, weights in seen:
        # All elements are alike, and the first moment tells the steps.
        held = [weights] if weights is not None else []
        for array in [*held, *(slot["W"] for slot in state["state"].values())]:
            assert np.all(array == array[0])
        assert state["state"]["m"]["W"][0] == pytest.approx(1 - 0.9 ** state["iter"])


def test_a_container_that_calls_the_optimizer_again_is_an_error(make):
    optimizer, other = make(), make()

    class Calling(UserDict):
        def __getitem__(self, key):
            attempt()
            return super().__getitem__(key)

    attempts = [
        lambda: optimizer.update({"x": 1.0}, {"x": 1.0}),
        lambda: optimizer.update({"W": np.ones(5)}, {"W": np.ones(5)}),
        optimizer.state_dict,
        lambda: optimizer.load_state_dict(other.state_dict()),
    ]
    for attempt in attempts:  # noqa: B007 - the container calls it
        params = {"W": np.ones(3)}
        with pytest.raises(RuntimeError, match=r"is in use by this very thread"):
            optimizer.update(params, Calling(W=np.ones(3)))
        assert_same_bits(params["W"], np.ones(3))

    def attempt():
        other.update({"W": np.ones(3)}, {"W": np.ones(3)})  # another optimizer may be used

    optimizer.update(params, Calling(W=np.ones(3)))
    assert params["W"][0] < 1


def test_an_optimizer_is_free_again_after_an_error(make):
    optimizer, params = make(), {"W": np.ones(3)}
    for _ in range(3):
        with pytest.raises(KeyError):
            optimizer.update(params, {})
        with pytest.raises(ValueError, match="format"):
            optimizer.load_state_dict({})
    optimizer.update(params, {"W": np.ones(3)})
    assert in_threads(1, lambda _: optimizer.update(params, {"W": np.ones(3)})) == []


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_who_waits_for_an_optimizer_can_be_interrupted():
    optimizer, entered, leave = zdlfast.SGD(), threading.Event(), threading.Event()

    class Slow(UserDict):
        def __getitem__(self, key):
            entered.set()
            leave.wait(60)
            return super().__getitem__(key)

    def interrupt(*_):
        raise InterruptedError

    worker = threading.Thread(
        target=optimizer.update, args=({"W": np.ones(3)}, Slow(W=np.ones(3)))
    )
    worker.start()
    entered.wait(60)
    params, before = {"W": np.ones(3)}, signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            optimizer.update(params, {"W": np.ones(3)})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        leave.set()
        worker.join()
    assert_same_bits(params["W"], np.ones(3))
    optimizer.update(params, {"W": np.ones(3)})


def test_a_loop_of_updates_leaves_room_for_others():
    """Who wants to save does not wait for its end."""
    optimizer, stop = zdlfast.SGD(), threading.Event()

    def loop():
        params, grads = {"W": np.ones(LARGE)}, {"W": np.ones(LARGE)}
        while not stop.is_set():
            optimizer.update(params, grads)

    worker = threading.Thread(target=loop)
    worker.start()
    time.sleep(0.05)
    start = time.monotonic()
    for _ in range(20):
        optimizer.state_dict()
    took = time.monotonic() - start
    stop.set()
    worker.join()
    assert took < 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_one_thread_reads_and_another_waits_to_write_leaves_all_whole():
    code = """
import numpy as np, os, threading, time, zdlfast
optimizer, entered, leave = zdlfast.Adam(), threading.Event(), threading.Event()
class Slow(dict):
    def keys(self):
        entered.set()
        leave.wait(60)
        return super().keys()
def save():
    try:
        zdlfast.save("/nowhere/a.npz", optimizer, Slow(x=1.0))
    except FileNotFoundError:
        pass
def work(): optimizer.update({"x": 1.0}, {"x": 1.0})
work()
threads = [threading.Thread(target=save), threading.Thread(target=work)]
threads[0].start()
entered.wait(60)
threads[1].start()
time.sleep(0.1)
child = os.fork()
if child == 0:
    work()
    os._exit(optimizer.iter)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
leave.set()
for thread in threads:
    thread.join()
print(optimizer.iter)
"""
    done = python(code, PYTHONWARNINGS="ignore")
    assert done.stdout.split() == ["2", "2"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_an_update_is_told_to_who_uses_its_half():
    code = """
import numpy as np, os, threading, time, zdlfast
optimizer, entered, leave = zdlfast.Adam(), threading.Event(), threading.Event()
class Slow(dict):
    def __getitem__(self, key):
        entered.set()
        leave.wait(60)
        return super().__getitem__(key)
def work(grads): optimizer.update({"x": 1.0}, grads)
def fresh(): zdlfast.Adam().update({"x": 1.0}, {"x": 1.0})
first = threading.Thread(target=work, args=(Slow(x=1.0),))
first.start()
entered.wait(60)
second = threading.Thread(target=work, args=({"x": 1.0},))     # waits
second.start()
time.sleep(0.05)
child = os.fork()
if child == 0:
    fresh()
    for _ in range(2):
        try:
            work({"x": 1.0})
        except RuntimeError as error:
            print(error, flush=True)
    grandchild = os.fork()
    if grandchild == 0:
        fresh()
        try:
            optimizer.state_dict()
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(grandchild, 0)
    os._exit(0)
os.waitpid(child, 0)
leave.set()
first.join()
second.join()
work({"x": 1.0})
print(optimizer.iter)
"""
    done = python(code, PYTHONWARNINGS="ignore")
    *told, count = done.stdout.splitlines()
    assert count == "3", done.stderr
    assert len(told) == 3
    assert all("another thread was using this Adam when the process was forked" in t for t in told)
