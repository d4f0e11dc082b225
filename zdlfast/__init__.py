"""The optimizers of "Deep Learning from Scratch", fast, and equal to NumPy bit for bit.

::

    from zdlfast import Adam            # was: from common.optimizer import Adam

    optimizer = Adam(lr=0.001)
    optimizer.update(params, grads)     # dicts or lists of arrays, updated in place

`zdlfast.reference` has the same classes in plain NumPy.
"""

# ruff: noqa: E402 - the kernels are chosen before anything is built on them

import os as _os

_simd = _os.environ.get("ZDLFAST_SIMD")
try:
    import zdlfast._engine as _engine

    _available = _engine.available()
    if not _simd or _simd in _available:
        _engine.use(_simd or _available[-1])
# NumPy reports an incompatible binary by a ValueError.
except (ImportError, ValueError, AttributeError) as _error:
    raise ImportError(
        f"zdlfast's compiled kernels cannot be imported ({_error}). In a checkout, build them "
        "with 'python -m pip install -e .' (this takes a C compiler); elsewhere, run "
        "'python -m pip install --force-reinstall zdlfast'."
    ) from _error
if _simd and _simd not in _available:
    raise ValueError(f"ZDLFAST_SIMD is {_simd!r}, expected one that this CPU has: {_available}")

from zdlfast import optimizers
from zdlfast._files import load, save
from zdlfast._threads import from_environment as _from_environment
from zdlfast._threads import get_num_threads, set_num_threads, threads
from zdlfast.drop_in import patch
from zdlfast.optimizers import *  # noqa: F403 - one list of names, in optimizers.py

__version__ = "0.1.0"
__all__ = [
    *optimizers.__all__,
    "build_info",
    "get_num_threads",
    "load",
    "patch",
    "save",
    "set_num_threads",
    "threads",
]

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
    return {
        "version": __version__,
        "simd": _engine.in_use(),
        "simd_available": _engine.available(),
        "threads": get_num_threads(),
        "compiler": _engine.compiler(),
    }
