"""The job ``training``: one training by the NumPy twin and by zdlfast, side by side.

Both take each step on the same mini-batch, in turns, so that a change of the machine's speed
meets both alike.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import DTypeLike
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import zdlfast
from bench import internals, plots, report, updates
from bench.equality import differences, different_bits
from bench.plots import BLUE, ORANGE
from bench.timing import median
from zdlfast import reference
from zdlfast.datasets import Split, load_digits
from zdlfast.nn import Normal, Sequential, SoftmaxCrossEntropy, dense_network

HELP = "a whole training with each of the book's optimizers, and the share of the update in it"
DESCRIPTION = """\
Train the network of the Adam article (784-200-200-10, batches of 100, lr 0.001) on
scikit-learn's handwritten digits with each of the book's optimizers, by plain NumPy and zdlfast,
from the same initial weights and in turns. Check that all losses, final weights and state are
equal bit for bit, and show what was faster.
"""
EPILOG = """\
columns of the table:
  update     median time of one update(params, grads); NumPy's is as the book writes it, without
             the checks of zdlfast.reference
  training   all steps, forwards, backwards and update: the median of one times their
             number, so that a disturbed moment does not count
  ratio      NumPy's time / zdlfast's time
  share      of the update in a step, by NumPy and by zdlfast: what a faster update can save

files in DIR:
  bench.json   machine, settings, every sample and every loss (by the job training:
  bench.txt    and the tables                                  training.json and training.txt)
  losses.png   both loss curves of every optimizer
  ratios.png   the ratios of the table

