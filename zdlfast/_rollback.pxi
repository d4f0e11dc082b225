# A change happens whole or not at all. Included by _engine.pyx.
#
# That has to hold when a signal arrives. Its handler, which may raise KeyboardInterrupt, runs
# between Python's bytecodes; here are none.

cdef class Rollback:
    """Undoes, at the end of a ``with`` block that raised, what was done in it.

    Examples
    --------
    >>> values = {"x": 1.0}
    >>> with Rollback() as rollback:                    # doctest: +SKIP
    ...     rollback.add(setitem, values, "x", 1.0)
    ...     values["x"] = 2.0
    ...     raise ValueError                            # values["x"] is 1.0 again
    """

    cdef list undo

    def __cinit__(self):
        self.undo = []

    def add(self, function, *args):
        """Note a function and its arguments that would undo what is done next.

        It has to be a function of C for nothing to come between.
        """
        self.undo.append((function, args))     # as they are called: that takes no memory

    def finish(self, function, *args):
        """Call what does the rest: whole, or it raises and nothing of it was done."""
        function(*args)
        self.undo.clear()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            return
        cdef tuple call
        while self.undo:
            call = <tuple>self.undo[len(self.undo) - 1]
            try:
                PyObject_Call(<object>call[0], <tuple>call[1], NULL)
            except Exception:
                pass        # a container that takes nothing back; the rest still goes
            except BaseException:
                continue    # interrupted again, in a container that is written in Python
            self.undo.pop()
