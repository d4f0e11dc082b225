"""Types: what a user writes is checked, and what is wrong is found."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

WRONG = """
from zdlfast import Adam, set_num_threads

Adam(lr="high")
Adam(momentum=0.9)
Adam().update({"W": "text"}, {"W": 1.0})
Adam().update(1.0, 2.0)
set_num_threads("two")
Adam().step()
print(Adam().learning_rate)
"""


def mypy(script):
    """Check a script from a folder where zdlfast can only be found as it is installed."""
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", script]
    return subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=300)


def test_a_user_s_script_passes_the_strict_check(tmp_path):
    script = tmp_path / "script.py"
    script.write_text((Path(__file__).parent / "typing_user.py").read_text())
    done = mypy(script)
    assert done.returncode == 0, done.stdout


def test_mistakes_are_found(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WRONG)
    done = mypy(script)
    lines = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert lines == {4, 5, 6, 7, 8, 9, 10}, done.stdout
