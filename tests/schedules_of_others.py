"""Learning rates as torch and optax compute them: python tests/schedules_of_others.py torch

Run by tests/test_schedules.py in a process of its own, because jax starts threads, which do not
go with forks. It prints a list of lists in JSON: of each case, the rates of all its updates.
"""

import json
import sys
import warnings

LR = 0.3

# What to make, with which arguments, for how many updates. A list is a sequence of schedules with
# their boundaries.
TORCH = [
    ("StepLR", {"step_size": 7, "gamma": 0.3}, 60),
    ("StepLR", {"step_size": 1}, 9),
    ("ExponentialLR", {"gamma": 0.9}, 200),
    ("ExponentialLR", {"gamma": 1.1}, 50),
    ("CosineAnnealingLR", {"T_max": 50}, 50),
    ("CosineAnnealingLR", {"T_max": 33, "eta_min": 0.01}, 34),
    ("PolynomialLR", {"total_iters": 40, "power": 2.0}, 60),
    ("PolynomialLR", {"total_iters": 5}, 20),
    ("OneCycleLR", {"max_lr": LR, "total_steps": 100}, 100),
    ("OneCycleLR", {"max_lr": LR, "total_steps": 25, "pct_start": 0.25, "div_factor": 10.0,
                    "final_div_factor": 100.0}, 25),
    ("OneCycleLR", {"max_lr": LR, "total_steps": 2, "pct_start": 0.9}, 2),
    ([("LinearLR", {"start_factor": 0.1, "total_iters": 10}),
      ("CosineAnnealingLR", {"T_max": 40, "eta_min": 0.003})], [10], 50),
    ([("LinearLR", {"start_factor": 0.1, "total_iters": 10}), ("StepLR", {"step_size": 6})],
     [10], 50),
    ([("ExponentialLR", {"gamma": 0.9}), ("StepLR", {"step_size": 4, "gamma": 0.5}),
      ("PolynomialLR", {"total_iters": 9})], [11, 23], 40),
]  # fmt: skip
OPTAX = [
    ("constant_schedule", [LR], 20),
    ("exponential_decay", [LR, 1, 0.95], 200),
    ("cosine_decay_schedule", [LR, 40], 60),
    ("cosine_decay_schedule", [LR, 40, 0.1], 60),
    ("polynomial_schedule", [LR, 0.01, 2.5, 30], 50),
    ("polynomial_schedule", [LR, 0.0, 1, 30], 50),
    ("warmup_constant_schedule", [0.0, LR, 15], 30),
    ("warmup_cosine_decay_schedule", [0.02, LR, 12, 60, 0.01], 80),
    ("warmup_exponential_decay_schedule", [0.0, LR, 10, 1, 0.9], 60),
    ([("constant_schedule", [LR]), ("exponential_decay", [LR, 1, 0.5]),
      ("cosine_decay_schedule", [LR, 9])], [3, 8], 30),
]  # fmt: skip


def of_torch():
    import torch
    from torch.optim import lr_scheduler

    for what, arguments, count in TORCH:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR, momentum=0.9)

        def make(name, options, optimizer=optimizer):
            return getattr(lr_scheduler, name)(optimizer, **options)

        if isinstance(what, list):
            parts = [make(*part) for part in what]
            schedule = lr_scheduler.SequentialLR(optimizer, parts, milestones=arguments)
        else:
            schedule = make(what, arguments)
        rates = []
        for _ in range(count):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(rates) < count:  # OneCycleLR refuses to go beyond its end
                schedule.step()
        yield rates


def of_optax():
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    for what, arguments, count in OPTAX:
        if isinstance(what, list):
            parts = [getattr(optax, name)(*options) for name, options in what]
            schedule = optax.join_schedules(parts, arguments)
        else:
            schedule = getattr(optax, what)(*arguments)
        yield [float(schedule(done)) for done in range(count)]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # torch's, of its own SequentialLR
    print(json.dumps(list({"torch": of_torch, "optax": of_optax}[sys.argv[1]]())))
