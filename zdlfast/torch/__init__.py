"""Optimizers for torch on the CPU, on zdlfast's kernels.

::

    from zdlfast.torch import AdamW     # was: from torch.optim import AdamW

    optimizer = AdamW(model.parameters(), lr=1e-3)
"""

import torch as _torch

if not hasattr(_torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(
        f"zdlfast.torch takes torch 2.10 or newer, which tells where its tensors lie; this is "
        f"torch {_torch.__version__}"
    )

from zdlfast.torch._of_torch import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    RAdam,
    RMSprop,
)
from zdlfast.torch._others import ADOPT, AdaBelief, AdaBound, Lion, ScheduleFreeAdamW

__all__ = [
    "ADOPT",
    "SGD",
    "AdaBelief",
    "AdaBound",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "ScheduleFreeAdamW",
]

# Pickles name the package.
for _name in __all__:
    globals()[_name].__module__ = __name__
