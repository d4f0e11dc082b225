"""Training with optimizer state in 8 bits and in bfloat16, beside float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import zdlfast
from zdlfast.datasets import load_digits
from zdlfast.nn import Affine, He, Layer, ReLU, Sequential, dense_network
from zdlfast.studies._study import BLUE, GREEN, RED, Report, Setup, make_figure, running_median

STEPS, QUICK_STEPS = 600, 30
SEEDS, QUICK_SEEDS = 5, 2
BATCH = 100
LAST = 50  # steps whose mean loss is the final one
WINDOW = 31  # steps of a running median, in the picture
FULL = "float32"
# Every array is encoded, however small: this is to show what may go wrong.
FORMATS: dict[str, dict[str, Any]] = {
    FULL: {},
    "bfloat16": {"state": "bfloat16", "state_min_size": 0},
    "8bit": {"state": "8bit", "state_min_size": 0},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 1e-2},
    "Momentum": {"lr": 1e-2},
}
TASKS = {
    "digits, dense": "8x8 digits, 64-256-256-10",
    "digits, convolution": "8x8 digits, 32 filters of 3x3, then 1152-128-10",
    "teacher, dense": "20,000 random inputs labelled by a random network, 64-512-512-10",
}
COLOURS = dict(zip(FORMATS, (BLUE, GREEN, RED), strict=True))
WIDTHS = dict(zip(FORMATS, (4.0, 2.0, 0.8), strict=True))


class Convolution(Layer):
    """Filters of 3x3 over square images of one channel, which are rows; the first layer.

    No gradient goes back through it, because nothing lies before it.
    """

    decays = ("W",)

    def __init__(self, filters: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.params["W"] = He()((9, filters), rng, "float32")
        self.params["b"] = np.zeros(filters, "float32")

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        edge = round(x.shape[1] ** 0.5)
        windows = np.lib.stride_tricks.sliding_window_view(
            x.reshape(len(x), edge, edge), (3, 3), (1, 2)
        )
        self._patches = windows.reshape(-1, 9)
        out: np.ndarray = self._patches @ self.params["W"] + self.params["b"]
        return out.reshape(len(x), -1)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dout = dout.reshape(len(self._patches), -1)
        self.grads = {"W": self._patches.T @ dout, "b": dout.sum(axis=0)}
        return dout


@dataclass
class Run:
    """One training."""

    losses: np.ndarray  # of every batch
    accuracy: float  # on the test images
    state_bytes: int


@dataclass
class Result:
    """By task, optimizer and format: one row or number for each seed."""

    losses: dict[str, dict[str, dict[str, np.ndarray]]]
    accuracies: dict[str, dict[str, dict[str, np.ndarray]]]
    state_bytes: dict[str, dict[str, dict[str, int]]]

    def final(self, task: str, optimizer: str, format: str) -> np.ndarray:
        """The mean loss at the end of the training, by seed."""
        last: np.ndarray = self.losses[task][optimizer][format][:, -LAST:].mean(axis=1)
        return last


def compute(setup: Setup) -> Result:
    steps = QUICK_STEPS if setup.quick else STEPS
    seeds = QUICK_SEEDS if setup.quick else SEEDS
    result = Result({}, {}, {})
    for i, task in enumerate(TASKS):
        for j, optimizer in enumerate(OPTIMIZERS):
            setup.step(f"{task}, {optimizer}", (i * len(OPTIMIZERS) + j) / 9)
            found = joblib.Parallel(n_jobs=-1)(
                joblib.delayed(train)(task, optimizer, format, [setup.seed, seed], steps)
                for format in FORMATS
                for seed in range(seeds)
            )
            for k, format in enumerate(FORMATS):
                runs = found[k * seeds : (k + 1) * seeds]
                losses, accuracies = [run.losses for run in runs], [run.accuracy for run in runs]
                of_task = result.losses.setdefault(task, {}).setdefault(optimizer, {})
                of_task[format] = np.array(losses)
                of_task = result.accuracies.setdefault(task, {}).setdefault(optimizer, {})
                of_task[format] = np.array(accuracies)
                sizes = result.state_bytes.setdefault(task, {}).setdefault(optimizer, {})
                sizes[format] = runs[0].state_bytes
    return result


def train(task: str, name: str, format: str, seed: list[int], steps: int) -> Run:
    """One training. The same seed gives the same weights and batches to every format."""
    rng = np.random.default_rng(seed)
    (x, t), test = teacher(rng) if task.startswith("teacher") else load_digits(dtype="float32")
    network = make_network(task, rng)
    optimizer = getattr(zdlfast, name)(**OPTIMIZERS[name], **FORMATS[format])
    losses = []
    for _ in range(steps):
        batch = rng.integers(0, len(x), BATCH)
        optimizer.update(network.params, network.gradient(x[batch], t[batch]))
        losses.append(network.batch_loss)
    return Run(np.array(losses), network.accuracy(*test), optimizer.state_nbytes)


def make_network(task: str, rng: np.random.Generator) -> Sequential:
    if task == "digits, convolution":
        hidden = Affine(36 * 32, 128, rng=rng, dtype="float32")
        last = Affine(128, 10, rng=rng, dtype="float32")
        return Sequential(Convolution(32, rng), ReLU(), hidden, ReLU(), last)
    sizes = (64, 512, 512, 10) if task.startswith("teacher") else (64, 256, 256, 10)
    return dense_network(*sizes, init=He(), rng=rng, dtype="float32")


def teacher(rng: np.random.Generator) -> Any:
    """Random inputs with the answers of a random network: for training, and for testing."""
    network = dense_network(64, 32, 10, init=He(), rng=rng, dtype="float32")
    x = rng.standard_normal((22_000, 64), np.float32)
    t = network.predict(x).argmax(axis=1)
    return (x[:20_000], t[:20_000]), (x[20_000:], t[20_000:])


def describe(result: Result) -> Report:
    rows, outside = [], []
    for task in result.losses:
        for optimizer in OPTIMIZERS:
            full = result.final(task, optimizer, FULL)
            for format in FORMATS:
                final = result.final(task, optimizer, format)
                accuracy = 100 * result.accuracies[task][optimizer][format]
                rows.append([task, optimizer, format, f"{np.median(final):.2e}",
                             f"{final.min():.2e} to {final.max():.2e}",
                             f"{np.median(accuracy):.1f}%",
                             f"{result.state_bytes[task][optimizer][format]:,}"])  # fmt: skip
                if not full.min() <= np.median(final) <= full.max():
                    change = np.median(final) / np.median(full) - 1
                    outside.append(f"{format} with {optimizer} on {task} ({change:+.0%})")
    seeds = len(full)
    where = "none" if not outside else ", ".join(outside)
    finding = (
        f"All arrays were encoded, with {seeds} seeds each. Medians of the last {LAST} losses "
        f"that lie outside of what the seeds of float32 span: {where}."
    )
    return Report(
        ["task", "optimizer", "state", "last loss", "of the seeds", "right", "state bytes"],
        rows,
        finding,
    )


def draw(result: Result) -> Figure:
    figure = make_figure(6.2, "Training with state in few bits")
    axes = figure.subplots(len(TASKS), len(OPTIMIZERS), sharex=True)
    for row, task in zip(axes, result.losses, strict=True):
        for ax, optimizer in zip(row, OPTIMIZERS, strict=True):
            for format, losses in result.losses[task][optimizer].items():
                smooth = np.array([running_median(seed, WINDOW) for seed in losses])
                steps = 1 + np.arange(smooth.shape[1])
                if format == FULL:
                    ax.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0),
                                    color=COLOURS[FULL], alpha=0.2, linewidth=0)  # fmt: skip
                # They lie over each other: the widest line comes first.
                ax.plot(steps, np.median(smooth, axis=0), color=COLOURS[format], label=format,
                        linewidth=WIDTHS[format])  # fmt: skip
            ax.set_yscale("log")
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.grid()
        row[0].set_ylabel(f"{task}\nloss (nats)")
    for ax, optimizer in zip(axes[0], OPTIMIZERS, strict=True):
        ax.set_title(optimizer)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    handles, labels = axes[0][0].get_legend_handles_labels()
    labels[0] += " (shaded: its seeds)"
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
