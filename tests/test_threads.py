"""Threads: how many, and the same bits with any number of them."""

import json
import math
import os
import platform
import sys
import threading
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest
from process import python
from table import KINDS, assert_same_run
from waiting import PATIENCE, wait_until

import zdlfast
from zdlfast import _threads

pytestmark = pytest.mark.each_kind

LARGE = 300_000  # elements: enough for helpers, for every rule and dtype


# ------------------------------------------------------------------ how many


@pytest.mark.parametrize(
    ("ours", "openmp", "expected"),
    [
        ("3", "", 3),
        ("3", "5", 3),
        (" 3 ", "5", 3),
        ("", "5", 5),
        ("", "4,2", 4),
        ("", "1000", 256),
        ("256", "", 256),
    ],
)
def test_the_environment_tells_how_many(ours, openmp, expected):
    code = "import zdlfast; print(zdlfast.get_num_threads(), zdlfast.build_info()['threads'])"
    done = python(code, ZDLFAST_NUM_THREADS=ours, OMP_NUM_THREADS=openmp)
    assert done.stdout.split() == [str(expected)] * 2, done.stderr


@pytest.mark.parametrize("openmp", ["", "many", "0", "-1", ",", "9" * 5000])
def test_else_it_is_as_many_as_the_process_may_use(openmp):
    code = "import zdlfast; print(zdlfast.get_num_threads())"
    done = python(code, ZDLFAST_NUM_THREADS="", OMP_NUM_THREADS=openmp)
    assert int(done.stdout) == _threads.usable_cpus(), done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_the_affinity_mask_counts():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import zdlfast; print(zdlfast.get_num_threads())"
    )
    assert python(code, ZDLFAST_NUM_THREADS="", OMP_NUM_THREADS="").stdout.strip() == "1"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "257", "1_0", "9" * 5000])
