"""How many threads an update may use."""

import math
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

#: More than this make no memory faster; also the size of the pool.
MAX_THREADS = 256

_here: ContextVar[int | None] = ContextVar("zdlfast.threads", default=None)
_everywhere: int | None = None  # until it is set or first asked for


def get_num_threads() -> int:
    """How many threads an update may use here.

    Returns
    -------
    int
        The number that the innermost ``with threads(n)`` gives; else the one that
        `set_num_threads` gave; else the environment variable ``ZDLFAST_NUM_THREADS``; else
        ``OMP_NUM_THREADS``; else the number of CPUs that this process may use.

    Examples
    --------
    >>> with threads(3):
    ...     get_num_threads()
    3
    """
    global _everywhere
    here = _here.get()
    if here is not None:
        return here
    if _everywhere is None:
        _everywhere = from_environment() or usable_cpus()
    return _everywhere


def set_num_threads(n: int) -> None:
    """Set how many threads an update may use, in the whole process.

    Results do not depend on it. Small updates take one thread at any setting.

    Parameters
    ----------
    n : int
        From 1 to 256.

    Raises
    ------
    TypeError, ValueError
        `n` is no such number.
    """
    global _everywhere
    _everywhere = _checked("n", n)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let updates use `n` threads within a ``with`` block.

    It holds for the thread, or the asynchronous task, that entered the block.

    Parameters
    ----------
    n : int
        From 1 to 256.

    Examples
    --------
    >>> with threads(1):
    ...     optimizer.update(params, grads)  # doctest: +SKIP
    """
    token = _here.set(_checked("n", n))
    try:
        yield
    finally:
        _here.reset(token)


def _checked(name: str, n: int) -> int:
    try:
        number = operator.index(n)
    except TypeError:
        number = None
    if number is None or isinstance(n, bool):
        raise TypeError(f"{name} must be a whole number of threads, got {n!r}")
    if not 1 <= number <= MAX_THREADS:
        raise ValueError(f"{name} must be from 1 to {MAX_THREADS}, got {n!r}")
    return number


def from_environment() -> int | None:
    """The number that the environment asks for, if it does.

    Raises
    ------
    ValueError
        ``ZDLFAST_NUM_THREADS`` is no number from 1 to 256. What is wrong with
        ``OMP_NUM_THREADS``, which is not ours, is passed over.
    """
    text = os.environ.get("ZDLFAST_NUM_THREADS", "").strip()
    if text:
        number = _number(text)
        if number is None or not 1 <= number <= MAX_THREADS:
            raise ValueError(
                f"ZDLFAST_NUM_THREADS is {text!r}, expected a number from 1 to {MAX_THREADS}"
            )
        return number
    # OpenMP allows a list, one number per level of nesting.
    number = _number(os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip())
    return min(number, MAX_THREADS) if number else None


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None


def usable_cpus() -> int:
    """The number of CPUs that this process may use: its affinity and its cgroup's quota."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return max(1, math.ceil(min(count or 1, cgroup_quota(), MAX_THREADS)))


def cgroup_quota(proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """The CPU time per time that Linux control groups allow this process; infinite if all.

    Parameters
    ----------
    proc, root : Path
        Where the kernel shows the process and the control groups.
    """
    quota = math.inf
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return quota
    for line in lines:
        # Version 2 is "0::/path", version 1 "4:cpu,cpuacct:/path".
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 is mounted by the names of its controllers, in any order, or of one of them.
        names = {controllers, *controllers.split(",")} if controllers else {""}
        names |= {",".join(reversed(controllers.split(",")))}
        for top in {root / name for name in names}:
            group = top / path.lstrip("/")
            # A limit of a parent holds. Inside a container the path may be that of the host: its
            # own group is the top.
            for folder in {group, *group.parents, top}:
                if folder.is_relative_to(top):
                    quota = min(quota, _quota_of(folder))
    return quota


def _quota_of(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        share = float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no limit: no file, or the word "max"
        return math.inf
    return share if share > 0 else math.inf  # version 1 writes -1
