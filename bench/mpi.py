"""Starts the processes of an MPI program: for the job ``mpi``, and for the tests."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

#: For each process: one core.
ENVIRONMENT = {
    "ZDLFAST_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def mpiexec() -> str | None:
    """The launcher of the MPI that is installed: beside this Python, or in the path."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    return shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")


def command(ranks: int, *args: str) -> list[str]:
    """What runs Python with these arguments in so many processes.

    If one of them fails, all are ended.
    """
    launcher = mpiexec()
    if launcher is None:
        raise FileNotFoundError("there is no MPI: pip install mpi4py mpich")
    version = subprocess.run(
        [launcher, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout
    # Open MPI refuses more ranks than cores unless it is told.
    more = ["--oversubscribe"] if "open" in version.lower() else []
    return [launcher, *more, "-n", str(ranks), sys.executable, "-P", "-m", "mpi4py", *args]


def environment() -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT}
