"""python -m bench: the same training by NumPy and by zdlfast, timed and compared."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from bench import plots, report
from bench.network import Digits
from bench.training import OPTIMIZERS, Result, train

STEPS, QUICK_STEPS = 500, 100


def main() -> int:
    options = make_parser().parse_args()
    console = Console(highlight=False)
    steps = QUICK_STEPS if options.quick else STEPS
    options.out.mkdir(parents=True, exist_ok=True)
    results = run(options.dtype, steps, console)
    about = report.machine()
    title = (
        f"784-200-200-10 on handwritten digits, {options.dtype}, {steps} steps, "
        f"1 thread, {about['zdlfast']['simd']}"
    )
    console.print(report.table(results, title))
    console.print(f"on {about['cpu']}, NumPy {about['numpy']}, Python {about['python']}")
    report.save(options.out / "bench.json", results, options.dtype, about)
    plots.losses(options.out / "losses.png", results, title)
    plots.ratios(options.out / "ratios.png", results, title)
    console.print(f"saved in {options.out}: bench.json, losses.png, ratios.png")
    different = {r.name: r.differences for r in results if r.differences}
    for name, lines in different.items():
        for line in lines:
            console.print(f"[bold red]NOT EQUAL[/] {name}: {line}")
    if different:
        return 1
    console.print(
        f"All losses of {steps} steps, all final weights and all state: equal bit for bit."
    )
    return 0


def run(dtype: str, steps: int, console: Console) -> list[Result]:
    """Train with every optimizer, with one BLAS thread, under a progress bar."""
    data = Digits(dtype)
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("steps, left:"), TimeRemainingColumn())  # fmt: skip
    results = []
    with threadpool_limits(1), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=steps * len(OPTIMIZERS))
        for name in OPTIMIZERS:
            progress.update(task, description=name)
            results.append(train(name, data, steps, lambda: progress.advance(task)))
    return results


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Train the network of the Adam article (784-200-200-10, batches of 100, lr 0.001)\n"
            "on scikit-learn's handwritten digits with each of the optimizers, by plain\n"
            "NumPy and by zdlfast, from the same initial weights and in turns. Check that all\n"
            "losses, final weights and state are equal bit for bit, and show what was faster."
        ),
        epilog=(
            "columns of the table:\n"
            "  update     median time of one optimizer.update(params, grads)\n"
            "  training   all steps, forwards, backwards and update: the median of one times\n"
            "             their number, so that a disturbed moment does not count\n"
            "  ratio      NumPy's time / zdlfast's time\n"
            "\n"
            "files in DIR:\n"
            "  bench.json   machine, settings, every sample and every loss\n"
            "  losses.png   both loss curves of every optimizer\n"
            "  ratios.png   the ratios of the table\n"
            "\n"
            "exit status: 0 if all is equal, 1 if anything differs"
        ),
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_STEPS} steps (under 20 seconds) instead of {STEPS} (under 2 minutes)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float64", "float32"],
        default="float64",
        help="of data, weights and state (default: float64, as in the book)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-results"),
        metavar="DIR",
        help="where the files are saved (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
