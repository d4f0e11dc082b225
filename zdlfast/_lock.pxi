# One optimizer is used by one thread at a time. Included by _engine.pyx.

cdef extern from "_lock.h":
    ctypedef struct zdl_lock:
        pass
    ctypedef struct zdl_waiter
    enum: ZDL_TAKEN, ZDL_QUEUED, ZDL_OWN, ZDL_LOST, ZDL_NO_MEMORY
    int zdl_locks_start()
    void zdl_lock_init(zdl_lock *lock)
    bint zdl_lock_try(zdl_lock *lock, bint writes)
    int zdl_lock_queue(zdl_lock *lock, bint writes, zdl_waiter **waiter) nogil
    bint zdl_lock_wait(zdl_waiter *waiter, unsigned milliseconds) nogil
    void zdl_lock_leave(zdl_lock *lock, zdl_waiter *waiter) nogil
    void zdl_lock_release(zdl_lock *lock) nogil

cdef enum:
    # Who waits is woken when it is its turn; so often it looks for signals besides.
    LOOK_UP = 50            # milliseconds

if zdl_locks_start() != 0:
    raise MemoryError("no memory to prepare for forks")


cdef class Locked:
    """What one thread uses at a time: the base of every optimizer."""

    cdef zdl_lock lock
    cdef public object _last        # what the last update did
    cdef public long long _updates  # done, where no attribute of the optimizer counts them

    def __cinit__(self, *args, **kwargs):
        zdl_lock_init(&self.lock)
        if kwargs:
            self._check_arguments(args, kwargs)

    def _locked(self, bint writes, work, *args):
        """Return ``work(*args)``, called while no other thread uses this object.

        Parameters
        ----------
        writes : bool
            Whether it is changed, so that a fork in the middle has half of a change.

        Raises
        ------
        RuntimeError
            This thread uses it already, or it is a copy that a fork made in the middle of a
            change.
        """
        acquire(self, writes)
        try:
            return work(*args)
        finally:
            zdl_lock_release(&self.lock)


cdef inline int acquire(Locked locked, bint writes) except -1:
    if zdl_lock_try(&locked.lock, writes):
        return 0
    return wait_for(locked, writes)


cdef int wait_for(Locked locked, bint writes) except -1:
    cdef zdl_waiter *waiter = NULL
    cdef str name = type(locked).__name__
    cdef int found = zdl_lock_queue(&locked.lock, writes, &waiter)
    cdef bint taken
    if found == ZDL_TAKEN:
        return 0
    if found == ZDL_OWN:
        raise RuntimeError(
            f"this {name} is in use by this very thread: it was called from within, by a "
            "container of an update or by a signal handler"
        )
    if found == ZDL_LOST:
        raise RuntimeError(
            f"another thread was using this {name} when the process was forked, so that half of "
            "an update is missing here: make a new one"
        )
    if found == ZDL_NO_MEMORY:
        raise MemoryError(f"no memory to wait for a {name}")
    try:
        while True:
            with nogil:
                taken = zdl_lock_wait(waiter, LOOK_UP)
            if taken:
                return 0
            PyErr_CheckSignals()
            if sys.is_finalizing():
                raise RuntimeError(
                    f"a thread that used this {name} was stopped in the middle, because the "
                    "interpreter ends"
                )
    except BaseException:
        zdl_lock_leave(&locked.lock, waiter)
        raise
