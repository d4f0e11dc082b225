"""The optimizers on compiled kernels.

Each class is its reference class with one difference: an update of usual arrays is one call
into C. Constructor, attributes, checks and documentation are inherited.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from zdlfast import reference
from zdlfast._contract import Entry, Grads, Optimizer, Params
from zdlfast._engine import Kernel

try:
    from numpy.lib.array_utils import byte_bounds
except ImportError:  # NumPy 1
    from numpy import byte_bounds  # type: ignore[attr-defined, no-redef]

# In the book's order.
__all__ = ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"]  # noqa: RUF022


class _Fast(Optimizer):
    _kernel: ClassVar[Kernel]

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if rule is not None:
            cls._kernel = Kernel(rule, tuple(cls._options), cls._slots, cls._counter)
            cls.__doc__ = cls.__bases__[-1].__doc__  # the reference class's
            cls.update = _update_by(cls._kernel)  # type: ignore[assignment, method-assign]

    def _run(self, params: Any, entries: list[Entry], scalars: tuple[float, ...]) -> None:
        fast: list[Entry] = []
        slow: list[Entry] = []
        for entry in entries:
            taken = self._kernel.takes(entry.param, entry.grad, entry.state)
            (fast if taken and not entry.replaces else slow).append(entry)
        # Where parameters share memory, the order of the entries matters.
        if _reach_into(slow, fast):
            fast, slow = [], entries
        # NumPy first: it may raise, and takes back what it did. The kernels never raise.
        super()._run(params, slow, scalars)
        params, grads = [entry.param for entry in fast], [entry.grad for entry in fast]
        state = [[entry.state[i] for entry in fast] for i in range(len(self._slots))]
        if not self._kernel.run(self, params, grads, *state):
            raise RuntimeError("arrays were exchanged by another thread during an update")


def _update_by(kernel: Kernel) -> Callable[[Optimizer, Params, Grads], None]:
    # A closure: to look the kernel up at each call would take a tenth of a small update.
    run = kernel.update

    @functools.wraps(Optimizer.update)
    def update(self: Optimizer, params: Params, grads: Grads) -> None:
        if not run(self, params, grads):
            Optimizer.update(self, params, grads)

    return update


def _reach_into(some: list[Entry], others: list[Entry]) -> bool:
    """Whether arrays of the ones may share memory with arrays of the others."""
    bounds = sorted(
        (*byte_bounds(array), entries is some)
        for entries in (some, others)
        for entry in entries
        for array in entry.arrays
        if array.size
    )
    end = {True: 0, False: 0}
    for low, high, side in bounds:
        if low < end[not side]:
            return True
        end[side] = max(end[side], high)
    return False


class SGD(_Fast, reference.SGD, rule="sgd"):
    pass


class Momentum(_Fast, reference.Momentum, rule="momentum"):
    pass


class Nesterov(_Fast, reference.Nesterov, rule="nesterov"):
    pass


class AdaGrad(_Fast, reference.AdaGrad, rule="adagrad"):
    pass


class RMSprop(_Fast, reference.RMSprop, rule="rmsprop"):
    pass


class Adam(_Fast, reference.Adam, rule="adam"):
    pass