exit status: 0 if all is equal, 1 if anything differs, 130 after Ctrl-C, which keeps what was
measured until then
"""
STEPS, QUICK_STEPS = 500, 100
# The article's settings; its gradient is of the sum over a batch.
SIZES, STD, BATCH, LR, SEED = (784, 200, 200, 10), 0.01, 100, 0.001, 8
# Of the updates alone that the main job shows.
ELEMENTS, SECONDS = [1_000, 1_000_000], 0.2


@dataclass
class Side:
    """One of the two trainings: its network and what was measured on it."""

    optimizer: Any
    update: Callable[[Any, Any], object]
    network: Sequential
    losses: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    @property
    def update_median(self) -> float:
        """Seconds of a typical update."""
        return median(self.update_seconds)

    @property
    def training_seconds(self) -> float:
        """The whole training: all steps, each as long as the typical one.

        The plain sum would be at the mercy of whatever else the machine did meanwhile.
        """
        return median(self.step_seconds) * len(self.step_seconds)

    @property
    def update_share(self) -> float:
        """The part of a typical step that the update takes."""
        return self.update_median / median(self.step_seconds)

    def step(self, x: np.ndarray, t: np.ndarray) -> None:
        start = perf_counter()
        grads = self.network.gradient(x, t)
        middle = perf_counter()
        self.update(self.network.params, grads)
        end = perf_counter()
        self.losses.append(self.network.batch_loss / len(x))
        self.update_seconds.append(end - middle)
        self.step_seconds.append(end - start)


@dataclass
class Result:
    """Both trainings with one optimizer."""

    name: str
    numpy: Side
    fast: Side
    accuracy: float
    differences: list[str]

    @property
    def update_ratio(self) -> float:
        """How often zdlfast's update fits into NumPy's, by the medians."""
        return self.numpy.update_median / self.fast.update_median

    @property
    def training_ratio(self) -> float:
        """The same of the whole training."""
        return self.numpy.training_seconds / self.fast.training_seconds

    def record(self) -> dict[str, Any]:
        """This for the JSON file."""
        times = {
            "update, NumPy": self.numpy.update_seconds,
            "update, zdlfast": self.fast.update_seconds,
            "step, NumPy": self.numpy.step_seconds,
            "step, zdlfast": self.fast.step_seconds,
        }
        dtype = self.numpy.network.params["W1"].dtype.name
        return {
            "case": {"name": "training", "rule": self.name, "dtype": dtype},
            "optimizer": self.name,
            "equal": not self.differences,
            "differences": self.differences,
            "update_ratio": self.update_ratio,
            "training_ratio": self.training_ratio,
            "accuracy": self.accuracy,
            "losses": self.fast.losses,
            "times": report.times_record(times),
        }


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(
        parser, f"{QUICK_STEPS} steps (under 20 seconds) instead of {STEPS} (under 2 minutes)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float64", "float32"],
        default=argparse.SUPPRESS,
        help="of data, weights and state (default: float64, as in the book)",
    )


def main(options: argparse.Namespace, console: Console) -> int:
    return _run("training", options, console, [])


def main_job(options: argparse.Namespace, console: Console) -> int:
    """The training, and a short table of the updates alone."""
    return _run("bench", options, console, updates.one_array(ELEMENTS, [options.dtype]))


def _run(
    job: str, options: argparse.Namespace, console: Console, cases: list[updates.Case]
) -> int:
    steps = QUICK_STEPS if options.quick else STEPS
    results, complete = report.collect(
        console, steps * len(internals.BOOK), lambda step: train_all(options.dtype, steps, step)
    )
    tables: list[Table] = []
    pictures: dict[str, Callable[[Path], None]] = {}
    title = f"784-200-200-10 on handwritten digits, {options.dtype}, {steps} steps"
    if results:
        tables.append(table(results, title))
        pictures["losses.png"] = partial(draw_losses, results=results, title=title)
        pictures["ratios.png"] = partial(draw_ratios, results=results, title=title)
    alone: list[updates.Result] = []
    if complete:
        alone, complete = report.collect(
            console,
            len(cases),
            lambda step: updates.measure_all(cases, SECONDS, step, console.print),
        )
    if timed := [r for r in alone if r.times]:
        title = f"{updates.ONE_ARRAY.title}, {options.dtype}"
        tables.append(updates.table(timed, updates.ONE_ARRAY, title))
    settings = {
        "network": "784-200-200-10",
        "data": "scikit-learn digits, 28x28",
        "dtype": options.dtype,
        "batch": BATCH,
        "lr": LR,
        "seed": SEED,
        "steps": steps,
        "blas_threads": 1,
    }
    records = [r.record() for r in results] + [updates.record(r) for r in alone]
    report.publish(console, options.out, job, tables, pictures, records, settings, complete)
    different = {r.name: r.differences for r in results if r.differences}
    different |= updates.differing(alone)
    return report.finish(
        console,
        different,
        complete,
        f"All losses of {steps} steps, all final weights and all state: equal bit for bit.",
    )


def table(results: list[Result], title: str) -> Table:
    """One row per optimizer: the update alone, and the whole training."""
    about = report.machine()
    caption = (
        f"on {about['cpu']}, {about['zdlfast']['simd']}:\n"
        f"updates {_from_to([r.update_ratio for r in results])} times as fast as NumPy's,\n"
        f"whole trainings {_from_to([r.training_ratio for r in results])} times\n"
    )
    made = report.make_table(
        title,
        ["optimizer", "update\nNumPy", "update\nzdlfast", "ratio", "training\nNumPy",
         "training\nzdlfast", "ratio", "share of\nupdate", "test\nacc."],
        caption,
    )  # fmt: skip
    for r in results:
        made.add_row(
            r.name,
            report.duration(r.numpy.update_median),
            report.duration(r.fast.update_median),
            report.ratio(r.update_ratio),
            report.duration(r.numpy.training_seconds),
            report.duration(r.fast.training_seconds),
            report.ratio(r.training_ratio),
            f"{r.numpy.update_share:.0%} {r.fast.update_share:3.0%}",
            f"{r.accuracy:.1%}",
        )
    return made


def _from_to(ratios: list[float]) -> str:
    return f"{report.ratio(min(ratios))} to {report.ratio(max(ratios))}"


def train_all(dtype: str, steps: int, step: report.Step) -> Iterator[Result]:
    """Train with the book's optimizers, on one BLAS thread: more make the times of a step jump."""
    data = load_digits(size=28, one_hot=True, dtype=dtype)
    with threadpool_limits(1):
        for name in internals.BOOK:
            yield train(name, data, steps, step)


def make_network(dtype: DTypeLike) -> Sequential:
    """The article's network, with the same initial weights at every call."""
    loss = SoftmaxCrossEntropy("sum")
    return dense_network(*SIZES, init=Normal(STD), rng=SEED, dtype=dtype, loss=loss)


