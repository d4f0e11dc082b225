"""The table of rules: what is known of each one but its formula and its loop.

Base class, drop-in, files, tests, benchmark and documents walk it.
"""

import importlib
import math
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np

# What an option has to stay below; none may be negative.
UNBOUNDED = math.inf
FRACTION = 1.0


@dataclass(frozen=True)
class Rule:
    """One rule."""

    #: Of its class here and in `zdlfast.reference`; in lower case, of its loop.
    name: str
    #: Its options in the order in which its loop takes them, with their bounds.
    options: dict[str, float]
    #: The attributes that hold state: an array for each parameter.
    slots: tuple[str, ...] = ()
    #: The attribute that counts steps.
    counter: str | None = None
    #: The attributes that hold further state, one float for all parameters; each with the
    #: options that it depends on, which are therefore the same for all parameters.
    numbers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Whether its loop does decoupled weight decay itself, as its last option, because that is no
    #: factor of the parameter before the step.
    own_decay: bool = False
    #: The attributes that are True or False, saved like options; each with the slots that it adds
    #: to those of the rule, and then its loop has the attribute's name behind its own.
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: The slots that are never negative: in 8 bits they have no sign, and do not become zero.
    positive: tuple[str, ...] = ()
    #: The slots that are not kept in fewer bits, because an error in them is one in the parameter.
    exact: tuple[str, ...] = ()
    #: Whether ``common.optimizer`` of the book has it.
    book: bool = True
    #: Whether it is for users, and not for an adapter alone.
    public: bool = True
    #: The name of its loop in the kernels, if that is not its own in lower case.
    other_loop: str = ""

    @property
    def loop(self) -> str:
        """The name of its loop in the kernels."""
        return self.other_loop or self.name.lower()

    @property
    def fast(self) -> Any:
        """The class on kernels."""
        return getattr(importlib.import_module("zdlfast.optimizers"), self.name)

    @property
    def fastest(self) -> Any:
        """The class on kernels, or without the compiled extension the one in plain NumPy."""
        # What zdlfast could not import itself is not there.
        return getattr(sys.modules.get("zdlfast.optimizers"), self.name, self.twin)

    @property
    def twin(self) -> Any:
        """The class in plain NumPy."""
        return getattr(importlib.import_module("zdlfast.reference"), self.name)


_MEANS = {"lr": UNBOUNDED, "beta1": FRACTION, "beta2": FRACTION}
_ADAM = {**_MEANS, "eps": UNBOUNDED}
_BOUND = {**_MEANS, "final_lr": UNBOUNDED, "gamma": FRACTION, "eps": UNBOUNDED}

# One that an adapter alone needs.
_for_adapter = partial(Rule, book=False, public=False)

