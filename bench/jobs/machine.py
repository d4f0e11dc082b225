"""The job ``machine``: what each number of zdlfast/_tuning.h gains or costs on this CPU."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import zdlfast
from bench import internals, report
from bench.equality import differences
from bench.timing import Run, Timed, interleave, median
from zdlfast import reference

HELP = "what each number that the engine is tuned by gains or costs on this CPU"
DESCRIPTION = """\
Update one array with something and without it: prefetching, starting at a cache line, helpers,
chunks. Both take turns, in one process and on the same memory. No user can set these numbers; they
are here to show whether each earns its place on every kind of CPU.
"""
EPILOG = """\
columns of the table:
  what    the thing
  used    where zdlfast does it
  arrays  what all arrays of the update occupy
  ratio   the time with it / without it, from the smallest to the largest of all optimizers and
          dtypes: below 1 the thing gains

files in DIR:
  machine.json   machine, settings, quartiles and every sample
  machine.txt    the table

With --add, the ratios are put into bench/machines, in a file named after the CPU and the
instruction set, and into docs/machines.md. So are those of the main job, 'python -m bench', if
its bench.json is in DIR, into the READMEs' table of machines.
"""
ROOT = Path(__file__).parents[2]
MACHINES = ROOT / "bench" / "machines"
DOCUMENTS = [ROOT / "docs" / "machines.md", ROOT / "README.md", ROOT / "README.ja.md"]
BLOCK = re.compile(
    r"(<!-- (?P<what>tuning|trainings) of bench/machines -->\n).*?(?=<!-- end -->\n)", re.DOTALL
)

WITH, WITHOUT = "with", "without"
DTYPES = ["float32", "float64"]
RULES = ["SGD", "Adam"]
SECONDS, QUICK_SECONDS = 0.5, 0.02
CHECKED_STEPS = 2
KB, MB = 1 << 10, 1 << 20
NEVER = sys.maxsize
OFFSET = 16  # where in a cache line NumPy's large arrays start
REST = 3e-4  # seconds after which helpers sleep

NO_HELP = {"help_from": NEVER, "help_from_awake": NEVER}
HELP_ALWAYS = {"help_from": 0, "help_from_awake": 0}


@dataclass(frozen=True)
class Trial:
    """One thing, with and without which the same updates are timed."""

    name: str
    used: str  # where zdlfast does it
    sizes: tuple[int, ...]  # bytes of all arrays
    on: dict[str, float]  # the numbers of _tuning.h with it, as far as they differ
    off: dict[str, float]  # and without
    threads: bool = False  # on all threads, not on one
    rest: bool = False  # with a pause before each update, in which helpers fall asleep


FETCH = {"fetch_from": 0, "fetch_step": 256, "fetch_ahead": 2}
NO_FETCH = {"fetch_from": NEVER}
TRIALS = [
    Trial("prefetching 512 bytes ahead, in the cache", "Intel", (MB, 4 * MB), FETCH, NO_FETCH),
    Trial("the same, in memory", "Intel", (256 * MB,), FETCH, NO_FETCH),
    Trial("prefetching 1,024 bytes ahead, in memory", "never", (256 * MB,),
          FETCH | {"fetch_ahead": 4}, NO_FETCH),
    Trial("starting at a cache line, parameters below 4 kB", "never", (2 * KB, 4 * KB),
          {"align_from": 64}, {"align_from": NEVER}),
    Trial("the same, from 4 kB", "always", (32 * KB, MB),
          {"align_from": 64}, {"align_from": NEVER}),
    Trial("waking a helper, below 4 MB", "never", (MB, 2 * MB), HELP_ALWAYS, NO_HELP, True, True),
    Trial("the same, from 4 MB", "always", (6 * MB, 16 * MB), HELP_ALWAYS, NO_HELP, True, True),
    Trial("a helper that is awake, below 0.5 MB", "never", (128 * KB, 256 * KB),
          HELP_ALWAYS, NO_HELP, True),
    Trial("the same, from 0.5 MB", "always", (640 * KB, 2 * MB), HELP_ALWAYS, NO_HELP, True),
    Trial("staying awake for 50 µs", "always", (640 * KB, 2 * MB), {}, {"spin": 0.0}, True),
    Trial("200 µs instead", "never", (640 * KB, 2 * MB), {"spin": 200e-6}, {}, True),
    Trial("chunks of 64 kB and more", "always", (640 * KB, 2 * MB),
          {}, {"shortest_chunk": 8 * KB}, True),
    Trial("chunks of 1 MB and less", "always", (64 * MB, 256 * MB),
          {}, {"longest_chunk": NEVER}, True),
    Trial("releasing the GIL, from 1.5 MB", "always", (3 * MB // 2,),
          {"release_from": 0}, {"release_from": NEVER}),
]  # fmt: skip


@dataclass
class Result:
    """The times of one trial by one optimizer, in seconds per update."""

    trial: Trial
    rule: str
    dtype: str
    size: int
    times: dict[str, list[float]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return median(self.times[WITH]) / median(self.times[WITHOUT])


class Rested:
    """Times an update after pauses of this process, one by one."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def seconds(self, repeats: int) -> float:
        """Seconds per call."""
        times = []
        self._run.before()
        for _ in range(min(repeats, 10)):
            end = perf_counter() + REST
            while perf_counter() < end:
                pass
            start = perf_counter()
            self._run.call()
            times.append(perf_counter() - start)
        return median(times)


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "fewer samples (half a minute instead of 3)")
    parser.add_argument(
        "--add", action="store_true", help="put the ratios into this checkout's documents"
    )


