"""The exponential moving average of parameters on compiled kernels."""

from typing import Any, ClassVar

from zdlfast import reference
from zdlfast._engine import Batch, Kernel
from zdlfast.optimizers import KernelOptimizer
from zdlfast.reference.ema import Averaging, check

__all__ = ["EMA"]


class KernelAveraging(KernelOptimizer, Averaging):
    """The rule of averages on kernels."""

    _kernel: ClassVar[Kernel] = Kernel("ema", ("decay",), (), "iter")

    def _update_rest(self, params: Any, grads: Any, batch: Batch, *further: Any) -> bool | None:
        check("params", grads, params)
        return super()._update_rest(params, grads, batch, *further)


class EMA(reference.EMA):
    _kind = KernelAveraging
    __doc__ = reference.EMA.__doc__
