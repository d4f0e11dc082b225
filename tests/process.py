"""Python in a process of its own, for what concerns a whole process."""

import os
import subprocess
import sys
from pathlib import Path


def python(code, **env):
    """Run this code, with these environment variables; it must be done in five minutes.

    It may import what stands beside the tests.
    """
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
