"""The optimizers that torch has too: each is torch's class, with its steps on kernels."""

from __future__ import annotations  # documents are built without torch, too

from typing import Any, ClassVar

import torch

from zdlfast._engine import Kernel
from zdlfast.torch._optimizer import KernelOptimizer, zero

_MEANS = ("exp_avg", "exp_avg_sq")
_ADAM = ("lr", "beta1", "beta2", "eps")
_NADAM = ("lr", "beta1", "beta2", "momentum_decay", "eps")
_MOMENTUM = ("lr", "momentum", "dampening")
_RMSPROP = ("lr", "alpha", "eps")
_RMSPROP_MOMENTUM = ("lr", "alpha", "momentum", "eps")


class SGD(KernelOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` on zdlfast's kernels."""

    _plain = Kernel("sgd", ("lr",), ())
    _momentum = Kernel("torchmomentum", _MOMENTUM, ("momentum_buffer",))
    _nesterov = Kernel("torchnesterov", _MOMENTUM, ("momentum_buffer",))

    def _kernel_for(self, group: dict[str, Any]) -> Kernel:
        if group["momentum"] == 0:
            return self._plain
        return self._nesterov if group["nesterov"] else self._momentum


class Adam(KernelOptimizer, torch.optim.Adam):
    """`torch.optim.Adam` on zdlfast's kernels."""

    _kernel = Kernel("adamw", _ADAM, _MEANS, "step")
    _amsgrad = Kernel("adamw_amsgrad", _ADAM, (*_MEANS, "max_exp_avg_sq"), "step")

    def _kernel_for(self, group: dict[str, Any]) -> Kernel:
        return self._amsgrad if group["amsgrad"] else self._kernel


class AdamW(Adam, torch.optim.AdamW):
    """`torch.optim.AdamW` on zdlfast's kernels."""


class NAdam(KernelOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam` on zdlfast's kernels."""

    _kernel = Kernel("torchnadam", _NADAM, _MEANS, "step", ("mu_product",))
    _kernel_wide = Kernel("nadam", _NADAM, _MEANS, "step", ("mu_product",))

    def _new_number(self, group: dict[str, Any], name: str) -> torch.Tensor:
        return zero().fill_(1.0)


class RAdam(KernelOptimizer, torch.optim.RAdam):
    """`torch.optim.RAdam` on zdlfast's kernels."""

    _kernel = Kernel("radam", _ADAM, _MEANS, "step")


class Adamax(KernelOptimizer, torch.optim.Adamax):
    """`torch.optim.Adamax` on zdlfast's kernels."""

    _kernel = Kernel("adamax", _ADAM, ("exp_avg", "exp_inf"), "step")


class Adagrad(KernelOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad` on zdlfast's kernels."""

    _kernel = Kernel("torchadagrad", ("lr", "lr_decay", "eps"), ("sum",), "step")

    def _new_slot(self, param: torch.Tensor, place: int) -> torch.Tensor:
        initial: float = self.defaults["initial_accumulator_value"]
        return super()._new_slot(param, place).fill_(initial)


class Adadelta(KernelOptimizer, torch.optim.Adadelta):
    """`torch.optim.Adadelta` on zdlfast's kernels."""

    _kernel = Kernel("adadelta", ("lr", "rho", "eps"), ("square_avg", "acc_delta"), "step")


class RMSprop(KernelOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop` on zdlfast's kernels."""

    # By whether it is centered, and whether it has momentum.
    _kernels: ClassVar[dict[tuple[bool, bool], Kernel]] = {
        (False, False): Kernel("rmsprop", _RMSPROP, ("square_avg",), "step"),
        (False, True): Kernel(
            "torchrmspropmomentum", _RMSPROP_MOMENTUM, ("square_avg", "momentum_buffer"), "step"
        ),
        (True, False): Kernel(
            "torchrmspropcentered", _RMSPROP, ("square_avg", "grad_avg"), "step"
        ),
        (True, True): Kernel(
            "torchrmspropcenteredmomentum",
            _RMSPROP_MOMENTUM,
            ("square_avg", "grad_avg", "momentum_buffer"),
            "step",
        ),
    }

    def _kernel_for(self, group: dict[str, Any]) -> Kernel:
        return self._kernels[bool(group["centered"]), group["momentum"] > 0]
