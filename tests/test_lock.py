"""One optimizer and several users: each has it alone, and nobody waits for ever."""

import _thread
import copy
import os
import pickle
import signal
import sys
import threading
from collections import UserDict
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from process import python
from table import assert_same_bits, assert_same_run
from waiting import PATIENCE, call, wait_until, waits

import zdlfast
from zdlfast import reference

pytestmark = pytest.mark.each_kind

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
        thread.join(PATIENCE)
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
        "small": ({"W": np.ones(70), "b": np.ones(3)}, 100),
        "large": ({"W": np.ones(LARGE), "b": np.ones(3)}, 5),
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


class Use:
    """A use of an optimizer in a thread of its own, which queues for it."""

    def __init__(self, act, *args):
        self.result = self.error = None
        self.thread = threading.Thread(target=self.run, args=(act, *args), daemon=True)
        self.thread.start()

    def run(self, act, *args):
        try:
            self.result = call(act, *args)
        except BaseException as error:
            self.error = error

    def queued(self):
        wait_until(lambda: waits(self.thread.ident))
        return self

    def done(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.error is None
        return self.result


@contextmanager
def held(optimizer, writes=True):
    """Another thread uses the optimizer until the end of the block."""
    entered, leave = threading.Event(), threading.Event()

    def work():
        entered.set()
        assert leave.wait(PATIENCE)

    holder = Use(optimizer._locked, writes, work)
    assert entered.wait(PATIENCE)
    try:
        yield
    finally:
        leave.set()
        holder.done()


USES = {
    "update": lambda o, _: partial(o.update, {"W": np.ones(3)}, {"W": np.ones(3)}),
    "state_dict": lambda o, _: o.state_dict,
    "load_state_dict": lambda o, _: partial(o.load_state_dict, o.state_dict()),
    "save": lambda o, folder: partial(zdlfast.save, folder / "a.npz", o),
    "pickle": lambda o, _: partial(pickle.dumps, o),
    "deepcopy": lambda o, _: partial(copy.deepcopy, o),
    "copy": lambda o, _: partial(copy.copy, o),
}


@pytest.mark.parametrize("way", USES)
@pytest.mark.parametrize("writes", [True, False])
def test_every_use_waits_for_the_one_before(make, way, writes, tmp_path):
    optimizer = make()
    optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    act = USES[way](optimizer, tmp_path)
    with held(optimizer, writes):
        use = Use(act).queued()
        assert list(tmp_path.iterdir()) == []
    use.done()


def test_who_comes_first_is_served_first(make):
    optimizer, served = make(), []
    with held(optimizer):
        uses = [Use(optimizer._locked, place % 2, served.append, place).queued()
                for place in range(6)]  # fmt: skip
        assert served == []
    for use in uses:
        use.done()
    assert served == list(range(6))


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy"])
def test_a_copy_that_waited_is_all_of_the_time_when_it_was_made(way):
    """Attributes too, not only arrays: none was looked at before the wait."""
    optimizer, entered, queued = zdlfast.Adam(), threading.Event(), threading.Event()
    optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})

    def change():
        entered.set()
        assert queued.wait(PATIENCE)
        optimizer.iter, optimizer.lr = 7, 0.5
        optimizer.m["W"][:] = 7.0
        optimizer.v = {"W": np.full(3, 7.0)}

    holder = Use(optimizer._locked, True, change)
    assert entered.wait(PATIENCE)
    use = Use(USES[way](optimizer, None)).queued()
    queued.set()
    holder.done()
    copied = pickle.loads(use.done()) if way == "pickle" else use.done()
    assert (copied.iter, copied.lr) == (7, 0.5)
    assert_same_bits(copied.m["W"], np.full(3, 7.0))
    assert_same_bits(copied.v["W"], np.full(3, 7.0))
    assert copied.m["W"] is not optimizer.m["W"]