def test_a_wrong_number_in_the_environment_is_an_error_at_import(value):
    done = python("import zdlfast", ZDLFAST_NUM_THREADS=value)
    assert done.returncode == 1
    assert f"ZDLFAST_NUM_THREADS is '{value}', expected a number from 1 to 256" in done.stderr


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, math.inf),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../x\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {}, math.inf),
        ("", {}, math.inf),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n",
             "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n",
             "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        # As on older systems: another order, or the name of one controller.
        ("4:cpuacct,cpu:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n",
                                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 1.5),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "150000\n",
                                "cpu/a/cpu.cfs_period_us": "100000\n"}, 1.5),
        ("\n0\nnonsense\n0::/a\n", {"a/cpu.max": "150000 0\n"}, math.inf),
    ],
)  # fmt: skip
def test_the_quota_of_a_control_group_counts(tmp_path, cgroup, files, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cgroup").write_text(cgroup)
    for name, text in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert _threads.cgroup_quota(tmp_path / "proc", tmp_path / "fs") == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert _threads.cgroup_quota(tmp_path, tmp_path) == math.inf


def test_a_quota_is_rounded_up(monkeypatch):
    monkeypatch.setattr(_threads, "cgroup_quota", lambda: 0.3)
    assert _threads.usable_cpus() == 1
    monkeypatch.setattr(_threads, "cgroup_quota", lambda: math.inf)
    if hasattr(os, "sched_getaffinity"):
        assert _threads.usable_cpus() == len(os.sched_getaffinity(0))


def test_the_number_can_be_set_for_the_process_and_for_a_block():
    before = zdlfast.get_num_threads()
    try:
        zdlfast.set_num_threads(3)
        assert zdlfast.get_num_threads() == zdlfast.build_info()["threads"] == 3
        with zdlfast.threads(5):
            assert zdlfast.get_num_threads() == 5
            with zdlfast.threads(np.int64(2)):
                assert zdlfast.get_num_threads() == 2
                zdlfast.set_num_threads(4)
                assert zdlfast.get_num_threads() == 2
            assert zdlfast.get_num_threads() == 5
        assert zdlfast.get_num_threads() == 4
        with pytest.raises(KeyError), zdlfast.threads(7):
            raise KeyError
        assert zdlfast.get_num_threads() == 4
    finally:
        zdlfast.set_num_threads(before)


def test_a_block_holds_for_its_own_thread_and_context():
    seen = []
    with zdlfast.threads(zdlfast.get_num_threads() + 1):
        other = threading.Thread(target=lambda: seen.append(zdlfast.get_num_threads()))
        other.start()
        other.join()
        inside = copy_context()
    assert seen == [zdlfast.get_num_threads()]
    assert inside.run(zdlfast.get_num_threads) == zdlfast.get_num_threads() + 1


@pytest.mark.parametrize(
    ("n", "error", "text"),
    [
        (0, ValueError, "n must be from 1 to 256, got 0"),
        (257, ValueError, "n must be from 1 to 256, got 257"),
        (-1, ValueError, "got -1"),
        (2.0, TypeError, "n must be a whole number of threads, got 2.0"),
        (True, TypeError, "got True"),
        ("2", TypeError, "got '2'"),
        (None, TypeError, "got None"),
        (np.array([3, 4]), TypeError, r"got array\(\[3, 4\]\)"),
    ],
)
def test_a_wrong_number_is_an_error_and_changes_nothing(n, error, text):
    before = zdlfast.get_num_threads()
    with pytest.raises(error, match=text):
        zdlfast.set_num_threads(n)
    with pytest.raises(error, match=text), zdlfast.threads(n):
        pass
    assert zdlfast.get_num_threads() == before


# ------------------------------------------------------------------ the same bits


def arrays(rng, shapes, dtype):
    return {
        f"W{i}": np.asarray(rng.standard_normal(shape), dtype=dtype)
        for i, shape in enumerate(shapes)
    }


def assert_equal_with_threads(rule, params, make_grads, counts=(1, 2, 3, 5), steps=3):
    """Updates of copies of `params` on any number of threads equal the NumPy twin's."""
    twin, expected = rule.numpy(**rule.options), {k: v.copy(order="K") for k, v in params.items()}
    gradients = [make_grads() for _ in range(steps)]
    for grads in gradients:
        twin.update(expected, grads)
    for count in counts:
        fast, actual = rule.fast(**rule.options), {k: v.copy(order="K") for k, v in params.items()}
        with zdlfast.threads(count):
            for grads in gradients:
                fast.update(actual, grads)
        assert_same_run(fast, twin, actual, expected)


@pytest.mark.parametrize("n", [LARGE, LARGE + 1, 262_143, 262_144 + 33])
def test_one_large_array(rule, dtype, rng, n):
    params = arrays(rng, [n], dtype)
    assert_equal_with_threads(rule, params, lambda: arrays(rng, [n], dtype))


def test_many_small_arrays_and_empty_ones_between(rule, dtype, rng):
    shapes = [(int(n),) for n in rng.integers(0, 1500, 700)] + [(0,), (1,), (0,)]
    params = arrays(rng, shapes, dtype)
    assert sum(value.size for value in params.values()) > LARGE
    assert_equal_with_threads(rule, params, lambda: arrays(rng, shapes, dtype), counts=(1, 3))


def test_large_and_small_strided_and_contiguous_arrays_of_both_dtypes(rule, rng):
    def draw():
        return {
            "small": rng.standard_normal(7),
            "strided": rng.standard_normal((300, 801))[:, 1::2],
            "turned": rng.standard_normal((400, 500)).T,
            "single": rng.standard_normal(LARGE).astype(np.float32),
            "swapped": rng.standard_normal(3001).astype(">f8"),
            "0-d": np.array(rng.standard_normal()),
            "slow": rng.standard_normal(9).astype(np.float16),
        }

    def grads():
        drawn = draw()
        drawn["single"] = drawn["single"].astype(np.float64)
        drawn["turned"] = np.ascontiguousarray(drawn["turned"])
        return drawn

    assert_equal_with_threads(rule, draw(), grads, counts=(1, 4))


@pytest.mark.parametrize("offset", [1, 3, 5, 15])
def test_arrays_that_start_anywhere(rule, dtype, rng, offset):
    def draw():
        return {"W": rng.standard_normal(LARGE + 16).astype(dtype)[offset : offset + LARGE]}

    assert_equal_with_threads(rule, draw(), draw, counts=(2,))


def test_memory_shared_between_keys_is_updated_in_order(rule, dtype, rng):
    def run(optimizer, buffer, grads):
        params = {
            "whole": buffer,
            "view": buffer[: LARGE // 2],
            "tied": buffer,
            "other": buffer[LARGE // 2 :][::-1],
        }
        optimizer.update(params, {key: grads[: len(value)] for key, value in params.items()})
        return params

    start = rng.standard_normal(LARGE).astype(dtype)
    numpy, fast = rule.numpy(**rule.options), rule.fast(**rule.options)
    a, b = start.copy(), start.copy()
    for _ in range(3):
        grads = rng.standard_normal(LARGE).astype(dtype)
        expected = run(numpy, a, grads)
        with zdlfast.threads(4):
            actual = run(fast, b, grads)
    assert_same_run(fast, numpy, actual, expected)


def test_a_gradient_that_is_another_parameter_is_read_in_order(rule, dtype, rng):
    def run(optimizer, values):
        params = dict(enumerate(values))
        optimizer.update(params, {0: params[1], 1: params[2], 2: params[0]})
        return params

    start = [rng.standard_normal(LARGE).astype(dtype) for _ in range(3)]
    numpy, fast = rule.numpy(**rule.options), rule.fast(**rule.options)
    expected = run(numpy, [value.copy() for value in start])
    with zdlfast.threads(4):
        actual = run(fast, [value.copy() for value in start])
    assert_same_run(fast, numpy, actual, expected)


def test_one_gradient_array_for_all_keys(rule, dtype, rng):
    shapes = [(LARGE // 4,)] * 5
    grads = rng.standard_normal(LARGE // 4).astype(dtype)
    assert_equal_with_threads(
        rule,
        arrays(rng, shapes, dtype),
        lambda: dict.fromkeys(["W0", "W1", "W2", "W3", "W4"], grads),
    )


# ------------------------------------------------------------------ manners


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux shows its threads")
def test_helpers_start_with_the_first_large_update_and_block_signals_but_of_crashes():
    code = """
import numpy as np, os, signal, zdlfast
from pathlib import Path
crashes = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT,
           signal.SIGTRAP, signal.SIGSYS}
kept = {signal.SIGKILL, signal.SIGSTOP}     # which nobody can block
def tasks(): return set(os.listdir("/proc/self/task"))
def update(n, threads):
    with zdlfast.threads(threads):
        zdlfast.SGD().update({"W": np.ones(n)}, {"W": np.ones(n)})
before = tasks()
update(1000, 3)
assert tasks() == before, "helpers for a small update"
update(1_000_000, 1)
assert tasks() == before, "helpers for one thread"
update(1_000_000, 3)
helpers = tasks() - before
assert len(helpers) == 2, helpers
update(1_000_000, 2)
update(1_000_000, 3)
assert tasks() - before == helpers
for task in helpers:
    status = Path("/proc/self/task", task, "status").read_text()
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    blocked = {s for s in signal.valid_signals() if int(blocked.split()[1], 16) >> (s - 1) & 1}
    assert not crashes & blocked
    assert blocked >= set(signal.Signals) - crashes - kept
print("fine")
"""
    done = python(code, OPENBLAS_NUM_THREADS="1")
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux shows its threads")
def test_helpers_that_are_not_called_sleep_on():
    code = """
import os, numpy as np, zdlfast
from pathlib import Path
from waiting import wait_until
def sleeps(task):
    return Path("/proc/self/task", task, "stat").read_text().rpartition(")")[2].split()[0] == "S"
def ran():      # how often each thread was given a CPU
    switches = {}
    for task in os.listdir("/proc/self/task"):
        status = Path("/proc/self/task", task, "status").read_text()
        lines = [line for line in status.splitlines() if "ctxt_switches" in line]
        switches[task] = sum(int(line.split()[1]) for line in lines)
    return switches
params, grads, optimizer = {"W": np.ones(400_000)}, {"W": np.ones(400_000)}, zdlfast.SGD()
before = set(ran())
with zdlfast.threads(9):
    for _ in range(20):
        optimizer.update(params, grads)
helpers = set(ran()) - before
assert len(helpers) == 8
wait_until(lambda: all(map(sleeps, helpers)))
start = ran()
with zdlfast.threads(2):
    for _ in range(200):
        optimizer.update(params, grads)
end = ran()
print(sum(end[task] == start[task] for task in helpers))
"""
    done = python(code, OPENBLAS_NUM_THREADS="1")
    assert done.stdout == "7\n", done.stderr


def test_several_python_threads_with_an_optimizer_each(rng):
    rules, steps = [row for row in KINDS if row.slots] * 2, 50
    start, grads = rng.standard_normal(120_000), rng.standard_normal((7, 120_000))
    results = [None] * len(rules)

    def run(place, rule):
        optimizer, params = rule.fast(**rule.options), {"W": start.copy()}
        for step in range(steps):
            optimizer.update(params, {"W": grads[step % 7]})
        results[place] = params["W"]

    with zdlfast.threads(2):
        contexts = [copy_context() for _ in rules]
    workers = [
        threading.Thread(target=context.run, args=(run, place, rule))
        for place, (context, rule) in enumerate(zip(contexts, rules, strict=True))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
        assert not worker.is_alive()
    for place, rule in enumerate(rules):
        numpy, params = rule.numpy(**rule.options), {"W": start.copy()}
        for step in range(steps):
            numpy.update(params, {"W": grads[step % 7]})
        assert np.array_equal(results[place], params["W"])


def test_other_python_threads_run_during_a_large_update():
    """One of them sees the array half done: its elements are counted down in order."""
    weights, seen = np.zeros(5_000_000), threading.Event()

    def in_the_middle():
        first, last, still_first = weights[0], weights[-1], weights[0]
        return first == still_first != last

    def look():
        wait_until(in_the_middle)
        seen.set()

    watch = threading.Thread(target=look)
    watch.start()
    params, grads, optimizer = {"W": weights}, {"W": np.ones(5_000_000)}, zdlfast.SGD(lr=1)
    with zdlfast.threads(1):
        while watch.is_alive():
            optimizer.update(params, grads)
    watch.join()
    assert seen.is_set()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="changes fenv_t",
)
def test_helpers_work_in_the_floating_point_mode_of_the_caller():
    code = """
import ctypes, json, platform
import numpy as np, zdlfast
libm = ctypes.CDLL(None)
env = (ctypes.c_uint32 * 8)()
# FPCR and its FZ; MXCSR with FTZ and DAZ.
place, bits = (0, 1 << 24) if platform.machine() == "aarch64" else (7, 0x8040)
def flush_to_zero(on):
    libm.fegetenv(env)
    env[place] = env[place] | bits if on else env[place] & ~bits
    libm.fesetenv(env)
def run(threads):
    params = {"W": np.full(1_000_000, 1e-310)}
    with zdlfast.threads(threads):
        zdlfast.SGD(lr=0.5).update(params, {"W": np.full(1_000_000, 1e-310)})
    return int(np.count_nonzero(params["W"].view(np.int64)))
found = {}
for on in (False, True, False):
    values = {}
    flush_to_zero(on)
    try:
        values = [run(1), run(4)]
    finally:
        flush_to_zero(False)
    found.setdefault(str(on), []).append(values)
print(json.dumps(found))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    every = [1_000_000, 1_000_000]
    assert json.loads(done.stdout) == {"False": [every, every], "True": [[0, 0]]}
