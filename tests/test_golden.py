"""The hash of all bits, which is the same for every compiler, CPU and instruction set."""

import subprocess
import sys
from pathlib import Path

import pytest

from zdlfast import _engine

SCRIPT = Path(__file__).with_name("golden.py")
FOLDER = Path(_engine.__file__).parent


@pytest.mark.parametrize("simd", _engine.available())
def test_the_kernels_compute_what_they_always_did(simd):
    (module,) = (f for f in FOLDER.glob(f"_kernels_{simd}.*") if f.suffix in (".so", ".pyd"))
    # Isolated, and without site-packages: there is no NumPy.
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), str(module)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "NOT AS EXPECTED" not in done.stdout, done.stdout
    assert "as expected" in done.stdout
