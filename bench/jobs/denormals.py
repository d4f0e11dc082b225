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
"""
EPILOG = """\
columns of the table:
  ordinary, subnormal   one update, by zdlfast on one thread
  times                 subnormal / ordinary
  NumPy                 the same ratio by NumPy

files in DIR:
  denormals.json   machine, settings, quartiles and every sample
  denormals.txt    the table
"""
ELEMENTS = 100_000
SECONDS, QUICK_SECONDS = 1.0, 0.05
DTYPES = ["float32", "float64"]
ORDINARY, SUBNORMAL = "ordinary", "subnormal"


@dataclass
class Result:
    """Times by whose they are and by the kind of state."""

    rule: str
    dtype: str
    times: dict[str, list[float]]
    differences: list[str]

    def factor(self, who: str) -> float:
        """How many times as long an update of subnormal state takes."""
        return median(self.times[f"{who}, {SUBNORMAL}"]) / median(self.times[f"{who}, {ORDINARY}"])


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
    """Check that both twins do the same to subnormal state; then time both."""
    ordinary = {"W": np.random.default_rng(8).standard_normal(ELEMENTS, np.float32).astype(dtype)}
    dead = {"W": np.zeros(ELEMENTS, dtype)}
    runs, last = {}, {}
    for who, module in (("zdlfast", zdlfast), ("NumPy", reference)):
        for kind, grads in ((ORDINARY, ordinary), (SUBNORMAL, dead)):
            optimizer: Any = getattr(module, rule)()
            params = {"W": np.ones(ELEMENTS, dtype)}
            optimizer.update(params, grads)
            if kind == SUBNORMAL:
                for slot in internals.slots(rule):
                    getattr(optimizer, slot)["W"][...] = 5 * np.finfo(dtype).smallest_subnormal
                optimizer.update(params, grads)
                last[who] = optimizer, params
            runs[f"{who}, {kind}"] = Run(partial(optimizer.update, params, grads))
    (fast, fast_params), (numpy, numpy_params) = last["zdlfast"], last["NumPy"]
    found = differences(numpy, fast, numpy_params, fast_params)
    return Result(rule, dtype, {} if found else interleave(runs, seconds), found)


def table(results: list[Result]) -> Table:
    made = report.make_table(
        f"one update of {ELEMENTS:,} parameters, 1 thread",
        ["optimizer", "dtype", ORDINARY, SUBNORMAL, "times", "NumPy"],
    )
    for r in results:
        made.add_row(
            r.rule,
            r.dtype,
            report.duration(median(r.times[f"zdlfast, {ORDINARY}"])),
            report.duration(median(r.times[f"zdlfast, {SUBNORMAL}"])),
            report.ratio(r.factor("zdlfast"), up=True),
            report.ratio(r.factor("NumPy")),
        )
    return made
