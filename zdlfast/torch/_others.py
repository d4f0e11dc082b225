"""The optimizers that torch does not have, in the form of torch's."""

from __future__ import annotations  # documents are built without torch, too

from collections.abc import Iterable
from typing import Any, ClassVar, Unpack

import torch

from zdlfast import _validation as validation
from zdlfast._engine import Kernel
from zdlfast._rules import RULES, UNBOUNDED
from zdlfast.torch._formats import StateOptions
from zdlfast.torch._optimizer import KernelOptimizer, _option

#: What torch takes as parameters: tensors, groups, or tensors with their names.
Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]]
Betas = tuple[float, float]

# The names of the state: those that torch has for the same.
_SLOTS = {"m": "exp_avg", "v": "exp_avg_sq", "s": "exp_avg_var", "d": "z_minus_y"}


class OwnOptimizer(KernelOptimizer):
    """The base of these: a rule of zdlfast's table."""

    _rule: ClassVar[str]

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if rule is not None:
            row = RULES[rule]
            cls._rule, cls._own_decay = rule, row.own_decay
            cls._kernel = Kernel(
                row.loop,
                tuple(row.options),
                tuple(_SLOTS[slot] for slot in row.slots),
                "step" if row.counter else None,
                tuple(row.numbers),
                row.own_decay,
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = {**self.defaults, **param_group}
        for name, bound in (*RULES[self._rule].options.items(), ("weight_decay", UNBOUNDED)):
            value = _option(group, name)
            validation.option(name, value.item() if torch.is_tensor(value) else value, bound)
        super().add_param_group(param_group)

    def _planned(self, group: dict[str, Any]) -> Any:
        plan = super()._planned(group)
        if plan is None:
            raise ValueError(
                f"{type(self).__name__} takes every parameter once, and none of foreach, fused, "
                "capturable and differentiable"
            )
        return plan

    def _new_number(self, group: dict[str, Any], name: str) -> float:
        return 0.0


class Lion(OwnOptimizer, rule="Lion"):
    """`zdlfast.Lion` for torch: steps of one size, in the direction of a mean of gradients.

    Parameters
    ----------
    params : iterable
        Tensors or groups of them, as for every optimizer of torch.
    lr : float or Tensor, default 1e-4
        Learning rate: a third to a tenth of AdamW's.
    betas : tuple of float, default (0.9, 0.99)
        The shares of the mean that survive, in the direction and in the state.
    weight_decay : float, default 0.0
        Decoupled: three to ten times AdamW's.
    maximize : bool, default False
        Whether to go up the gradient.
    **kept
        `state`, `state_min_size` and `state_rounding`, as `zdlfast.Optimizer` has them.
    """

    def __init__(
        self,
        params: Params,
        lr: float | torch.Tensor = 1e-4,
        betas: Betas = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **kept: Unpack[StateOptions],
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "weight_decay": weight_decay,
            "decoupled_weight_decay": True, "maximize": maximize,
        }, **kept)  # fmt: skip


class AdaBelief(OwnOptimizer, rule="AdaBelief"):
    """`zdlfast.AdaBelief` for torch: long steps where gradients are as they were expected.

    Parameters
    ----------
    params : iterable
        Tensors or groups of them, as for every optimizer of torch.
    lr : float or Tensor, default 1e-3
        Learning rate.
    betas : tuple of float, default (0.9, 0.999)
        The shares of the two means that survive a step.
    eps : float, default 1e-16
        Keeps the division finite where gradients do not vary.
    weight_decay : float, default 0.0
        Added to the gradient, or decoupled.
    decoupled_weight_decay : bool, default False
        Whether weight decay is decoupled, as in AdamW.
    maximize : bool, default False
        Whether to go up the gradient.
    **kept
        `state`, `state_min_size` and `state_rounding`, as `zdlfast.Optimizer` has them.
    """

    def __init__(
        self,
        params: Params,
        lr: float | torch.Tensor = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        **kept: Unpack[StateOptions],
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }, **kept)  # fmt: skip


