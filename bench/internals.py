"""All that the benchmark takes from inside zdlfast: rules, their slots, streaming loops."""

from typing import Any

from zdlfast import _rules
from zdlfast._engine import Kernel
from zdlfast._optimizer import Optimizer
from zdlfast.optimizers import KernelOptimizer

#: The names of the rules for users, which are classes of `zdlfast` and of `zdlfast.reference`.
RULES: list[str] = list(_rules.PUBLIC)


def slots(rule: str) -> tuple[str, ...]:
    """The names of a rule's state arrays."""
    return _rules.RULES[rule].slots


def stream(slots: int) -> Optimizer:
    """Moves as many arrays as an optimizer, with next to no arithmetic: the machine's limit."""
    names = tuple(f"s{i}" for i in range(slots))

    class Stream(KernelOptimizer):
        _slots = names
        _kernel = Kernel(f"stream_{slots}", (), names)

        def __init__(self) -> None:
            for name in names:
                setattr(self, name, None)
            self.nonfinite = "propagate"

        def _entry(self, *entry: Any) -> Any:
            raise RuntimeError("the kernels do not take these arrays")

    return Stream()
