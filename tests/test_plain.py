"""Without the compiled extension: zdlfast.reference works alone, and all else says what to do."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from table import RULES, assert_same_run

import zdlfast
from zdlfast import _rules

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Run code where there are zdlfast's Python files alone; return what it prints."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(
        Path(zdlfast.__file__).parent,
        folder / "zdlfast",
        ignore=lambda path, names: [
            name for name in names if not (name.endswith(".py") or Path(path, name).is_dir())
        ],
    )

    def run(code, *arguments):
        paths = f"import sys; sys.path.append({str(HERE)!r})\n"
        done = subprocess.run(
            [sys.executable, "-c", paths + code, *map(str, arguments)],
            cwd=folder, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    assert run("import zdlfast; print(zdlfast.__file__)").startswith(str(folder))
    return run


TRAIN = """
import numpy as np
def start():
    return {"W": np.linspace(-1, 1, 60).reshape(12, 5), "T": np.ones((4, 3), np.float32).T,
            "h": np.ones(7, np.float16), "x": 1.5, "0": np.array(2.0)}
def train(optimizer, params, first, last):
    for step in range(first, last):
        rng = np.random.default_rng(step)
        optimizer.update(params, {k: rng.standard_normal(np.shape(v)) for k, v in params.items()})
"""


def test_every_rule_trains_to_the_same_bits(plain, tmp_path):
    plain(f"""{TRAIN}
import os
import pickle
from zdlfast import _rules, reference
runs = []
for name in _rules.RULES:
    optimizer, params = getattr(reference, name)(lr=0.1), start()
    train(optimizer, params, 0, 5)
    runs.append((optimizer, params))
with open(sys.argv[1], "wb") as file:
    pickle.dump(runs, file)
""", tmp_path / "runs")  # fmt: skip
    names = {}
    exec(TRAIN, names)
    runs = pickle.loads((tmp_path / "runs").read_bytes())
    assert len(runs) == len(RULES)
    for rule, (optimizer, params) in zip(RULES, runs, strict=True):
        for make in (rule.fast, rule.numpy):
            twin, expected = make(lr=0.1), names["start"]()
            names["train"](twin, expected, 0, 5)
            assert type(optimizer) is rule.numpy
            assert_same_run(optimizer, twin, params, expected)
        # What was pickled there goes on here.
        names["train"](optimizer, params, 5, 7)
        names["train"](twin, expected, 5, 7)
        assert_same_run(optimizer, twin, params, expected)


def test_averages_and_schedules_need_no_kernels(plain):
    plain("""
import copy
import numpy as np
import zdlfast
from zdlfast.reference import EMA
from zdlfast.schedules import Cosine
params = {"W": np.ones(3), "x": 2.0}
ema = EMA(params, Cosine(0.5, 2))
params["W"] += 1.0
for _ in range(2):
    ema.update(params)
ema.swap(params)
assert params["W"].tolist() == [1.875] * 3, params
assert copy.deepcopy(ema).state_dict()["iter"] == 2
try:
    zdlfast.EMA
except ImportError as error:
    assert "compiled kernels" in str(error)
else:
    raise AssertionError
""")


def test_files_state_dicts_and_pickles_go_both_ways(plain, tmp_path):
    names = {}
    exec(TRAIN, names)
    optimizer, params = zdlfast.Adam(lr=0.1), names["start"]()
    names["train"](optimizer, params, 0, 3)
    twin = zdlfast.reference.Adam()
    twin.load_state_dict(optimizer.state_dict())
    zdlfast.save(tmp_path / "fast.npz", optimizer, params)
    zdlfast.save(tmp_path / "twin.npz", twin, params)
    (tmp_path / "state").write_bytes(pickle.dumps((optimizer.state_dict(), params, twin)))
    plain(f"""{TRAIN}
import copy, pickle, zdlfast
from zdlfast import reference
folder = sys.argv[1]
with open(folder + "/state", "rb") as file:
    state, params, unpickled = pickle.load(file)
optimizer = reference.Adam()
optimizer.load_state_dict(state)
copied, more = copy.deepcopy((unpickled, params))
for each, own in ((optimizer, params), (copied, more)):
    train(each, own, 3, 5)
    assert all(np.array_equal(own[key], params[key]) for key in params)
zdlfast.save(folder + "/plain.npz", optimizer, params)
""", tmp_path)  # fmt: skip
    loaded, loaded_params = zdlfast.load(tmp_path / "plain.npz")
    names["train"](optimizer, params, 3, 5)
    assert_same_run(loaded, optimizer, loaded_params, params)


@pytest.mark.parametrize("name", ["fast", "twin"])
def test_a_file_is_loaded(plain, tmp_path, name):
    optimizer, params = zdlfast.Adam(lr=0.25), {"W": np.ones(3)}
    optimizer.update(params, {"W": np.ones(3)})
    twin = zdlfast.reference.Adam()
    twin.load_state_dict(optimizer.state_dict())
    zdlfast.save(tmp_path / "a.npz", {"fast": optimizer, "twin": twin}[name], params)
    printed = plain("""
