"""Python in a process of its own, for what concerns a whole process."""

import os
import subprocess
import sys


def python(code, **env):
    """Run this code, with these environment variables; it must be done in two minutes."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