def copies_of(optimizer, path):
    """The optimizer's attributes, as each way to take them sees them."""
    state = optimizer.state_dict()
    yield {"iter": state["iter"], **state["state"]}
    zdlfast.save(path, optimizer)
    for copied in (
        zdlfast.load(path)[0],
        copy.deepcopy(optimizer),
        copy.copy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        yield {"iter": copied.iter, "m": copied.m, "v": copied.v}


@pytest.mark.parametrize("module", [zdlfast, reference], ids=["fast", "numpy"])
@pytest.mark.usefixtures("nervous_interpreter")
def test_a_file_a_state_dict_or_a_copy_is_never_of_half_an_update(tmp_path, module):
    params = {"W": np.zeros(LARGE), "h": np.zeros(70, np.float16)}
    grads = {"W": np.ones(LARGE), "h": np.ones(70, np.float16)}
    optimizer, finished = module.Adam(), []
    optimizer.update(params, grads)
    seen = []

    def work(place):
        if place == 0:
            while len(finished) < 2:
                optimizer.update(params, grads)
            return
        try:
            for _ in range(6):
                before = optimizer.iter
                wait_until(lambda before=before: optimizer.iter > before)
                seen.extend(copies_of(optimizer, tmp_path / f"{place}.npz"))
        finally:
            finished.append(place)

    assert in_threads(3, work) == []
    assert len({state["iter"] for state in seen}) >= 6
    expected = module.Adam()
    by_step = {}
    for step in range(1, max(state["iter"] for state in seen) + 1):
        expected.update({"W": np.zeros(1), "h": np.zeros(1, np.float16)},
                        {"W": np.ones(1), "h": np.ones(1, np.float16)})  # fmt: skip
        by_step[step] = copy.deepcopy(expected)
    for state in seen:
        # All elements are alike, and a moment tells the step.
        for slot in ("m", "v"):
            for key, array in state[slot].items():
                assert np.all(array == array[0])
                assert_same_bits(array[:1], getattr(by_step[state["iter"]], slot)[key])


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


class Interrupt(BaseException):
    """Like KeyboardInterrupt, which would end the tests."""


@contextmanager
def interrupted_in_the_queue(before=lambda: None):
    """This thread is interrupted when it waits for an optimizer, and `before` was called."""

    def interrupt(*_):
        raise Interrupt

    def interrupt_who_waits():
        wait_until(lambda: waits(threading.main_thread().ident))
        before()
        _thread.interrupt_main()

    handler = signal.signal(signal.SIGINT, interrupt)
    watch = threading.Thread(target=interrupt_who_waits)
    watch.start()
    try:
        with pytest.raises(Interrupt):
            yield
    finally:
        watch.join()
        signal.signal(signal.SIGINT, handler)


def test_who_waits_for_an_optimizer_can_be_interrupted(make):
    optimizer, params = make(), {"W": np.ones(3)}
    with held(optimizer), interrupted_in_the_queue():
        call(optimizer.update, params, {"W": np.ones(3)})
    assert_same_bits(params["W"], np.ones(3))
    optimizer.update(params, {"W": np.ones(3)})
    assert params["W"][0] < 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_others_go_on_if_one_in_the_queue_is_interrupted(make, place):
    optimizer, served, uses = make(), [], []

    def queue(count):
        for _ in range(count):
            uses.append(Use(optimizer._locked, True, served.append, len(uses)).queued())

    with held(optimizer):
        queue(place)
        with interrupted_in_the_queue(before=partial(queue, 2 - place)):
            call(optimizer._locked, True, served.append, "interrupted")
    for use in uses:
        use.done()
    assert served == [0, 1]


def test_a_loop_of_updates_leaves_room_for_others():
    """Who wants to save does not wait for its end."""
    optimizer, stop = zdlfast.SGD(), threading.Event()

    def loop():
        params, grads = {"W": np.ones(LARGE)}, {"W": np.ones(LARGE)}
        while not stop.is_set():
            optimizer.update(params, grads)

    def read():
        for _ in range(20):
            optimizer.state_dict()

    worker, reader = Use(loop), Use(read)
    try:
        reader.done()
    finally:
        stop.set()
    worker.done()


# ------------------------------------------------------------------ forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# Threads that stop in the middle of an update, of a save, or in the queue.
IN_THE_MIDDLE = """
import os, threading, numpy as np, zdlfast, sys
from zdlfast import reference
from waiting import call, wait_until, waits
leave = threading.Event()
class Slow(dict):
    def __init__(self, **values):
        super().__init__(**values)
        self.entered = threading.Event()
    def keys(self):
        self.entered.set()
        leave.wait()
        return super().keys()
    def __getitem__(self, key):
        self.entered.set()
        leave.wait()
        return super().__getitem__(key)
threads = []
def start(act, *args):
    threads.append(threading.Thread(target=call, args=(act, *args)))
    threads[-1].start()
    return threads[-1].ident
def update(optimizer, grads):
    optimizer.update({"x": 1.0, "W": np.ones(3)}, grads)
GRADS = {"x": 1.0, "W": np.ones(3)}
def update_slowly(optimizer):
    slow = Slow(**GRADS)
    start(update, optimizer, slow)
    slow.entered.wait()
def save(optimizer, params):
    try:
        zdlfast.save("/nowhere/a.npz", optimizer, params)
    except FileNotFoundError:
        pass
def save_slowly(optimizer):
    slow = Slow(x=1.0)
    start(save, optimizer, slow)
    slow.entered.wait()
def queue(optimizer):
    ident = start(optimizer.update, {"x": 1.0, "W": np.ones(3)}, GRADS)
    wait_until(lambda: waits(ident))
def told(act, *args):
    try:
        act(*args)
        print("done", flush=True)
    except RuntimeError as error:
        print(error, flush=True)
def finish():
    leave.set()
    for thread in threads:
        thread.join()
"""
FORKED = "another thread was using this Adam when the process was forked"


def in_the_middle(code):
    done = python(code, PYTHONWARNINGS="ignore", ZDLFAST_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@needs_fork
@pytest.mark.parametrize("module", ["zdlfast", "reference"])
def test_a_fork_while_one_thread_reads_and_another_waits_to_write_leaves_all_whole(module):
    code = f"""{IN_THE_MIDDLE}
optimizer = {module}.Adam()
update(optimizer, GRADS)
save_slowly(optimizer)
queue(optimizer)
child = os.fork()
if child == 0:
    update(optimizer, GRADS)
    os._exit(optimizer.iter)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
finish()
print(optimizer.iter)
"""
    assert in_the_middle(code) == ["2", "2"]


@needs_fork
@pytest.mark.parametrize("module", ["zdlfast", "reference"])
def test_a_fork_in_the_middle_of_an_update_is_told_to_who_uses_its_half(module):
    code = f"""{IN_THE_MIDDLE}
optimizer = {module}.Adam()
update_slowly(optimizer)
queue(optimizer)
child = os.fork()
if child == 0:
    told(update, {module}.Adam(), GRADS)
    told(update, optimizer, GRADS)
    told(update, optimizer, GRADS)
    grandchild = os.fork()
    if grandchild == 0:
        told(update, {module}.Adam(), GRADS)
        told(optimizer.state_dict)
        os._exit(0)
    os.waitpid(grandchild, 0)
    os._exit(0)
os.waitpid(child, 0)
finish()
update(optimizer, GRADS)
print(optimizer.iter)
"""
    new, *halves, new_again, last, count = in_the_middle(code)
    assert (new, new_again, count) == ("done", "done", "3")
    assert len(halves) == 2
    assert all(FORKED in half for half in [*halves, last])


@needs_fork
@pytest.mark.parametrize("module", ["zdlfast", "reference"])
def test_a_hook_of_a_fork_may_use_optimizers_however_early_it_was_registered(module):
    code = f"""
import os
used = []
def hook():
    for act in used:
        act()
os.register_at_fork(after_in_child=hook)
{IN_THE_MIDDLE}
idle, changed, read, large = ({module}.Adam() for _ in range(4))
arrays = {{"W": np.ones(1_000_000)}}
for optimizer in (idle, changed, read):
    update(optimizer, GRADS)
large.update(arrays, arrays)         # with helpers
update_slowly(changed)
queue(changed)
save_slowly(read)
queue(read)
used += [lambda: told(update, idle, GRADS), lambda: told(update, changed, GRADS),
         lambda: told(update, read, GRADS), lambda: told(large.update, arrays, arrays),
         lambda: told(zdlfast.save, os.devnull + ".npz", changed)]
child = os.fork()
if child == 0:
    print(idle.iter, changed.iter, read.iter, large.iter, flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
used.clear()
finish()
print(idle.iter, changed.iter, read.iter, large.iter)
"""
    idle, changed, read, large, saved, *counts = in_the_middle(code)
    assert (idle, read, large) == ("done", "done", "done")
    assert FORKED in changed
    assert FORKED in saved
    assert counts == ["2 1 2 2", "0", "1 3 2 1"]


@needs_fork
@pytest.mark.parametrize("module", ["zdlfast", "reference"])
def test_the_thread_that_forks_within_a_use_still_has_the_optimizer(module):
    code = f"""{IN_THE_MIDDLE}
optimizer = {module}.Adam()
class Forking(dict):
    def __getitem__(self, key):
        if key == "x":
            child.append(os.fork())
            if child[0] == 0:
                told(optimizer.state_dict)
        return super().__getitem__(key)
child = []
update(optimizer, Forking(**GRADS))
update(optimizer, GRADS)
if child[0] == 0:
    print(optimizer.iter, flush=True)
    os._exit(0)
os.waitpid(child[0], 0)
print(optimizer.iter)
"""
    own, *counts = in_the_middle(code)
    assert "is in use by this very thread" in own
    assert counts == ["2", "2"]
