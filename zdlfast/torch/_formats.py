"""State of tensors in few bits: as a tensor of bfloat16, or of bytes with codes and scales.

In 8 bits the codes of all blocks come first, in the order of `zdlfast.EncodedState`, and behind
them the scales. Plain tensors are what ``torch.save`` and ``torch.load`` take without a question.
"""

from __future__ import annotations  # documents are built without torch, too

from itertools import chain
from typing import Any, TypedDict

import numpy as np
import torch

from zdlfast import _formats as formats
from zdlfast._encoded import EncodedState
from zdlfast._engine import Kernel
from zdlfast._options import CHECKS, Rounding, StateFormat
from zdlfast._rules import RULES

#: The options that say how state is kept.
OPTIONS = ("state", "state_min_size", "state_rounding")

_ROWS = {row.loop: row for row in RULES.values()}


class StateOptions(TypedDict, total=False):
    """`zdlfast.Optimizer` says what each one does."""

    state: StateFormat | None
    state_min_size: int
    state_rounding: Rounding


class Keeping:
    """How the state of a group is kept. The engine reads its attributes as those of an optimizer.

    Parameters
    ----------
    group : dict
        Its options.
    kernel : Kernel
        What computes it.
    """

    state: StateFormat | None = None
    state_min_size: int = 4096
    state_rounding: Rounding = "nearest"

    def __init__(self, group: dict[str, Any], kernel: Kernel) -> None:
        for name in OPTIONS:
            if name in group:
                setattr(self, name, CHECKS[name](name, group[name]))
        # A flag adds slots behind those of its rule.
        row = _ROWS[kernel.rule.partition("_")[0]]
        slots = (*row.slots, *chain.from_iterable(row.flags.values()))
        names = dict(zip(slots, kernel.slots, strict=False))
        self._slots = kernel.slots
        self._positive = [names[slot] for slot in row.positive if slot in names]
        self._exact = [names[slot] for slot in row.exact]

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
        if name in self._exact or param.numel() < self.state_min_size:
            wanted = None
        if _format_of(value, param) == wanted:
            return value
        value = self.decoded(name, value, param)
        if wanted is None:
            return value
        single = value.to(torch.float32)
        if wanted == "bfloat16":
            return single.to(torch.bfloat16)
        signed = name not in self._positive
        encoded = EncodedState.of(single.contiguous().numpy(), "8bit", signed)
        return torch.from_numpy(np.concatenate([part.view(np.uint8) for part in encoded.arrays()]))

    def decoded(self, name: str, value: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
        """State of a parameter in its own dtype."""
        format = _format_of(value, param)
        if format != "8bit":
            return value if format is None else value.to(param.dtype)
        codes, scales = np.split(value.numpy(), [formats.blocks_of(param.numel()) * formats.BLOCK])
        signed, shape = name not in self._positive, tuple(param.shape)
        encoded = EncodedState("8bit", np.float32, shape, signed, codes, scales.view(np.float32))
        return torch.empty_like(param).copy_(torch.from_numpy(encoded.numpy()))


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
        and value.shape == (_bytes_of(param),) != param.shape
    ):
        return value.to(torch.uint8)
    return value


def _bytes_of(param: torch.Tensor) -> int:
    """How many bytes state in 8 bits has."""
    return formats.blocks_of(param.numel()) * (formats.BLOCK + 4 * formats.BLOCK // formats.GROUP)