import zdlfast
optimizer, params = zdlfast.load(sys.argv[1])
print(type(optimizer).__module__, optimizer, optimizer.iter, params["W"][0] == optimizer.lr)
""", tmp_path / "a.npz")  # fmt: skip
    assert printed.startswith("zdlfast.reference Adam(lr=0.25, ")
    assert " 1 " in printed


def test_what_is_not_there_says_how_to_get_it_and_what_there_is(plain):
    printed = plain(f"""
import zdlfast
from zdlfast import reference
for name in {[*_rules.PUBLIC, "build_info"]}:
    for code in f"from zdlfast import {{name}}; {{name}}()", f"zdlfast.{{name}}()":
        try:
            exec(code)
        except ImportError as error:
            print(code, error, sep=": ")
print(reference.Adam())
""")  # fmt: skip
    *told, reference = printed.splitlines()
    assert len(told) == 2 * (len(_rules.PUBLIC) + 1)
    for text in told:
        assert "zdlfast's compiled kernels cannot be imported" in text
        assert "pip install -e ." in text
        assert "zdlfast.reference, the same optimizers in plain NumPy" in text
    assert reference.startswith("Adam(lr=0.001")


def test_an_update_that_raises_is_rolled_back(plain):
    printed = plain("""
import numpy as np
from zdlfast import reference
optimizer = reference.Adam()
params = {"W": np.ones(3), "x": 1.0, "n": 2.0}
for grads in ({"W": np.ones(3), "x": 1.0, "n": 1e200}, {"W": np.ones(4), "x": 1.0, "n": 1.0}):
    for _ in range(2):
        try:
            optimizer.update(params, grads)
        except (OverflowError, ValueError) as error:
            print(type(error).__name__, params, optimizer.m, optimizer.iter)
""")  # fmt: skip
    unchanged = "{'W': array([1., 1., 1.]), 'x': 1.0, 'n': 2.0} None 0"
    assert printed.splitlines() == [
        f"{error} {unchanged}" for error in ["OverflowError"] * 2 + ["ValueError"] * 2
    ]


def test_hints_and_checks_are_there(plain):
    printed = plain("""
from zdlfast import reference
for act in (lambda: reference.Adam(learning_rate=1), lambda: reference.Adam(lr=-1),
            lambda: reference.Adam().step()):
    try:
        act()
    except (TypeError, ValueError, AttributeError) as error:
        print(error)
""")  # fmt: skip
    assert printed.splitlines() == [
        "Adam has no option 'learning_rate': here it is lr",
        "lr must be >= 0 and finite, got -1",
        "Adam has no attribute 'step': call update(params, grads)",
    ]


def test_one_thread_at_a_time_uses_an_optimizer(plain):
    printed = plain("""
import copy, pickle, threading
import numpy as np
from waiting import call, wait_until
from zdlfast import reference
optimizer, entered, leave = reference.Adam(), threading.Event(), threading.Event()
class Slow(dict):
    def __getitem__(self, key):
        entered.set()
        leave.wait()
        return super().__getitem__(key)
class Inner(dict):
    def __getitem__(self, key):
        optimizer.state_dict()
def waits(ident):
    # In this lock's own line; for its next look it comes back to it.
    frame = sys._current_frames().get(ident)
    return frame is not None and frame.f_code.co_name == "_locked"
def update(grads):
    optimizer.update({"W": np.ones(3)}, grads)
try:
    update(Inner(W=1.0))
except RuntimeError as error:
    print(error)
threads = [threading.Thread(target=update, args=(Slow(W=np.ones(3)),))]
threads[0].start()
entered.wait()
for act in (lambda: update({"W": np.ones(3)}), optimizer.state_dict,
            lambda: copy.deepcopy(optimizer), lambda: pickle.dumps(optimizer)):
    threads.append(threading.Thread(target=act))
    threads[-1].start()
    wait_until(lambda: waits(threads[-1].ident))
assert all(thread.is_alive() for thread in threads)
leave.set()
for thread in threads:
    thread.join()
print(optimizer.iter)
""")  # fmt: skip
    own, count = printed.splitlines()
    assert "this Adam is in use by this very thread" in own
    assert count == "2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_leaves_what_was_read_and_tells_of_what_was_changed(plain):
    printed = plain("""
import os, threading, warnings
from zdlfast import reference
warnings.simplefilter("ignore")
leave = threading.Event()
optimizers = {"read": reference.SGD(), "changed": reference.SGD(), "idle": reference.SGD()}
threads = []
for name, writes in (("read", False), ("changed", True)):
    entered = threading.Event()
    def work():
        entered.set()
        leave.wait()
    threads.append(threading.Thread(target=optimizers[name]._locked, args=(writes, work)))
    threads[-1].start()
    entered.wait()
child = os.fork()
if child == 0:
    for name, optimizer in optimizers.items():
        for _ in range(2):
            try:
                optimizer.update({"x": 1.0}, {"x": 1.0})
                print(name, "done", flush=True)
            except RuntimeError as error:
                print(name, error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
leave.set()
for thread in threads:
    thread.join()
for name, optimizer in optimizers.items():
    optimizer.update({"x": 1.0}, {"x": 1.0})
print("fine")
""")  # fmt: skip
    *told, fine = printed.splitlines()
    assert fine == "fine"
    lost = (
        "changed another thread was using this SGD when the process was forked, so that half of "
        "an update is missing here: make a new one"
    )
    assert told == ["read done"] * 2 + [lost] * 2 + ["idle done"] * 2
