"""The job ``compare-builds``: two builds of zdlfast, in turns on the same machine."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench import report
from bench.build_cases import ADD, DTYPES, KINDS, ONE, RULES, THOUSAND
from bench.timing import interleave, median
from bench.worker import Worker, WorkerRun

HELP = "what became faster or slower between two builds of zdlfast"
DESCRIPTION = """\
Time the same updates by two builds of zdlfast, each installed for a Python of its own (say, a
virtual environment). Two processes take turns sample by sample, so that the ratios mean
something on a machine whose speed drifts. And this is done by several pairs of processes, one
after the other, because where code and arrays happen to lie in memory makes one process faster
than its twin for as long as it lives. The values after some steps are compared as well.
"""
EPILOG = """\
columns of the table:
  old, new  medians
  np.add    the new median in units of np.add(a, b, out=a) on arrays of one element, timed in
            the same turns: a cost that can be compared between machines
  new/old   the median over the pairs of processes: below 1 is faster
  range     the lowest and the highest of the pairs
  moved     'faster' or 'slower' where all pairs agree, so by chance in one case of 64 (of 4 with
            --quick)

'10 × 100' are 10 arrays of 100 elements; '+ scalar': one of them is a NumPy scalar instead;
'strided': the gradient is a transposed view; 'first': each is the first update of a new optimizer.
The last table has what a call and each further array cost, from the updates of 1 and of 1,000
small arrays, in units of np.add.

files in DIR:
  compare-builds.json   machine, both builds, quartiles and every sample
  compare-builds.txt    the tables

exit status: 0, 1 if the two builds' values differ or a case failed, 130 after Ctrl-C
"""
PAIRS, QUICK_PAIRS = 7, 3
SECONDS, QUICK_SECONDS = 0.2, 0.1
OLD, NEW = "old", "new"


@dataclass
class Result:
    """The times of one kind of update by both builds."""

    kind: str
    rule: str
    dtype: str
    times: dict[str, list[float]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)  # new / old, one for each pair
    problems: list[str] = field(default_factory=list)

    def median(self, side: str) -> float:
        return median(self.times[side])

    def add(self, side: str) -> float:
        """Seconds of NumPy's smallest call in the same turns."""
        return median(self.times[f"{side}, {ADD}"])

    @property
    def moved(self) -> str:
        return "faster" if max(self.ratios) < 1 else "slower" if min(self.ratios) > 1 else ""

    def record(self) -> dict[str, Any]:
        return {
            "case": {"rule": self.rule, "dtype": self.dtype, "name": self.kind},
            "equal": not self.problems,
            "differences": self.problems,
            "ratios": self.ratios,
            "times": report.times_record(self.times),
        }


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "fewer samples (half a minute instead of 3)")
    parser.add_argument("old", metavar="OLD_PYTHON", help="the Python that has the earlier build")
    parser.add_argument(
        "new",
        metavar="NEW_PYTHON",
        nargs="?",
        default=sys.executable,
        help="the Python that has the later build (default: this one)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="threads of both builds, on as many CPUs (default: 1)",
    )


def main(options: argparse.Namespace, console: Console) -> int:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    pairs = QUICK_PAIRS if options.quick else PAIRS
    cases = [
        Result(name, rule, dtype)
        for rule in RULES
        for dtype in DTYPES
        for name, kind in KINDS.items()
        if dtype in kind.dtypes
    ]
    builds: dict[str, dict[str, Any]] = {}

    def measure_all(step: report.Step) -> Iterator[None]:
        for pair in range(pairs):
            yield from measure_pair(cases, pair, options, seconds, step, builds)

    _, complete = report.collect(console, pairs * len(cases), measure_all)
    timed = [r for r in cases if r.ratios]
    for side, about in builds.items():
        build = about["zdlfast"]
        console.print(f"{side}: {about['origin']}, zdlfast {build['version']}, {build['simd']}",
                      markup=False)  # fmt: skip
    tables = [table(timed, options.threads), costs_table(timed)] if timed else []
    records = [r.record() for r in cases]
    settings = {"seconds": seconds, "pairs": pairs, "threads": options.threads, "builds": builds}
    report.publish(console, options.out, "compare-builds", tables, {}, records, settings, complete)
    moved = [r.moved for r in timed]
    console.print(f"{moved.count('faster')} faster and {moved.count('slower')} slower, "
                  f"of {len(timed)}")  # fmt: skip
    different = {f"{r.rule} {r.dtype} {r.kind}": r.problems for r in cases if r.problems}
    return report.finish(console, different, complete, "All values: equal bit for bit.")


