"""Every optimizer with a learning rate of its own, which the same search has found for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import zdlfast
from zdlfast._rules import PUBLIC
from zdlfast.nn import He, dense_network
from zdlfast.studies._study import BLUE, RED, Report, Setup, make_figure

SIZES, BATCH = (784, 100, 100, 10), 50
IMAGES = 12_000  # of MNIST's: more are hardly met in so few steps
VALIDATED = 0.2  # the share of the training images that the learning rate is chosen by
# The same for all, half a decade apart.
RATES, QUICK_RATES = np.logspace(-5, 1, 13), np.logspace(-4, 0, 5)
STEPS, QUICK_STEPS = 600, 60
# Seeds to choose the rate with, and others to measure with.
TUNED, QUICK_TUNED = 3, 1
MEASURED, QUICK_MEASURED = 9, 2
NEAR = 1.5  # as many times the lowest validation loss is near it


@dataclass
class Run:
    """How one training ended: losses are means per image, infinite if it diverged."""

    validation_loss: float
    test_loss: float
    accuracy: float  # on the test images


@dataclass
class Result:
    """What the search found, and what the rates that it chose are worth on other seeds."""

    rates: np.ndarray
    validation: dict[str, np.ndarray]  # by optimizer: losses, (rates, seeds)
    chosen: dict[str, float]
    losses: dict[str, np.ndarray]  # on the test images, (seeds,)
    accuracies: dict[str, np.ndarray]


def compute(setup: Setup) -> Result:
    rates = QUICK_RATES if setup.quick else RATES
    tuned = QUICK_TUNED if setup.quick else TUNED
    measured = QUICK_MEASURED if setup.quick else MEASURED
    (x, t), (x_test, t_test) = setup.images
    images = (np.float32(x[:IMAGES]), t[:IMAGES]), (np.float32(x_test), t_test)
    steps = QUICK_STEPS if setup.quick else STEPS
    do = joblib.delayed(train)

    def train_all(name: str, trials: list[tuple[float, int]]) -> list[Run]:
        return list(
            joblib.Parallel(n_jobs=-1)(
                do(images, name, rate, [setup.seed, seed], steps) for rate, seed in trials
            )
        )

    result = Result(rates, {}, {}, {}, {})
    for i, name in enumerate(PUBLIC):
        setup.step(name, i / len(PUBLIC))
        trials = [(float(rate), seed) for rate in rates for seed in range(tuned)]
        losses = [run.validation_loss for run in train_all(name, trials)]
        validation = np.reshape(losses, (len(rates), tuned))
        chosen = float(rates[np.argmin(np.median(validation, axis=1))])
        runs = train_all(name, [(chosen, tuned + seed) for seed in range(measured)])
        result.validation[name], result.chosen[name] = validation, chosen
        result.losses[name] = np.array([run.test_loss for run in runs])
        result.accuracies[name] = np.array([run.accuracy for run in runs])
    return result


def train(images: Any, name: str, rate: float, seed: list[int], steps: int) -> Run:
    """One training. The same seed gives the same weights and batches to every optimizer."""
    (x, t), test = images
    held = int(VALIDATED * len(x))
    validation, x, t = (x[:held], t[:held]), x[held:], t[held:]
    rng = np.random.default_rng(seed)
    network = dense_network(*SIZES, init=He(), rng=rng, dtype="float32")
    optimizer = getattr(zdlfast, name)(lr=rate)
    with np.errstate(all="ignore"):  # a rate may be too large: that is a result
        for _ in range(steps):
            batch = rng.integers(0, len(x), BATCH)
            optimizer.update(network.params, network.gradient(x[batch], t[batch]))
        if hasattr(optimizer, "eval"):
            optimizer.eval(network.params)
        losses = [float(network.loss(*part)) for part in (validation, test)]
        of_validation, of_test = (loss if np.isfinite(loss) else np.inf for loss in losses)
        return Run(of_validation, of_test, network.accuracy(*test))


def describe(result: Result) -> Report:
    rows = []
    for name, validation in result.validation.items():
        medians = np.median(validation, axis=1)
        near = np.count_nonzero(medians <= NEAR * medians.min()) - 1  # without the best itself
        loss, accuracy = result.losses[name], 100 * result.accuracies[name]
        rows.append([name, f"{result.chosen[name]:.2g}", str(near), f"{np.median(loss):.3f}",
                     f"{loss.min():.2f} to {loss.max():.2f}", f"{np.median(accuracy):.1f}%",
                     f"{accuracy.min():.1f} to {accuracy.max():.1f}"])  # fmt: skip
    medians = {name: float(np.median(values)) for name, values in result.accuracies.items()}
    worst, best = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    apart = np.median([np.ptp(values) for values in result.accuracies.values()])
    tuned = next(iter(result.validation.values())).shape[1]
    ends = [name for name, rate in result.chosen.items()
            if rate in (result.rates[0], result.rates[-1])]  # fmt: skip
    finding = (
        f"Each optimizer tried {len(result.rates)} learning rates, the same for all, with {tuned} "
        f"seeds; the one with the lowest validation loss was then measured with "
        f"{len(result.losses[best])} others. Median accuracies go from {medians[worst]:.1%} "
        f"({worst}) to {medians[best]:.1%} ({best}), while the seeds of one optimizer go "
        f"{100 * apart:.1f} points apart (the median of {len(medians)}). The rates that were "
        f"chosen go from {min(result.chosen.values()):.2g} to {max(result.chosen.values()):.2g}; "
        f"near says how many others have at most {NEAR:g} times the lowest validation loss. This "
        "is one small network and a short training: it is no order of optimizers for another task."
    )
    if ends:
        finding += (
            " At an end of the rates that were tried, and so perhaps not at its best: "
            f"{', '.join(ends)}."
        )
    return Report(
        ["optimizer", "lr", "near", "loss", "of the seeds", "right", "of the seeds"],
        rows,
        finding,
    )


def draw(result: Result) -> Figure:
    names = list(result.validation)
    seeds = len(result.losses[names[0]])
    figure = make_figure(
        1.6 + 0.25 * len(names), "Every optimizer with a learning rate of its own"
    )
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
    medians = np.array([np.median(result.validation[name], axis=1) for name in names])
    guessing = np.log(10)
    shown = np.minimum(medians, 2 * guessing)  # LogNorm takes no infinity
    low, high = shown.min(), max(guessing, 2 * shown.min())
    decades, rows = np.log10(result.rates), np.arange(len(names))
    mesh = left.pcolormesh(decades, rows, shown, norm=LogNorm(low, high), cmap="viridis_r",
                           shading="nearest")  # fmt: skip
    left.plot(np.log10(list(result.chosen.values())), rows, "o", color=RED, markersize=5)
    left.set_xlabel("learning rate\n(dot: the one that was chosen)")
    left.xaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    left.set_yticks(rows, names)
    left.invert_yaxis()
    figure.colorbar(mesh, ax=left, location="top", label="validation loss (nats)", extend="max")
    for row, name in enumerate(names):
        accuracy = 100 * result.accuracies[name]
        ends = [accuracy.min(), accuracy.max()]
        right.plot(ends, [row, row], color=BLUE, alpha=0.4, linewidth=3)
        right.plot(np.median(accuracy), row, "o", color=BLUE, markersize=5)
    right.set_xlabel(f"test accuracy (%): median\nand range of {seeds} other seeds")
    right.grid(axis="x")
    return figure
