"""python -m zdlfast.studies: list the studies, or run one or all."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zdlfast._printable import replace_unprintable
from zdlfast.studies import STUDIES

if TYPE_CHECKING:
    from rich.console import Console

ON_CLUSTERS = "hyperparameters"
WIDTH = max(map(len, STUDIES))
LISTED = "\n".join(f"{name:{WIDTH}}  {summary}" for name, summary in STUDIES.items())


def main() -> int:
    replace_unprintable()
    parser = make_parser()
    options = parser.parse_args()
    if options.scheduler is not None and options.name not in (ON_CLUSTERS, "all"):
        parser.error(f"--scheduler is for {ON_CLUSTERS}: no other study runs on a cluster")
    if options.name is None:
        print(f"{LISTED}\n\nRun one with 'python -m zdlfast.studies NAME', or 'all' of them.")
        return 0
    name = ""
    try:
        from rich.console import Console

        console = Console(highlight=False, markup=False)
        options.out.mkdir(parents=True, exist_ok=True)
        for name in STUDIES if options.name == "all" else [options.name]:
            run(name, options, console)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        hint = "in a checkout, pip install '.[studies]' installs what the studies need"
        print(f"error: {error}; {hint}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(name: str, options: argparse.Namespace, console: Console) -> None:
    """Run one study: save and show what it found."""
    import matplotlib as mpl
    from rich import box
    from rich.progress import Progress
    from rich.table import Table
    from threadpoolctl import threadpool_limits

    from zdlfast.studies._study import STYLE, Setup

    study = importlib.import_module(f"zdlfast.studies.{name}")
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=1.0)

        def step(what: str, done: float) -> None:
            progress.update(task, description=f"{name}: {what}", completed=done)

        # The matrices are small: with more threads, BLAS waits more than it computes.
        with threadpool_limits(1):
            result = study.compute(
                Setup(options.seed, options.data, options.quick, step, options.scheduler)
            )
    report = study.describe(result)
    settings = {"seed": options.seed, "data": options.data, "quick": options.quick}
    content = {
        "study": name,
        "settings": settings,
        "finding": report.finding,
        "result": plain(dataclasses.asdict(result)),
    }
    # Saved before it is shown, and shown even if it cannot be saved: it may have taken minutes.
    try:
        (options.out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        with mpl.rc_context(STYLE):  # type: ignore[arg-type]
            study.draw(result).savefig(options.out / f"{name}.png")
    finally:
        table = Table(
            title=f"{name}: {STUDIES[name]}",
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
    console.print(f"saved in {options.out}: {name}.png, {name}.json\n")


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


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zdlfast.studies",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Run the experiments of the articles. Each prints what it found, and saves a\n"
            "picture, NAME.png, and the numbers behind it, NAME.json. Without a name they are\n"
            f"listed.\n\n{LISTED}"
        ),
        epilog="example: python -m zdlfast.studies trajectories --out pictures",
    )
    parser.add_argument(
        "name", nargs="?", choices=[*STUDIES, "all"], metavar="NAME", help="which one, or all"
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
    parser.add_argument(
        "--scheduler", metavar="ADDRESS",
        help=f"of a cluster of Dask, such as tcp://10.0.0.1:8786, for the trials of {ON_CLUSTERS} "
        "(default: processes on this machine)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
