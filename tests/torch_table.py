"""The optimizers for torch with options for tests, and what they are compared with."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import zdlfast.torch
from zdlfast import _engine, _rules
from zdlfast.torch._others import _SLOTS


@dataclass(frozen=True)
class Case:
    """A class with options, and the rule of zdlfast's table that it is to equal bit for bit."""

    name: str
    rule: str
    options: dict[str, Any] = field(default_factory=dict)
    #: What the twin is called with; else the defaults of the torch class by the twin's names.
    twin_options: dict[str, Any] = field(default_factory=dict)

    @property
    def cls(self):
        return getattr(zdlfast.torch, self.name)

    @property
    def torchs(self):
        """torch's own class, or None."""
        return getattr(torch.optim, self.name, None)

    def twin(self):
        """The rule in plain NumPy, with the same options; for one parameter."""
        group = self.cls([torch.zeros(1)], **self.options).param_groups[0]
        options = dict(self.twin_options)
        for name in ("weight_decay", "maximize"):
            options[name] = group[name]
        options["decoupled"] = group.get("decoupled_weight_decay", False)
        for name in _rules.RULES[self.rule].options:
            if name in ("beta1", "beta2"):
                options[name] = group["betas"][name == "beta2"]
            elif name not in options:
                options[name] = group[name]
        return _rules.RULES[self.rule].twin(**options)

    def __str__(self):
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])


DECAY = {"weight_decay": 0.1}
CASES = [
    Case("SGD", "SGD"),
    Case("SGD", "SGD", {"maximize": True, **DECAY}),
    Case("SGD", "TorchMomentum", {"momentum": 0.9}),
    Case("SGD", "TorchMomentum", {"momentum": 0.9, "dampening": 0.5, **DECAY}),
    Case("SGD", "TorchNesterov", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    Case("Adam", "AdamW"),
    Case("Adam", "AdamW", {"betas": (0.5, 0.9), "eps": 1e-3, "maximize": True, **DECAY}),
    Case("Adam", "AdamW", {"amsgrad": True}, {"amsgrad": True}),
    Case("AdamW", "AdamW"),
    Case("AdamW", "AdamW", {"amsgrad": True, "lr": 0.1}, {"amsgrad": True}),
    Case("NAdam", "TorchNAdam"),
    Case("NAdam", "TorchNAdam", {"decoupled_weight_decay": True, **DECAY}),
    Case("RAdam", "RAdam"),
    Case("RAdam", "RAdam", {"decoupled_weight_decay": True, "maximize": True, **DECAY}),
    Case("Adamax", "Adamax"),
    Case("Adamax", "Adamax", {"maximize": True, **DECAY}),
    Case("Adagrad", "TorchAdagrad"),
    Case("Adagrad", "TorchAdagrad", {"lr_decay": 0.5, "maximize": True, **DECAY}),
    Case("Adadelta", "AdaDelta", {}, {"decay_rate": 0.9}),
    Case("Adadelta", "AdaDelta", {"rho": 0.5, "maximize": True, **DECAY}, {"decay_rate": 0.5}),
    Case("RMSprop", "RMSprop", {}, {"decay_rate": 0.99}),
    Case("RMSprop", "TorchRMSpropMomentum", {"momentum": 0.9, **DECAY}),
    Case("RMSprop", "TorchRMSpropCentered", {"centered": True, "maximize": True}),
    Case("RMSprop", "TorchRMSpropCenteredMomentum", {"centered": True, "momentum": 0.9}),
    Case("Lion", "Lion"),
    Case("Lion", "Lion", {"maximize": True, **DECAY}),
    Case("AdaBelief", "AdaBelief"),
    Case("AdaBelief", "AdaBelief", {"decoupled_weight_decay": True, "maximize": True, **DECAY}),
    Case("AdaBound", "AdaBound"),
    Case("AdaBound", "AdaBound", {"gamma": 0.5, "maximize": True, **DECAY}),
    Case("ADOPT", "ADOPT"),
    Case("ADOPT", "ADOPT", {"decoupled_weight_decay": True, "maximize": True, **DECAY}),
    Case("ScheduleFreeAdamW", "ScheduleFreeAdamW"),
    Case("ScheduleFreeAdamW", "ScheduleFreeAdamW", {"warmup_steps": 4, "r": 1.0, **DECAY}),
]

#: One for each class.
CLASSES = list({case.name: case for case in reversed(CASES)}.values())[::-1]
#: Those of which torch has the same.
OF_TORCH = [case for case in CASES if case.torchs is not None]


# Where they are not those of zdlfast.torch's own rules.
NAMES = {
    "SGD": {"b": "momentum_buffer"},
    "Adagrad": {"h": "sum"},
    "Adadelta": {"h": "square_avg", "d": "acc_delta"},
    "RMSprop": {"h": "square_avg", "v": "square_avg", "a": "grad_avg", "b": "momentum_buffer"},
    "Adamax": {"m": "exp_avg", "u": "exp_inf"},
}


def names_of(case):
    """torch's names of a twin's state."""
    return NAMES.get(case.name, {**_SLOTS, "v_max": "max_exp_avg_sq"})


def network(seed=0, dtype=torch.float32):
    """A small network with gradients: matrices, vectors, a scalar, and a filter."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(23, 17), (17,), (), (4, 3, 5, 5), (1,), (0, 3), (100,)]
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape in shapes
    ]
    set_gradients(params, seed)
    return params


def set_gradients(params, seed):
    """Give each parameter a new gradient, that of the same seed always."""
    random = torch.Generator().manual_seed(seed + 1000)
    for param in params:
        param.grad = torch.randn(param.shape, generator=random, dtype=param.dtype)


def array(value):
    """A copy of a tensor or a number, as an array."""
    return value.detach().numpy().copy() if torch.is_tensor(value) else np.array(value)


def values(params):
    return [array(param) for param in params]


def copies(params):
    """The same parameters with the same gradients."""
    others = copy.deepcopy(params)
    for param, other in zip(params, others, strict=True):
        other.grad = None if param.grad is None else param.grad.clone()
    return others


def fail_before_the_change(optimizer):
    """Let the engine raise ZeroDivisionError where a step has only its change left to do."""
    optimizer.__dict__["_steps"] = _engine.TensorSteps(
        torch.Tensor.__dlpack_c_exchange_api__,
        (torch.nn.Parameter, torch.Tensor),
        optimizer._planned,
        lambda changed: 1 / 0,
        torch.get_num_threads,
    )


def state_of(optimizer, params):
    """A copy of each parameter's state, by name."""
    return [
        {
            name: value.detach().clone() if torch.is_tensor(value) else value
            for name, value in optimizer.state.get(param, {}).items()
        }
        for param in params
    ]