def train(name: str, data: Split, steps: int, advance: report.Step) -> Result:
    """Train the network twice with the optimizer of this name, from the same weights.

    Parameters
    ----------
    name : str
        A class of `zdlfast` and of `zdlfast.reference`.
    data : tuple
        What is learned, as `load_digits` gives it; its dtype is the network's too.
    steps : int
        Mini-batches of 100 images, drawn with replacement.
    advance : callable
        Is called with the name before every step, for a progress bar.

    Returns
    -------
    Result
        With a line in `differences` for whatever is not equal bit for bit.
    """
    (x_train, t_train), (x_test, t_test) = data
    book, ours = getattr(reference, name)(lr=LR), getattr(zdlfast, name)(lr=LR)
    numpy = Side(book, internals.update_by_the_book(book), make_network(x_train.dtype))
    fast = Side(ours, ours.update, make_network(x_train.dtype))
    rng = np.random.default_rng(SEED)
    for step in range(steps):
        advance(name)
        batch = rng.integers(0, len(x_train), BATCH)
        x, t = x_train[batch], t_train[batch]
        for side in (numpy, fast) if step % 2 else (fast, numpy):
            side.step(x, t)
    accuracy = fast.network.accuracy(x_test, t_test)
    return Result(name, numpy, fast, accuracy, _differences(numpy, fast))


def _differences(numpy: Side, fast: Side) -> list[str]:
    """What differs between the two trainings: nothing, if all is well."""
    found = []
    for step, (a, b) in enumerate(zip(numpy.losses, fast.losses, strict=True), start=1):
        if different_bits(np.array(a), np.array(b)):
            found.append(f"the loss of step {step} is {b!r}, by NumPy {a!r}")
            break
    return found + differences(
        numpy.optimizer, fast.optimizer, numpy.network.params, fast.network.params
    )


@mpl.rc_context(plots.STYLE)
def draw_losses(path: Path, results: list[Result], title: str) -> None:
    """The loss of every step, of both trainings: two lines that lie on each other."""
    figure, axes = plots.grid(len(results), 3, (10, 2.8), share=True)
    for ax, r in zip(axes.flat, results, strict=False):
        steps = np.arange(1, len(r.fast.losses) + 1)
        ax.semilogy(steps, r.numpy.losses, color=ORANGE, linewidth=4, label="NumPy")
        ax.semilogy(steps, r.fast.losses, color=BLUE, linewidth=0.9, label="zdlfast")
        verdict = "not equal" if r.differences else "equal bit for bit"
        ax.set_title(f"{r.name}: {verdict}", fontsize=11, loc="left")
        ax.grid(alpha=0.25)
    figure.supxlabel("step (mini-batches of 100 images)", fontsize=11)
    figure.supylabel("loss (cross entropy per image, nats)", fontsize=11)
    plots.set_title(figure, title)
    axes[0, 0].legend(loc="lower left", fontsize=10, frameon=False)
    figure.savefig(path)


@mpl.rc_context(plots.STYLE)
def draw_ratios(path: Path, results: list[Result], title: str) -> None:
    """How many times faster than NumPy: the update alone, and the whole training."""
    figure, axes = plots.grid(1, 1, (10, 3.4), share=False)
    ax = axes[0, 0]
    rows = range(len(results))
    ax.axvline(1, color="0.3", linewidth=1.5)
    for color, label, values in [
        (BLUE, "update alone", [r.update_ratio for r in results]),
        (ORANGE, "whole training", [r.training_ratio for r in results]),
    ]:
        ax.plot(values, rows, "o", color=color, markersize=9, label=label)
        for i, value in enumerate(values):
            text = f"{report.ratio(value)}×"
            ax.annotate(text, (value, i), (10, 0), textcoords="offset points",
                        va="center", color=color)  # fmt: skip
    ax.set_yticks(rows, [r.name for r in results])
    ax.invert_yaxis()
    highest = max(r.update_ratio for r in results)
    plots.ratio_axis(ax, "x", (0.9, 1.3 * highest))
    ax.grid(axis="x", alpha=0.25)
    figure.supxlabel("times faster than NumPy", fontsize=11, x=0.35)
    plots.set_title(figure, title)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower right", ncols=2,
                  frameon=False)  # fmt: skip
    figure.savefig(path)
