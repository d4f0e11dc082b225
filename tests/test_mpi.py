"""Training by the processes of an MPI program: the same bits as one, and nobody waits for ever.

What each rank does stands in ranks.py.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process import python
from table import assert_same_run

sys.path.append(str(Path(__file__).parents[1]))

import zdlfast
from bench import mpi

PROGRAM = Path(__file__).with_name("ranks.py")
ROOT = Path(__file__).parents[1]
LIMIT = 300  # seconds: a hang ends there


pytestmark = pytest.mark.skipif(mpi.mpiexec() is None, reason="needs mpi4py and an MPI")


def environment():
    """Ranks find what stands beside the tests; with MPICH, who waits yields the CPU at once."""
    paths = [str(PROGRAM.parent), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, paths))
    return {**mpi.environment(), "PYTHONPATH": path, "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}


def run(ranks, folder, *names):
    """Call functions of ranks.py on so many ranks, and see that all get to their ends."""
    done = subprocess.run(
        mpi.command(ranks, str(PROGRAM), str(folder), *names),
        env=environment(), timeout=LIMIT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    expected = [f"{rank} has done {name}" for rank in range(ranks) for name in names]
    assert sorted(done.stdout.splitlines()) == sorted(expected), done.stdout + done.stderr
    assert done.returncode == 0


# ------------------------------------------------------------------ what ranks do together

EVERYWHERE = [
    "options",
    "skipped_updates",
    "numbers_that_overflow",
    "arrays_as_they_come",
    "lists",
    "low_bit_state",
    "errors",
    "errors_at_the_last_moment",
    "errors_while_sending",
    "interrupts",
    "errors_outside",
    "save_errors",
    "no_answer",  # the last one: then the ranks have lost each other
]
ONCE = ["every_rule", "plain_numpy", "numbers_for_parameters", "points_of_schedule_free",
        "shares", "cuts", "in_a_thread"]  # fmt: skip


# One program does one thing after the other: to start its ranks takes longer than most of them.
def test_three_ranks(tmp_path):
    run(3, tmp_path, *ONCE, *EVERYWHERE)


@pytest.mark.parametrize("ranks", [2, 4])
def test_two_ranks_and_four(ranks, tmp_path):
    run(ranks, tmp_path, *EVERYWHERE)


def test_one_rank_is_one_process(tmp_path):
    run(1, tmp_path, "options")


@pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")
def test_ctrl_c_ends_the_program(tmp_path):
    program = subprocess.Popen(
        mpi.command(2, str(PROGRAM), str(tmp_path), "trains_on_and_on"),
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + LIMIT
        while not (tmp_path / "started").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        os.killpg(program.pid, signal.SIGINT)
        output, _ = program.communicate(timeout=LIMIT)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode != 0
    assert b"KeyboardInterrupt" in output


# ------------------------------------------------------------------ checkpoints


def test_a_checkpoint_is_loaded_by_any_number_of_ranks_and_without_mpi(tmp_path):
    for ranks in (2, 3):
        (tmp_path / "saved").mkdir(exist_ok=True)
        run(ranks, tmp_path / "saved", "save_checkpoints")
    for ranks in (1, 3):
        run(ranks, tmp_path / "saved", "load_checkpoints")
    paths = sorted((tmp_path / "saved").iterdir())
    assert len(paths) == 2 * 2 * 4
    expected, expected_params = zdlfast.load(tmp_path / "saved" / "2-False-2.npz")
    for path in paths:
        loaded, params = zdlfast.load(path)
        if loaded.iter:
            assert_same_run(loaded, expected, params, expected_params)
        else:
            assert loaded.m is None
            assert list(params) == list(expected_params)


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path):
    run(3, tmp_path, "save_checkpoints")
    old, new = tmp_path / "3-True-0", tmp_path / "3-True-2"
    part = "rank-1-of-3.npz"
    (new / part).rename(tmp_path / part)
    with pytest.raises(FileNotFoundError, match=part):
        zdlfast.load(new)
    shutil.copy(old / part, new / part)
    with pytest.raises(ValueError, match="of different checkpoints: Adam after 0 updates, Adam"):
        zdlfast.load(new)
    optimizer, params = zdlfast.load(tmp_path / part)
    key = next(iter(optimizer.m))
    optimizer.m.pop(key)
    optimizer.v.pop(key)
    zdlfast.save(new / part, optimizer, params)
    with pytest.raises(ValueError, match=r"elements of m\['W1'\] are missing"):
        zdlfast.load(new)
    shutil.copy(tmp_path / part, new / "rank-0-of-1.npz")
    with pytest.raises(ValueError, match=r"checkpoints of \[1, 3\] ranks"):
        zdlfast.load(new)
    (tmp_path / "empty").mkdir()
    with pytest.raises(IsADirectoryError, match="a folder without a checkpoint"):
        zdlfast.load(tmp_path / "empty")


def test_a_checkpoint_takes_the_place_of_one_by_more_ranks(tmp_path):
    for ranks in (3, 2):
        run(ranks, tmp_path, "fewer_files")
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["rank-0-of-2.npz", "rank-1-of-2.npz"]
    optimizer, params = zdlfast.load(tmp_path / "checkpoint")
    assert type(optimizer) is zdlfast.SGD
    assert params["W1"].shape == (130, 120)


# ------------------------------------------------------------------ the example and its page


def test_the_example_trains_and_goes_on(tmp_path):
    pytest.importorskip("sklearn")
    checkpoint = tmp_path / "digits.npz"
    for ranks in (2, 3):  # goes on with another number
        script = str(ROOT / "examples" / "train_mpi.py")
        done = subprocess.run(
            mpi.command(ranks, script, "--epochs", "2", "--checkpoint", str(checkpoint)),
            env=environment(), timeout=LIMIT, stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["epoch 1", "epoch 2"], done.stderr
        optimizer, params = zdlfast.load(checkpoint)
        accuracy = float(lines[-1].split()[2].rstrip("%"))
        assert accuracy > (85 if ranks == 2 else 92)
        assert params["W1"].shape == (784, 200)
    assert optimizer.iter == 2 * 2 * 12


def test_the_blocks_of_the_page_run(tmp_path):
    text = (ROOT / "docs" / "mpi.md").read_text("utf-8")
    blocks = re.findall(r"^```\{code-block\} python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    start = """
