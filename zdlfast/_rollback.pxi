# A change happens whole or not at all. Included by _engine.pyx.
#
# That has to hold when a signal arrives. Its handler, which may raise KeyboardInterrupt, runs
# between Python's bytecodes; here are none.

cdef enum:
    # A container that is written in Python may be interrupted by signals while it takes a value
    # back, again and again, and each time that is repeated. But no signals come so often: then
    # it is the container itself that raises, always, and without a limit nothing would end it.
    HOPELESS = 100000       # attempts, which take less than a second


cdef class Rollback:
    """Puts back, at the end of a ``with`` block that raised, what was changed in it.

    Examples
    --------
    >>> values = {"x": 1.0}
    >>> with Rollback() as rollback:                    # doctest: +SKIP
    ...     rollback.add(values, "x", 1.0)
    ...     values["x"] = 2.0
    ...     raise ValueError                            # values["x"] is 1.0 again
    """

    cdef list changes

    def __cinit__(self):
        self.changes = []

    def add(self, container, key, value):
        """Note the value that ``container[key]`` has before it is changed."""
        self.changes.append((container, key, value))

    cdef int add_array(self, array) except -1:
        """Note the elements that an exact array has before they are changed."""
        cdef PyObject *copied = PyArray_NewCopy(<PyArrayObject *>array, NPY_KEEPORDER)
        cdef object before = <object>copied
        Py_DECREF(copied)   # of which `before` is the owner now
        self.changes.append((array, ..., before))
        return 0

    def finish(self, function, *args):
        """Call what does the rest: whole, or it raises and nothing of it was done."""
        function(*args)
        self.changes.clear()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        cdef tuple change
        cdef int attempts = 0
        cdef object interrupt = None
        if kind is None:
            return
        while self.changes:
            change = <tuple>self.changes[len(self.changes) - 1]
            try:
                PyObject_SetItem(<object>change[0], <object>change[1], <object>change[2])
            except Exception:
                pass        # a container that takes nothing back; the rest still goes
            except BaseException as again:
                interrupt = again
                attempts += 1
                if attempts < HOPELESS:
                    continue
            self.changes.pop()
            attempts = 0
        if interrupt is not None:
            raise interrupt     # not lost, whatever the first error was
