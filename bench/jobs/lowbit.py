"""The job ``lowbit``: Adam with state in 8 bits and in bfloat16 against all of float32."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import zdlfast
from bench import allocator, internals, report
from bench.equality import different
from bench.libraries import arrays, packages_of, started
from bench.low_bit_libraries import PEERS
from bench.timing import Run, Timed, interleave, median
from bench.updates import thread_counts
from bench.worker import REST, WorkerRun
from zdlfast import reference

HELP = "Adam with state in 8 bits and in bfloat16"
DESCRIPTION = """\
Update one array of float32 by Adam whose state is float32, bfloat16 or 8 bits, rounded to the
nearest or by chance, and by libraries that keep state in 8 bits on CPUs. The codes are compared
with those of the NumPy twin, bit for bit, before anything is timed. What is not installed, or does
not run on a CPU, is skipped with a line.
"""
EPILOG = """\
columns of the table:
  state         bytes of state for each parameter
  moved         bytes that have to be read and written for each parameter
  time          one update
  of float32    float32's time / this one: above 1, fewer bits are faster
  of limit      the time in which this machine streams as many bytes / this time

files in DIR:
  lowbit.json   machine, versions, settings, quartiles and every sample
  lowbit.txt    the tables
"""
SIZES = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
QUICK_SIZES = [10_000, 1_000_000]
SECONDS, QUICK_SECONDS = 10.0, 0.5
CHECKED = 100_000  # elements that are compared with NumPy's
FULL, LIMIT = "float32", "limit"
FORMATS: dict[str, dict[str, Any]] = {
    FULL: {},
    "bfloat16": {"state": "bfloat16"},
    "8bit": {"state": "8bit"},
    "8bit, by chance": {"state": "8bit", "state_rounding": "stochastic"},
}
PARAM_BYTES = 12  # the parameter is read and written, the gradient read
SLOTS = 2
# Arrays of float32 for each element: the parameter, its gradient, the limit's, and all states.
ARRAYS = 9


@dataclass
class Result:
    """Times by format or library, for one size and number of threads."""

    elements: int
    threads: int
    state: dict[str, float]  # bytes for each element
    times: dict[str, list[float]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def moved(self, name: str) -> float:
        """Bytes for each element."""
        return PARAM_BYTES + 2 * self.state[name]

    def share(self, name: str) -> float:
        """The share of the speed at which this machine can move as many bytes."""
        limit = median(self.times[LIMIT]) * self.moved(name) / self.moved(FULL)
        return limit / median(self.times[name])

    def record(self) -> dict[str, Any]:
        name = f"{self.elements:,} elements, {report.threads(self.threads)}"
        return {
            "case": {"rule": "Adam", "dtype": "float32", "name": name},
            "elements": self.elements,
            "threads": self.threads,
            "equal": not self.differences,
            "differences": self.differences,
            "state_bytes": self.state,
            "times": report.times_record(self.times),
        }


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "two sizes (a tenth of the time)")


def main(options: argparse.Namespace, console: Console) -> int:
    sizes = QUICK_SIZES if options.quick else SIZES
    seconds = QUICK_SECONDS if options.quick else SECONDS
    counts = thread_counts()
    results, complete = report.collect(
        console,
        len(sizes) * len(counts),
        lambda step: measure_all(sizes, seconds, step, console),
    )
    timed = [r for r in results if r.times]
    tables = report.tables_by_threads(timed, counts, table)
    versions = report.versions(packages_of(PEERS))
    settings = {"sizes": sizes, "seconds": seconds, "versions": versions}
    records = [r.record() for r in results]
    report.publish(console, options.out, "lowbit", tables, {}, records, settings, complete)
    different = {f"{r.elements:,} elements": r.differences for r in results if r.differences}
    return report.finish(
        console, different, complete, "All weights, codes and scales: equal bit for bit."
    )


def measure_all(
    sizes: list[int], seconds: float, step: report.Step, console: Console
) -> Iterator[Result]:
    skipped = report.Skipped(console)
    for threads in thread_counts():
        for size in sizes:
            step(f"{size:,} elements, {report.threads(threads)}")
            allocator.give_back()
            needed, free = 4 * size * ARRAYS, psutil.virtual_memory().available
            if needed > 0.9 * free:
                console.print(
                    f"{size:,} elements: skipped, needs {needed / 1e9:.1f} GB of memory, "
                    f"{free / 1e9:.1f} GB are free"
                )
                continue
            # Each library has arrays of its own.
            names = PEERS if needed * len(PEERS) < 0.5 * free else []
            with (
                zdlfast.threads(threads),
                started(
                    names, threads, "bench.low_bit_libraries", skipped, elements=size
                ) as processes,
            ):
                others = {
                    name: WorkerRun(process, "step", REST) for name, process in processes.items()
                }
                yield measure(size, threads, others, seconds)


def measure(size: int, threads: int, others: dict[str, Timed], seconds: float) -> Result:
    """Compare a first part with NumPy; then time all formats in turns."""
    p, g = arrays(size, "float32")
    result = Result(size, threads, {})
    runs: dict[str, Timed] = {}
    for name, options in FORMATS.items():
        for difference in compared(p[:CHECKED], g[:CHECKED], options):
            result.differences.append(f"{name}: {difference}")
        optimizer = zdlfast.Adam(**options)
        params, grads = {"W": p}, {"W": g}
        optimizer.update(params, grads)
        result.state[name] = optimizer.state_nbytes / size
        runs[name] = Run(partial(optimizer.update, params, grads))
    if result.differences:
        return result
    stream, streamed = internals.stream(SLOTS), {"W": np.zeros_like(p)}
    stream.update(streamed, {"W": g})
    runs[LIMIT] = Run(partial(stream.update, streamed, {"W": g}))
    result.times = interleave({**runs, **others}, seconds)
    return result


def compared(p: np.ndarray, g: np.ndarray, options: dict[str, Any]) -> list[str]:
    """What differs between two steps by zdlfast and by NumPy."""
    fast, numpy = zdlfast.Adam(**options), reference.Adam(**options)
    ours, theirs = {"W": p.copy()}, {"W": p.copy()}
    for _ in range(2):
        fast.update(ours, {"W": g})
        numpy.update(theirs, {"W": g})
    pairs = {"weights": (theirs["W"], ours["W"])}
    for slot in internals.slots("Adam"):
        held, expected = (getattr(o, slot)["W"] for o in (fast, numpy))
        arrays = zip(internals.arrays(expected), internals.arrays(held), strict=True)
        pairs |= {f"{slot}, array {i}": pair for i, pair in enumerate(arrays)}
    return different(pairs, "NumPy")


def table(results: list[Result]) -> Table:
    """One row for each size and format or library."""
    made = report.make_table(
        f"Adam, float32, {report.threads(results[0].threads)}",
        ["elements", "state of", "state", "moved", "time", "of float32", "of limit"],
    )
    for r in results:
        made.add_section()
        names = [name for name in r.times if name != LIMIT]
        for name in names:
            own = name in r.state
            made.add_row(
                f"{r.elements:,}" if name == names[0] else "",
                name,
                f"{r.state[name]:.2f}" if own else "",
                f"{r.moved(name):.1f}" if own else "",
                report.duration(median(r.times[name])),
                report.ratio(median(r.times[FULL]) / median(r.times[name])),
                f"{int(100 * r.share(name))}%" if own else "",
            )
    return made
