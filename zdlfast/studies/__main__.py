"""python -m zdlfast.studies: list the studies, or run one or all."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from zdlfast.studies import NAMES

EXTRA = "the studies take further packages: pip install 'zdlfast[studies]'"


def main() -> int:
    try:
        studies = {name: importlib.import_module(f"zdlfast.studies.{name}") for name in NAMES}
        from rich.console import Console
    except ImportError as error:
        print(f"{error.name} is not installed; {EXTRA}")
        return 2
    options = make_parser(studies).parse_args()
    console = Console(highlight=False)
    if options.name is None:
        width = max(map(len, NAMES))
        for name, study in studies.items():
            console.print(f"[bold]{name:{width}}[/]  {study.SUMMARY}")
        console.print("\nRun one with [bold]python -m zdlfast.studies NAME[/], or 'all' of them.")
        return 0
    for name in NAMES if options.name == "all" else [options.name]:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
            run(name, studies[name], options, console)
        except KeyboardInterrupt:
            console.print(f"{name}: interrupted")
            return 130
        except (OSError, ValueError) as error:
            console.print("error:", error, style="bold red", markup=False)
            return 1
    return 0


def run(name: str, study: ModuleType, options: argparse.Namespace, console: Any) -> None:
    """Run one study: show and save what it found."""
    import matplotlib as mpl
    from rich import box
    from rich.progress import Progress
    from rich.table import Table
    from threadpoolctl import threadpool_limits

    from zdlfast.studies._study import STYLE, Setup

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=1.0)

        def step(what: str, done: float) -> None:
            progress.update(task, description=f"{name}: {what}", completed=done)

        # The matrices are small: with more threads, BLAS waits more than it computes.
        with threadpool_limits(1):
            result = study.compute(Setup(options.seed, options.data, options.quick, step))
    report = study.describe(result)
    table = Table(
        title=f"{name}: {study.SUMMARY}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for i, column in enumerate(report.columns):
        table.add_column(column, justify="right" if i else "left")
    for row in report.rows:
        table.add_row(*row)
    console.print(table, report.finding)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        study.draw(result).savefig(options.out / f"{name}.png")
    settings = {"seed": options.seed, "data": options.data, "quick": options.quick}
    content = {
        "study": name,
        "settings": settings,
        "finding": report.finding,
        "result": plain(dataclasses.asdict(result)),
    }
    (options.out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"saved in {options.out}: {name}.png, {name}.json\n", markup=False)


def plain(value: Any) -> Any:
    """Numbers, lists and dicts in place of NumPy's types; None for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def seed(text: str) -> int:
    """A seed that all generators take."""
    if not (text.isdecimal() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 2**32 - 1, got {text!r}")
    return int(text)


def make_parser(studies: dict[str, ModuleType]) -> argparse.ArgumentParser:
    width = max(map(len, studies))
    lines = "\n".join(f"  {name:{width}}  {study.SUMMARY}" for name, study in studies.items())
    parser = argparse.ArgumentParser(
        prog="python -m zdlfast.studies",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Run the experiments of the articles. Each prints what it found, and saves a\n"
            "picture, NAME.png, and the numbers behind it, NAME.json. Without a name they are\n"
            "listed.\n\n"
            f"studies:\n{lines}"
        ),
        epilog="example: python -m zdlfast.studies trajectories --out pictures",
    )
    parser.add_argument(
        "name", nargs="?", choices=[*studies, "all"], metavar="NAME", help="which one, or all"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("studies-results"), metavar="DIR",
        help="where the files are saved (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of all that is random (default: 0)"
    )
    parser.add_argument(
        "--data", default="digits", metavar="digits|MNIST-FOLDER",
        help="scikit-learn's digits, or the folder of MNIST's four files (default: digits)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="do less, to see it work within half a minute"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
