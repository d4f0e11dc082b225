"""The job ``sklearn``: whole fits of scikit-learn's MLPs, as they are and with zdlfast's steps."""

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network import _stochastic_optimizers as optimizers
from threadpoolctl import threadpool_limits

import zdlfast
from bench import report
from bench.equality import different
from bench.timing import Run, interleave, median
from zdlfast.datasets import load_digits

HELP = "whole fits of scikit-learn's MLPClassifier, with and without zdlfast"
DESCRIPTION = """\
Fit scikit-learn's MLPClassifier to handwritten digits of 8x8 and of 28x28 pixels, as it is and
with zdlfast.patch("sklearn"), in turns. Check before that all losses, weights and state are equal
bit for bit.
"""
EPILOG = """\
columns of the table:
  hidden, batch   the network's hidden layers, and how many samples there are in a step
  update          the share of the update in a fit without zdlfast: what there is to save
  own, zdlfast    one whole fit
  ratio           scikit-learn's own time / the time with zdlfast

files in DIR:
  sklearn.json   machine, settings, quartiles and every sample
  sklearn.txt    the table

exit status: 0 if all is equal, 1 if anything differs, 130 after Ctrl-C
"""
OWN, ZDLFAST = "scikit-learn", "zdlfast"
DTYPES, SOLVERS = ("float64", "float32"), ("adam", "sgd")
SECONDS, QUICK_SECONDS = 8.0, 0.1


@dataclass(frozen=True)
class Network:
    """What is fitted: the sides of the digits, the network, and for how long."""

    side: int
    hidden: tuple[int, ...]
    batch: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.side}x{self.side} {'-'.join(map(str, self.hidden))} {self.batch}"


NETWORKS = [
    Network(8, (100,), 200, 20),  # scikit-learn's defaults
    Network(8, (256, 256), 32, 2),
    Network(28, (100,), 200, 5),
    Network(28, (512, 256), 200, 3),
]


@dataclass
class Result:
    """The times of one network, in seconds per fit; none where anything was not equal."""

    network: Network
    solver: str
    dtype: str
    share: float
    times: dict[str, list[float]]
    differences: list[str]

    @property
    def ratio(self) -> float:
        """How often the fit with zdlfast fits into scikit-learn's own."""
        return median(self.times[OWN]) / median(self.times[ZDLFAST])


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "five rounds, and float64 alone")


def main(options: argparse.Namespace, console: Console) -> int:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    dtypes = DTYPES[:1] if options.quick else DTYPES
    results, complete = report.collect(
        console,
        len(NETWORKS) * len(SOLVERS) * len(dtypes),
        lambda step: measure_all(dtypes, seconds, step),
    )
    records = [
        {
            "case": {"name": r.network.name, "rule": r.solver, "dtype": r.dtype},
            "equal": not r.differences,
            "differences": r.differences,
            "share": r.share,
            "times": report.times_record(r.times),
        }
        for r in results
    ]
    timed = [r for r in results if r.times]
    tables = [table(timed)] if timed else []
    settings = {
        "seconds": seconds,
        "blas_threads": 1,
        "versions": report.versions(["scikit-learn", "scipy"]),
    }
    report.publish(console, options.out, "sklearn", tables, {}, records, settings, complete)
    different = {
        f"{r.network.name} {r.solver} {r.dtype}": r.differences for r in results if r.differences
    }
    return report.finish(
        console, different, complete, "All losses, weights and state: equal bit for bit."
    )


def measure_all(dtypes: tuple[str, ...], seconds: float, step: report.Step) -> Iterator[Result]:
    """Measure every network, with one BLAS thread: more make the times of a fit jump."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fits are short
        for network in NETWORKS:
            for solver in SOLVERS:
                for dtype in dtypes:
                    step(f"{network.name} {solver} {dtype}")
                    yield measure(network, solver, dtype, seconds)


def measure(network: Network, solver: str, dtype: str, seconds: float) -> Result:
    """Check that both fits give the same; then time them in turns."""
    (x, t), _ = load_digits(size=network.side, dtype=dtype)
    x = x.reshape(len(x), -1)

    def fit() -> MLPClassifier:
        model = MLPClassifier(
            network.hidden,
            solver=solver,
            batch_size=network.batch,
            max_iter=network.epochs,
            random_state=8,
        )
        return model.fit(x, t)

    zdlfast.unpatch("sklearn")
    share, own = share_of_update(fit)
    with zdlfast.patched("sklearn"):
        found = differences(own, fit())
    if found:
        return Result(network, solver, dtype, share, {}, found)
    runs = {
        OWN: Run(fit, before=partial(zdlfast.unpatch, "sklearn")),
        ZDLFAST: Run(fit, before=partial(zdlfast.patch, "sklearn")),
    }
    try:
        return Result(network, solver, dtype, share, interleave(runs, seconds), [])
    finally:
        zdlfast.unpatch("sklearn")


def share_of_update(fit: Callable[[], Any]) -> tuple[float, Any]:
    """The share of scikit-learn's own update in a fit, and what was fitted."""
    own, spent = optimizers.BaseOptimizer.update_params, 0.0

    def timed(optimizer: Any, params: Any, grads: Any) -> None:
        nonlocal spent
        start = perf_counter()
        own(optimizer, params, grads)
        spent += perf_counter() - start

    optimizers.BaseOptimizer.update_params = timed
    try:
        start = perf_counter()
        fitted = fit()
        return spent / (perf_counter() - start), fitted
    finally:
        optimizers.BaseOptimizer.update_params = own


def differences(own: MLPClassifier, fast: MLPClassifier) -> list[str]:
    """What differs between two fits: nothing, if all is well."""
    pairs = {"losses": (np.array(own.loss_curve_), np.array(fast.loss_curve_))}
    for name in ("coefs_", "intercepts_"):
        for i, both in enumerate(zip(getattr(own, name), getattr(fast, name), strict=True)):
            pairs[f"{name}[{i}]"] = both
    for name, value in vars(own._optimizer).items():
        if isinstance(value, list):
            for i, both in enumerate(zip(value, vars(fast._optimizer)[name], strict=True)):
                pairs[f"{name}[{i}]"] = both
    return different(pairs, "scikit-learn")


def table(results: list[Result]) -> Table:
    made = report.make_table(
        "fits of scikit-learn's MLPClassifier to handwritten digits",
        ["pixels", "hidden", "batch", "solver", "dtype", "update", "own", ZDLFAST, "ratio"],
    )
    for r in results:
        made.add_row(
            f"{r.network.side}x{r.network.side}",
            "-".join(map(str, r.network.hidden)),
            str(r.network.batch),
            r.solver,
            r.dtype,
            f"{r.share:.0%}",
            report.duration(median(r.times[OWN])),
            report.duration(median(r.times[ZDLFAST])),
            report.ratio(r.ratio),
        )
    return made