import os, sys
import numpy as np, zdlfast
os.chdir(sys.argv[1])
params, grads = ({"W": np.ones((3, 4))} for _ in range(2))
"""
    done = subprocess.run(
        [sys.executable, "-c", start + "\n".join(blocks), str(tmp_path)],
        env=environment(), timeout=LIMIT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ one process


def test_the_examples_in_docstrings_are_right():
    code = """
import doctest
from zdlfast.mpi import _parallel
print(doctest.testmod(_parallel))
"""
    done = python(code)
    assert done.stdout.startswith("TestResults(failed=0, attempted="), done.stdout + done.stderr


def test_wrong_arguments_are_told():
    code = """
import zdlfast
from zdlfast.mpi import DataParallel
class Own(zdlfast.SGD):
    def update(self, params, grads):
        pass
for args, options in (
    (("Adam",), {}), ((Own(),), {}), ((zdlfast.SGD(), 4), {}),
    ((zdlfast.SGD(),), {"reduction": "average"}), ((zdlfast.SGD(),), {"shard_state": 1}),
):
    try:
        DataParallel(*args, **options)
    except (TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
"""
    assert python(code).stdout.splitlines() == [
        "TypeError: DataParallel takes an optimizer of zdlfast, got str",
        "TypeError: Own has an update of its own, which would be passed over",
        "TypeError: comm must be a communicator of mpi4py, got int",
        "ValueError: reduction must be one of ('mean', 'sum'), got 'average'",
        "TypeError: shard_state must be True or False, got 1",
    ]


def test_parameters_that_share_memory_cannot_be_shared_out():
    code = """
import numpy as np, zdlfast
from zdlfast.mpi import DataParallel
W = np.ones((4, 4))
try:
    DataParallel(zdlfast.SGD(), shard_state=True).update({"W": W, "V": W.T}, {"W": W, "V": W})
except ValueError as error:
    print(error)
"""
    assert python(code).stdout == (
        "rank 0: params['W'] and params['V'] share memory, expected arrays of their own for "
        "shard_state\n"
    )
