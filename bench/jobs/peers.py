"""The job ``peers``: Adam at all sizes, by zdlfast and by what else a user would pick."""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from bench import plots, report
from bench.libraries import CHECKED_STEPS, LR, PEERS, packages_of, started
from bench.plots import BLUE, LIBRARIES
from bench.timing import interleave, median
from bench.updates import thread_counts
from bench.worker import REST, Worker, WorkerRun

HELP = "Adam by torch, DeepSpeed, numba, JAX, thinc, numexpr, NumPy and zdlfast"
DESCRIPTION = """\
Take the same steps of Adam, on one array, with every library of this kind: torch (its
for-loop, foreach and fused), DeepSpeed's CPUAdam, numba (with and without fastmath), JAX with
optax (compiled, buffers donated), thinc, numexpr, NumPy written by hand with out=, and zdlfast.

Each runs in a process of its own, which may use the same CPUs and number of threads; state is
made and touched, and the weights after two steps are compared, before anything is timed. Then
the processes take turns. What is not installed is skipped with a line:
pip install -e '.[peers]' installs all but DeepSpeed, which compiles itself when it first runs
(pip install deepspeed ninja, after torch).
"""
EPILOG = """\
the table has a row for every library. That of zdlfast shows its time for one step; all
others how many times as long they take. The limit moves the same memory and computes next to
nothing.

files in DIR:
  peers.json   machine, versions, settings, quartiles and every sample
  peers.txt    the tables
  peers.png    how many times as long as zdlfast, over size
"""
SIZES = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000]
QUICK_SIZES = [1_000, 100_000, 1_000_000]
SECONDS, QUICK_SECONDS = 10.0, 1.0
OURS, TWIN, LIMIT = "zdlfast", "NumPy", "limit"
# Arrays of the largest peers: parameter, gradient, state, and what they need in between.
ARRAYS = 8


@dataclass
class Result:
    """The times of all libraries for one size and number of threads."""

    elements: int
    threads: int
    dtype: str
    times: dict[str, list[float]] = field(default_factory=dict)
    differences: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return median(self.times[name])

    def ratio(self, name: str) -> float:
        """How many times as long as zdlfast this takes."""
        return self.median(name) / self.median(OURS)

    def record(self) -> dict[str, Any]:
        name = f"{self.elements:,} elements, {report.threads(self.threads)}"
        return {
            "case": {"rule": "Adam", "dtype": self.dtype, "name": name},
            "elements": self.elements,
            "threads": self.threads,
            "equal": not self.differences,
            "differences": list(self.differences.values()),
            "times": report.times_record(self.times),
        }


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "three sizes up to 1,000,000 (a fifth of the time)")
    parser.add_argument(
        "--float64",
        action="store_true",
        default=argparse.SUPPRESS,
        help="an array of float64, not float32",
    )


def main(options: argparse.Namespace, console: Console) -> int:
    sizes = QUICK_SIZES if options.quick else SIZES
    seconds = QUICK_SECONDS if options.quick else SECONDS
    counts = thread_counts()
    dtype = "float64" if options.float64 else "float32"
    results, complete = report.collect(
        console,
        (len(sizes) + 1) * len(PEERS) * len(counts),
        lambda step: measure_all(sizes, dtype, seconds, step, console),
    )
    results = [r for r in results if OURS in r.times]
    tables = report.tables_by_threads(results, counts, table)
    pictures = {"peers.png": partial(draw, results=results)} if results else {}
    versions = report.versions(packages_of(PEERS))
    settings = {"sizes": sizes, "seconds": seconds, "versions": versions}
    records = [r.record() for r in results]
    report.publish(console, options.out, "peers", tables, pictures, records, settings, complete)
    different = {name: [line] for r in results for name, line in r.differences.items()}
    return report.finish(
        console,
        different,
        complete,
        "All weights: zdlfast's equal to NumPy's bit for bit, the others' by 1% of a step.",
    )


def measure_all(
    sizes: list[int], dtype: str, seconds: float, step: report.Step, console: Console
) -> Iterator[Result]:
    """Measure all libraries, first on one thread, then on all."""
    skipped = report.Skipped(console)
    for threads in thread_counts():
        names = announced(PEERS, step)
        with started(
            names, threads, "bench.libraries", skipped, elements=sizes[0], dtype=dtype
        ) as processes:
            for size in sizes:
                needed = np.dtype(dtype).itemsize * size * ARRAYS * len(processes)
                free = psutil.virtual_memory().available
                if needed > 0.9 * free:
                    console.print(
                        f"{size:,} elements: skipped, all libraries need {needed / 1e9:.1f} GB "
                        f"of memory, {free / 1e9:.1f} GB are free"
                    )
                    continue
                yield _measure(Result(size, threads, dtype), dict(processes), seconds, step)


