"""Training by the processes of an MPI program: needs mpi4py (``pip install '.[mpi]'``).

::

    from zdlfast import Adam
    from zdlfast.mpi import DataParallel

    optimizer = DataParallel(Adam())
    optimizer.update(params, grads)     # on all ranks, each with gradients of its own
"""

from zdlfast.mpi._parallel import DataParallel, Reduction

__all__ = ["DataParallel", "Reduction"]