#: By name: the book's in its order, then others.
RULES = {
    rule.name: rule
    for rule in (
        Rule("SGD", {"lr": UNBOUNDED}),
        Rule("Momentum", {"lr": UNBOUNDED, "momentum": FRACTION}, ("v",)),
        Rule("Nesterov", {"lr": UNBOUNDED, "momentum": FRACTION}, ("v",)),
        Rule("AdaGrad", {"lr": UNBOUNDED, "eps": UNBOUNDED}, ("h",), positive=("h",)),
        Rule(
            "RMSprop",
            {"lr": UNBOUNDED, "decay_rate": FRACTION, "eps": UNBOUNDED},
            ("h",),
            positive=("h",),
        ),
        Rule("Adam", _ADAM, ("m", "v"), "iter", positive=("v",)),
        Rule("NesterovBook2", {"lr": UNBOUNDED, "momentum": FRACTION}, ("v",), book=False),
        Rule(
            "AdamW",
            _ADAM,
            ("m", "v"),
            "iter",
            flags={"amsgrad": ("v_max",)},
            positive=("v", "v_max"),
            book=False,
        ),
        Rule("AMSGrad", _ADAM, ("m", "v", "v_max"), "iter", positive=("v", "v_max"), book=False),
        Rule(
            "NAdam",
            {**_MEANS, "momentum_decay": UNBOUNDED, "eps": UNBOUNDED},
            ("m", "v"),
            "iter",
            {"mu_product": ("beta1", "momentum_decay")},
            positive=("v",),
            book=False,
        ),
        Rule("RAdam", _ADAM, ("m", "v"), "iter", positive=("v",), book=False),
        Rule("Adamax", _ADAM, ("m", "u"), "iter", positive=("u",), book=False),
        Rule(
            "AdaDelta",
            {"lr": UNBOUNDED, "decay_rate": FRACTION, "eps": UNBOUNDED},
            ("h", "d"),
            positive=("h", "d"),
            book=False,
        ),
        Rule(
            "AdaBound",
            _BOUND,
            ("m", "v"),
            "iter",
            {"base_lr": ("lr",)},
            positive=("v",),
            book=False,
        ),
        Rule(
            "AMSBound",
            _BOUND,
            ("m", "v", "v_max"),
            "iter",
            {"base_lr": ("lr",)},
            positive=("v", "v_max"),
            book=False,
        ),
        Rule("AdaBelief", _ADAM, ("m", "s"), "iter", positive=("s",), book=False),
        Rule("Lion", _MEANS, ("m",), book=False),
        Rule("ADOPT", _ADAM, ("m", "v"), "iter", own_decay=True, positive=("v",), book=False),
        Rule(
            "ScheduleFreeAdamW",
            {
                **_MEANS,
                "warmup_steps": UNBOUNDED,
                "r": UNBOUNDED,
                "weight_lr_power": UNBOUNDED,
                "eps": UNBOUNDED,
            },
            ("d", "v"),
            "iter",
            {
                "weight_sum": ("lr", "warmup_steps", "r", "weight_lr_power"),
                "lr_max": ("lr", "warmup_steps"),
            },
            own_decay=True,
            flags={"training": ()},
            positive=("v",),
            exact=("d",),
            book=False,
        ),
        _for_adapter(
            "SklearnAdam",
            _ADAM,
            ("m", "v"),
            "iter",
            positive=("v",),
            other_loop="sklearnadam_numpy1" if np.__version__.startswith("1.") else "",
        ),
        _for_adapter(
            "SklearnNesterov",
            {"lr": UNBOUNDED, "momentum": FRACTION},
            ("v",),
        ),
        _for_adapter(
            "TorchMomentum",
            {"lr": UNBOUNDED, "momentum": FRACTION, "dampening": UNBOUNDED},
            ("b",),
            "iter",
        ),
        _for_adapter(
            "TorchNesterov",
            {"lr": UNBOUNDED, "momentum": FRACTION, "dampening": UNBOUNDED},
            ("b",),
            "iter",
        ),
        _for_adapter(
            "TorchAdagrad",
            {"lr": UNBOUNDED, "lr_decay": UNBOUNDED, "eps": UNBOUNDED},
            ("h",),
            "iter",
            positive=("h",),
        ),
        _for_adapter(
            "TorchRMSpropMomentum",
            {"lr": UNBOUNDED, "alpha": FRACTION, "momentum": FRACTION, "eps": UNBOUNDED},
            ("v", "b"),
            positive=("v",),
        ),
        _for_adapter(
            "TorchRMSpropCentered",
            {"lr": UNBOUNDED, "alpha": FRACTION, "eps": UNBOUNDED},
            ("v", "a"),
            positive=("v",),
            exact=("v", "a"),
        ),
        _for_adapter(
            "TorchRMSpropCenteredMomentum",
            {"lr": UNBOUNDED, "alpha": FRACTION, "momentum": FRACTION, "eps": UNBOUNDED},
            ("v", "a", "b"),
            positive=("v",),
            exact=("v", "a"),
        ),
        _for_adapter(
            "TorchNAdam",
            {**_MEANS, "momentum_decay": UNBOUNDED, "eps": UNBOUNDED},
            ("m", "v"),
            "iter",
            {"mu_product": ("beta1", "momentum_decay")},
            positive=("v",),
        ),
    )
}

#: Those that are for users.
PUBLIC = {name: rule for name, rule in RULES.items() if rule.public}


def refuse_name(module: str, name: str) -> NoReturn:
    """Raise, from a module's ``__getattr__``; for a rule that is spelled otherwise, say how."""
    text = f"module {module!r} has no attribute {name!r}"
    meant = [rule for rule in PUBLIC if rule.lower() == name.lower()]
    if meant:
        text += f": here it is {meant[0]}"
        # For "from zdlfast import Adagrad" Python would put a text of its own in the place of an
        # AttributeError's.
        if sys._getframe(2).f_code.co_name == "_handle_fromlist":
            raise ImportError(text, name=module)
    raise AttributeError(text, name=name)
