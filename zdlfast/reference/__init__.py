"""The optimizers in plain NumPy: the slow path, and the oracle of the fast one.

Each module is one rule of "Deep Learning from Scratch" (Saito, O'Reilly Japan), in the
order of operations of the book's own code, so that float64 results equal the book's bit
for bit. A rule takes a parameter, its gradient, its state and the step's scalars, works
in place where NumPy can, and returns the new parameter and the new state.

The scalars of a step are Python floats, computed once in double precision. NumPy rounds
them to an array's own dtype, which keeps float32 training in float32. (The book's Adam
uses ``np.sqrt`` for its step size; that makes it an ``np.float64``, and since NumPy 2 the
whole update is then computed in double precision.)

Nothing here needs the compiled extension.
"""

from typing import NoReturn as _NoReturn

from zdlfast._rules import refuse_name as _refuse_name
from zdlfast.reference.adabelief import AdaBelief
from zdlfast.reference.adabound import AdaBound
from zdlfast.reference.adadelta import AdaDelta
from zdlfast.reference.adagrad import AdaGrad
from zdlfast.reference.adam import Adam
from zdlfast.reference.adamax import Adamax
from zdlfast.reference.adamw import AdamW
from zdlfast.reference.adopt import ADOPT
from zdlfast.reference.amsbound import AMSBound
from zdlfast.reference.amsgrad import AMSGrad
from zdlfast.reference.ema import EMA
from zdlfast.reference.lion import Lion
from zdlfast.reference.momentum import Momentum
from zdlfast.reference.nadam import NAdam
from zdlfast.reference.nesterov import Nesterov
from zdlfast.reference.nesterov_book2 import NesterovBook2
from zdlfast.reference.radam import RAdam
from zdlfast.reference.rmsprop import RMSprop
from zdlfast.reference.schedulefree_adamw import ScheduleFreeAdamW
from zdlfast.reference.sgd import SGD
from zdlfast.reference.sklearn import SklearnAdam as SklearnAdam
from zdlfast.reference.sklearn import SklearnNesterov as SklearnNesterov
from zdlfast.reference.torch import TorchAdagrad as TorchAdagrad
from zdlfast.reference.torch import TorchMomentum as TorchMomentum
from zdlfast.reference.torch import TorchNAdam as TorchNAdam
from zdlfast.reference.torch import TorchNesterov as TorchNesterov
from zdlfast.reference.torch import TorchRMSpropCentered as TorchRMSpropCentered
from zdlfast.reference.torch import TorchRMSpropCenteredMomentum as TorchRMSpropCenteredMomentum
from zdlfast.reference.torch import TorchRMSpropMomentum as TorchRMSpropMomentum

# The rules: the book's, then others, as in the table of rules. And what goes with them.
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
    "EMA",
]

# Pickles name the package, in which the pages are.
for _name in __all__:
    globals()[_name].__module__ = __name__


def __getattr__(name: str) -> _NoReturn:
    _refuse_name(__name__, name)
