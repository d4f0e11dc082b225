"""Initial weights: what they make of activations, gradients and learning (book 1, section 6.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import zdlfast
from zdlfast.nn import He, Initializer, Normal, ReLU, Sigmoid, Tanh, Xavier, Zeros, dense_network
from zdlfast.studies._study import Report, Setup, label_ends, make_figure, running_median

SAMPLES, UNITS, LAYERS = 1000, 100, 5
ACTIVATIONS = {"sigmoid": Sigmoid, "tanh": Tanh, "ReLU": ReLU}
INITIALIZERS: dict[str, Initializer] = {
    "std 1": Normal(1.0),
    "std 0.01": Normal(0.01),
    "Xavier": Xavier(),
    "He": He(),
}
# Of the learning curves.
SIZES, BATCH, LR = (784, 100, 100, 100, 100, 10), 128, 0.01
STEPS, QUICK_STEPS = 2000, 300
BINS = 30
SMOOTHED = 50  # steps


@dataclass
class Result:
    """Activations of every layer by activation and initializer, and what follows from them."""

    histograms: dict[str, dict[str, np.ndarray]]  # (layers, bins), shares
    edges: dict[str, np.ndarray]
    stds: dict[str, dict[str, list[float]]]  # of every layer
    saturated: dict[str, float]  # of the last sigmoid layer: outside of 0.01 to 0.99
    near_half: dict[str, float]  # the same: within 0.45 to 0.55
    zero_rank: int  # of the gradient of a network of zeros
    losses: dict[str, np.ndarray]


def compute(setup: Setup) -> Result:
    histograms: dict[str, dict[str, np.ndarray]] = {}
    edges, ends, middle = {}, {}, {}
    stds: dict[str, dict[str, list[float]]] = {}
    for name, activation in ACTIVATIONS.items():
        low = -1.0 if name == "tanh" else 0.0
        edges[name] = np.linspace(low, 1.0, BINS + 1)
        histograms[name], stds[name] = {}, {}
        for label, init in INITIALIZERS.items():
            layers = activations(activation(), init, setup.seed)
            counts = [np.histogram(z, edges[name])[0] / z.size for z in layers]
            histograms[name][label] = np.array(counts)
            stds[name][label] = [float(z.std()) for z in layers]
            if name == "sigmoid":
                ends[label] = float(np.mean((layers[-1] < 0.01) | (layers[-1] > 0.99)))
                middle[label] = float(np.mean(np.abs(layers[-1] - 0.5) <= 0.05))
    losses: dict[str, np.ndarray] = {}
    for label in ("std 0.01", "Xavier", "He"):
        setup.step(f"learning with {label}", 0.1 + 0.3 * len(losses))
        losses[label] = learn(setup, INITIALIZERS[label])
    return Result(histograms, edges, stds, ends, middle, rank_of_zeros(setup), losses)


def activations(layer: zdlfast.nn.Layer, init: Initializer, seed: int) -> list[np.ndarray]:
    """The outputs of five layers, one after the other, for normally distributed inputs."""
    # NumPy's older generator draws what the book's script draws with the same seed.
    rng = np.random.RandomState(seed)
    x, outputs = rng.randn(SAMPLES, UNITS), []
    for _ in range(LAYERS):
        x = layer.forward(x @ (init.std(UNITS) * rng.randn(UNITS, UNITS)))
        outputs.append(x)
    return outputs


def rank_of_zeros(setup: Setup) -> int:
    """The rank of the last weights' gradient if all weights are the same: all columns of the
    units' side are equal, so that the units stay equal."""
    (x, t), _ = setup.images
    network = dense_network(784, 50, 10, activation=Sigmoid, init=Zeros())
    return int(np.linalg.matrix_rank(network.gradient(x[:100], t[:100])["W2"]))


def learn(setup: Setup, init: Initializer) -> np.ndarray:
    """The loss of every step of SGD."""
    (x, t), _ = setup.images
    rng = setup.rng(1)
    network, optimizer = dense_network(*SIZES, init=init, rng=rng), zdlfast.SGD(lr=LR)
    losses = []
    for _ in range(QUICK_STEPS if setup.quick else STEPS):
        batch = rng.integers(0, len(x), BATCH)
        optimizer.update(network.params, network.gradient(x[batch], t[batch]))
        losses.append(network.batch_loss)
    return np.array(losses)


def describe(result: Result) -> Report:
    rows = []
    for label in INITIALIZERS:
        losses = result.losses.get(label)
        rows.append([
            label,
            f"{result.saturated[label]:.1%}",
            f"{result.near_half[label]:.1%}",
            *(f"{result.stds[name][label][-1]:.2g}" for name in ACTIVATIONS),
            "" if losses is None else f"{losses[-50:].mean():.4f}",
        ])  # fmt: skip
    return Report(
        ["weights", "saturated", "near 0.5", "sigmoid", "tanh", "ReLU", "last 50 losses"],
        rows,
        "After five layers: with std 1 half of all sigmoids are saturated, where nothing is "
        "learned; with 0.01 all units do the same, and ReLU dies out. Xavier keeps sigmoid and "
        "tanh spread, He keeps ReLU so. From zeros, the gradient of the weights has rank "
        f"{result.zero_rank}: all units stay equal. (Middle columns: standard deviations.)",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(
        6.8, f"Activations of {LAYERS} layers of {UNITS} units, by initial weights"
    )
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.4, 1])[:, 0]
    axes = above.subplots(len(ACTIVATIONS), len(INITIALIZERS), sharex=True, sharey="row")
    for row, name in zip(axes, ACTIVATIONS, strict=True):
        low, high = result.edges[name][[0, -1]]
        for ax, label in zip(row, INITIALIZERS, strict=True):
            image = ax.imshow(result.histograms[name][label].T, origin="lower", aspect="auto",
                              extent=(0.5, LAYERS + 0.5, low, high), cmap="Blues",
                              norm=LogNorm(1e-3, 1.0))  # fmt: skip
        row[0].set_ylabel(f"output of {name}")
    for ax, label in zip(axes[0], INITIALIZERS, strict=True):
        ax.set_title(label)
    axes[-1, 0].set_xticks(np.arange(1, LAYERS + 1))
    above.supxlabel("layer")
    above.colorbar(image, ax=axes, label="share of the activations", aspect=40)
    ax = below.subplots()
    lines = {}
    for label, losses in result.losses.items():
        steps = np.arange(1, len(losses) + 1)
        (lines[label],) = ax.semilogy(steps, running_median(losses, SMOOTHED), linewidth=2)
    ax.set_xlim(0, len(losses))
    ax.set_title(f"784-100x4-10 with ReLU, batches of {BATCH}, SGD with lr {LR}")
    ax.set_xlabel("step")
    ax.set_ylabel(f"loss (nats), running\nmedian of {SMOOTHED}")
    ax.grid()
    label_ends(ax, lines, gap=0.15)
    return figure