def measure_pair(
    cases: list[Result],
    pair: int,
    options: argparse.Namespace,
    seconds: float,
    step: report.Step,
    builds: dict[str, dict[str, Any]],
) -> Iterator[None]:
    """Measure all cases by a new pair of processes; `builds` is told what the two are."""
    count = str(options.threads)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        workers: dict[str, Worker] = {}
        try:
            for side, python in ((OLD, options.old), (NEW, options.new)):
                args, env = (count, str(Path(folder, side))), {"ZDLFAST_NUM_THREADS": count}
                workers[side] = Worker(python, "bench.build_cases", *args, env=env)
            for case in cases:
                step(f"{pair + 1}: {case.rule} {case.kind}")
                if not case.problems:
                    measure(case, workers, seconds, builds)
                yield
        finally:
            for worker in workers.values():
                worker.end()


def measure(
    case: Result, workers: dict[str, Worker], seconds: float, builds: dict[str, dict[str, Any]]
) -> None:
    """Compare the two builds' values, and time their updates in turns."""
    values = []
    for side, worker in workers.items():
        about = worker.ask(do="prepare", kind=case.kind, rule=case.rule, dtype=case.dtype)
        if "error" in about:
            case.problems.append(f"{side}: {about['error']}")
        else:
            values.append(about.pop("values"))
            builds[side] = about
    if not case.problems and values[0] != values[1]:
        case.problems.append("the two builds' values differ")
    if case.problems:
        return
    runs = {side: WorkerRun(worker, "update") for side, worker in workers.items()}
    runs |= {f"{side}, {ADD}": WorkerRun(worker, ADD) for side, worker in workers.items()}
    times = interleave(runs, seconds)
    case.ratios.append(float(np.median(np.divide(times[NEW], times[OLD]))))
    for name, samples in times.items():
        case.times.setdefault(name, []).extend(samples)


def table(results: list[Result], threads: int) -> Table:
    made = report.make_table(
        f"one update by the old build and by the new one, {report.threads(threads)}",
        ["update of", OLD, NEW, "np.add", "new/old", "range", "moved"],
    )
    shown = None
    for r in results:
        if shown != (shown := (r.rule, r.dtype)):
            made.add_row(Text(f"{r.rule} {r.dtype}", style="bold"))
        made.add_row(
            Text(r.kind),
            report.duration(r.median(OLD)),
            report.duration(r.median(NEW)),
            report.ratio(r.median(NEW) / r.add(NEW)),
            f"{median(r.ratios):.3f}",
            f"{min(r.ratios):.3f} {max(r.ratios):.3f}",
            Text(r.moved, style={"faster": "green", "slower": "red"}.get(r.moved, "")),
        )
    return made


def costs_table(results: list[Result]) -> Table:
    """What a call and a further small array cost, in units of NumPy's smallest call."""
    made = report.make_table("in units of np.add", ["the cost of", OLD, NEW, "new/old"])
    by_case = {(r.rule, r.dtype, r.kind): r for r in results}
    for rule, dtype in dict.fromkeys((r.rule, r.dtype) for r in results):
        if not {(rule, dtype, ONE), (rule, dtype, THOUSAND)} <= by_case.keys():
            continue
        one, thousand = by_case[rule, dtype, ONE], by_case[rule, dtype, THOUSAND]
        array, call = {}, {}
        for side in (OLD, NEW):
            first = one.median(side) / one.add(side)
            array[side] = (thousand.median(side) / thousand.add(side) - first) / 999
            call[side] = first - array[side]
        for what, costs in (("a call", call), ("an array", array)):
            made.add_row(
                f"{what}, {rule} {dtype}",
                f"{costs[OLD]:.3f}",
                f"{costs[NEW]:.3f}",
                f"{costs[NEW] / costs[OLD]:.3f}",
            )
    return made
