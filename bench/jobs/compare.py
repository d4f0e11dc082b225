"""The job ``compare``: what became faster or slower between two files of figures."""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bench import report
from bench.timing import quartiles

HELP = "what became faster or slower between two files of figures"
DESCRIPTION = """\
Compare two JSON files that this benchmark saved. What was measured in both is matched, and
the ratio of the medians is shown.
"""
EPILOG = """\
columns of the table:
  old, new   medians
  new/old    below 1 is faster
  noise      how far the middle half of the samples reaches from the median, in the noisier file
             of the two
  moved      'faster' or 'slower' where the middle halves of the samples do not even touch.
             Between two runs the whole machine may be faster or slower, too: then NumPy's
             times, and the limit's, have moved as well.

exit status: 0, or 2 if a file cannot be read
"""
# What tells one case from another, in the order in which it is shown.
CASE = ("rule", "dtype", "name")


@dataclass(frozen=True)
class Change:
    """The times of one thing in two runs."""

    case: tuple[str, ...]
    name: str
    old: list[float]
    new: list[float]

    @property
    def ratio(self) -> float:
        return quartiles(self.new)[1] / quartiles(self.old)[1]

    @property
    def noise(self) -> float:
        """The larger of the two runs' half interquartile ranges, relative to the median."""
        return max((q[2] - q[0]) / 2 / q[1] for q in map(quartiles, (self.old, self.new)))

    @property
    def moved(self) -> str:
        old, new = quartiles(self.old), quartiles(self.new)
        if new[2] < old[0]:
            return "faster"
        return "slower" if new[0] > old[2] else ""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD.json", help="figures of the earlier run")
    parser.add_argument("new", type=Path, metavar="NEW.json", help="figures of the later run")


def main(options: argparse.Namespace, console: Console) -> int:
    try:
        old, new = load(options.old), load(options.new)
    except ValueError as error:
        console.print("error:", error, style="bold red", markup=False)
        return 2
    for what in ("cpu", "numpy", "python", "zdlfast"):
        before, after = old.machine.get(what), new.machine.get(what)
        if before != after:
            console.print(f"not the same {what}: {before} and {after}", markup=False)
    changes = match(old, new)
    if not changes:
        console.print("Nothing was measured in both files.")
        return 0
    headers = ["time of", "old", "new", "new/old", "noise", "moved"]
    table = report.make_table("what was measured in both", headers)
    shown = None
    for change in changes:
        if change.case != shown:
            if shown is not None:
                table.add_section()
            table.add_row(Text(" ".join(change.case), style="bold"))
            shown = change.case
        table.add_row(
            Text(f"  {change.name}"),
            report.duration(quartiles(change.old)[1]),
            report.duration(quartiles(change.new)[1]),
            report.ratio(change.ratio, up=True),
            f"{change.noise:.0%}",
            Text(change.moved, style={"faster": "green", "slower": "red"}.get(change.moved, "")),
        )
    console.print(table)
    moved = [change.moved for change in changes]
    console.print(
        f"{moved.count('faster')} faster and {moved.count('slower')} slower by more than the "
        f"noise, of {len(changes)}"
    )
    return 0


@dataclass(frozen=True)
class Figures:
    """What a file says: of which machine, and the samples by case and name."""

    machine: dict[str, Any]
    times: dict[tuple[tuple[str, ...], str], list[float]]


def load(path: Path) -> Figures:
    """Read a file of figures.

    Raises
    ------
    ValueError
        It cannot be read or is none, or a time in it is not positive and finite.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    try:
        machine = dict(content["machine"])
        times = {
            (tuple(str(result["case"][key]) for key in CASE if key in result["case"]), name): [
                float(sample) for sample in measured["samples"]
            ]
            for result in content["results"]
            for name, measured in result["times"].items()
        }
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise ValueError(f"{path} is no file of figures of this benchmark") from None
    for (case, name), samples in times.items():
        where = f"{path}: {' '.join((*case, name))}"
        if not samples:
            raise ValueError(f"{where}: no samples")
        for sample in samples:
            if not (math.isfinite(sample) and sample > 0):
                raise ValueError(f"{where}: {sample}, expected a positive, finite time")
    return Figures(machine, times)


def match(old: Figures, new: Figures) -> list[Change]:
    """The times that are in both files, in the order of the new one."""
    return [
        Change(case, name, old.times[case, name], samples)
        for (case, name), samples in new.times.items()
        if (case, name) in old.times
    ]
