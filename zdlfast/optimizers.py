"""The optimizers on compiled kernels.

Each class is its reference class with one difference: an update of usual arrays is one call
into C. Constructor, attributes, checks and documentation are inherited.
"""

from typing import Any, ClassVar

from zdlfast import _entries, reference
from zdlfast import _validation as validation
from zdlfast._engine import Batch, Kernel, OnKernels, Rollback
from zdlfast._optimizer import Optimizer
from zdlfast._rules import RULES

# In the book's order.
__all__ = ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"]  # noqa: RUF022


class KernelOptimizer(OnKernels, Optimizer):
    """The base of the optimizers on kernels."""

    _kernel: ClassVar[Kernel]

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(rule=rule, **kwargs)
        if rule is not None:
            cls._kernel = Kernel(RULES[rule].loop, tuple(cls._options), cls._slots, cls._counter)
            cls.__doc__ = RULES[rule].twin.__doc__
        elif not {"_rule", "_scalars"}.isdisjoint(vars(cls)):
            raise TypeError(
                f"{cls.__name__} changes the rule of a compiled optimizer, which would not be "
                f"noticed: inherit from zdlfast.reference"
            )

    def _update_rest(self, params: Any, grads: Any, batch: Batch) -> bool | None:
        """Do an update that kernels do not take all of.

        Parameters
        ----------
        batch : Batch or NotImplemented
            Its entries, or that they have to be looked up.
        """
        if batch is NotImplemented:
            by_key = not isinstance(params, list)
            batch = Batch(self, by_key, *validation.looked_up(self, params, grads))
        odd = [self._entry(params, *found) for found in batch.odd()]
        if self.nonfinite != "propagate" and self._refuses(batch.gradients()):
            return False
        # NumPy's part comes first, but where memory is shared the order of all entries counts.
        if odd and batch.order_counts():
            odd = [self._entry(params, *found) for found in batch.odd(True)]
        with Rollback() as rollback:
            if odd:
                _entries.run(self._rule, self._scalars(), odd, params, rollback, copies=True)
            rollback.finish(batch.finish, odd)
        return None

    def _entry(
        self, params: Any, place: int, key: Any, value: Any, grad: Any, held: tuple[Any, ...]
    ) -> _entries.Entry:
        return _entries.make_entry(place, key, value, grad, held, self._slots, params)


class SGD(KernelOptimizer, reference.SGD, rule="SGD"):
    pass


class Momentum(KernelOptimizer, reference.Momentum, rule="Momentum"):
    pass


class Nesterov(KernelOptimizer, reference.Nesterov, rule="Nesterov"):
    pass


class AdaGrad(KernelOptimizer, reference.AdaGrad, rule="AdaGrad"):
    pass


class RMSprop(KernelOptimizer, reference.RMSprop, rule="RMSprop"):
    pass


class Adam(KernelOptimizer, reference.Adam, rule="Adam"):
    pass


# ---------------------------------------------------------------- for adapters alone


class SklearnAdam(KernelOptimizer, reference.SklearnAdam, rule="SklearnAdam"):
    pass


class SklearnNesterov(KernelOptimizer, reference.SklearnNesterov, rule="SklearnNesterov"):
    pass
