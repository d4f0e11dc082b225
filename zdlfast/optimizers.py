"""The optimizers on compiled kernels.

Each class is its reference class with one difference: an update of usual arrays is one call
into C. Constructor, attributes, checks and documentation are inherited.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from zdlfast import reference
from zdlfast._contract import Call, Entry, Grads, Optimizer, Params
from zdlfast._engine import Kernel, extent

# In the book's order.
__all__ = ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"]  # noqa: RUF022


class _Fast(Optimizer):
    _kernel: ClassVar[Kernel]
    # NumPy's part is the exception here, so that being sure may cost time.
    _always_copies = True

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if rule is not None:
            cls._kernel = Kernel(rule, tuple(cls._options), cls._slots, cls._counter)
            cls.__doc__ = cls.__bases__[-1].__doc__  # the reference class's
            cls.update = _update_by(cls._kernel)  # type: ignore[assignment, method-assign]
        elif not {"_rule", "_scalars"}.isdisjoint(vars(cls)):
            raise TypeError(
                f"{cls.__name__} changes the rule of a compiled optimizer, which would not be "
                f"noticed: inherit from zdlfast.reference"
            )

    def _split(self, entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        by_numpy: list[Entry] = []
        by_kernel: list[Entry] = []
        for entry in entries:
            taken = self._kernel.takes(entry.param, entry.grad, entry.state)
            (by_kernel if taken and not entry.replaces else by_numpy).append(entry)
        # NumPy's part comes first, but where memory is shared the order of all entries counts.
        return (entries, []) if _share_memory(by_numpy, by_kernel) else (by_numpy, by_kernel)

    def _finish(self, entries: list[Entry]) -> Call:
        params, grads = [entry.param for entry in entries], [entry.grad for entry in entries]
        state = [[entry.state[i] for entry in entries] for i in range(len(self._slots))]
        return self._kernel.step, self, params, grads, *state

    def _update_usual(
        self, keys: Sequence[Any], values: list[Any], grads: list[Any], containers: list[Any]
    ) -> bool:
        # An OrderedDict, keys that are tuples, gradients in a tuple: now they lie in lists. A
        # kernel takes nothing that has to be searched for NaN first.
        if self.nonfinite != "propagate" or not values:
            return False
        state: list[list[Any]] = [
            [container.get(key) for key in keys] if isinstance(container, dict) else container
            for container in containers
        ]
        return self._kernel.step(self, values, grads, *state)


def _update_by(kernel: Kernel) -> Callable[[_Fast, Params, Grads], bool | None]:
    # A closure: to look the kernel up at each call would take a tenth of a small update.
    run = kernel.update

    @functools.wraps(Optimizer.update)
    def update(self: _Fast, params: Params, grads: Grads) -> bool | None:
        if run(self, params, grads):
            return None
        return super(_Fast, self).update(params, grads)

    return update


def _share_memory(some: list[Entry], others: list[Entry]) -> bool:
    """Whether an array in `some` may share memory with an array in `others`."""
    if not any(isinstance(x, np.ndarray) for entry in some for x in (entry.param, entry.grad)):
        return False
    extents = sorted(
        (*extent(array), side)
        for side, entries in enumerate((some, others))
        for entry in entries
        for array in entry.arrays
        if array.size
    )
    end = [0, 0]
    for low, high, side in extents:
        if low < end[1 - side]:
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
