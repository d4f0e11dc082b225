"""What every job leaves behind: progress on the screen, tables, and all figures as JSON."""

import argparse
import json
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import zdlfast
from bench import allocator
from bench.timing import quartiles

T = TypeVar("T")
#: Tells the progress bar what comes next.
Step = Callable[[str], None]
INTERRUPTED = 130  # the shell's exit status for Ctrl-C


class Skipped:
    """Tells what is left out of a comparison and why, once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def __call__(self, name: str, why: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._console.print(f"{name}: skipped, {why}", markup=False)


def collect(
    console: Console, total: int, job: Callable[[Step], Iterator[T]]
) -> tuple[list[T], bool]:
    """Run a job under a progress bar, until it is done or interrupted by Ctrl-C.

    Parameters
    ----------
    console : rich.console.Console
        Where the bar is drawn.
    total : int
        How often the job calls its argument with what it does next.
    job : callable
        Yields one result after the other.

    Returns
    -------
    results : list
        All, or those that came before the interruption.
    complete : bool
        Whether nothing interrupted it.
    """
    results: list[T] = []
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        def step(description: str) -> None:
            progress.update(task, description=description, advance=1)

        try:
            for result in job(step):
                results.append(result)
        except KeyboardInterrupt:
            return results, False
    return results, True


def add_options(parser: argparse.ArgumentParser, quick: str) -> None:
    """Add the options of all jobs that measure; `quick` tells what ``--quick`` leaves out."""
    parser.add_argument("--quick", action="store_true", default=argparse.SUPPRESS, help=quick)
    parser.add_argument(
        "--out",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="where the files are saved (default: bench-results)",
    )


def make_table(title: str, columns: list[str], caption: str | None = None) -> Table:
    """A table for a terminal of 80 columns; the first column is text, all others figures."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for i, header in enumerate(columns):
        table.add_column(header, justify="right" if i else "left", no_wrap=True)
    return table


def threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
    unit = next((unit for unit, size in units.items() if seconds >= 0.9995 * size), "ns")
    value = seconds / units[unit]
    digits = 0 if unit == "ns" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def ratio(value: float, up: bool = False) -> str:
    """Three digits, rounded down; `up` where a smaller one would be better for zdlfast.

    So no ratio is rounded in favour of what is presented here.
    """
    if not np.isfinite(value):
        return f"{value}"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    rounding = ROUND_CEILING if up else ROUND_FLOOR
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), rounding))


def machine() -> dict[str, Any]:
    """What the figures depend on: CPU, caches, versions, compiler and instruction set."""
    return {
        "cpu": _cpu(),
        "caches": _caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zdlfast": zdlfast.build_info(),
        "allocator": allocator.keep_memory(),
    }


def _cpu() -> str:
    """The CPU's name, and the numbers that tell its generation where the name does not."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    found = dict(re.findall(r"(model name|cpu family|model|stepping)\s*:\s*(.+)", text))
    if "model name" not in found:
        return platform.processor() or platform.machine()
    name = found.pop("model name")
    numbers = [f"{word.removeprefix('cpu ')} {number}" for word, number in found.items()]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def machine_lines(about: dict[str, Any]) -> list[str]:
    """What a reader has to know of a machine to compare figures with his own."""
    info = about["zdlfast"]
    return [
        f"on {about['cpu']}, {info['simd']}, {threads(info['threads'])},",
        f"NumPy {about['numpy']}, Python {about['python']}; {about['allocator']}",
    ]


def _caches() -> dict[str, str]:
    """Size by level, as Linux tells it of the first CPU."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        found[f"L{level} {kind.lower()}"] = size
    return found


def versions(packages: list[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def tables_by_threads(
    results: Iterable[Any], counts: Iterable[int], *makes: Callable[[list[Any]], Table]
) -> list[Table]:
    """What each of `makes` shows of the results with each number of threads, if there are any."""
    return [
        make(of_count)
        for count in counts
        if (of_count := [result for result in results if result.threads == count])
        for make in makes
    ]


def times_record(times: dict[str, list[float]]) -> dict[str, Any]:
    """Seconds per call by name: the quartiles, and every sample."""
    return {
        name: {"quartiles": quartiles(samples), "samples": samples}
        for name, samples in times.items()
    }


def publish(
    console: Console,
    out: Path,
    job: str,
    tables: list[Table],
    pictures: Mapping[str, Callable[[Path], None]],
    results: list[dict[str, Any]],
    settings: dict[str, Any],
    complete: bool,
) -> None:
    """Save all figures, the tables and the pictures; then show the tables.

    Parameters
    ----------
    console : rich.console.Console
        Where they are shown.
    out : Path
        The folder, for the files ``job.json`` and ``job.txt``.
    job : str
        The name of the job.
    tables : list of rich.table.Table
        What to show.
    pictures : dict of callable
        What draws each file. They are drawn when all figures are safe.
    results : list of dict
        Each with its ``case`` and its ``times`` as `times_record` gives them, by which
        the job ``compare`` finds them again.
    settings : dict
        What the job was told.
    complete : bool
        Whether it was not interrupted.
    """
    about = machine()
    content = {
        "job": job,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": complete,
        "machine": about,
        "settings": settings,
        "results": results,
    }
    (out / f"{job}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    lines = machine_lines(about)
    if "versions" in settings:
        lines.append(", ".join(f"{name} {text}" for name, text in settings["versions"].items()))
    with (out / f"{job}.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=100).print(*tables, *lines, sep="\n", markup=False)
    try:
        for file_name, draw in pictures.items():
            draw(out / file_name)
    finally:
        console.print(*tables, *lines, sep="\n", markup=False)
    files = ", ".join([f"{job}.json", f"{job}.txt", *pictures])
    console.print(f"saved in {out}: {files}", markup=False)


def finish(
    console: Console, different: dict[str, list[str]], complete: bool, all_equal: str
) -> int:
    """Say what was not equal, or that all was; return the exit status."""
    for name, lines in different.items():
        for line in lines:
            console.print(f"[bold red]NOT EQUAL[/] {name}: {line}")
    if not complete:
        console.print("[yellow]interrupted:[/] this is what was measured until then")
    if different:
        return 1
    if not complete:
        return INTERRUPTED
    console.print(all_equal)
    return 0
