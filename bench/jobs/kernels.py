"""The job ``kernels``: the book's rules on one array, of 100 to 50 million elements."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console

from bench import plots, report, updates
from bench.plots import BLUE, LIGHT, ORANGE
from bench.updates import COLUMNS, NUMPY, ONE_ARRAY, fast, limit

HELP = "the book's optimizers on one array of 100 to 50 million elements, and the limit of memory"
DESCRIPTION = """\
Update one array by each of the book's optimizers: by NumPy, by zdlfast on one thread and on
all, and by a loop that reads and writes the same number of arrays with next to no arithmetic.
That one shows how fast this machine can move the memory: its streaming limit.

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


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "three sizes up to 1,000,000 (a tenth of the time)")


def main(options: argparse.Namespace, console: Console) -> int:
    cases = updates.one_array(QUICK_SIZES if options.quick else SIZES, DTYPES)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    return updates.run("kernels", cases, seconds, ONE_ARRAY, draw, options, console)


@mpl.rc_context(plots.STYLE)
def draw(path: Path, results: list[updates.Result], title: str) -> None:
    """The time of one update over the size of the array, for every optimizer."""
    rules = list(dict.fromkeys(r.case.rule for r in results))
    figure, axes = plots.grid(len(rules), 3, (10, 3.1), share=True)
    most = updates.thread_counts()[-1]
    lines: dict[str, dict[str, Any]] = {
        NUMPY: {"color": ORANGE, "marker": "h"},
        fast(1): {"color": LIGHT, "marker": "o"},
    }
    lines[fast(most)] = {"color": BLUE, "marker": "o"}
    lines[limit(most)] = {"color": "black", "linestyle": "--", "linewidth": 1.2}
    for ax, rule in zip(axes.flat, rules, strict=False):
        of_rule = [r for r in results if r.case.rule == rule]
        elements = [r.case.elements for r in of_rule]
        for name, style in lines.items():
            label = f"streaming {name}" if name == limit(most) else name
            ax.plot(elements, [r.median(name) for r in of_rule], label=label, **style)
        ax.set_title(rule, fontsize=12, loc="left")
        plots.over_size(ax)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(plots.DURATIONS)
    for ax in axes[-1]:
        ax.set_xlabel("elements", fontsize=11)
    figure.supylabel("time of one update", fontsize=11)
    plots.set_title(figure, title)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    figure.savefig(path)
