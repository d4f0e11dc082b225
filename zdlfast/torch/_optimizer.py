"""The base of the optimizers for torch: one step in C, and torch's own for what is not usual."""

from __future__ import annotations  # documents are built without torch, too

import inspect
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import (
    Optimizer,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from zdlfast._engine import STATE_PLACES, Kernel, Plan, TensorSteps
from zdlfast._options import CHECKS
from zdlfast.torch import _formats as formats

#: A parameter, and the group of options that it is in.
Member = tuple[dict[str, Any], torch.Tensor]

# Options of torch's that ask for another implementation.
_OTHER_WAYS = ("foreach", "fused", "capturable", "differentiable")

_profiles: Callable[[], bool] = torch._C._autograd._profiler_enabled


class KernelOptimizer(Optimizer):
    """The base of the optimizers for torch.

    A class of torch's beside it in the bases gives the constructor, the names of the state, and
    what becomes of tensors that no kernel takes.
    """

    #: torch's class of the same rule, if it has one.
    _torch: ClassVar[type[Optimizer] | None] = None
    #: Of its rule, and where numbers in the state are in double precision, if that differs.
    _kernel: ClassVar[Kernel]
    _kernel_wide: ClassVar[Kernel | None] = None
    _own_decay: ClassVar[bool] = False
    __signature__: ClassVar[inspect.Signature]

    def __init__(self, params: Any, *args: Any, **options: Any) -> None:
        kept = {name: options.pop(name) for name in formats.OPTIONS if name in options}
        for name, value in kept.items():
            kept[name] = CHECKS[name](name, value)
        super().__init__(params, *args, **options)
        self.defaults.update(kept)
        self._complete()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._complete()
        # Of what torch casts to a parameter's dtype, those that are not of it.
        for group in self.param_groups:
            kernel = self._kernel_for(group)
            for param in group["params"]:
                held = self.state.get(param, {})
                for name in kernel.slots:
                    if name in held:
                        held[name] = formats.restored(held[name], param)
                for name in kernel.numbers:
                    if getattr(held.get(name), "dtype", None) is torch.bfloat16:
                        held[name] = held[name].to(torch.float32)

    def _complete(self) -> None:
        """Give all groups the options of state that they do not have, if there are any."""
        for name in formats.OPTIONS:
            if name in self.defaults:
                for group in self.param_groups:
                    group.setdefault(name, self.defaults[name])

    # Made when it is first asked for: copies and pickles come without it, and call no __init__.
    @cached_property
    def _steps(self) -> TensorSteps:
        return TensorSteps(
            torch.Tensor.__dlpack_c_exchange_api__,
            _TYPES,
            self._planned,
            torch._C._increment_version,
            torch.get_num_threads,
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            if base.__module__.startswith("torch.optim.") and base is not Optimizer:
                cls._torch, cls.__signature__ = base, _with_options(base)
                break

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step: change every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Called first; it computes the gradients anew and returns the loss.

        Returns
        -------
        The loss that the closure returned, or None.
        """
        if (
            _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _profiles()
        ):
            return self._hooked_step() if closure is None else self._hooked_step(closure)
        return self._step(closure)

    # Else torch would wrap it, and the wrapper takes several times as long as a small step.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rest = self._steps.take(self.param_groups, self.state)
        if rest is not None:
            self._take_rest(*rest)
        return loss

    _hooked_step = Optimizer.profile_hook_step(_step)

    def _take_rest(self, fresh: list[Member], odd: list[Member]) -> None:
        """Take a step for which state has to be made, or which kernels do not take all of."""
        for _, param in odd:
            _check_memory(param, param.grad, *self.state.get(param, {}).values())
        if odd and self._torch is None:
            raise TypeError(f"{type(self).__name__} takes {_EXPECTED}, got {_described(odd)}")
        # State that is made in inference mode could not be changed outside of it.
        with torch.inference_mode(False), torch.no_grad():
            made = {param: self._new_state(group, param) for group, param in fresh}
            for group, param in odd:
                self._decode(group, param)
        if odd:
            self._step_of_torch(odd)
        rest = self._steps.take(self.param_groups, self.state, made, {id(p) for _, p in odd})
        if rest is not None:
            raise RuntimeError(
                f"tensors were exchanged during a step: {_described(rest[0] + rest[1])}"
            )

    def _step_of_torch(self, members: list[Member]) -> None:
        """Have torch's own class take a step over these parameters alone."""
        assert self._torch is not None
        step: Any = self._torch.step
        if getattr(step, "hooked", False):
            step = step.__wrapped__
        groups = self.param_groups
        params: dict[int, list[torch.Tensor]] = {}
        for group, param in members:
            params.setdefault(id(group), []).append(param)
        self.param_groups = [
            {**group, "params": params[id(group)]} for group in groups if id(group) in params
        ]
        try:
            step(self)
        finally:
            self.param_groups = groups

    def _planned(self, group: dict[str, Any]) -> Plan | None:
        """What a kernel is to do for a group; None if it asks for another implementation."""
        params = group["params"]
        if any(group.get(way) for way in _OTHER_WAYS) or len({*map(id, params)}) < len(params):
            return None
        kernel = self._kernel_for(group)
        return Plan(
            kernel,
            tuple(map(partial(_option, group), kernel.options)),
            weight_decay=group["weight_decay"],
            decoupled=group.get("decoupled_weight_decay", False),
            maximize=group["maximize"],
            own_decay=self._own_decay,
            wide=self._kernel_wide,
            keeping=formats.Keeping(group, kernel),
        )

    def _kernel_for(self, group: dict[str, Any]) -> Kernel:
        """The kernel for a group with these options."""
        return self._kernel

    def _new_state(self, group: dict[str, Any], param: torch.Tensor) -> dict[str, Any]:
        """The state of a parameter before its first step; or what it has, in another format."""
        kernel = self._kernel_for(group)
        keeping = formats.Keeping(group, kernel)
        held = self.state.get(param, {})
        state: dict[str, Any] = {}
        if kernel.counter is None and "step" not in held and keeping.uses_chance(param):
            state["step"] = zero()
        if any(held.get(name) is not None for name in kernel.slots):
            return state | {
                name: keeping.converted(name, held[name], param) for name in kernel.slots
            }
        if kernel.counter is not None:
            state[kernel.counter] = zero()
        state |= {name: self._new_number(group, name) for name in kernel.numbers}
        for place, name in enumerate(kernel.slots, 1):
            state[name] = keeping.converted(name, self._new_slot(param, place), param)
        return state

    def _decode(self, group: dict[str, Any], param: torch.Tensor) -> None:
        """Put state into the parameter's dtype, as torch's own implementation takes it."""
        held, kernel = self.state.get(param, {}), self._kernel_for(group)
        keeping = formats.Keeping(group, kernel)
        for name in kernel.slots:
            if isinstance(held.get(name), torch.Tensor):
                held[name] = keeping.decoded(name, held[name], param)

    def _new_number(self, group: dict[str, Any], name: str) -> Any:
        return zero()

    def _new_slot(self, param: torch.Tensor, place: int) -> torch.Tensor:
        """State of zeros in the layout of its parameter; `place` is 1 for the first of it."""
        if param.numel() * param.element_size() < _APART_FROM:
            return torch.zeros_like(param, memory_format=torch.preserve_format)
        # At a place of a page of its own, as _entries.pxi has it and says why. torch's large
        # tensors all start at the same place.
        like = torch.empty_like(param, device="meta", memory_format=torch.preserve_format)
        memory = param.new_zeros(param.numel() + _PAGE // param.element_size())
        start = (param.data_ptr() + place * _APART - memory.data_ptr()) % _PAGE
        return memory.set_(
            memory.untyped_storage(), start // param.element_size(), param.shape, like.stride()
        )


def _with_options(cls: type[Optimizer]) -> inspect.Signature:
    """The signature of a class of torch's, with the options that say how state is kept."""
    signature = inspect.signature(cls)
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=getattr(formats.Keeping, name)
        )
        for name in formats.OPTIONS
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *added])


