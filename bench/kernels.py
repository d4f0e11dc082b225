"""The job ``kernels``: every rule on one array, of 100 to 50 million elements."""

import argparse

from rich.console import Console

import zdlfast
from bench import plots, report
from bench.updates import COLUMNS, Case, Layout, run

HELP = "each optimizer on one array of 100 to 50 million elements, and the limit of memory"
DESCRIPTION = """\
Update one array by each optimizer: by NumPy, by zdlfast on one thread and on all, and by a
loop that reads and writes the same number of arrays with next to no arithmetic. That one
shows how fast this machine can move the memory: its streaming limit.

Before anything is timed, weights and state after two steps are compared bit for bit. What is
compared is timed in turns (A B A B); the table has medians.
"""
EPILOG = f"""\
{COLUMNS}
files in DIR:
  kernels.json          machine, settings, quartiles and every sample
  kernels-float32.png   time over size, and the limit, for every optimizer
  kernels-float64.png
"""
SIZES = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000]
QUICK_SIZES = [1_000, 100_000, 1_000_000]
SECONDS, QUICK_SECONDS = 2.0, 0.2
DTYPES = ["float32", "float64"]
LAYOUT = Layout("one update of one array", "optimizer", "elements", lambda c: (c.rule, c.name))


def make_cases(sizes: list[int], dtypes: list[str]) -> list[Case]:
    return [
        Case(f"{size:,}", rule, dtype, ((size,),))
        for dtype in dtypes
        for rule in zdlfast.optimizers.__all__
        for size in sizes
    ]


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(
        parser, "three sizes up to 1,000,000 (about 15 seconds instead of 4 minutes)"
    )


def main(options: argparse.Namespace, console: Console) -> int:
    cases = make_cases(QUICK_SIZES if options.quick else SIZES, DTYPES)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    return run("kernels", cases, seconds, LAYOUT, plots.sizes, options, console)
