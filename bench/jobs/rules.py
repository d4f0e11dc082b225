"""The job ``rules``: every rule at a few sizes, by zdlfast and by what else has it."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table

from bench import plots, report
from bench.internals import RULES
from bench.libraries import packages_of, started
from bench.rule_libraries import LIBRARIES
from bench.timing import interleave, median
from bench.updates import thread_counts
from bench.worker import REST, Worker, WorkerRun

HELP = "every optimizer by torch, optax, numba, NumPy and zdlfast"
DESCRIPTION = """\
Take the same steps of every optimizer, on one float32 array, with every library that has it:
torch (fused where it is, and foreach), JAX with optax (compiled, buffers donated), numba (its loop
written by hand), NumPy and zdlfast, all with zdlfast's default options.

Each runs in a process of its own, which may use the same CPUs and number of threads. The weights
after two steps are compared before anything is timed. Then the processes take turns. What is not
installed is skipped with a line: pip install -e '.[peers]' installs them.
"""
EPILOG = """\
the table has zdlfast's time for one step, and how many times as long the others take: above
1.00 they are slower. The limit moves the same memory and computes next to nothing. Two
libraries that wait for the same memory differ by some percent from run to run.

files in DIR:
  rules.json   machine, versions, settings, quartiles and every sample
  rules.txt    the tables
  rules.png    how many times as long as zdlfast, over size, for every optimizer
"""
SIZES = [1_000, 100_000, 1_000_000, 10_000_000]
QUICK_SIZES = [1_000, 100_000]
SECONDS, QUICK_SECONDS = 1.0, 0.2
OURS, TWIN, LIMIT = "zdlfast", "NumPy", "limit"
# A step of another library may be away from NumPy's by this share of the largest one: `eps` is
# not at the same place everywhere.
AWAY = 0.01


@dataclass
class Result:
    """The times of all libraries for one rule, size and number of threads."""

    rule: str
    elements: int
    threads: int
    times: dict[str, list[float]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.elements:,} elements, {report.threads(self.threads)}"

    def ratio(self, name: str) -> float:
        """How many times as long as zdlfast this takes."""
        return median(self.times[name]) / median(self.times[OURS])

    def record(self) -> dict[str, Any]:
        return {
            "case": {"rule": self.rule, "dtype": "float32", "name": self.name},
            "elements": self.elements,
            "threads": self.threads,
            "equal": not self.differences,
            "differences": self.differences,
            "times": report.times_record(self.times),
        }


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "two sizes up to 100,000 (a tenth of the time)")


def main(options: argparse.Namespace, console: Console) -> int:
    sizes = QUICK_SIZES if options.quick else SIZES
    seconds = QUICK_SECONDS if options.quick else SECONDS
    counts = thread_counts()
    results, complete = report.collect(
        console,
        len(RULES) * len(sizes) * len(counts),
        lambda step: measure_all(sizes, seconds, step, console),
    )
    timed = [r for r in results if OURS in r.times]
    tables = report.tables_by_threads(timed, counts, table)
    on_all = [r for r in timed if r.threads == counts[-1]]
    pictures = {"rules.png": partial(draw, results=on_all)} if timed else {}
    versions = report.versions(packages_of(LIBRARIES))
    settings = {"sizes": sizes, "seconds": seconds, "versions": versions}
    records = [r.record() for r in results]
    report.publish(console, options.out, "rules", tables, pictures, records, settings, complete)
    different = {f"{r.rule}, {r.name}": r.differences for r in results if r.differences}
    return report.finish(
        console,
        different,
        complete,
        "All weights: zdlfast's equal to NumPy's bit for bit, the others' by 1% of a step.",
    )


def measure_all(
    sizes: list[int], seconds: float, step: report.Step, console: Console
) -> Iterator[Result]:
    """Measure all rules, first on one thread, then on all."""
    skipped = report.Skipped(console)
    for threads in thread_counts():
        with started(
            LIBRARIES, threads, "bench.rule_libraries", skipped, rule=RULES[0], elements=sizes[0]
        ) as processes:
            for rule in RULES:
                for size in sizes:
                    step(f"{rule}, {size:,} elements")
                    yield _measure(rule, size, threads, processes, seconds)


def _measure(
    rule: str, size: int, threads: int, processes: dict[str, Worker], seconds: float
) -> Result:
    """Compare the weights; then time, in turns, what has the right ones."""
    result = Result(rule, size, threads)
    steps, largest = {}, 0.0
    for name, process in processes.items():
        answer = process.ask(do="prepare", rule=rule, elements=size)
        if "error" in answer:
            result.differences.append(f"{name}: {answer['error']}")
        elif answer["has"]:
            steps[name] = np.array(answer["after"])
            if name == TWIN:
                largest = float(np.max(np.abs(steps[name] - np.array(answer["before"]))))
    for name in [name for name in steps if name != LIMIT]:
        away = float(np.max(np.abs(steps[name] - steps[TWIN])))
        if not away <= (0.0 if name == OURS else AWAY * largest):
            result.differences.append(f"{name}: weights differ by {away:.3g}")
            del steps[name]
    result.times = interleave(
        {name: WorkerRun(processes[name], "step", REST) for name in steps}, seconds
    )
    for process in processes.values():
        process.ask(do="drop")
    return result


def table(results: list[Result]) -> Table:
    """One row per rule and size, one column per library."""
    names = [name for name in LIBRARIES if any(name in r.times for r in results)]
    names.remove(OURS)
    title = f"one step, float32, {report.threads(results[0].threads)} (× zdlfast's time)"
    headers = [name.replace(", ", "\n") for name in names]
    made = report.make_table(title, ["optimizer", "elements", OURS, *headers])
    shown = ""
    for r in results:
        if shown and shown != r.rule:
            made.add_section()
        ratios = [report.ratio(r.ratio(name)) if name in r.times else "" for name in names]
        first = r.rule if shown != r.rule else ""
        made.add_row(first, f"{r.elements:,}", report.duration(median(r.times[OURS])), *ratios)
        shown = r.rule
    return made


@mpl.rc_context(plots.STYLE)
def draw(path: Path, results: list[Result]) -> None:
    """How many times as long as zdlfast each library takes, over the size of the array."""
    rules = list(dict.fromkeys(r.rule for r in results))
    figure, axes = plots.grid(len(rules), 4, (11, 2.3), share=True)
    everyone = [r.ratio(name) for r in results for name in r.times]
    limits = (0.8 * min(everyone), 1.2 * max(everyone))
    handles = {}
    for ax, rule in zip(axes.flat, rules, strict=False):
        of_rule = [r for r in results if r.rule == rule]
        for name, (color, stroke) in plots.LIBRARIES.items():
            points = [(r.elements, r.ratio(name)) for r in of_rule if name in r.times]
            if points:
                width = 3.0 if name == OURS else 1.6
                style = {"color": color, "linestyle": stroke, "linewidth": width, "marker": "."}
                (handles[name],) = ax.plot(*zip(*points, strict=True), **style)
        ax.set_title(rule, fontsize=12, loc="left")
        plots.over_size(ax)
        plots.ratio_axis(ax, "y", limits)
    for ax in axes[-1]:
        ax.set_xlabel("elements", fontsize=11)
    figure.supylabel("in multiples of zdlfast's time", fontsize=11)
    title = f"one step on one array, float32, {report.threads(results[0].threads)}"
    plots.set_title(figure, title)
    labels = [f"streaming {name}" if name == LIMIT else name for name in handles]
    figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=4,
                  frameon=False, fontsize=11)  # fmt: skip
    figure.savefig(path)
