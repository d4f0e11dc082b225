"""State of tensors in few bits: as a tensor of bfloat16, or of bytes with codes and scales.

In 8 bits the codes of all blocks come first, in the order of `zdlfast.EncodedState`, and behind them
the scales. Plain tensors are what ``torch.save`` and ``torch.load`` take without a question.
"""

from __future__ import annotations  # documents are built without torch, too

from typing import Any, TypedDict

import numpy as np
import torch

from zdlfast import _formats as formats
from zdlfast._encoded import EncodedState
from zdlfast._options import CHECKS, Rounding, StateFormat

#: The options that say how state is kept.
OPTIONS = ("state", "state_min_size", "state_rounding")

# State that is never negative, and what is a part of the parameter.
_POSITIVE = (
    "acc_delta", "exp_avg_sq", "exp_avg_var", "exp_inf", "max_exp_avg_sq", "square_avg", "sum",
)  # fmt: skip
_EXACT = ("z_minus_y",)


class StateOptions(TypedDict, total=False):
    """`zdlfast.Optimizer` says what each one does."""

    state: StateFormat | None
    state_min_size: int
    state_rounding: Rounding


class Keeping:
    """How the state of a group is kept, for the engine.

    Parameters
    ----------
    group : dict
        Its options.
    slots : tuple of str
        The names of its state.
    """

    _positive, _exact = _POSITIVE, _EXACT
    state: StateFormat | None = None
    state_min_size: int = 4096
    state_rounding: Rounding = "nearest"

    def __init__(self, group: dict[str, Any], slots: tuple[str, ...]) -> None:
        self._slots = slots
        for name in OPTIONS:
            if name in group:
                setattr(self, name, CHECKS[name](name, group[name]))

    def uses_chance(self, param: torch.Tensor) -> bool:
        """Whether something of a parameter's is rounded by chance."""
        return (
            self.state_rounding == "stochastic"
            or self.state == "bfloat16"
            or param.dtype is torch.bfloat16
        )

    def converted(self, name: str, value: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
        """State of a parameter as it has to be kept; `value` is in whatever format."""
        wanted = self.state
        if name in _EXACT or param.numel() < self.state_min_size:
            wanted = None
        if _format_of(value, param) == wanted:
            return value
        value = decoded(name, value, param)
        if wanted is None:
            return value
        single = value.to(torch.float32)
        if wanted == "bfloat16":
            return single.to(torch.bfloat16)
        encoded = EncodedState.of(single.contiguous().numpy(), "8bit", name not in _POSITIVE)
        return torch.from_numpy(np.concatenate([part.view(np.uint8) for part in encoded.arrays()]))


def decoded(name: str, value: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """State of a parameter in its own dtype."""
    format = _format_of(value, param)
    if format == "8bit":
        parts = value.numpy()
        codes, scales = np.split(parts, [parts.size - parts.size // 9])
        signed = name not in _POSITIVE
        encoded = EncodedState(
            "8bit", np.float32, tuple(param.shape), signed, codes, scales.view(np.float32)
        )
        return torch.empty_like(param).copy_(torch.from_numpy(encoded.numpy()))
    return value if format is None else value.to(param.dtype)


def _format_of(value: torch.Tensor, param: torch.Tensor) -> str | None:
    """The format of a parameter's state; None for one of its own dtype."""
    if value.dtype is torch.uint8 and value.shape == (_bytes_of(param),):
        return "8bit"
    if value.dtype is torch.bfloat16 and param.dtype is not torch.bfloat16:
        return "bfloat16"
    return None


def restored(value: Any, param: torch.Tensor) -> Any:
    """State in 8 bits that torch has cast to the parameter's dtype when it was loaded."""
    if (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.ndim == 1
        and value.numel() == _bytes_of(param) != param.numel()
    ):
        return value.to(torch.uint8)
    return value


def _bytes_of(param: torch.Tensor) -> int:
    """How many bytes state in 8 bits has."""
    return formats.blocks_of(param.numel()) * (formats.BLOCK + 4 * formats.BLOCK // formats.GROUP)
