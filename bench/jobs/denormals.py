"""The job ``denormals``: what it costs if gradients die and state becomes subnormal."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import zdlfast
from bench import internals, report
from bench.equality import differences
from bench.timing import Run, interleave, median
from zdlfast import reference

HELP = "what it costs if gradients die and state becomes subnormal"
DESCRIPTION = """\
Update 100,000 parameters with ordinary state, and with state that is subnormal: numbers below
1.2e-38 in float32 and 2.2e-308 in float64. State becomes so some hundred steps after a gradient
has become zero for good, as behind a ReLU that is dead, and stays so. Many CPUs compute with such
numbers many times slower. zdlfast keeps every bit, as NumPy does, and changes no CPU's mode.
flush_subnormals=True sets such state to zero, in zdlfast and in its NumPy twin alike.
"""
EPILOG = """\
columns of the table:
  ordinary, subnormal   one update, by zdlfast on one thread
  times                 subnormal / ordinary
  NumPy                 the same ratio by NumPy
  flushed               subnormal / ordinary with flush_subnormals
  its cost              ordinary state: with flush_subnormals / without

files in DIR:
  denormals.json   machine, settings, quartiles and every sample
  denormals.txt    the table
"""
ELEMENTS = 100_000
SECONDS, QUICK_SECONDS = 1.0, 0.05
DTYPES = ["float32", "float64"]
ORDINARY, SUBNORMAL = "ordinary", "subnormal"
FLUSHED = "zdlfast flushing"


@dataclass
class Result:
    """Times by whose they are and by the kind of state."""

    rule: str
    dtype: str
    times: dict[str, list[float]]
    differences: list[str]

    def median(self, who: str, kind: str) -> float:
        return median(self.times[f"{who}, {kind}"])

    def factor(self, who: str) -> float:
        """How many times as long an update of subnormal state takes."""
        return self.median(who, SUBNORMAL) / self.median(who, ORDINARY)


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "fewer samples (a tenth of the time)")


def main(options: argparse.Namespace, console: Console) -> int:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    rules = [rule for rule in internals.BOOK if internals.slots(rule)]
    results, complete = report.collect(
        console, len(rules) * len(DTYPES), lambda step: measure_all(rules, seconds, step)
    )
    timed = [r for r in results if r.times]
    records = [
        {
            "case": {"rule": r.rule, "dtype": r.dtype, "name": "subnormal state"},
            "equal": not r.differences,
            "differences": r.differences,
            "times": report.times_record(r.times),
        }
        for r in results
    ]
    tables = [table(timed)] if timed else []
    settings = {"elements": ELEMENTS, "seconds": seconds}
    report.publish(console, options.out, "denormals", tables, {}, records, settings, complete)
    different = {f"{r.rule} {r.dtype}": r.differences for r in results if r.differences}
    return report.finish(console, different, complete, "All weights and state: equal bit for bit.")


def measure_all(rules: list[str], seconds: float, step: report.Step) -> Iterator[Result]:
    with zdlfast.threads(1):
        for dtype in DTYPES:
            for rule in rules:
                step(f"{rule} {dtype}")
                yield measure(rule, dtype, seconds)


def measure(rule: str, dtype: str, seconds: float) -> Result:
    """Check that both twins do the same to subnormal state; then time them."""
    flushing = {"flush_subnormals": True}
    fast, fast_runs = measured(zdlfast, rule, dtype)
    numpy, numpy_runs = measured(reference, rule, dtype)
    flushed, flushed_runs = measured(zdlfast, rule, dtype, **flushing)
    numpy_flushed, _ = measured(reference, rule, dtype, **flushing)
    found = [
        difference
        for one, other in ((numpy, fast), (numpy_flushed, flushed))
        for difference in differences(one[0], other[0], one[1], other[1])
    ]
    all_runs = {"zdlfast": fast_runs, FLUSHED: flushed_runs, "NumPy": numpy_runs}
    runs = {f"{who}, {kind}": run for who, of in all_runs.items() for kind, run in of.items()}
    return Result(rule, dtype, {} if found else interleave(runs, seconds), found)


def measured(
    module: Any, rule: str, dtype: str, **options: Any
) -> tuple[tuple[Any, dict[str, Any]], dict[str, Run]]:
    """What is left of subnormal state after two updates, with its parameters; what is timed."""
    ordinary = {"W": np.random.default_rng(8).standard_normal(ELEMENTS, np.float32).astype(dtype)}
    dead = {"W": np.zeros(ELEMENTS, dtype)}
    runs = {}
    for kind, grads in ((ORDINARY, ordinary), (SUBNORMAL, dead)):
        optimizer = getattr(module, rule)(**options)
        params = {"W": np.ones(ELEMENTS, dtype)}
        optimizer.update(params, grads)
        if kind == SUBNORMAL:
            for slot in internals.slots(rule):
                getattr(optimizer, slot)["W"][...] = 5 * np.finfo(dtype).smallest_subnormal
            optimizer.update(params, grads)
        runs[kind] = Run(partial(optimizer.update, params, grads))
    return (optimizer, params), runs


def table(results: list[Result]) -> Table:
    made = report.make_table(
        f"one update of {ELEMENTS:,} parameters, 1 thread",
        ["optimizer", "dtype", ORDINARY, SUBNORMAL, "times", "NumPy", "flushed", "its cost"],
    )
    for r in results:
        made.add_row(
            r.rule,
            r.dtype,
            report.duration(r.median("zdlfast", ORDINARY)),
            report.duration(r.median("zdlfast", SUBNORMAL)),
            report.ratio(r.factor("zdlfast"), up=True),
            report.ratio(r.factor("NumPy")),
            report.ratio(r.median(FLUSHED, SUBNORMAL) / r.median("zdlfast", ORDINARY), up=True),
            report.ratio(r.median(FLUSHED, ORDINARY) / r.median("zdlfast", ORDINARY), up=True),
        )
    return made
