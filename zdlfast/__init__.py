"""The optimizers of "Deep Learning from Scratch", fast, and equal to NumPy bit for bit.

::

    from zdlfast import Adam            # was: from common.optimizer import Adam

    optimizer = Adam(lr=0.001)
    optimizer.update(params, grads)     # dicts or lists of arrays, updated in place

`zdlfast.reference` has the same classes in plain NumPy.
"""

import os as _os

try:
    import zdlfast._engine as _engine

    _engine.use(_os.environ.get("ZDLFAST_SIMD") or _engine.available()[-1])
except ImportError as _error:
    raise ImportError(
        f"zdlfast's compiled kernels cannot be imported ({_error}). In a checkout, build them "
        "with 'python -m pip install -e .' (this takes a C compiler); elsewhere, run "
        "'python -m pip install --force-reinstall zdlfast'."
    ) from _error
except ValueError as _error:
    raise ValueError(f"ZDLFAST_SIMD={_os.environ['ZDLFAST_SIMD']!r}: {_error}") from None

from zdlfast import optimizers
from zdlfast.drop_in import patch
from zdlfast.optimizers import *  # noqa: F403 - one list of names, in optimizers.py

__version__ = "0.1.0"
__all__ = [*optimizers.__all__, "build_info", "patch"]


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
        "threads": 1,
        "compiler": _engine.compiler(),
    }
