"""The job ``peers``: Adam by zdlfast and by what else a user would pick."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from bench import plots, report
from bench.peer import CHECKED_STEPS, LR, PEERS
from bench.timing import interleave, median
from bench.updates import thread_counts

HELP = "Adam by torch, DeepSpeed, numba, JAX, thinc, numexpr, NumPy and zdlfast"
DESCRIPTION = """\
Take the same steps of Adam, on one float32 array, with every library of this kind: torch (its
for-loop, foreach and fused), DeepSpeed's CPUAdam, numba, JAX with optax (compiled, buffers
donated), thinc, numexpr, NumPy written by hand with out=, and zdlfast.

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
  peers.png    time over size
"""
SIZES = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000]
QUICK_SIZES = [1_000, 100_000, 1_000_000]
SECONDS, QUICK_SECONDS = 10.0, 1.0
OURS, TWIN, LIMIT = "zdlfast", "NumPy", "limit"
# Arrays of the largest peers: parameter, gradient, state, and what they need in between.
ARRAYS = 8
# After a step, OpenMP's threads look out for another one for some milliseconds, and would
# disturb the next process.
REST = 0.01
# Like python -m bench.peer, from any folder and with the zdlfast that is installed.
START = f"""import sys; sys.path.append({str(Path(__file__).parents[1])!r})
from bench.peer import serve; serve(sys.argv[1], int(sys.argv[2]))"""


class Process:
    """A process that runs one library (`bench.peer`)."""

    def __init__(self, name: str, threads: int) -> None:
        count = str(threads)
        names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "NUMEXPR_MAX", "ZDLFAST")
        env = {**os.environ, **{f"{name}_NUM_THREADS": count for name in names}}
        # Linux may put both of two OpenMP threads on one CPU, where each waits for the other. This
        # is not what is to be compared.
        env["OMP_PROC_BIND"] = "true"
        # DeepSpeed finds its compiler's helper, ninja, beside Python.
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, name, count],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Give a command and wait for the answer."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            return {"error": f"its process ended with status {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds(self, repeats: int) -> float:
        """Seconds per step."""
        time.sleep(REST)
        answer = self.ask(do="time", repeats=repeats)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        seconds: float = answer["seconds"]
        return seconds

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Result:
    """The times of all libraries for one size and number of threads."""

    elements: int
    threads: int
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
            "case": {"rule": "Adam", "dtype": "float32", "name": name},
            "elements": self.elements,
            "threads": self.threads,
            "equal": not self.differences,
            "differences": list(self.differences.values()),
            "times": report.times_record(self.times),
        }


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "three sizes up to 1,000,000 (about a minute instead of 5)")


def main(options: argparse.Namespace, console: Console) -> int:
    sizes = QUICK_SIZES if options.quick else SIZES
    seconds = QUICK_SECONDS if options.quick else SECONDS
    counts = thread_counts()
    results, complete = report.collect(
        console,
        (len(sizes) + 1) * len(PEERS) * len(counts),
        lambda step: measure_all(sizes, seconds, step, console),
    )
    results = [r for r in results if OURS in r.times]
    tables = [
        table(of_count)
        for count in counts
        if (of_count := [r for r in results if r.threads == count])
    ]
    pictures = {"peers.png": partial(plots.peers, results=results)} if results else {}
    packages = sorted({package for _, packages in PEERS.values() for package in packages})
    settings = {"sizes": sizes, "seconds": seconds, "versions": report.versions(packages)}
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
    sizes: list[int], seconds: float, step: report.Step, console: Console
) -> Iterator[Result]:
    """Measure all libraries, first on one thread, then on all."""
    told: set[str] = set()
    for threads in thread_counts():
        processes = {}
        try:
            for name in PEERS:
                step(f"start {name}")
                processes[name] = Process(name, threads)
                answer = processes[name].ask(do="prepare", elements=sizes[0])
                if "error" in answer:
                    processes.pop(name).end()
                    if name not in told:
                        why = "not installed" if answer.get("missing") else answer["error"]
                        console.print(f"{name}: skipped, {why}", markup=False)
                        told.add(name)
            for size in sizes:
                needed = 4 * size * ARRAYS * len(processes)
                free = psutil.virtual_memory().available
                if needed > 0.9 * free:
                    console.print(
                        f"{size:,} elements: skipped, all libraries need {needed / 1e9:.1f} GB "
                        f"of memory, {free / 1e9:.1f} GB are free"
                    )
                    continue
                yield _measure(size, threads, dict(processes), seconds, step)
        finally:
            for process in processes.values():
                process.end()


def _measure(
    size: int, threads: int, processes: dict[str, Process], seconds: float, step: report.Step
) -> Result:
    """Compare the weights; then time, in turns, what has the right ones."""
    result = Result(size, threads)
    weights = {}
    for name, process in processes.items():
        step(f"{size:,} elements, {name}")
        answer = process.ask(do="prepare", elements=size)
        if "error" in answer:
            result.differences[name] = f"{size:,} elements: {answer['error']}"
        else:
            weights[name] = np.array(answer["weights"])
    for name in [name for name in weights if name != LIMIT]:
        away = float(np.max(np.abs(weights[name] - weights[TWIN])))
        if away > (0 if name == OURS else 0.01 * CHECKED_STEPS * LR):
            result.differences[name] = f"{size:,} elements: weights differ by {away:.3g}"
            del weights[name]
    result.times = interleave({name: processes[name] for name in weights}, seconds)
    for process in processes.values():
        process.ask(do="drop")
    return result


def table(results: list[Result]) -> Table:
    """One row per library, one column per size."""
    title = f"Adam, float32, {report.threads(results[0].threads)} (× zdlfast's time)"
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