def _option(group: dict[str, Any], name: str) -> Any:
    """An option of a group, by the name that it has in the table of rules."""
    if name in ("beta1", "beta2"):
        return group["betas"][name == "beta2"]
    return group[name]


def zero() -> torch.Tensor:
    """A number of a parameter's state, as torch keeps it: in single precision, by default."""
    double = torch.get_default_dtype() == torch.float64
    return torch.zeros((), dtype=torch.float64 if double else torch.float32, device="cpu")


def _check_memory(*tensors: Any) -> None:
    """Raise if a tensor's storage was freed or cut off: torch's own step would crash."""
    for tensor in tensors:
        if (
            type(tensor) not in _TYPES
            or tensor.layout is not torch.strided
            or tensor.device.type != "cpu"
            or tensor._is_zerotensor()
            or not tensor.numel()
        ):
            continue
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
        if tensor.untyped_storage().nbytes() < needed:
            raise RuntimeError(
                f"a tensor of shape {tuple(tensor.shape)} has a storage of "
                f"{tensor.untyped_storage().nbytes()} bytes, expected {needed}: it was freed"
            )


_PAGE, _APART, _APART_FROM = STATE_PLACES

_TYPES = (torch.nn.Parameter, torch.Tensor)
_EXPECTED = (
    "dense float32, float64 or bfloat16 tensors on the CPU, with gradients of the same dtype"
)


def _described(members: Iterable[Member]) -> str:
    found = []
    for _, param in members:
        grad = param.grad
        text = f"{type(param).__name__} of {param.dtype}, {param.layout}, on {param.device}"
        if grad is not None and (grad.dtype, grad.layout) != (param.dtype, param.layout):
            text += f" with a gradient of {grad.dtype}, {grad.layout}"
        found.append(text)
    return "; ".join(dict.fromkeys(found))
