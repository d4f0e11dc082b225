"""All that the benchmark takes from inside zdlfast: rules, streaming loops, tuning, output."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zdlfast import _rules
from zdlfast._encoded import EncodedState
from zdlfast._engine import Kernel, get_tuning, set_tuning
from zdlfast._optimizer import Optimizer
from zdlfast._printable import replace_unprintable
from zdlfast.optimizers import KernelOptimizer

__all__ = [
    "BOOK",
    "RULES",
    "arrays",
    "get_tuning",
    "replace_unprintable",
    "set_tuning",
    "slots",
    "stream",
    "twin",
    "update_by_the_book",
]

#: The names of the rules for users, which are classes of `zdlfast` and of `zdlfast.reference`.
RULES: list[str] = list(_rules.PUBLIC)
#: Those of the book, which most jobs take: the job ``rules`` has all.
BOOK: list[str] = [name for name, rule in _rules.RULES.items() if rule.book]


def slots(rule: str) -> tuple[str, ...]:
    """The names of a rule's state arrays."""
    return _rules.RULES[rule].slots


def arrays(state: Any) -> list[np.ndarray]:
    """The arrays that hold one parameter's state."""
    return state.arrays() if isinstance(state, EncodedState) else [state]


def twin(rule: str) -> Any:
    """The class of a rule in plain NumPy."""
    return _rules.RULES[rule].twin


def update_by_the_book(optimizer: Optimizer) -> Callable[[Any, Any], None]:
    """The update of a class of `zdlfast.reference` as the book writes it.

    That is the rule for each key in turn, and nothing is checked before: checks take longer than
    NumPy does with small arrays, and the book has none.
    """

    def update(params: Mapping[Any, np.ndarray], grads: Mapping[Any, np.ndarray]) -> None:
        if optimizer.updates == 0:
            optimizer.update(params, grads)  # which makes the state
            return
        scalars, numbers = optimizer._scalars(), optimizer._next_numbers()
        state = [getattr(optimizer, slot) for slot in optimizer._slots]
        p_decay = 1.0
        if optimizer.decoupled and not optimizer._own_decay:
            p_decay -= optimizer.lr * optimizer.weight_decay
        for key, param in params.items():
            if p_decay != 1.0:
                param *= p_decay
            optimizer._rule(param, grads[key], *[slot[key] for slot in state], *scalars)
        attributes = vars(optimizer)
        attributes.update(zip(optimizer._numbers, numbers, strict=True))
        if optimizer._counter is not None:
            attributes[optimizer._counter] += 1

    return update


def stream(slots: int) -> Optimizer:
    """Moves as many arrays as an optimizer, with next to no arithmetic: the machine's limit."""
    names = tuple(f"s{i}" for i in range(slots))

    class Stream(KernelOptimizer):
        _slots = names
        _kernel = Kernel(f"stream_{slots}", (), names)

        def __init__(self) -> None:
            for name in names:
                setattr(self, name, None)

        def _update_rest(self, *args: Any) -> Any:
            raise RuntimeError("the kernels do not take these arrays")

    return Stream()