def main(options: argparse.Namespace, console: Console) -> int:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    cases = [
        Result(trial, rule, dtype, size)
        for trial in TRIALS
        for size in trial.sizes
        for rule in RULES
        for dtype in DTYPES
        if zdlfast.get_num_threads() > 1 or not trial.threads
    ]
    results, complete = report.collect(
        console, len(cases), lambda step: measure_all(cases, seconds, step)
    )
    timed = [r for r in results if r.times]
    tables = [table(timed)] if timed else []
    records = [
        {
            "case": {"name": r.trial.name, "rule": r.rule, "dtype": r.dtype, "bytes": r.size},
            "equal": not r.differences,
            "differences": r.differences,
            "times": report.times_record(r.times),
        }
        for r in results
    ]
    settings = {"seconds": seconds, "tuning": internals.get_tuning()}
    report.publish(console, options.out, "machine", tables, {}, records, settings, complete)
    different = {f"{r.rule} {r.dtype} {r.trial.name}": r.differences
                 for r in results if r.differences}  # fmt: skip
    status = report.finish(
        console, different, complete, "All weights and state: equal bit for bit."
    )
    if options.add and status == 0:
        add(timed, options.out / "bench.json")
        console.print("added to bench/machines and the documents")
    return status


def measure_all(cases: list[Result], seconds: float, step: report.Step) -> Iterator[Result]:
    before, threads = internals.get_tuning(), zdlfast.get_num_threads()
    try:
        for case in cases:
            step(f"{case.trial.name[:20]} {case.rule}")
            with zdlfast.threads(threads if case.trial.threads else 1):
                measure(case, seconds, before)
            yield case
    finally:
        internals.set_tuning(before)


def measure(case: Result, seconds: float, tuning: dict[str, float]) -> None:
    """Check that the values are NumPy's either way; if so, time both in turns."""
    dtype = np.dtype(case.dtype)
    n = case.size // (dtype.itemsize * (2 + len(internals.slots(case.rule))))
    rng = np.random.default_rng(8)
    params, grads = ({"W": at_offset(rng.standard_normal(n, np.float32), dtype)} for _ in "pg")
    copy = {"W": params["W"].copy()}
    numpy, ours = getattr(reference, case.rule)(), getattr(zdlfast, case.rule)()
    numbers = {WITH: tuning | case.trial.on, WITHOUT: tuning | case.trial.off}
    for step in range(CHECKED_STEPS):
        numpy.update(copy, grads)
        internals.set_tuning(numbers[(WITH, WITHOUT)[step % 2]])
        ours.update(params, grads)
    if found := differences(numpy, ours, copy, params):
        case.differences = found
        return
    runs: dict[str, Timed] = {}
    for name, numbers_of in numbers.items():
        run = Run(partial(ours.update, params, grads), partial(internals.set_tuning, numbers_of))
        runs[name] = Rested(run) if case.trial.rest else run
    case.times = interleave(runs, seconds)


