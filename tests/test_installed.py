"""What is tested is what is installed: where that matters, this is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zdlfast
from zdlfast import _engine


@pytest.mark.skipif("ZDLFAST_TEST_INSTALLED" not in os.environ, reason="not asked for")
@pytest.mark.parametrize("module", [zdlfast, _engine])
def test_the_package_lies_in_site_packages(module):
    assert "site-packages" in Path(module.__file__).parts


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import zdlfast; print(zdlfast.Adam)"],
        ["-c", "from zdlfast.optimizers import Adam; print(Adam)"],
        ["-m", "zdlfast", "book.py"],
    ],
    ids=lambda arguments: arguments[1],
)
def test_a_clone_in_the_working_directory_does_not_hide_the_package(tmp_path, arguments):
    """A clone's own folder, named zdlfast, would do as a namespace package."""
    clone = tmp_path / "zdlfast"
    ignore = shutil.ignore_patterns("__pycache__", "*.c")
    shutil.copytree(Path(zdlfast.__file__).parent, clone / "zdlfast", ignore=ignore)
    (tmp_path / "book.py").write_text("from common.optimizer import Adam; print(Adam)")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "<class 'zdlfast.optimizers.Adam'>\n", done.stderr
