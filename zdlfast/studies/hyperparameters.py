"""Searching for the learning rate and the weight decay: at random, on a grid, by a model.

Gaussian process and samplers are scikit-learn's. Trials run in parallel processes by joblib, and
on a cluster if one of its back ends for that is chosen around the search, for example::

    import joblib
    from dask.distributed import Client

    client = Client("scheduler:8786")
    with joblib.parallel_config(backend="dask"):
        result = hyperparameters.compute(Setup())
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
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
from zdlfast.studies._study import Report, Setup, make_figure

SUMMARY = "random search, grid search and Bayesian optimization at an equal budget"

# The book's ranges (section 6.5), towards larger learning rates.
RANGES = {"lr": (1e-6, 1.0), "weight_decay": (1e-8, 1e-1)}
SIZES, SAMPLES, VALIDATED, BATCH = (784, 100, 100, 10), 500, 100, 50
EPOCHS, QUICK_EPOCHS = 20, 5
SIDE, QUICK_SIDE = 6, 4  # of the grid; its square is the budget of each search
FIRST, AT_ONCE = 6, 2  # trials before there is a model, and trials per model after that
CANDIDATES = 2000
CAUTION = 2.0  # standard deviations that are added to the mean
RANDOM, GRID, BAYES = "random search", "grid search", "Bayesian optimization"
# Of the one-dimensional example: what is shown.
SHOWN, EVALUATIONS = (3, 5, 6, 10), 10


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


PLACES = np.linspace(0, 1, 501)


def compute(setup: Setup) -> Result:
    side = QUICK_SIDE if setup.quick else SIDE
    budget = side * side
    setup.step(RANDOM, 0.0)
    distributions = {name: loguniform(*limits) for name, limits in RANGES.items()}
    points = list(ParameterSampler(distributions, budget, random_state=setup.seed))
    trials = {RANDOM: run(setup, points)}
    setup.step(GRID, 0.3)
    values = {name: np.geomspace(*limits, side).tolist() for name, limits in RANGES.items()}
    trials[GRID] = run(setup, list(ParameterGrid(values)))
    trials[BAYES] = run(setup, points[:FIRST])
    while len(trials[BAYES]) < budget:
        setup.step(BAYES, 0.6 + 0.4 * len(trials[BAYES]) / budget)
        count = min(AT_ONCE, budget - len(trials[BAYES]))
        trials[BAYES] += run(setup, propose(trials[BAYES], count, setup.rng(len(trials[BAYES]))))
    return Result(trials, list(optimize_example()))


def run(setup: Setup, points: list[dict[str, float]]) -> list[Trial]:
    """Train with each of these options, in parallel."""
    (x, t), _ = setup.images
    epochs = QUICK_EPOCHS if setup.quick else EPOCHS
    do = joblib.delayed(train)
    return list(
        joblib.Parallel(n_jobs=-1)(
            do(x[:SAMPLES], t[:SAMPLES], epochs, setup.seed, **point) for point in points
        )
    )


def train(
    x: np.ndarray, t: np.ndarray, epochs: int, seed: int, *, lr: float, weight_decay: float
) -> Trial:
    """One trial. If it fails, that is its result, and the search goes on."""
    try:
        network = dense_network(*SIZES, rng=seed, weight_decay=weight_decay)
        optimizer = zdlfast.SGD(lr=lr)
        trainer = Trainer(
            network, optimizer, epochs=epochs, batch_size=BATCH, rng=seed, progress=False
        )
        with np.errstate(over="ignore", invalid="ignore"):
            history = trainer.fit(x[VALIDATED:], t[VALIDATED:], (x[:VALIDATED], t[:VALIDATED]))
        if not history.complete:
            raise KeyboardInterrupt
        if not np.all(np.isfinite(history.loss)):
            raise FloatingPointError("the loss is not finite")
    except Exception as error:
        return Trial(lr, weight_decay, None, f"{type(error).__name__}: {error}")
    return Trial(lr, weight_decay, float(history.test_accuracy[-1]), "")


def scaled(points: Any) -> np.ndarray:
    """Options as rows of numbers from 0 to 1, by their logarithms."""
    low, high = (np.log([limits[i] for limits in RANGES.values()]) for i in (0, 1))
    rows: np.ndarray = (np.log([[point[name] for name in RANGES] for point in points]) - low) / (
        high - low
    )
    return rows


def propose(trials: list[Trial], count: int, rng: np.random.Generator) -> list[dict[str, float]]:
    """The options to try next: where mean plus uncertainty of the model is largest."""
    limits = np.log(list(RANGES.values()))
    draws = np.exp(rng.uniform(limits[:, 0], limits[:, 1], (CANDIDATES, len(RANGES))))
    candidates = [dict(zip(RANGES, map(float, row), strict=True)) for row in draws]
    # A failed trial counts as no better than guessing.
    accuracies = [0.1 if trial.accuracy is None else trial.accuracy for trial in trials]
    known = [{"lr": trial.lr, "weight_decay": trial.weight_decay} for trial in trials]
    chosen: list[dict[str, float]] = []
    for _ in range(count):
        mean, std = predict(scaled(known + chosen), np.array(accuracies), scaled(candidates))
        best = int(np.argmax(mean + CAUTION * std))
        chosen.append(candidates[best])
        # Until it is known, take for its result what the model expects.
        accuracies.append(float(mean[best]))
    return chosen


def predict(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a Gaussian process at these places."""
    kernel = ConstantKernel() * Matern(0.3, (0.05, 5.0), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1e-1))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        # A scale at the end of its range is no failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(x, y)
        mean, std = process.predict(places, return_std=True)
    return mean, std


