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


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What mypy says of both scripts, in a folder where zdlfast is only found as installed."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "right.py").write_text((Path(__file__).parent / "typing_user.py").read_text())
    (folder / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert "checked 2 source files" in done.stdout, done.stderr
    return done.stdout


def test_a_user_s_script_passes_the_strict_check(told):
    assert "right.py" not in told, told


def test_mistakes_are_found(told):
    lines = {int(line.split(":")[1]) for line in told.splitlines() if "wrong.py:" in line}
    assert lines == {4, 5, 6, 7, 8, 9, 10}, told
