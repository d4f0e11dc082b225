"""When memory runs out: MemoryError, and nothing has changed."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from process import python

TESTS = Path(__file__).parent

# Lets each allocation fail, one after the other: of C, of Python and of NumPy.
ATTEMPT = """
import copy, ctypes, os, sys
from pathlib import Path
import numpy as np, zdlfast
sys.path.insert(0, {tests!r})
from table import RULES, is_same_run

library = ctypes.CDLL(None)
fail_after, not_failed = library.fail_after, library.not_failed

def attempt(n, function, *others):
    "Call the function while allocation `n` fails; tell whether it came to that."
    try:
        fail_after(n)
        function()
        return not_failed() == 0
    # NumPy forgets here and there to say why it failed.
    except (MemoryError, SystemError, *others):
        return True
    finally:
        try:
            fail_after(0)
        except MemoryError:
            pass

row = next(row for row in RULES if row.name == {rule!r})
failures = 0
"""

OF_CHANGES = """
def network(case):
    values = np.random.default_rng(0).standard_normal(200)
    cases = dict(
        many=lambda: {{str(i): values[i : i + 3].copy() for i in range(20)}},
        strided=lambda: dict(W=values[:100].reshape(10, 10).copy()[:, ::2], b=values[:3].copy()),
        slow=lambda: dict(h=values[:9].astype("f2"), x=1.5, W=values[:9].copy(), z=np.array(1.0)),
        list=lambda: [values[:50].copy(), values[:20].copy()[::2], 0.5],
        large=lambda: dict(W=np.ones(200_000), b=np.ones(100_000)),
    )
    return cases[case]()

zdlfast.set_num_threads(2)
for case in ("many", "strided", "slow", "list", "large"):
    for steps in (0, 1):
        grads = network(case)
        def start():
            optimizer, params = row.fast(), network(case)
            for _ in range(steps):
                optimizer.update(params, grads)
            return optimizer, params
        before, params_before = start()
        after, params_after = start()
        after.update(params_after, grads)
        for n in range(1, 10_000):
            optimizer, params = start()
            came = attempt(n, lambda: optimizer.update(params, grads))
            assert is_same_run(optimizer, after, params, params_after) or is_same_run(
                optimizer, before, params, params_before
            ), (case, steps, n)
            optimizer.update(params, grads)
            if not came:
                break
            failures += 1

both, grads = (row.fast(lr=0.1), row.fast(lr=0.2)), dict(W=np.ones(3), x=1.5)
for optimizer in both:
    optimizer.update(copy.deepcopy(grads), grads)
old, new = both
state = new.state_dict()
for n in range(1, 10_000):
    optimizer = copy.deepcopy(old)
    came = attempt(n, lambda: optimizer.load_state_dict(state))
    found = [is_same_run(optimizer, one, {{}}, {{}}) and optimizer.lr == one.lr for one in both]
    assert any(found), n
    if not came:
        break
    failures += 1
print(failures)
"""

OF_SAVING = """
os.fsync = lambda file: None     # nobody pulls the plug here
path = Path({folder!r}) / "a.npz"
old, new, params = row.fast(lr=0.1), row.fast(lr=0.2), dict(W=np.ones(3), x=1.5)
files = []
for optimizer in (new, old):
    optimizer.update(copy.deepcopy(params), params)
    zdlfast.save(path, optimizer, params)
    files.append(path.read_bytes())
for n in range(1, 10_000):
    came = attempt(n, lambda: zdlfast.save(path, new, params), Exception)
    assert path.read_bytes() in files, n
    path.write_bytes(files[1])
    if not came:
        break
    failures += 1
print(failures)
"""


@pytest.fixture(scope="module")
def malloc(tmp_path_factory):
    """A library with a malloc that fails when it is told to."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("stands in for glibc's malloc")
    if sys.version_info >= (3, 12):
        pytest.skip("Python itself crashes without memory")
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("malloc") / "no_memory.so"
    source = TESTS / "no_memory.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def failures(malloc, code, folder, rule):
    """Run this code, which prints how many allocations failed in it."""
    done = python(
        (ATTEMPT + code).format(tests=str(TESTS), folder=str(folder), rule=rule),
        LD_PRELOAD=str(malloc),
        PYTHONMALLOC="malloc",
        OPENBLAS_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout)


@pytest.mark.each_kind
def test_without_memory_a_change_is_whole_or_not_at_all(malloc, tmp_path, rule):
    assert failures(malloc, OF_CHANGES, tmp_path, rule.name) > 150


@pytest.mark.each_kind
def test_without_memory_a_file_is_the_old_one_or_the_new_one(malloc, tmp_path, rule):
    assert failures(malloc, OF_SAVING, tmp_path, rule.name) > 400


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, limits the address space")
@pytest.mark.parametrize("twin", ["", ".reference"])
def test_state_that_there_is_no_memory_for_changes_nothing(twin):
    code = f"""
import resource, numpy as np, zdlfast, zdlfast.reference
params = {{"b": np.ones(1000), "W": np.ones(8_000_000)}}
optimizer = zdlfast{twin}.Adam()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 80_000_000, resource.RLIM_INFINITY))
try:
    optimizer.update(params, params)
except MemoryError:
    print(optimizer.iter, optimizer.m, optimizer.v, *(np.all(p == 1) for p in params.values()))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
optimizer.update(params, params)
print(optimizer.iter)
"""
    done = python(code)
    assert done.stdout == "0 None None True True\n1\n", done.stderr