class AdaBound(OwnOptimizer, rule="AdaBound"):
    """`zdlfast.AdaBound` for torch: Adam whose rates narrow to those of SGD.

    Parameters
    ----------
    params : iterable
        Tensors or groups of them, as for every optimizer of torch.
    lr : float or Tensor, default 1e-3
        Learning rate; the final one changes in proportion to it.
    betas : tuple of float, default (0.9, 0.999)
        The shares of the two means that survive a step.
    final_lr : float, default 0.1
        The rate that all elements end at, if `lr` stays what it was at first.
    gamma : float, default 1e-3
        How fast the bounds narrow.
    eps : float, default 1e-8
        Keeps the division finite.
    weight_decay : float, default 0.0
        Added to the gradient, or decoupled.
    decoupled_weight_decay : bool, default False
        Whether weight decay is decoupled, as in AdamW.
    maximize : bool, default False
        Whether to go up the gradient.
    **kept
        `state`, `state_min_size` and `state_rounding`, as `zdlfast.Optimizer` has them.
    """

    def __init__(
        self,
        params: Params,
        lr: float | torch.Tensor = 1e-3,
        betas: Betas = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        **kept: Unpack[StateOptions],
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "final_lr": final_lr, "gamma": gamma, "eps": eps,
            "weight_decay": weight_decay, "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }, **kept)  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        # As it is now: a scheduler may change the rate before the first step.
        param_group.setdefault("base_lr", float(param_group["lr"]))

    def _new_number(self, group: dict[str, Any], name: str) -> float:
        base_lr: float = group["base_lr"]
        return base_lr


class ADOPT(OwnOptimizer, rule="ADOPT"):
    """`zdlfast.ADOPT` for torch: Adam that converges with any ``beta2``.

    Parameters
    ----------
    params : iterable
        Tensors or groups of them, as for every optimizer of torch.
    lr : float or Tensor, default 1e-3
        Learning rate.
    betas : tuple of float, default (0.9, 0.9999)
        The shares of the two means that survive a step.
    eps : float, default 1e-6
        What the root of the mean square is at least.
    weight_decay : float, default 0.0
        Added to the gradient, or decoupled.
    decoupled_weight_decay : bool, default False
        Whether weight decay is decoupled, as in AdamW.
    maximize : bool, default False
        Whether to go up the gradient.
    **kept
        `state`, `state_min_size` and `state_rounding`, as `zdlfast.Optimizer` has them.

    Notes
    -----
    The first step looks at the gradients alone, and leaves the parameters as they are.
    """

    def __init__(
        self,
        params: Params,
        lr: float | torch.Tensor = 1e-3,
        betas: Betas = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        **kept: Unpack[StateOptions],
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }, **kept)  # fmt: skip


class ScheduleFreeAdamW(OwnOptimizer, rule="ScheduleFreeAdamW"):
    """`zdlfast.ScheduleFreeAdamW` for torch: AdamW without a schedule of the learning rate.

    Parameters
    ----------
    params : iterable
        Tensors or groups of them, as for every optimizer of torch.
    lr : float or Tensor, default 2.5e-3
        Learning rate, after the warm-up.
    betas : tuple of float, default (0.9, 0.999)
        Where gradients are taken between the mean and the last point; the share of the mean
        square that survives a step.
    eps : float, default 1e-8
        Keeps the division finite.
    weight_decay : float, default 0.0
        Decoupled.
    warmup_steps : int, default 0
        Over how many steps the learning rate rises.
    r : float, default 0.0
        The power of the step in the weight of its point in the mean.
    weight_lr_power : float, default 2.0
        The power of the learning rate in it.
    maximize : bool, default False
        Whether to go up the gradient.
    **kept
        `state`, `state_min_size` and `state_rounding`, as `zdlfast.Optimizer` has them.

    Notes
    -----
    Call `eval` before a network is evaluated or saved, and `train` before training goes on. A new
    one is ready to train. What is counted is counted for each parameter, by its own steps.
    """

    def __init__(
        self,
        params: Params,
        lr: float | torch.Tensor = 2.5e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        maximize: bool = False,
        **kept: Unpack[StateOptions],
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": True, "warmup_steps": warmup_steps, "r": r,
            "weight_lr_power": weight_lr_power, "maximize": maximize, "training": True,
        }, **kept)  # fmt: skip

    def _planned(self, group: dict[str, Any]) -> Any:
        if not group["training"]:
            raise RuntimeError(
                "the parameters are those to evaluate with: call train() before a step"
            )
        return super()._planned(group)

    def train(self) -> None:
        """Put the point at which the network is trained into its parameters."""
        self._move(True)

    def eval(self) -> None:
        """Put the point at which the network is evaluated, or saved, into its parameters."""
        self._move(False)

    @torch.no_grad()
    def _move(self, training: bool) -> None:
        groups = [group for group in self.param_groups if group["training"] != training]
        if any(group["betas"][0] == 0.0 for group in groups):
            raise ValueError("with a first beta of 0.0 there is no point to evaluate at")
        for group in groups:
            to_x = 1.0 - 1.0 / group["betas"][0]
            for param in group["params"]:
                if param in self.state:
                    difference = self.state[param]["z_minus_y"]
                    param.add_(difference, alpha=-to_x if training else to_x)
            group["training"] = training
