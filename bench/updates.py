"""One update of given arrays: by NumPy, by zdlfast, and by a loop that memory alone limits."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import zdlfast
from bench import allocator, internals, report
from bench.equality import differences
from bench.timing import Run, interleave, median
from zdlfast import reference

NUMPY = "NumPy"
SEED = 8
CHECKED_STEPS = 2


def fast(threads: int) -> str:
    """The name of zdlfast's times on this many threads."""
    return f"zdlfast, {report.threads(threads)}"


def limit(threads: int) -> str:
    """The name of the times of the streaming limit."""
    return f"limit, {report.threads(threads)}"


@dataclass(frozen=True)
class Case:
    """What is updated: arrays of these shapes, by this rule."""

    name: str  # of the set of arrays
    rule: str
    dtype: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def elements(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

    @property
    def slots(self) -> int:
        return len(internals.slots(self.rule))

    @property
    def bytes_moved(self) -> int:
        """What has to be read and written: the gradient read, all else read and written."""
        return self.elements * np.dtype(self.dtype).itemsize * (3 + 2 * self.slots)

    @property
    def bytes_needed(self) -> int:
        """Memory for all that is timed, with NumPy's temporary arrays."""
        itemsize = np.dtype(self.dtype).itemsize
        largest = max(prod(shape) for shape in self.shapes)
        return itemsize * (self.elements * (4 + 3 * self.slots) + 4 * largest)

    @property
    def key(self) -> dict[str, Any]:
        return {"name": self.name, "rule": self.rule, "dtype": self.dtype,
                "arrays": len(self.shapes), "elements": self.elements}  # fmt: skip


@dataclass
class Result:
    """The times of one case, in seconds per update; none where anything was not equal."""

    case: Case
    times: dict[str, list[float]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def median(self, name: str) -> float:
        return median(self.times[name])

    def ratio(self, threads: int) -> float:
        """How often zdlfast's update fits into NumPy's."""
        return self.median(NUMPY) / self.median(fast(threads))

    def share(self, threads: int) -> float:
        """The share of the speed at which this machine can move the same bytes."""
        return self.median(limit(threads)) / self.median(fast(threads))

    def bandwidth(self, threads: int) -> float:
        """Bytes per second."""
        return self.case.bytes_moved / self.median(fast(threads))


def thread_counts() -> list[int]:
    """One thread, and all."""
    return sorted({1, zdlfast.get_num_threads()})


def shortage(case: Case) -> str | None:
    """Why there is not enough memory for a case, if so."""
    allocator.give_back()
    free = psutil.virtual_memory().available
    if case.bytes_needed < 0.9 * free:
        return None
    return f"needs {case.bytes_needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"


def measure(case: Case, seconds: float) -> Result:
    """Check that all results are equal bit for bit; if so, time the updates in turns."""
    rng = np.random.default_rng(SEED)

    def draw() -> dict[str, np.ndarray]:
        return {
            str(i): rng.standard_normal(shape, np.float32).astype(case.dtype, copy=False)
            for i, shape in enumerate(case.shapes)
        }

    params, grads = draw(), draw()
    copy = {key: value.copy() for key, value in params.items()}
    numpy, ours = getattr(reference, case.rule)(), getattr(zdlfast, case.rule)()
    counts = thread_counts()
    for step in range(CHECKED_STEPS):
        numpy.update(copy, grads)
        with zdlfast.threads(counts[step % len(counts)]):
            ours.update(params, grads)
    if found := differences(numpy, ours, copy, params):
        return Result(case, differences=found)
    stream = internals.stream(case.slots)
    # The arrays of the limit are their own: it must not disturb the numbers of the others.
    streamed = {key: np.zeros_like(value) for key, value in params.items()}
    stream.update(streamed, grads)
    runs = {NUMPY: Run(partial(internals.update_by_the_book(numpy), copy, grads))}
    for count in counts:
        use = partial(zdlfast.set_num_threads, count)
        runs[fast(count)] = Run(partial(ours.update, params, grads), use)
        runs[limit(count)] = Run(partial(stream.update, streamed, grads), use)
    try:
        return Result(case, interleave(runs, seconds))
    finally:
        zdlfast.set_num_threads(counts[-1])


def measure_all(
    cases: list[Case], seconds: float, step: report.Step, skip: Callable[[str], None]
) -> Iterator[Result]:
    """Measure case by case; tell of each that memory is too short for."""
    for case in cases:
        step(f"{case.rule} {case.name}")
        if reason := shortage(case):
            skip(f"{case.name}, {case.rule}, {case.dtype}: skipped, {reason}")
            continue
        yield measure(case, seconds)


def record(result: Result) -> dict[str, Any]:
    """A result for the JSON file."""
    return {
        "case": result.case.key,
        "equal": not result.differences,
        "differences": result.differences,
        "bytes_moved": result.case.bytes_moved,
        "times": report.times_record(result.times),
    }


def one_array(sizes: list[int], dtypes: list[str]) -> list[Case]:
    """Every rule of the book on one array of each size."""
    return [
        Case(f"{size:,}", rule, dtype, ((size,),))
        for dtype in dtypes
        for rule in internals.BOOK
        for size in sizes
    ]


COLUMNS = """\
columns of the table:
  NumPy      one update(params, grads) as the book writes it: the rule for each array in turn,
             without the checks of zdlfast.reference
  1 thread   optimizer.update(params, grads) of zdlfast; next to it NumPy's time / zdlfast's
  N threads  the same on all threads that zdlfast may use (ZDLFAST_NUM_THREADS)
  GB/s       bytes that have to be read and written / time, on all threads. Arrays that fit
             into the CPU's caches move faster than memory could.
  of limit   the streaming limit's time / zdlfast's time, both on all threads. Above 100% is
             noise; far below it, dividing and taking roots is what takes the time.
"""


@dataclass(frozen=True)
class Layout:
    """How a job's table is titled and sorted."""

    title: str
    first: str  # the header of the first column, whose values are shown once
    second: str
    labels: Callable[[Case], tuple[str, str]]


ONE_ARRAY = Layout(
    "one update of one array", "optimizer", "elements", lambda case: (case.rule, case.name)
)


def table(results: list[Result], layout: Layout, title: str) -> Table:
    """One row per result."""
    counts = thread_counts()
    headers = [layout.first, layout.second, "NumPy"]
    for count in counts:
        headers += [report.threads(count).replace(" ", "\n"), "ratio"]
    made = report.make_table(title, [*headers, "GB/s", "of\nlimit"])
    shown = ""
    for r in results:
        first, second = layout.labels(r.case)
        if shown and shown != first:
            made.add_section()
        cells = [report.duration(r.median(NUMPY))]
        for count in counts:
            cells += [report.duration(r.median(fast(count))), report.ratio(r.ratio(count))]
        made.add_row(
            first if shown != first else "",
            second,
            *cells,
            report.ratio(r.bandwidth(counts[-1]) / 1e9),
            f"{int(100 * r.share(counts[-1]))}%",
        )
        shown = first
    return made


def differing(results: list[Result]) -> dict[str, list[str]]:
    """What was not equal, by case."""
    return {f"{r.case.rule} {r.case.name}": r.differences for r in results if r.differences}


def run(
    job: str,
    cases: list[Case],
    seconds: float,
    layout: Layout,
    draw: Callable[..., None],
    options: argparse.Namespace,
    console: Console,
) -> int:
    """Measure all cases; print a table, draw a picture for each dtype, and save all figures.

    Returns
    -------
    int
        The exit status.
    """
    results, complete = report.collect(
        console, len(cases), lambda step: measure_all(cases, seconds, step, console.print)
    )
    tables: list[Table] = []
    pictures: dict[str, Callable[[Path], None]] = {}
    for dtype in dict.fromkeys(r.case.dtype for r in results):
        if timed := [r for r in results if r.times and r.case.dtype == dtype]:
            title = f"{layout.title}, {dtype}"
            tables.append(table(timed, layout, title))
            pictures[f"{job}-{dtype}.png"] = partial(draw, results=timed, title=title)
    records = [record(r) for r in results]
    report.publish(
        console, options.out, job, tables, pictures, records, {"seconds": seconds}, complete
    )
    return report.finish(
        console, differing(results), complete, "All weights and state: equal bit for bit."
    )