def example(x: np.ndarray) -> np.ndarray:
    """A function of one variable with a lower and a higher hill."""
    hills: np.ndarray = 0.7 * np.exp(-(((x - 0.25) / 0.1) ** 2)) + np.exp(
        -(((x - 0.7) / 0.15) ** 2)
    )
    return hills


def optimize_example() -> Iterator[Model]:
    """Find the example's maximum: two evaluations first, then where the model says."""
    x = np.array([0.1, 0.9])
    while len(x) <= EVALUATIONS:
        mean, std = predict(x[:, None], example(x), PLACES[:, None])
        following = float(PLACES[np.argmax(mean + CAUTION * std)])
        yield Model(x, example(x), mean, std, following)
        x = np.append(x, following)


def best_so_far(trials: list[Trial]) -> np.ndarray:
    best: np.ndarray = np.maximum.accumulate([trial.accuracy or 0.0 for trial in trials])
    return best


def describe(result: Result) -> Report:
    rows = []
    for name, trials in result.trials.items():
        top = max(trials, key=lambda trial: trial.accuracy or 0.0)
        good = sum((trial.accuracy or 0.0) >= 0.8 for trial in trials)
        failed = sum(trial.accuracy is None for trial in trials)
        rows.append([name, str(len(trials)), str(failed), str(good), f"{top.accuracy or 0:.1%}",
                     f"{top.lr:.2g}", f"{top.weight_decay:.1g}"])  # fmt: skip
    best = {name: best_so_far(trials)[-1] for name, trials in result.trials.items()}
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
    figure = make_figure(14, 15, "searching for the learning rate and the weight decay")
    top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=[1, 1, 1.3])[:, 0]
    ax = top.subplots()
    for name, trials in result.trials.items():
        ax.step(np.arange(1, len(trials) + 1), best_so_far(trials), where="post", label=name,
                linewidth=5 if name == RANDOM else 2)  # fmt: skip
    ax.set_xlabel("trials")
    ax.set_ylabel("best validation accuracy so far")
    ax.legend(loc="lower right")
    ax.grid(alpha=0.25)
    points = None
    axes = middle.subplots(1, len(result.trials), sharex=True, sharey=True)
    for ax, (name, trials) in zip(axes, result.trials.items(), strict=True):
        done = [trial for trial in trials if trial.accuracy is not None]
        failed = [trial for trial in trials if trial.accuracy is None]
        points = ax.scatter([trial.lr for trial in done], [trial.weight_decay for trial in done],
                            c=[trial.accuracy for trial in done], vmin=0, vmax=1, s=60,
                            cmap="viridis", edgecolors="white")  # fmt: skip
        ax.plot([trial.lr for trial in failed], [trial.weight_decay for trial in failed], "x",
                color="#d1495b", label="failed")  # fmt: skip
        ax.set_title(name, fontsize=12)
        ax.set_xscale("log")
        ax.set_yscale("log")
        if failed:
            ax.legend(loc="lower left")
    middle.supxlabel("learning rate")
    middle.supylabel("weight decay")
    middle.colorbar(points, ax=axes, label="validation accuracy")
    shown = [model for model in result.example if len(model.x) in SHOWN]
    axes = bottom.subplots(2, len(shown), sharex=True, sharey="row", height_ratios=[2, 1])
    for (above, below), model in zip(axes.T, shown, strict=True):
        above.plot(PLACES, example(PLACES), "--", color="#888888", label="function")
        (line,) = above.plot(PLACES, model.mean, label="mean")
        above.fill_between(PLACES, model.mean - CAUTION * model.std,
                           model.mean + CAUTION * model.std, color=line.get_color(), alpha=0.15,
                           label=f"mean ± {CAUTION:g} std")  # fmt: skip
        above.plot(model.x, model.y, "o", color="black", label="evaluated")
        below.plot(PLACES, model.mean + CAUTION * model.std, color="#2a9d8f")
        for ax in (above, below):
            ax.axvline(model.following, color="#d1495b", linewidth=1.2, label="next")
        above.set_title(f"{len(model.x)} evaluations", fontsize=12)
        below.set_xlabel("x")
    axes[0, 0].set_ylabel("model")
    axes[1, 0].set_ylabel("acquisition")
    axes[0, 0].legend(fontsize=9, loc="upper left")
    return figure
