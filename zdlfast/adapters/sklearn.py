"""scikit-learn: the solvers "adam" and "sgd" of ``MLPClassifier`` and ``MLPRegressor``.

Its optimizers have lists of parameters and of state in the same order. What they have beside, such
as their schedules, is their own. A step that NumPy computes in another way than the kernels is
left to them: arrays of mixed dtypes, and float32 with an option that is an ``np.float64``.
"""

from typing import Any

import numpy as np

from zdlfast.adapters._adapter import MethodAdapter
from zdlfast.adapters._steps import Patch, are_numbers, dtypes_of, fits


def update_params(patch: Patch, optimizer: Any, params: Any, grads: Any) -> None:
    """``BaseOptimizer.update_params``."""
    step = None
    if type(optimizer) is patch.module.AdamOptimizer:
        step = adam
    elif type(optimizer) is patch.module.SGDOptimizer:
        step = sgd
    if step is None or not step(patch, optimizer, params, grads):
        patch.own(optimizer, params, grads)


def adam(patch: Patch, optimizer: Any, params: Any, grads: Any) -> bool:
    """Take a step of an ``AdamOptimizer``, or say no."""
    beta_1, beta_2, t = optimizer.beta_1, optimizer.beta_2, optimizer.t
    dtypes = dtypes_of(params, grads)
    if len(dtypes) != 1 or not are_numbers((beta_1, beta_2, optimizer.epsilon), dtypes):
        return False
    own = patch.counterpart(
        optimizer, "SklearnAdam", lr=optimizer.learning_rate_init, beta1=beta_1, beta2=beta_2,
        eps=optimizer.epsilon, iter=t,
    )  # fmt: skip
    if own is None or not take_state(own, params, grads, m=optimizer.ms, v=optimizer.vs):
        return False
    own.update(params, grads)
    optimizer.t, optimizer.ms, optimizer.vs = own.iter, own.m, own.v
    optimizer.learning_rate = (
        optimizer.learning_rate_init * np.sqrt(1 - beta_2 ** (t + 1)) / (1 - beta_1 ** (t + 1))
    )
    return True


def sgd(patch: Patch, optimizer: Any, params: Any, grads: Any) -> bool:
    """Take a step of an ``SGDOptimizer``, or say no."""
    lr, momentum = optimizer.learning_rate, optimizer.momentum
    rule = "SklearnNesterov" if optimizer.nesterov else "Momentum"
    dtypes = dtypes_of(params, grads)
    if len(dtypes) != 1 or not are_numbers((lr, momentum), dtypes):
        return False
    own = patch.counterpart(optimizer, rule, lr=lr, momentum=momentum)
    if own is None or not take_state(own, params, grads, v=optimizer.velocities):
        return False
    own.update(params, grads)
    optimizer.velocities = own.v
    return True


def take_state(own: Any, params: list[Any], grads: list[Any], **slots: Any) -> bool:
    """Give our optimizer the state of scikit-learn's, or say no if it does not fit.

    State that is not our optimizer's already is copied: scikit-learn makes new arrays in every
    step, and those that it had stay as they are.
    """
    if len(params) != len(grads):
        return False
    for slot, held in slots.items():
        if held is not getattr(own, slot):
            if len(held) != len(params) or not all(map(fits, held, params)):
                return False
            setattr(own, slot, [array.copy() for array in held])
    return True


adapter = MethodAdapter(
    name="sklearn",
    package="scikit-learn",
    module="sklearn.neural_network._stochastic_optimizers",
    versions=("1.4", "1.9"),
    methods={"BaseOptimizer.update_params": update_params},
    formulas={
        "BaseOptimizer.update_params": "9a19b256ed8f9d45",
        "AdamOptimizer._get_updates": "593d8fb4dc2067eb",
        "SGDOptimizer._get_updates": "13c8282ade32d2f4",
    },
)
