"""The job ``mpi``: a training by 1, 2 and 4 processes, and a model of more."""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil, log2
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from rich.console import Console
from rich.table import Table

from bench import mpi as launcher
from bench import plots, report
from bench.plots import BLUE, ORANGE
from bench.timing import median

HELP = "a training by 1, 2 and 4 processes of MPI, and a model of 8 to 1,024"
DESCRIPTION = """\
Train a network by zdlfast.mpi.DataParallel with Adam in 1, 2 and 4 processes on this machine, each
on one core, with the whole state on every rank and with a part on each. Strong scaling: one
mini-batch is shared out. Weak scaling: each rank has a mini-batch of its own. Check that all ranks
have the same parameters bit for bit, and both kinds of state give the same.

What 8 to 1,024 ranks would take is a model, and not measured: the gradient on a core of its
own as measured with one rank, messages by the latency and bandwidth between two processes here.
"""
EPILOG = """\
columns of the table:
  samples    of a mini-batch on each rank
  gradient   the time of the gradient, on rank 0
  update     the time of DataParallel.update: communication, and the step of Adam
  step       both together
  speed      samples per second, in multiples of those of one rank
  sent       bytes that a rank sends in an update, in multiples of the least that is possible,
             2 (n - 1) / n for each byte of the gradients

files in DIR:
  mpi.json   machine, settings and every sample
  mpi.txt    the tables
  mpi.png    the speeds, measured and by the model
"""
RANKS = [1, 2, 4]
MODELLED = [8, 16, 32, 64, 128, 256, 512, 1024]
HIDDEN, QUICK_HIDDEN = 1000, 100
BATCH = 240  # strong scaling: of all ranks; weak scaling: of each
STEPS, QUICK_STEPS = 30, 3
SECONDS, QUICK_SECONDS = 1.0, 0.05
LIMIT = 600  # seconds of one program
STRONG, WEAK = "strong", "weak"
WHOLE, PARTS = "whole", "parts"


@dataclass
class Result:
    """One training: steps of so many ranks, with both kinds of state."""

    scaling: str
    ranks: int
    batch: int  # of each rank
    measured: dict[str, Any]

    def times(self, side: str, what: str) -> list[float]:
        samples: list[float] = self.measured["sides"][side][what]
        return samples

    def step(self, side: str) -> float:
        """Seconds of a typical step."""
        pairs = zip(self.times(side, "gradient"), self.times(side, "update"), strict=True)
        return median([gradient + update for gradient, update in pairs])

    def speed(self, side: str) -> float:
        """Samples per second."""
        return self.ranks * self.batch / self.step(side)

    def sent(self, side: str) -> float:
        """What a rank sends, in multiples of the least."""
        least = 2 * (self.ranks - 1) / self.ranks * self.measured["bytes"]
        sent: float = self.measured["sides"][side]["sent"]
        return sent / least if least else 1.0


@dataclass
class Model:
    """How long a step of n ranks would take (alpha-beta).

    Attributes
    ----------
    latency : float
        Seconds of a message without content: alpha.
    bandwidth : float
        Bytes per second of a long one: 1 / beta.
    gradient : float
        Seconds of the gradient for each sample, on one rank.
    update : float
        Seconds of an update by one rank, where nothing is sent.
    bytes : int
        Of all gradients.
    """

    latency: float
    bandwidth: float
    gradient: float
    update: float
    bytes: int

    def step(self, ranks: int, batch: float) -> float:
        """Seconds of a step of so many ranks with so many samples each.

        Twice, each rank sends ``(n - 1) / n`` of all bytes, in buckets, to every other rank a
        message from each; the ranks agree twice, by as many messages as a tree is high.
        """
        buckets = ceil(self.bytes / (4 << 20))
        sent = 2 * (ranks - 1) / ranks * self.bytes / self.bandwidth
        messages = 2 * buckets * (ranks - 1) + 2 * 2 * ceil(log2(ranks))
        return batch * self.gradient + self.update + sent + messages * self.latency

    def speed(self, ranks: int, batch: float) -> float:
        return ranks * batch / self.step(ranks, batch)


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, f"a small network, {QUICK_STEPS} steps (under 30 seconds)")


def main(options: argparse.Namespace, console: Console) -> int:
    hidden = QUICK_HIDDEN if options.quick else HIDDEN
    steps = QUICK_STEPS if options.quick else STEPS
    seconds = QUICK_SECONDS if options.quick else SECONDS
    link: dict[str, list[float]] = {}
    results, complete = report.collect(
        console,
        2 * len(RANKS) + 1,
        lambda step: measure_all(hidden, steps, seconds, link, step),
    )
    tables, pictures = [], {}
    if results:
        tables.append(table(results, hidden))
    if complete:
        model = make_model(results, link)
        tables.append(model_table(model))
        pictures["mpi.png"] = partial(draw, results=results, model=model)
    records = [
        {
            "case": {"name": f"{r.scaling}, {r.ranks} ranks", "rule": "Adam", "dtype": "float32"},
            "equal": r.measured["equal"],
            "parameters": r.measured["parameters"],
            "batch": r.batch,
            "sent": {side: r.measured["sides"][side]["sent"] for side in (WHOLE, PARTS)},
            "times": report.times_record(
                {f"{what}, {side}": r.times(side, what)
                 for side in (WHOLE, PARTS) for what in ("gradient", "update")}
            ),
        }
        for r in results
    ]  # fmt: skip
    settings = {
        "network": f"784-{hidden}-{hidden}-10",
        "batch": BATCH,
        "steps": steps,
        "link": link,
        "versions": report.versions(["mpi4py", "mpich", "openmpi"]),
    }
    report.publish(console, options.out, "mpi", tables, pictures, records, settings, complete)
    different = {
        f"{r.scaling}, {r.ranks} ranks": ["the parameters differ among ranks or kinds of state"]
        for r in results
        if not r.measured["equal"]
    }
    text = "All ranks, with the whole state and with parts of it: equal bit for bit."
    return report.finish(console, different, complete, text)


