"""The table of rules: what is known of each one but its formula and its loop.

Base class, drop-in, files, tests, benchmark and documents walk it.
"""

import importlib
import math
import sys
from dataclasses import dataclass
from typing import Any

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
    #: The attributes that hold further state: one float for all parameters.
    numbers: tuple[str, ...] = ()
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


#: By name, in the book's order.
RULES = {
    rule.name: rule
    for rule in (
        Rule("SGD", {"lr": UNBOUNDED}),
        Rule("Momentum", {"lr": UNBOUNDED, "momentum": FRACTION}, ("v",)),
        Rule("Nesterov", {"lr": UNBOUNDED, "momentum": FRACTION}, ("v",)),
        Rule("AdaGrad", {"lr": UNBOUNDED, "eps": UNBOUNDED}, ("h",)),
        Rule("RMSprop", {"lr": UNBOUNDED, "decay_rate": FRACTION, "eps": UNBOUNDED}, ("h",)),
        Rule(
            "Adam",
            {"lr": UNBOUNDED, "beta1": FRACTION, "beta2": FRACTION, "eps": UNBOUNDED},
            ("m", "v"),
            "iter",
        ),
        Rule(
            "SklearnAdam",
            {"lr": UNBOUNDED, "beta1": FRACTION, "beta2": FRACTION, "eps": UNBOUNDED},
            ("m", "v"),
            "iter",
            book=False,
            public=False,
            other_loop="sklearnadam_numpy1" if np.__version__.startswith("1.") else "",
        ),
        Rule(
            "SklearnNesterov",
            {"lr": UNBOUNDED, "momentum": FRACTION},
            ("v",),
            book=False,
            public=False,
        ),
    )
}

#: Those that are for users.
PUBLIC = {name: rule for name, rule in RULES.items() if rule.public}
