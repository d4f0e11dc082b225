"""Gradient descent on one fixed batch against SGD on fresh ones (the SGD article)."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from matplotlib.figure import Figure

import zdlfast
from zdlfast.nn import Normal, Sequential, dense_network, numerical_gradient
from zdlfast.studies._study import Report, Setup, label_ends, make_figure, running_median

SIZES, STD, BATCH, LR = (784, 50, 100, 10), 0.1, 10, 0.01
STEPS, QUICK_STEPS = 1000, 200
CHECKED = 200  # weights whose gradient is compared with the numerical one
SMOOTHED = 50  # steps
FIXED, FRESH = "one fixed batch", "fresh batches"


@dataclass
class Result:
    """Losses by step; how far numerical gradients and backpropagation differ; what both take."""

    losses: dict[str, np.ndarray]
    accuracies: dict[str, float]
    distinct: int
    largest_difference: float
    seconds_backpropagation: float
    seconds_numerical: float


def compute(setup: Setup) -> Result:
    (x, t), test = setup.images
    steps = QUICK_STEPS if setup.quick else STEPS
    fixed = setup.rng(0).integers(0, len(x), BATCH)
    losses, accuracies, seen = {}, {}, set()
    for done, name in enumerate((FIXED, FRESH)):
        setup.step(name, done / 3)
        network = dense_network(*SIZES, init=Normal(STD), rng=setup.rng(1))
        optimizer, rng = zdlfast.SGD(lr=LR), setup.rng(2)
        of_steps = []
        for _ in range(steps):
            batch = fixed if name == FIXED else rng.integers(0, len(x), BATCH)
            optimizer.update(network.params, network.gradient(x[batch], t[batch]))
            of_steps.append(network.batch_loss)
            if name == FRESH:
                seen.update(batch.tolist())
        losses[name] = np.array(of_steps)
        accuracies[name] = network.accuracy(*test)
    setup.step("numerical gradients", 2 / 3)
    network = dense_network(*SIZES, init=Normal(STD), rng=setup.rng(1))
    difference, forward = check(network, x[fixed], t[fixed], setup.rng(3))
    start = perf_counter()
    for _ in range(20):
        network.gradient(x[fixed], t[fixed])
    backward = (perf_counter() - start) / 20
    weights = sum(value.size for value in network.params.values())
    return Result(losses, accuracies, len(seen), difference, steps * backward,
                  steps * 2 * weights * forward)  # fmt: skip


def check(
    network: Sequential, x: np.ndarray, t: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Compare the gradients of some weights with numerical ones.

    Returns the largest difference, and the seconds of one loss.
    """
    grads = network.gradient(x, t)
    largest, start = 0.0, perf_counter()
    for _ in range(CHECKED):
        key = rng.choice(list(network.params))
        index = rng.integers(grads[key].size)
        weight = network.params[key].reshape(-1)[index : index + 1]  # a view
        (slope,) = numerical_gradient(lambda _: network.loss(x, t), weight)
        largest = max(largest, abs(float(slope - grads[key].flat[index])))
    return largest, (perf_counter() - start) / (2 * CHECKED)


def describe(result: Result) -> Report:
    rows = []
    for name, losses in result.losses.items():
        rises = np.mean(np.diff(losses) > 0)
        rows.append([name, f"{losses[0]:.3f}", f"{losses[-50:].mean():.3f}", f"{rises:.0%}",
                     f"{result.accuracies[name]:.1%}"])  # fmt: skip
    hours = result.seconds_numerical / 3600
    return Report(
        ["gradient of", "first loss", "last 50", "steps upwards", "test accuracy"],
        rows,
        f"On one batch the loss falls smoothly, but that batch is all that is learned; fresh ones "
        f"({result.distinct:,} different images) make it noisy and the network good. Numerical "
        f"gradients would have taken {hours:.1f} hours, backpropagation took "
        f"{1000 * result.seconds_backpropagation:,.0f} ms; {CHECKED} that were compared differ by "
        f"{result.largest_difference:.0e} at most.",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(3.6, f"784-50-100-10, batches of {BATCH}, SGD with lr {LR}")
    ax = figure.subplots()
    lines = {}
    for name, losses in result.losses.items():
        steps = np.arange(1, len(losses) + 1)
        (thin,) = ax.plot(steps, losses, linewidth=0.7, alpha=0.4)
        (lines[name],) = ax.plot(steps, running_median(losses, SMOOTHED), color=thin.get_color(),
                                 linewidth=2)  # fmt: skip
    ax.set_xlim(0, len(losses))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("step")
    ax.set_ylabel(f"loss of the batch (nats);\nbold: running median of {SMOOTHED}")
    ax.grid()
    label_ends(ax, lines)
    return figure
