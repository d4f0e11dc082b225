"""Types: what a user writes is checked, and what is wrong is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import zdlfast

pytest.importorskip("mypy")

RIGHT = """
import numpy as np
from numpy.typing import NDArray

import zdlfast
from zdlfast import Adam, SGD
from zdlfast.datasets import load_digits
from zdlfast.nn import Trainer, dense_network

params: dict[str, NDArray[np.float64]] = {"W": np.ones((3, 2))}
grads = {"W": np.ones((3, 2))}
optimizer = Adam(lr=0.01, beta1=0.9)
optimizer.update(params, grads)
optimizer.lr = 0.5
SGD().update([np.ones(3)], (np.ones(3),))
SGD().update({"x": 1.0, "y": 2.0}, {"x": 0.5, "y": 1})
with zdlfast.threads(2):
    count: int = zdlfast.get_num_threads()
zdlfast.set_num_threads(count)
(x, t), test = load_digits(dtype="float32")
network = dense_network(64, 10, rng=1, dtype="float32")
history = Trainer(network, optimizer, epochs=1, progress=False).fit(x, t, evaluate=test)
losses: NDArray[np.float64] = history.loss
"""
WRONG = """
from zdlfast import Adam, set_num_threads

Adam(lr="high")
Adam(momentum=0.9)
Adam().update({"W": "text"}, {"W": 1.0})
Adam().update(1.0, 2.0)
set_num_threads("two")
"""


def mypy(tmp_path, code):
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)]
    # An editable installation is nothing that mypy looks into.
    folder = Path(zdlfast.__file__).parents[1]
    path = {} if "site-packages" in folder.parts else {"MYPYPATH": str(folder)}
    return subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_user_s_script_passes_the_strict_check(tmp_path):
    done = mypy(tmp_path, RIGHT)
    assert done.returncode == 0, done.stdout


def test_mistakes_are_found(tmp_path):
    done = mypy(tmp_path, WRONG)
    lines = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert lines == {4, 5, 6, 7, 8}, done.stdout
