# One optimizer is used by one thread at a time, and an update happens whole or not at all.
# Included by _engine.pyx.
#
# Both have to hold when a signal arrives. Its handler, which may raise KeyboardInterrupt, runs
# between Python's bytecodes; here are none.

import os
import sys
from time import sleep

from cpython.exc cimport PyErr_CheckSignals

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

cdef double PATIENCE = 0.0001   # seconds: few ever wait, and a large update takes longer
cdef int TRIES = 3              # at an interrupted undo
cdef int MOST_STEPS = 1000      # from one who waits to the one waited for

# Somebody who uses an optimizer, or waits for it: the first one in the queue has it. Not on the
# user's stack, which is gone after a fork, or if the interpreter ends.
cdef struct Use:
    PyObject *optimizer
    unsigned long thread    # 0 if a fork left it behind
    bint writes
    Use *next

cdef Use *queue = NULL      # of all uses; the GIL guards it
cdef Use *spare = NULL


cdef inline Use *begin_use(PyObject *optimizer, bint writes) except NULL:
    """Line up for the optimizer, and wait for it."""
    global spare
    cdef Use *use = spare
    cdef Use **link = &queue
    if use != NULL:
        spare = use.next
    else:
        use = <Use *>malloc(sizeof(Use))
        if use == NULL:
            raise MemoryError("no memory to use an optimizer")
    use.optimizer, use.writes, use.next = optimizer, writes, NULL
    use.thread = PyThread_get_thread_ident()
    while link[0] != NULL:
        link = &link[0].next
    link[0] = use
    if queue != use:
        wait_for_turn(use)
    return use


cdef inline void end_use(Use *use) noexcept:
    global spare
    cdef Use **link = &queue
    while link[0] != use:
        link = &link[0].next
    link[0] = use.next
    use.next = spare
    spare = use


cdef Use *first_before(const Use *use) noexcept:
    """The one who has the optimizer that somebody waits for; NULL if it is nobody else."""
    cdef Use *first = queue
    while first.optimizer != use.optimizer:
        first = first.next
    return first if first != use else NULL


cdef bint waits_for_itself(const Use *use) noexcept:
    """Whether who has the optimizer is this thread, or waits for one that this thread has."""
    cdef const Use *first = first_before(use)
    cdef const Use *other
    cdef int steps = 0
    while first != NULL and steps < MOST_STEPS:
        steps += 1
        if first.thread == use.thread:
            return True
        other = queue
        while other != NULL and (other.thread != first.thread or first_before(other) == NULL):
            other = other.next
        first = first_before(other) if other != NULL else NULL
    return False


cdef int wait_for_turn(Use *use) except -1:
    cdef Use *first = first_before(use)
    cdef str name
    try:
        while first != NULL:
            name = type(<object>use.optimizer).__name__
            if first.thread == 0:
                raise RuntimeError(
                    f"another thread was using this {name} when the process was forked, so that "
                    "half of an update is missing here: make a new one"
                )
            if waits_for_itself(use):
                raise RuntimeError(
                    f"this {name} is in use by this very thread, or by one that waits for it: it "
                    "was called from within, by a container of an update or by a signal handler"
                )
            if sys.is_finalizing():
                raise RuntimeError(
                    f"a thread that used this {name} was stopped in the middle, because the "
                    "interpreter ends"
                )
            sleep(PATIENCE)
            PyErr_CheckSignals()    # of those that came while it did not sleep
            first = first_before(use)
    except BaseException:
        end_use(use)
        raise
    return 0


def _after_fork() -> None:
    """In the new process, keep what other threads were changing, and let go of all else."""
    cdef Use *use = queue
    cdef Use *following
    # Who has an optimizer is known only while those before them are there.
    while use != NULL:
        if use.thread != PyThread_get_thread_ident() and use.thread != 0:
            if use.writes and first_before(use) == NULL:
                use.thread = 0
                Py_INCREF(use.optimizer)    # no other one is to have its address
        use = use.next
    use = queue
    while use != NULL:
        following = use.next
        if use.thread != PyThread_get_thread_ident() and use.thread != 0:
            end_use(use)
        use = following


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def in_turn(optimizer, bint writes, work, *args):
    """Return ``work(*args)``, called while no other thread uses the optimizer.

    Parameters
    ----------
    writes : bool
        Whether the optimizer is changed, so that a fork in the middle has half of it.

    Raises
    ------
    RuntimeError
        This thread uses it already, or it is a copy that a fork made in the middle of a change.
    """
    cdef Use *use = begin_use(<PyObject *>optimizer, writes)
    try:
        return work(*args)
    finally:
        end_use(use)


def attempt(work, list undo) -> None:
    """Call ``work()`` and then what it returns; if either fails, undo everything and raise.

    Parameters
    ----------
    work : callable
        It may be interrupted anywhere. What would undo it, it puts into `undo` beforehand. It
        returns the last thing to do, if any: a call that changes all or, if it fails or
        returns False, nothing.
    undo : list
        Calls, which are made in reverse order. A call is a tuple of a function and its
        arguments; it has to be a function of C for nothing to come between.
    """
    cdef tuple call
    try:
        call = work()
        if call is not None and call[0](*call[1:]) is False:
            raise RuntimeError("arrays were exchanged during an update")
    except BaseException:
        for call in reversed(undo):
            for _ in range(TRIES):
                try:
                    call[0](*call[1:])
                    break
                except Exception:
                    break       # a container that takes nothing back; the rest still goes
                except BaseException:
                    continue    # a second interrupt, in a container that is written in Python
        raise
