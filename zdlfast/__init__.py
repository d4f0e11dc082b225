"""The optimizers of "Deep Learning from Scratch", fast, and equal to NumPy bit for bit.

::

    from zdlfast import Adam            # was: from common.optimizer import Adam

    optimizer = Adam(lr=0.001)
    optimizer.update(params, grads)     # dicts or lists of arrays, updated in place

`zdlfast.reference` has the same classes in plain NumPy. It works without the compiled kernels too.
"""

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from zdlfast import _old_pickles, _rules  # noqa: F401 - _old_pickles for its effect
from zdlfast._encoded import EncodedState
from zdlfast._files import load, save
from zdlfast._optimizer import LastUpdate, Optimizer
from zdlfast._threads import from_environment as _from_environment
from zdlfast._threads import get_num_threads, set_num_threads, threads

if _TYPE_CHECKING:
    from zdlfast import datasets as datasets
    from zdlfast import nn as nn
    from zdlfast import schedules as schedules
    from zdlfast.adapters import patch, patched, unpatch

__version__ = "0.3.0"
__all__ = [
    *_rules.PUBLIC,
    "EMA",
    "EncodedState",
    "LastUpdate",
    "Optimizer",
    "build_info",
    "get_num_threads",
    "load",
    "patch",
    "patched",
    "save",
    "set_num_threads",
    "threads",
    "unpatch",
]

_simd = _os.environ.get("ZDLFAST_SIMD")
_broken: Exception | None = None
try:
    import zdlfast._engine as _engine

    _available = _engine.available()
    if not _simd or _simd in _available:
        _engine.use(_simd or _available[-1])
# NumPy reports an incompatible binary by a ValueError.
except (ImportError, ValueError, AttributeError) as _error:
    _broken = _error
else:
    if _simd and _simd not in _available:
        raise ValueError(
            f"ZDLFAST_SIMD is {_simd!r}, expected one that this CPU has: {_available}"
        )
    from zdlfast.ema import EMA
    from zdlfast.optimizers import *  # noqa: F403 - one list of names, in optimizers.py

_from_environment()  # a mistake there is told now, not in the middle of a training


def build_info() -> dict[str, object]:
    """How this zdlfast was built and what it uses here.

    Returns
    -------
    dict
        ``version``; ``simd``, the instruction set in use, and ``simd_available``, all that
        could be set by the environment variable ``ZDLFAST_SIMD``; ``threads``, how many
        an update may use; ``compiler``, its name and version.

    Examples
    --------
    >>> build_info()["simd"] in build_info()["simd_available"]
    True
    """
    if _broken is not None:
        raise _no_kernels()
    return {
        "version": __version__,
        "simd": _engine.in_use(),
        "simd_available": _engine.available(),
        "threads": get_num_threads(),
        "compiler": _engine.compiler(),
    }


def _no_kernels() -> ImportError:
    return ImportError(
        f"zdlfast's compiled kernels cannot be imported ({_broken}). In a checkout, build them "
        "with 'python -m pip install -e .', which takes a C compiler; elsewhere, install zdlfast "
        "again. Without them there is zdlfast.reference, the same optimizers in plain NumPy."
    )


def __getattr__(name: str) -> _Any:
    # An import of zdlfast is to be short: not everyone takes these.
    if name in ("datasets", "nn", "schedules"):
        return _import_module(f"{__name__}.{name}")
    if name in ("patch", "patched", "unpatch"):
        from zdlfast import adapters

        return getattr(adapters, name)
    if _broken is not None and name in (*_rules.PUBLIC, "EMA"):
        raise _no_kernels() from _broken
    _rules.refuse_name(__name__, name)
