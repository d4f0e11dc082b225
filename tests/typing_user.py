# pyright: strict
"""What a user writes, checked by mypy --strict and by pyright (.ci/run)."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import zdlfast
from zdlfast import SGD, Adam, reference
from zdlfast.datasets import load_digits
from zdlfast.nn import Trainer, dense_network
from zdlfast.schedules import Constant, Cosine, Join

params: dict[str, NDArray[np.float64]] = {"W": np.ones((3, 2))}
grads = {"W": np.ones((3, 2))}
optimizer = assert_type(Adam(lr=0.01, beta1=0.9), Adam)
optimizer.update(params, grads)
optimizer.lr = 0.5
assert_type(optimizer.beta1, float)
SGD().update([np.ones(3)], (np.ones(3),))
SGD().update({"x": 1.0, "y": 2.0}, {"x": 0.5, "y": 1})
with zdlfast.threads(2):
    count = assert_type(zdlfast.get_num_threads(), int)
zdlfast.set_num_threads(count)
(x, t), test = load_digits(dtype="float32")
network = dense_network(64, 10, rng=1, dtype="float32")
history = Trainer(network, optimizer, epochs=1, progress=False).fit(x, t, evaluate=test)
losses: NDArray[np.float64] = history.loss

schedule = Join([Constant(0.1), Cosine(0.1, steps=100, warmup=10)], [50])
assert_type(schedule(3), float)
ema = zdlfast.EMA(params, decay=schedule)
ema.update(params)
with ema.averaged(params):
    ema.swap(params)
assert_type(ema.iter, int)

base: zdlfast.Optimizer = optimizer
base.update(params, {"W": None})
assert_type(base.update(params, grads), bool | None)
assert_type(base.state_dict(), dict[str, Any])


def decay(optimizer: zdlfast.Optimizer) -> None:
    """Take any optimizer, and options of those that have them."""
    if isinstance(optimizer, SGD | Adam):
        optimizer.lr *= 0.5
    optimizer.nonfinite = "skip"


decay(reference.Momentum())


def resume(path: str) -> zdlfast.Optimizer:
    """Go on from a file."""
    loaded, loaded_params = zdlfast.load(path)
    decay(assert_type(loaded, zdlfast.Optimizer))
    loaded.update(loaded_params, grads)
    return loaded
