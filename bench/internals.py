"""All that the benchmark takes from inside zdlfast: rules, their slots, streaming loops."""

import numpy as np

from zdlfast import optimizers, reference
from zdlfast._contract import zeros_like
from zdlfast._engine import Kernel

#: The names of all rules, which are classes of `zdlfast` and of `zdlfast.reference`.
RULES: list[str] = optimizers.__all__


def slots(rule: str) -> tuple[str, ...]:
    """The names of a rule's state arrays."""
    names: tuple[str, ...] = getattr(reference, rule)._slots
    return names


class Stream:
    """Moves as many arrays as an optimizer, with next to no arithmetic: the machine's limit."""

    nonfinite = "propagate"

    def __init__(self, slots: int, params: dict[str, np.ndarray]) -> None:
        names = tuple(f"s{i}" for i in range(slots))
        for name in names:
            setattr(self, name, {key: zeros_like(value) for key, value in params.items()})
        self._kernel = Kernel(f"stream_{slots}", (), names)

    def update(self, params: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> None:
        if not self._kernel.update(self, params, grads):
            raise RuntimeError("the kernels do not take these arrays")
