"""Processes: forked, spawned, ended, with helper threads alive or busy."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from process import python

import zdlfast


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_child_go_on_after_a_fork():
    code = """
import numpy as np, os, sys, zdlfast
from zdlfast import reference
def run(cls, steps, params):
    optimizer = cls(lr=0.1)
    for step in range(steps):
        optimizer.update(params, {"W": np.full(400_000, 0.1 * step)})
    return params["W"]
def count():
    tasks = "/proc/self/task"
    return len(os.listdir(tasks)) if os.path.exists(tasks) else None
zdlfast.set_num_threads(3)
expected = run(reference.Adam, 5, {"W": np.ones(400_000)})
alone = count()
def check():
    if not np.array_equal(run(zdlfast.Adam, 5, {"W": np.ones(400_000)}), expected):
        return False
    return alone is None or count() == alone + 2    # helpers of its own
assert check()
for generation in range(3):     # children of children too
    child = os.fork()
    if child == 0:
        if not check():
            os._exit(1)
        if generation == 2:
            os._exit(0)
        continue
    good = check()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if generation:
        os._exit(code if good else 2)
    print("fine" if good and code == 0 else f"wrong: {good} {code}")
    break
"""
    done = python(code, PYTHONWARNINGS="ignore", OPENBLAS_NUM_THREADS="1")
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_while_another_thread_updates():
    code = """
import numpy as np, os, threading, zdlfast
zdlfast.set_num_threads(2)
stop = threading.Event()
def work():
    optimizer, params, grads = zdlfast.Adam(), {"W": np.ones(200_000)}, {"W": np.ones(200_000)}
    while not stop.is_set():
        optimizer.update(params, grads)
worker = threading.Thread(target=work)
worker.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        params = {"W": np.ones(200_000)}
        zdlfast.SGD(lr=1).update(params, {"W": np.ones(200_000)})
        os._exit(int(params["W"].any()))
    assert os.waitpid(child, 0)[1] == 0
stop.set()
worker.join()
print("fine")
"""
    done = python(code, PYTHONWARNINGS="ignore")
    assert done.stdout == "fine\n", done.stderr


def test_a_process_ends_while_helpers_live():
    code = """
import numpy as np, threading, zdlfast
def update():
    zdlfast.SGD().update({"W": np.ones(1_000_000)}, {"W": np.ones(1_000_000)})
update()
def forever():
    while True:
        update()
threading.Thread(target=forever, daemon=True).start()
print("fine")
"""
    for _ in range(3):
        done = python(code, ZDLFAST_NUM_THREADS="3")
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


WORKERS = """
import multiprocessing, sys, threading
import numpy as np, zdlfast
from zdlfast import reference

def train(seed, optimizers=zdlfast):
    optimizer, params = optimizers.Adam(lr=0.1), {"W": np.ones(300_000), "b": np.ones(7)}
    with zdlfast.threads(2):
        for step in range(5):
            optimizer.update(params, {"W": np.full(300_000, 0.1 * seed), "b": np.full(7, step)})
    return params["W"][:10].tobytes() + params["b"].tobytes()

if __name__ == "__main__":
    method, busy = sys.argv[1:]
    zdlfast.set_num_threads(2)
    expected = [train(seed, reference) for seed in range(4)]
    assert [train(seed) for seed in range(4)] == expected     # the helpers live
    stop = threading.Event()
    def work():
        optimizer, params = zdlfast.Adam(), {"W": np.ones(2_000_000)}
        while not stop.is_set():
            optimizer.update(params, params)
    worker = threading.Thread(target=work)
    if busy == "busy":
        worker.start()
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(train, range(4))
    assert [train(seed) for seed in range(4)] == expected
    stop.set()
    if busy == "busy":
        worker.join()
    print(found == expected)
"""


@pytest.mark.parametrize("busy", ["idle", "busy"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_multiprocessing_compute_the_same_bits(tmp_path, method, busy):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, method, busy],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr


def test_a_daemon_thread_that_updates_and_a_save_at_exit(tmp_path):
    path = tmp_path / "last.npz"
    code = f"""
import atexit, threading, time, numpy as np, zdlfast
optimizer, params = zdlfast.Adam(), {{"W": np.ones(500_000)}}
atexit.register(zdlfast.save, {str(path)!r}, optimizer, params)
def forever():
    while True:
        optimizer.update(params, params)
threading.Thread(target=forever, daemon=True).start()
while optimizer.iter < 3:
    time.sleep(0.001)
"""
    for _ in range(3):
        done = python(code, ZDLFAST_NUM_THREADS="2")
        assert (done.returncode, done.stderr) == (0, "")
        optimizer, params = zdlfast.load(path)
        assert optimizer.iter >= 3
        assert np.all(params["W"] == params["W"][0])
        path.unlink()


def test_the_end_of_the_interpreter_is_told_to_who_waits_for_a_stopped_thread():
    code = """
import sys, threading, time, types, numpy as np, zdlfast
optimizer, params = zdlfast.Adam(), {"a": np.ones(3_000_000)}
def forever():
    while True:
        optimizer.update(params, params)
class Late:
    def __init__(self, used):
        self.used = used
    def __del__(self):
        try:
            self.used.state_dict(copy=False)
            print("free", flush=True)
        except RuntimeError as error:
            print(error, flush=True)
sys.modules["late"] = types.ModuleType("late")
sys.modules["late"].late = Late(optimizer)
threading.Thread(target=forever, daemon=True).start()
while optimizer.iter < 3:
    time.sleep(0.001)
"""
    for _ in range(3):
        done = python(code, ZDLFAST_NUM_THREADS="2")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "free\n" or "because the interpreter ends" in done.stdout
