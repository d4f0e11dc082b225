"""The job ``models``: the parameters of real networks, by their true shapes."""

import argparse
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from rich.console import Console

from bench import internals, plots, report
from bench.plots import BLUE, LIGHT, ORANGE
from bench.updates import COLUMNS, NUMPY, Case, Layout, Result, run, thread_counts

HELP = "the book's optimizers on the parameters of real networks, from the book's to GPT-2"
DESCRIPTION = """\
Update the parameters of real networks, by their true shapes, with each of the book's
optimizers: the book's two fully connected networks, its deep convolutional one, word2vec (CBOW)
with a vocabulary of 10,000, ResNet-50 and GPT-2 small. In float32, by NumPy and by zdlfast, on
one thread and on all.

Before anything is timed, weights and state after two steps are compared bit for bit. A network
that memory is too short for is skipped with a message.
"""
EPILOG = f"""\
{COLUMNS}
files in DIR:
  models.json          machine, settings, quartiles and every sample
  models.txt           the tables
  models-float32.png   how many times faster than NumPy, for every network and optimizer
"""
SECONDS, QUICK_SECONDS = 2.0, 0.2
# Elements up to which a network is quick to measure.
QUICK_ELEMENTS = 3_000_000
LAYOUT = Layout("one update of all parameters", "network", "optimizer", lambda c: (c.name, c.rule))

Shapes = tuple[tuple[int, ...], ...]


def dense(*sizes: int) -> Shapes:
    """A weight and a bias for each layer of a fully connected network."""
    return tuple(
        shape for rows, columns in pairwise(sizes) for shape in ((rows, columns), (columns,))
    )


def book_convnet() -> Shapes:
    """The deep convolutional network of book 1, chapter 8: 3x3 filters, then two dense layers."""
    channels = [1, 16, 16, 32, 32, 64, 64]
    filters = [((out, into, 3, 3), (out,)) for into, out in pairwise(channels)]
    return (*(shape for pair in filters for shape in pair), *dense(64 * 4 * 4, 50, 10))


def resnet50() -> Shapes:
    """He et al. 2015, table 1: 25.6 million parameters in 161 arrays."""

    def convolution(into: int, out: int, size: int) -> list[tuple[int, ...]]:
        return [(out, into, size, size), (out,), (out,)]  # filters, batch normalization

    shapes = convolution(3, 64, 7)
    into = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(into, width, 1) + convolution(width, width, 3)
            shapes += convolution(width, 4 * width, 1)
            if block == 0:
                shapes += convolution(into, 4 * width, 1)
            into = 4 * width
    return (*shapes, (1000, into), (1000,))


def gpt2() -> Shapes:
    """Radford et al. 2019, the smallest: 124 million parameters in 148 arrays."""
    width, layers = 768, 12
    norm = ((width,), (width,))
    layer = (
        *norm,
        *dense(width, 3 * width),  # queries, keys and values
        *dense(width, width),
        *norm,
        *dense(width, 4 * width, width),
    )
    return ((50257, width), (1024, width), *layer * layers, *norm)


MODELS: dict[str, Shapes] = {
    "784-50-100-10": dense(784, 50, 100, 10),
    "784-100x4-10": dense(784, 100, 100, 100, 100, 10),
    "DeepConvNet": book_convnet(),
    "CBOW 10,000": ((10_000, 100), (10_000, 100)),
    "ResNet-50": resnet50(),
    "GPT-2 small": gpt2(),
}


def make_cases(quick: bool) -> list[Case]:
    cases = [
        Case(name, rule, "float32", shapes)
        for name, shapes in MODELS.items()
        for rule in internals.BOOK
    ]
    return [case for case in cases if not quick or case.elements <= QUICK_ELEMENTS]


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "no network larger than CBOW (a tenth of the time)")


def main(options: argparse.Namespace, console: Console) -> int:
    cases = make_cases(options.quick)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    return run("models", cases, seconds, LAYOUT, draw, options, console)


@mpl.rc_context(plots.STYLE)
def draw(path: Path, results: list[Result], title: str) -> None:
    """For every network a row of dots for each optimizer: how many times faster than NumPy."""
    names = list(dict.fromkeys(r.case.name for r in results))
    figure, axes = plots.grid(len(names), 2, (10, 2.6), share=False)
    counts = thread_counts()
    highest = max(r.ratio(count) for r in results for count in counts)
    for ax, name in zip(axes.flat, names, strict=False):
        of_model = [r for r in results if r.case.name == name]
        rows = range(len(of_model))
        ax.axvline(1, color=ORANGE, linewidth=2)
        for i, r in enumerate(of_model):
            ratios = [r.ratio(count) for count in counts]
            ax.plot([1, max(ratios)], [i, i], color="0.85", linewidth=2, zorder=1)
            label = f"{report.ratio(ratios[-1])}×"
            ax.annotate(label, (max(ratios), i), (8, 0), textcoords="offset points",
                        va="center", fontsize=10, color=BLUE)  # fmt: skip
        for count, color in zip(counts, (LIGHT, BLUE)[-len(counts) :], strict=True):
            x = [r.ratio(count) for r in of_model]
            ax.plot(x, rows, "o", color=color, markersize=8, label=f"{report.threads(count)}")
        case = of_model[0].case
        heading = f"{name}: {case.elements:,} parameters, {len(case.shapes)} arrays"
        ax.set_title(heading, fontsize=11, loc="left", x=-0.42)
        labels = [f"{r.case.rule}  {report.duration(r.median(NUMPY))}" for r in of_model]
        ax.set_yticks(rows, labels, fontsize=10)
        ax.invert_yaxis()
        plots.ratio_axis(ax, "x", (0.9, 1.7 * highest))
        ax.grid(axis="x", alpha=0.25)
        ax.spines["left"].set_visible(False)
        ax.tick_params(left=False)
    figure.supxlabel("times faster than NumPy, whose time stands beside each name",
                     fontsize=11, x=0.35)  # fmt: skip
    plots.set_title(figure, title)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower right", ncols=2, frameon=False)
    figure.savefig(path)