def announced(names: Iterable[str], step: report.Step) -> Iterator[str]:
    """The same names; each is shown as what is started next."""
    for name in names:
        step(f"start {name}")
        yield name


def _measure(
    result: Result, processes: dict[str, Worker], seconds: float, step: report.Step
) -> Result:
    """Compare the weights; then time, in turns, what has the right ones."""
    size, weights = result.elements, {}
    for name, process in processes.items():
        step(f"{size:,} elements, {name}")
        answer = process.ask(do="prepare", elements=size, dtype=result.dtype)
        if "error" in answer:
            result.differences[name] = f"{size:,} elements: {answer['error']}"
        else:
            weights[name] = np.array(answer["weights"])
    for name in [name for name in weights if name != LIMIT]:
        away = float(np.max(np.abs(weights[name] - weights[TWIN])))
        if away > (0 if name == OURS else 0.01 * CHECKED_STEPS * LR):
            result.differences[name] = f"{size:,} elements: weights differ by {away:.3g}"
            del weights[name]
    result.times = interleave(
        {name: WorkerRun(processes[name], "step", REST) for name in weights}, seconds
    )
    for process in processes.values():
        process.ask(do="drop")
    return result


def table(results: list[Result]) -> Table:
    """One row per library, one column per size."""
    first = results[0]
    title = f"Adam, {first.dtype}, {report.threads(first.threads)} (× zdlfast's time)"
    made = report.make_table(title, ["elements", *(f"{r.elements:,}" for r in results)])
    for name in PEERS:
        if not any(name in r.times for r in results):
            continue
        cells = [
            ""
            if name not in r.times
            else report.duration(r.median(name))
            if name == OURS
            else report.ratio(r.ratio(name))
            for r in results
        ]
        made.add_row(name, *cells, style="bold" if name == OURS else None)
    return made


@mpl.rc_context(plots.STYLE)
def draw(path: Path, results: list[Result]) -> None:
    """How many times as long as zdlfast each library takes, over the size of the array.

    On all threads: a picture of one thread as well would fill a screen, and tells the same.
    """
    count = max(r.threads for r in results)
    results = [r for r in results if r.threads == count]
    figure, axes = plots.grid(1, 1, (10, 4.6), share=False)
    ax = axes[0, 0]
    ends: dict[str, tuple[float, float]] = {}
    for name in (name for name in LIBRARIES if name in results[-1].times):
        points = [(r.elements, r.ratio(name)) for r in results if name in r.times]
        color, stroke = LIBRARIES[name]
        width, marker = (3.5, "o") if name == OURS else (1.8, "" if name == LIMIT else "o")
        ax.plot(*zip(*points, strict=True), color=color, linestyle=stroke, linewidth=width,
                marker=marker, markersize=4)  # fmt: skip
        ends[name] = points[-1]
    for r in results:
        ax.annotate(report.duration(r.median(OURS)), (r.elements, 0.015),
                    xycoords=("data", "axes fraction"), ha="center", fontsize=10,
                    color=BLUE)  # fmt: skip
    everyone = [r.ratio(name) for r in results for name in r.times]
    plots.over_size(ax)
    plots.ratio_axis(ax, "y", (0.6 * min(everyone), 1.2 * max(everyone)))
    _label_ends(ax, ends)
    ax.set_xlabel("elements")
    ax.set_ylabel("multiples of zdlfast's time (blue)")
    plots.set_title(
        figure, f"Adam, {results[0].dtype}, {report.threads(count)}: one step on one array"
    )
    figure.savefig(path)


def _label_ends(ax: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Write each line's name behind its last point, none over another."""
    low, high = np.log(ax.get_ylim())
    places = [float((np.log(ratio) - low) / (high - low)) for _, ratio in ends.values()]
    for (name, end), place in zip(ends.items(), plots.spread(places, 0.066), strict=True):
        text = {LIMIT: "streaming limit", OURS: OURS}.get(name, f"{name}  {report.ratio(end[1])}×")
        color, _ = LIBRARIES[name]
        label = ax.annotate(text, end, (1.06, place), textcoords="axes fraction", va="center",
                            fontsize=11, color=color,
                            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.5,
                                        "shrinkB": 4, "relpos": (0, 0.5)})  # fmt: skip
        label.set_fontweight("bold" if name == OURS else "normal")
