"""Searching for the learning rate and the weight decay: at random, on a grid, by a model.

Gaussian process and samplers are scikit-learn's. Trials run in parallel processes by joblib: on
this machine, or on a cluster of Dask, whose scheduler is given by ``--scheduler``. Another
back end of joblib's may be chosen around the search::

    with joblib.parallel_config(backend="ray"):
        result = hyperparameters.compute(Setup())
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import loguniform
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import ParameterGrid, ParameterSampler

import zdlfast
from zdlfast.nn import Trainer, dense_network
from zdlfast.studies._study import BLACK, BLUE, GREEN, RED, Report, Setup, make_figure

# The book's ranges (section 6.5), towards larger learning rates.
RANGES = {"lr": (1e-6, 1.0), "weight_decay": (1e-8, 1e-1)}
SIZES, SAMPLES, VALIDATED, BATCH = (784, 100, 100, 10), 500, 100, 50
EPOCHS, QUICK_EPOCHS = 20, 5
SIDE, QUICK_SIDE = 6, 4  # of the grid; its square is the budget of each search
FIRST = 6  # trials before there is a model
CANDIDATES = 2000
CONNECT = 30  # seconds in which a scheduler has to answer
CAUTION = 2.0  # the acquisition function is the mean and so many standard deviations
RANDOM, GRID, BAYES = "random search", "grid search", "Bayesian optimization"
# Of the one-dimensional example: where the model is asked, and after how many evaluations shown.
PLACES = np.linspace(0, 1, 501)
EVALUATIONS, SHOWN = 10, (3, 5, 10)


@dataclass
class Trial:
    """One training: its options, its validation accuracy, or why there is none."""

    lr: float
    weight_decay: float
    accuracy: float | None
    error: str


@dataclass
class Model:
    """What a Gaussian process makes of some evaluations of a function of one variable."""

    x: np.ndarray  # evaluated
    y: np.ndarray
    mean: np.ndarray  # on PLACES
    std: np.ndarray
    following: float  # the next x to evaluate


@dataclass
class Result:
    """Trials by search, in their order; and the one-dimensional example, step by step."""

    trials: dict[str, list[Trial]]
    example: list[Model]


def compute(setup: Setup) -> Result:
    with back_end(setup.scheduler):
        return search(setup)


@contextmanager
def back_end(scheduler: str | None) -> Iterator[None]:
    """Where trials run: on the cluster with this scheduler, or as joblib is told."""
    if scheduler is None:
        yield
        return
    from dask.distributed import Client

    with (
        Client(scheduler, timeout=CONNECT) as client,  # type: ignore[no-untyped-call]
        joblib.parallel_config(backend="dask", client=client),
    ):
        yield


def search(setup: Setup) -> Result:
    """Do all searches, one after the other."""
    side = QUICK_SIDE if setup.quick else SIDE
    budget = side * side
    random = np.random.RandomState(setup.seed)
    distributions = {name: loguniform(*limits) for name, limits in RANGES.items()}
    values = {name: np.geomspace(*limits, side).tolist() for name, limits in RANGES.items()}
    setup.step(RANDOM, 0.0)
    trials = {RANDOM: run(setup, ParameterSampler(distributions, budget, random_state=random))}
    setup.step(GRID, 0.3)
    trials[GRID] = run(setup, ParameterGrid(values))
    trials[BAYES] = trials[RANDOM][:FIRST]
    while len(trials[BAYES]) < budget:
        setup.step(BAYES, 0.6 + 0.4 * len(trials[BAYES]) / budget)
        candidates = ParameterSampler(distributions, CANDIDATES, random_state=random)
        trials[BAYES] += run(setup, [propose(trials[BAYES], list(candidates))])
    return Result(trials, list(optimize_example()))


def run(setup: Setup, points: Any) -> list[Trial]:
    """Train with each of these options, in parallel."""
    epochs = QUICK_EPOCHS if setup.quick else EPOCHS
    data = setup.data if setup.data == "digits" else str(Path(setup.data).resolve())
    do = joblib.delayed(trial)
    return list(
        joblib.Parallel(n_jobs=-1)(do(data, epochs, setup.seed, **point) for point in points)
    )


def trial(data: str, epochs: int, seed: int, **point: float) -> Trial:
    """One trial, by any process of any machine: what it needs, it loads itself.

    Arrays that were sent to a worker of a cluster would be lost with it, and so would be the
    trials that need them.
    """
    x, t = samples(data)
    return train(x, t, epochs, seed, **point)


@cache
def samples(data: str) -> tuple[np.ndarray, np.ndarray]:
    """What all trials learn and are measured on."""
    (x, t), _ = Setup(data=data).images
    return x[:SAMPLES], t[:SAMPLES]


def train(
    x: np.ndarray, t: np.ndarray, epochs: int, seed: int, *, lr: float, weight_decay: float
) -> Trial:
    """One trial. If it fails, that is its result, and the search goes on."""
    try:
        network = dense_network(*SIZES, rng=seed, weight_decay=weight_decay)
        trainer = Trainer(network, zdlfast.SGD(lr=lr), epochs=epochs, batch_size=BATCH, rng=seed,
                          progress=False)  # fmt: skip
        with np.errstate(over="ignore", invalid="ignore"):
            history = trainer.fit(x[VALIDATED:], t[VALIDATED:], (x[:VALIDATED], t[:VALIDATED]))
    except Exception as error:
        return Trial(lr, weight_decay, None, f"{type(error).__name__}: {error}")
    if not history.complete:
        raise KeyboardInterrupt
    return Trial(lr, weight_decay, float(history.test_accuracy[-1]), "")


def propose(trials: list[Trial], candidates: list[dict[str, float]]) -> dict[str, float]:
    """The candidate where the model's mean plus uncertainty is largest."""
    # A failed trial counts as no better than guessing.
    accuracies = [0.1 if trial.accuracy is None else trial.accuracy for trial in trials]
    known = scaled([vars(trial) for trial in trials])
    mean, std = predict(known, np.array(accuracies), scaled(candidates))
    return candidates[int(np.argmax(mean + CAUTION * std))]


