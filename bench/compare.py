"""The job ``compare``: what became faster or slower between two files of figures."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

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


@dataclass(frozen=True)
class Change:
    """The times of one thing in two runs."""

    what: tuple[str, ...]
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
        console.print(f"[bold red]error:[/] {error}")
        return 2
    for what in ("cpu", "numpy", "python", "zdlfast"):
        before, after = old["machine"].get(what), new["machine"].get(what)
        if before != after:
            console.print(f"[yellow]not the same {what}:[/] {before} and {after}")
    changes = match(old, new)
    if not changes:
        console.print("Nothing was measured in both files.")
        return 0
    headers = ["what", "time of", "old", "new", "new/old", "noise", "moved"]
    table = report.make_table(f"{options.old} and {options.new}", headers)
    shown = ""
    for change in changes:
        *case, name = change.what
        label = " ".join(case)
        if shown and shown != label:
            table.add_section()
        color = {"faster": "green", "slower": "red"}.get(change.moved)
        table.add_row(
            label if shown != label else "",
            name,
            report.duration(quartiles(change.old)[1]),
            report.duration(quartiles(change.new)[1]),
            f"{change.ratio:.2f}",
            f"{change.noise:.0%}",
            f"[{color}]{change.moved}[/]" if color else "",
        )
        shown = label
    console.print(table)
    moved = [change.moved for change in changes]
    console.print(
        f"{moved.count('faster')} faster and {moved.count('slower')} slower by more than the "
        f"noise, of {len(changes)}"
    )
    return 0


def load(path: Path) -> dict[str, Any]:
    """Read a file of figures.

    Raises
    ------
    ValueError
        It cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or not {"machine", "results"} <= content.keys():
        raise ValueError(f"{path} is no file of figures of this benchmark")
    return content


def match(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """The times that are in both files, in the order of the new one."""
    before, after = _times(old), _times(new)
    return [Change(what, before[what], after[what]) for what in after if what in before]


def _times(content: dict[str, Any]) -> dict[tuple[str, ...], list[float]]:
    return {
        (*map(str, (case[key] for key in ("rule", "dtype", "name") if key in case)), name): times[
            "samples"
        ]
        for result in content["results"]
        for case in [result["case"]]
        for name, times in result["times"].items()
    }