def measure_all(
    hidden: int, steps: int, seconds: float, link: dict[str, list[float]], step: report.Step
) -> Iterator[Result]:
    step("latency and bandwidth")
    link.update(run(2, what="link", seconds=seconds)["link"])
    for scaling in (STRONG, WEAK):
        for ranks in RANKS:
            step(f"{scaling} scaling, {ranks} ranks")
            batch = BATCH // ranks if scaling == STRONG else BATCH
            found = run(ranks, what="train", hidden=hidden, steps=steps, batch=batch)
            yield Result(scaling, ranks, batch, found)


def run(ranks: int, **settings: Any) -> dict[str, Any]:
    """Have an MPI program measure something."""
    program = Path(launcher.__file__).with_name("mpi_ranks.py")
    done = subprocess.run(
        launcher.command(ranks, str(program), json.dumps(settings)),
        env=launcher.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode:
        raise OSError(f"the program of {ranks} ranks failed: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def make_model(results: list[Result], link: dict[str, list[float]]) -> Model:
    small, large = median(link["small"]), median(link["large"])
    one = next(r for r in results if r.ranks == 1)
    return Model(
        latency=small,
        bandwidth=(4 << 20) / max(large - small, 1e-9),
        gradient=median(one.times(WHOLE, "gradient")) / one.batch,
        update=median(one.times(WHOLE, "update")),
        bytes=one.measured["bytes"],
    )


def table(results: list[Result], hidden: int) -> Table:
    cores = os.cpu_count()
    made = report.make_table(
        f"one step of 784-{hidden}-{hidden}-10, "
        f"{results[0].measured['parameters']:,} parameters, Adam, float32",
        ["scaling", "ranks", "samples", "state", "gradient", "update", "step", "speed", "sent"],
        f"measured on {cores} cores: more ranks than cores share them\n",
    )
    first = {r.scaling: r for r in reversed(results) if r.ranks == 1}
    for r in results:
        for side in (WHOLE, PARTS):
            speed = r.speed(side) / first[r.scaling].speed(WHOLE) if r.scaling in first else 1.0
            made.add_row(
                r.scaling,
                str(r.ranks),
                str(r.batch),
                side,
                report.duration(median(r.times(side, "gradient"))),
                report.duration(median(r.times(side, "update"))),
                report.duration(r.step(side)),
                report.ratio(speed),
                f"{r.sent(side):.4f}" if r.ranks > 1 else "",
            )
    return made


def model_table(model: Model) -> Table:
    made = report.make_table(
        "a model, not measured: one step of n ranks, each with a core and a memory of its own",
        ["ranks", "strong: step", "speed", "weak: step", "speed"],
        f"latency {report.duration(model.latency)}, "
        f"bandwidth {model.bandwidth / 1e9:.3g} GB/s between two processes here, "
        f"buckets of 4 MiB\n",
    )
    for ranks in MODELLED:
        strong, weak = model.step(ranks, BATCH / ranks), model.step(ranks, BATCH)
        made.add_row(
            f"{ranks:,}",
            report.duration(strong),
            report.ratio(model.speed(ranks, BATCH / ranks) / model.speed(1, BATCH)),
            report.duration(weak),
            report.ratio(model.speed(ranks, BATCH) / model.speed(1, BATCH)),
        )
    return made


@mpl.rc_context(plots.STYLE)
def draw(path: Path, results: list[Result], model: Model) -> None:
    """Speed over ranks: points that were measured, lines of the model."""
    figure, axes = plots.grid(2, 2, (10, 4.2), share=True)
    ranks = [1, 2, 4, *MODELLED]
    for ax, scaling in zip(axes.flat, (STRONG, WEAK), strict=True):
        of_one = {r.ranks: r for r in results if r.scaling == scaling}
        ax.plot(ranks, ranks, color="0.75", linestyle=":", label="n times as fast")
        modelled = [
            model.speed(n, BATCH / n if scaling == STRONG else BATCH) / model.speed(1, BATCH)
            for n in ranks
        ]
        ax.plot(ranks, modelled, color="0.45", linestyle="--", label="model, a core for each rank")
        for side, color, marker in ((WHOLE, BLUE, "o"), (PARTS, ORANGE, "x")):
            speeds = [r.speed(side) / of_one[1].speed(WHOLE) for r in of_one.values()]
            label = f"measured, {'state on all ranks' if side == WHOLE else 'parts of the state'}"
            ax.plot(list(of_one), speeds, marker, color=color, markersize=8, label=label)
        ax.set_title(f"{scaling} scaling", fontsize=12, loc="left")
        ax.set(xscale="log", yscale="log", xlabel="ranks")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(FixedLocator([1, 4, 16, 64, 256, 1024]))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        ax.grid(alpha=0.25)
    axes.flat[0].set_ylabel("samples per second,\nin multiples of one rank's")
    axes.flat[0].legend(fontsize=10, frameon=False)
    plots.set_title(figure, "Training by the processes of an MPI program")
    figure.savefig(path)
