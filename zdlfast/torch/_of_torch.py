"""The optimizers that torch has too."""

from typing import Any

import torch

from zdlfast._engine import Kernel, Plan
from zdlfast.torch._optimizer import KernelOptimizer, new_number, zeros_like

_MEANS = ("lr", "beta1", "beta2", "eps")


def _decay(group: dict[str, Any]) -> dict[str, Any]:
    """The options that every rule of torch's has."""
    return {
        "weight_decay": group["weight_decay"],
        "decoupled": group.get("decoupled_weight_decay", False),
        "maximize": group["maximize"],
    }


class SGD(KernelOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` on zdlfast's kernels."""

    _plain = Kernel("sgd", ("lr",), ())
    _momentum = Kernel("torchmomentum", ("lr", "momentum", "dampening"), ("momentum_buffer",))
    _nesterov = Kernel("torchnesterov", ("lr", "momentum", "dampening"), ("momentum_buffer",))

    def _plan(self, group: dict[str, Any]) -> Plan:
        momentum = group["momentum"]
        if momentum == 0:
            return Plan(self._plain, (0.0,), **_decay(group))
        kernel = self._nesterov if group["nesterov"] else self._momentum
        return Plan(kernel, (0.0, momentum, group["dampening"]), **_decay(group))

    def _new_state(self, group: dict[str, Any], param: torch.Tensor) -> dict[str, Any]:
        return {"momentum_buffer": zeros_like(param)}


class Adam(KernelOptimizer, torch.optim.Adam):
    """`torch.optim.Adam` on zdlfast's kernels."""

    _kernel = Kernel("adamw", _MEANS, ("exp_avg", "exp_avg_sq"), "step")
    _amsgrad = Kernel(
        "adamw_amsgrad", _MEANS, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), "step"
    )

    def _plan(self, group: dict[str, Any]) -> Plan:
        kernel = self._amsgrad if group["amsgrad"] else self._kernel
        return Plan(kernel, (0.0, *group["betas"], group["eps"]), **_decay(group))

    def _new_state(self, group: dict[str, Any], param: torch.Tensor) -> dict[str, Any]:
        state = {
            "step": new_number(),
            "exp_avg": zeros_like(param),
            "exp_avg_sq": zeros_like(param),
        }
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros_like(param)
        return state


class AdamW(Adam, torch.optim.AdamW):
    """`torch.optim.AdamW` on zdlfast's kernels."""
