"""The optimizers on compiled kernels.

Each class is its reference class with one difference: an update of usual arrays is one call
into C. Constructor, attributes, checks and documentation are inherited.
"""

from typing import Any, ClassVar

from zdlfast import _entries, reference
from zdlfast import _validation as validation
from zdlfast._engine import Batch, Kernel, OnKernels, Rollback
from zdlfast._groups import Step
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
            cls._kernel = Kernel(
                RULES[rule].loop,
                tuple(cls._options),
                cls._slots,
                cls._counter,
                tuple(cls._numbers),
            )
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
        odd = batch.odd()
        if not odd:
            if batch.refused():
                return False
            batch.finish([])
            return None
        step = Step(self, [key for _, key, *_ in odd], batch.lr())
        entries = self._entries(params, odd, step)
        if batch.refused():
            return False
        # NumPy's part comes first, but where memory is shared the order of all entries counts.
        if batch.order_counts():
            entries = self._entries(params, batch.odd(True), step)
        step.scale(batch.clip_rate())
        with Rollback() as rollback:
            _entries.run(self._rule, entries, params, rollback, copies=True)
            rollback.finish(batch.finish, entries)
        return None

    def _entries(self, params: Any, found: list[Any], step: Step) -> list[_entries.Entry]:
        return [
            _entries.make_entry(
                place, key, value, grad, held, self._slots, params, step.group(key)
            )
            for place, key, value, grad, held in found
        ]


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