def scaled(points: list[dict[str, Any]]) -> np.ndarray:
    """Options as rows of numbers from 0 to 1, by their logarithms."""
    low, high = np.log(list(RANGES.values())).T
    logs = np.log([[point[name] for name in RANGES] for point in points])
    rows: np.ndarray = (logs - low) / (high - low)
    return rows


def predict(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a Gaussian process at these places."""
    kernel = ConstantKernel() * Matern(0.3, (0.05, 5.0), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1e-1))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        # A scale at the end of its range is no failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mean, std = process.fit(x, y).predict(places, return_std=True)
    return mean, std


def example(x: np.ndarray) -> np.ndarray:
    """A function of one variable with a lower and a higher hill."""
    low, high = np.exp(-(((x - 0.25) / 0.1) ** 2)), np.exp(-(((x - 0.7) / 0.15) ** 2))
    hills: np.ndarray = 0.7 * low + high
    return hills


def optimize_example() -> Iterator[Model]:
    """Find the example's maximum: two evaluations first, then where the model says."""
    x = np.array([0.1, 0.9])
    while len(x) <= EVALUATIONS:
        mean, std = predict(x[:, None], example(x), PLACES[:, None])
        following = float(PLACES[np.argmax(mean + CAUTION * std)])
        yield Model(x, example(x), mean, std, following)
        x = np.append(x, following)


def describe(result: Result) -> Report:
    rows, best = [], {}
    for name, trials in result.trials.items():
        top = max(trials, key=lambda trial: trial.accuracy or 0.0)
        best[name] = top.accuracy or 0.0
        good = sum((trial.accuracy or 0.0) >= 0.8 for trial in trials)
        failed = sum(trial.accuracy is None for trial in trials)
        rows.append([name, str(len(trials)), str(failed), str(good), f"{best[name]:.1%}",
                     f"{top.lr:.2g}", f"{top.weight_decay:.1g}"])  # fmt: skip
    winners = " and ".join(name for name in best if best[name] == max(best.values()))
    last = result.example[-1]
    place = float(last.x[np.argmax(last.y)])
    return Report(
        ["search", "trials", "failed", "80% and more", "best", "lr", "weight decay"],
        rows,
        f"A grid tries {len({trial.lr for trial in result.trials[GRID]})} learning rates with as "
        "many trials as the others take to try a new one each time; the model spends its trials "
        f"where it expects good ones. Best here: {winners}. In the example, the model "
        f"has the maximum of the function at {place:.2f} after {len(last.x)} evaluations.",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(8.0, "Searching for the learning rate and the weight decay")
    top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=[2.2, 2.6, 3.2])[
        :, 0
    ]
    ax = top.subplots()
    # The widest first: the last search begins with the trials of the first.
    for (name, trials), width in zip(result.trials.items(), (5.0, 1.6, 1.6), strict=True):
        best = np.maximum.accumulate([trial.accuracy or 0.0 for trial in trials])
        ax.step(np.arange(1, len(trials) + 1), best, where="post", label=name, linewidth=width)
    ax.set_xlabel("trials")
    ax.set_ylabel("best accuracy so far")
    ax.legend(loc="lower right")
    ax.grid()

    axes = middle.subplots(1, len(result.trials), sharex=True, sharey=True)
    for ax, (name, trials) in zip(axes, result.trials.items(), strict=True):
        done = [trial for trial in trials if trial.accuracy is not None]
        failed = [trial for trial in trials if trial.accuracy is None]
        points = ax.scatter([trial.lr for trial in done], [trial.weight_decay for trial in done],
                            c=[trial.accuracy for trial in done], vmin=0, vmax=1, s=26,
                            edgecolors="#444444", linewidths=0.4)  # fmt: skip
        ax.plot([trial.lr for trial in failed], [trial.weight_decay for trial in failed], "x",
                color=RED)  # fmt: skip
        ax.set_title(name)
        ax.set_xscale("log")
        ax.set_yscale("log")
    middle.supxlabel("learning rate")
    middle.supylabel("weight decay")
    middle.colorbar(points, ax=axes, label="validation accuracy")

    shown = [model for model in result.example if len(model.x) in SHOWN]
    axes = bottom.subplots(2, len(shown), sharex=True, sharey="row", height_ratios=[1.8, 1])
    for (above, below), model in zip(axes.T, shown, strict=True):
        upper, lower = (model.mean + sign * CAUTION * model.std for sign in (1, -1))
        above.plot(PLACES, example(PLACES), "--", color="#777777", label="function")
        above.plot(PLACES, model.mean, color=BLUE, label="mean")
        above.fill_between(PLACES, lower, upper, color=BLUE, alpha=0.2, linewidth=0,
                           label=f"± {CAUTION:g} std")  # fmt: skip
        above.plot(model.x, model.y, "o", color=BLACK, markersize=4, label="evaluated")
        below.plot(PLACES, upper, color=GREEN, label="acquisition")
        for ax in (above, below):
            ax.axvline(model.following, color=RED, linewidth=1.2, label="next")
        above.set_title(f"{len(model.x)} evaluations")
    axes[1, len(shown) // 2].set_xlabel("x")
    axes[0, 0].set_ylabel("model")
    axes[1, 0].set_ylabel("acquisition")
    bottom.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
