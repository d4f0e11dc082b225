"""The optimizers on compiled kernels.

Each class is its reference class with one difference: an update of usual arrays is one call
into C. Constructor, attributes, checks and documentation are inherited.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from zdlfast import _validation as validation
from zdlfast import reference
from zdlfast._engine import Batch, Kernel, OnKernels, Rollback
from zdlfast._entries import make_entry, run
from zdlfast._gradients import Reading
from zdlfast._optimizer import Optimizer
from zdlfast._rules import RULES, Rule

# The book's, then others: as in the table of rules.
__all__ = [  # noqa: RUF022
    "SGD",
    "Momentum",
    "Nesterov",
    "AdaGrad",
    "RMSprop",
    "Adam",
    "NesterovBook2",
    "AdamW",
    "AMSGrad",
    "NAdam",
    "RAdam",
    "Adamax",
    "AdaDelta",
    "AdaBound",
    "AMSBound",
    "AdaBelief",
    "Lion",
    "ADOPT",
    "ScheduleFreeAdamW",
]


def _kernel(rule: Rule, flag: str = "") -> Kernel:
    """The kernel of a rule, or of its variant with a flag."""
    return Kernel(
        f"{rule.loop}_{flag}" if flag else rule.loop,
        tuple(rule.options),
        rule.slots + rule.flags.get(flag, ()),
        rule.counter,
        tuple(rule.numbers),
        rule.own_decay,
    )


class KernelOptimizer(OnKernels, Optimizer):
    """The base of the optimizers on kernels."""

    _kernel: ClassVar[Kernel]
    _variants: ClassVar[dict[str, Kernel]]  # by the flag that asks for it

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(rule=rule, **kwargs)
        if rule is not None:
            cls._kernel = _kernel(RULES[rule])
            cls._variants = {
                flag: _kernel(RULES[rule], flag) for flag, slots in cls._flags.items() if slots
            }
            cls.__doc__ = RULES[rule].twin.__doc__
        elif not {"_rule", "_scalars"}.isdisjoint(vars(cls)):
            raise TypeError(
                f"{cls.__name__} changes the rule of a compiled optimizer, which would not be "
                f"noticed: inherit from zdlfast.reference"
            )

    def _flag_changed(self) -> None:
        self._use(next(
            (kernel for flag, kernel in self._variants.items() if getattr(self, flag)),
            self._kernel,
        ))  # fmt: skip

    def _was_loaded(self) -> None:
        super()._was_loaded()
        if self._flags:
            self._flag_changed()

    def _update(
        self,
        params: Any,
        grads: Any,
        agree: Callable[[], object] | None = None,
        reading: Reading | None = None,
    ) -> bool | None:
        return self._update_rest(params, grads, NotImplemented, agree, reading)

    def _update_rest(
        self,
        params: Any,
        grads: Any,
        batch: Batch,
        agree: Callable[[], object] | None = None,
        reading: Reading | None = None,
    ) -> bool | None:
        """Do an update that kernels do not take all of.

        Parameters
        ----------
        batch : Batch or NotImplemented
            Its entries, or that they have to be looked up.
        agree, reading : optional
            As `Optimizer._update` takes them.
        """
        if batch is NotImplemented:
            by_key = not isinstance(params, list)
            batch = Batch(self, by_key, *validation.looked_up(self, params, grads))
        found, slots = batch.odd(), self._slots
        if not found:
            return batch.by_kernels(agree, reading)
        odd = [make_entry(*entry, slots, params) for entry in found]
        if batch.refused(reading):
            if agree is not None:
                agree()
            return False
        # NumPy's part comes first, but where memory is shared the order of all entries counts.
        if batch.order_counts():
            odd = [make_entry(*entry, slots, params) for entry in batch.odd(True)]
        with Rollback() as rollback:
            run(self._rule, odd, params, rollback, copies=True)
            rollback.finish(batch.finish, odd, agree)
        return None


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


class NesterovBook2(KernelOptimizer, reference.NesterovBook2, rule="NesterovBook2"):
    pass


class AdamW(KernelOptimizer, reference.AdamW, rule="AdamW"):
    pass


class AMSGrad(KernelOptimizer, reference.AMSGrad, rule="AMSGrad"):
    pass


class NAdam(KernelOptimizer, reference.NAdam, rule="NAdam"):
    pass


class RAdam(KernelOptimizer, reference.RAdam, rule="RAdam"):
    pass


class Adamax(KernelOptimizer, reference.Adamax, rule="Adamax"):
    pass


class AdaDelta(KernelOptimizer, reference.AdaDelta, rule="AdaDelta"):
    pass


class AdaBound(KernelOptimizer, reference.AdaBound, rule="AdaBound"):
    pass


class AMSBound(KernelOptimizer, reference.AMSBound, rule="AMSBound"):
    pass


class AdaBelief(KernelOptimizer, reference.AdaBelief, rule="AdaBelief"):
    pass


class Lion(KernelOptimizer, reference.Lion, rule="Lion"):
    pass


class ADOPT(KernelOptimizer, reference.ADOPT, rule="ADOPT"):
    pass


class ScheduleFreeAdamW(KernelOptimizer, reference.ScheduleFreeAdamW, rule="ScheduleFreeAdamW"):
    pass


# ---------------------------------------------------------------- for adapters alone


class SklearnAdam(KernelOptimizer, reference.SklearnAdam, rule="SklearnAdam"):
    pass


class SklearnNesterov(KernelOptimizer, reference.SklearnNesterov, rule="SklearnNesterov"):
    pass


class TorchMomentum(KernelOptimizer, reference.TorchMomentum, rule="TorchMomentum"):
    pass


class TorchNesterov(KernelOptimizer, reference.TorchNesterov, rule="TorchNesterov"):
    pass


class TorchAdagrad(KernelOptimizer, reference.TorchAdagrad, rule="TorchAdagrad"):
    pass


class TorchRMSpropMomentum(
    KernelOptimizer, reference.TorchRMSpropMomentum, rule="TorchRMSpropMomentum"
):
    pass


class TorchRMSpropCentered(
    KernelOptimizer, reference.TorchRMSpropCentered, rule="TorchRMSpropCentered"
):
    pass


class TorchRMSpropCenteredMomentum(
    KernelOptimizer, reference.TorchRMSpropCenteredMomentum, rule="TorchRMSpropCenteredMomentum"
):
    pass


class TorchNAdam(KernelOptimizer, reference.TorchNAdam, rule="TorchNAdam"):
    pass