def at_offset(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A copy that starts where NumPy's large arrays do."""
    memory = np.zeros(values.size * dtype.itemsize + 2 * 64, np.uint8)
    first = (OFFSET - memory.ctypes.data) % 64
    made = memory[first : first + values.size * dtype.itemsize].view(dtype)
    made[...] = values
    return made


def span(ratios: list[float]) -> str:
    """The smallest and the largest, or the only one."""
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"


def table(results: list[Result]) -> Table:
    made = report.make_table(
        "one update with something / without it", ["what", "used", "arrays", "ratio"]
    )
    for trial in TRIALS:
        for size in trial.sizes:
            ratios = [r.ratio for r in results if r.trial == trial and r.size == size]
            if ratios:
                name = trial.name if size == trial.sizes[0] else ""
                made.add_row(name, trial.used, memory(size), span(ratios))
    return made


def memory(size: int) -> str:
    return f"{size // MB} MB" if size % MB == 0 else f"{size // KB} kB"


# ------------------------------------------------------------------ all machines together


def add(results: list[Result], trainings: Path) -> None:
    """Put all ratios into a file of this CPU, and those of all CPUs into the documents."""
    about = report.machine()
    simd, threads = about["zdlfast"]["simd"], about["zdlfast"]["threads"]
    machine = {
        "cpu": about["cpu"],
        "simd": simd,
        "threads": threads,
        "simd_available": about["zdlfast"]["simd_available"],
        "caches": about["caches"],
        "cores": psutil.cpu_count(logical=False),
        "zdlfast": about["zdlfast"]["version"],
        "trainings": read_trainings(trainings, about),
        "tuning": [
            {"what": r.trial.name, "rule": r.rule, "dtype": r.dtype, "bytes": r.size,
             "ratio": round(r.ratio, 3)}
            for r in results
        ],
    }  # fmt: skip
    name = re.sub(r"\W+", "-", f"{about['cpu']} {simd}".lower()).strip("-")
    MACHINES.mkdir(exist_ok=True)
    (MACHINES / f"{name}.json").write_text(json.dumps(machine, indent=1) + "\n", "utf-8")
    for document in DOCUMENTS:
        document.write_text(paste(document.read_text("utf-8"), read(MACHINES)), "utf-8")


def read_trainings(path: Path, about: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The ratios of the main job by optimizer; none if it did not run here like this."""
    try:
        saved = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    if (saved["machine"]["cpu"], saved["machine"]["zdlfast"]) != (about["cpu"], about["zdlfast"]):
        return {}
    return {
        r["optimizer"]: {"update": r["update_ratio"], "training": r["training_ratio"]}
        for r in saved["results"]
        if r["case"]["name"] == "training"
    }


def read(folder: Path) -> list[dict[str, Any]]:
    """What was measured on all machines, in the order of their names."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def paste(document: str, machines: list[dict[str, Any]]) -> str:
    """The document with its table of these machines."""
    tables = {"tuning": tuning_table, "trainings": trainings_table}

    def filled(found: re.Match[str]) -> str:
        what = found["what"]
        lines = tables[what]([machine for machine in machines if machine[what]])
        return found[1] + "\n".join(lines) + "\n"

    return BLOCK.sub(filled, document)


def title(machine: dict[str, Any]) -> str:
    cpu = re.sub(r"\((?:R|TM)\)| Processor|, stepping \d+", "", machine["cpu"])
    return f"{cpu}, {machine['simd']}, {report.threads(machine['threads'])}"


def tuning_table(machines: list[dict[str, Any]]) -> list[str]:
    """A row for each trial, a column for each machine; and what caches they have."""
    lines = [f"- {title(m)}: {', '.join(f'{k} {v}' for k, v in m['caches'].items())}"
             for m in machines]  # fmt: skip
    lines += ["", row("", "used", *map(title, machines)), rule(1, 1 + len(machines))]
    for trial in TRIALS:
        cells = []
        for machine in machines:
            found = [r["ratio"] for r in machine["tuning"] if r["what"] == trial.name]
            cells.append(span(found) if found else "")
        lines.append(row(trial.name, trial.used, *cells))
    return lines


def trainings_table(machines: list[dict[str, Any]]) -> list[str]:
    """A row for each optimizer, two columns for each machine."""
    heads = [f"{title(m)}: {what}" for m in machines for what in ("update", "training")]
    lines = [row("", *heads), rule(1, len(heads))]
    for optimizer in dict.fromkeys(name for m in machines for name in m["trainings"]):
        cells = []
        for machine in machines:
            ratios = machine["trainings"].get(optimizer, {})
            cells += [report.ratio(ratio) for ratio in ratios.values()] or ["", ""]
        lines.append(row(optimizer, *cells))
    return lines


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(left: int, right: int) -> str:
    """The line under a table's head: so many columns of text, so many of figures."""
    return row(*["---"] * left, *["---:"] * right)
