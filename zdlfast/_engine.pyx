# cython: language_level=3, boundscheck=False, wraparound=False, autotestdict=False
# cython: cdivision=True, binding=False
"""The engine: takes containers of arrays and runs a rule's loop over their memory.

It knows arrays and no formula. `Kernel.step` does an update if every entry of it is usual:
exact ndarrays of float32 or float64 whose memory does not overlap within the entry. If one
entry is not, it changes nothing and says so, and the NumPy rule takes over.
"""

import importlib

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport PyObject
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, llabs, malloc
from libc.string cimport strcmp

from zdlfast._kernels cimport MAX_SCALARS, MAX_SLOTS, Loop, Rule

cnp.import_array()

cdef extern from "_cpu.h":
    const char *ZDL_COMPILER
    bint zdl_has_avx2()
    bint zdl_has_avx512()
    void ZDL_PREFETCH(uintptr_t address) nogil

# NumPy and Python declared over plain pointers: the engine borrows nearly all references,
# and Cython's own declarations would count each of them.
cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArrayObject
    enum: NPY_FLOAT, NPY_DOUBLE
    enum: NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS
    bint PyArray_CheckExact(PyObject *value) nogil
    bint PyArray_ISWRITEABLE(PyArrayObject *array) nogil
    bint PyArray_ISALIGNED(PyArrayObject *array) nogil
    bint PyArray_ISNOTSWAPPED(PyArrayObject *array) nogil
    int PyArray_FLAGS(PyArrayObject *array) nogil
    int PyArray_TYPE(PyArrayObject *array) nogil
    int PyArray_NDIM(PyArrayObject *array) nogil
    Py_ssize_t PyArray_ITEMSIZE(PyArrayObject *array) nogil
    Py_ssize_t PyArray_DIM(PyArrayObject *array, int axis) nogil
    Py_ssize_t PyArray_STRIDE(PyArrayObject *array, int axis) nogil
    char *PyArray_BYTES(PyArrayObject *array) nogil

cdef extern from "Python.h":
    bint is_dict "PyDict_CheckExact"(PyObject *value)
    bint is_list "PyList_CheckExact"(PyObject *value)
    bint is_str "PyUnicode_CheckExact"(PyObject *value)
    bint is_int "PyLong_CheckExact"(PyObject *value)
    bint PyDict_Next(PyObject *mapping, Py_ssize_t *at, PyObject **key, PyObject **value)
    int PyUnicode_Compare(PyObject *a, PyObject *b)
    PyObject *PyTuple_GetItem(PyObject *items, Py_ssize_t index) except NULL
    dict PyObject_GenericGetDict(object instance, void *context)
    PyObject *PyDict_GetItemWithError(PyObject *mapping, PyObject *key) except? NULL
    PyObject *PyList_GetItem(PyObject *items, Py_ssize_t index) except NULL
    Py_ssize_t PyList_Size(PyObject *items) except -1
    int PyObject_GenericSetAttr(object instance, object name, object value) except -1
    double PyFloat_AsDouble(PyObject *value)
    void PyErr_Clear()
    void Py_INCREF(PyObject *value)
    void Py_DECREF(PyObject *value)

cdef enum:
    STREAMS = 2 + MAX_SLOTS     # parameter, gradient and state
    FEW = 16                # items that fit on the stack
    BORDER = 64             # bytes: a cache line, and the widest instruction
    ALIGN_FROM = 4096       # bytes of a parameter from which on a start at a border pays
    FETCH_FROM = 1048576    # bytes of an entry from which on it is memory that limits
    STEP = 256              # bytes of a parameter between two bursts of prefetches
    AHEAD = 2               # steps from a prefetch to the use
    RELEASE_FROM = 1572864  # bytes: some 30 us, from which on giving up the GIL pays

include "_blocks.pxi"


# ------------------------------------------------------------------ instruction sets

cdef const Rule *table = NULL
cdef str table_name = None


def available() -> list[str]:
    """The instruction sets that this CPU has, narrowest first."""
    names = ["baseline"]
    if zdl_has_avx2():
        names.append("avx2")
    if zdl_has_avx512():
        names.append("avx512")
    return names


def use(str simd) -> None:
    """From now on take the kernels that were built for this instruction set."""
    global table, table_name
    if simd not in available():
        raise ValueError(f"no kernels for {simd!r} on this machine, only {available()}")
    module = importlib.import_module(f"zdlfast._kernels_{simd}")
    table = <const Rule *>PyCapsule_GetPointer(module.table, b"zdlfast.rules")
    table_name = simd


def in_use() -> str | None:
    """The instruction set whose kernels are used."""
    return table_name


def compiler() -> str:
    """Name and version of the compiler that built the engine."""
    return (<bytes>ZDL_COMPILER).decode().strip()


# ------------------------------------------------------------------ one entry of an update

# The work for one parameter: elements that are contiguous in every array, or a walk.
cdef struct Item:
    Loop loop
    Py_ssize_t n
    Py_ssize_t begin                    # on the line of all items, in bytes
    Py_ssize_t[STREAMS] itemsize
    char *data[STREAMS]
    Walk *walk                          # owned, NULL for contiguous arrays
    PyArrayObject *arrays[STREAMS]      # owned
    int count


cdef inline Py_ssize_t length(const Item *item) noexcept nogil:
    """The bytes that an item occupies, as a measure of the work on it."""
    cdef Py_ssize_t bytes = 0
    cdef int i
    for i in range(item.count):
        bytes += item.itemsize[i]
    # To gather and scatter elements takes a multiple of the time.
    return item.n * bytes * (4 if item.walk != NULL else 1)


cdef inline bint same_shape(PyArrayObject *a, PyArrayObject *b) noexcept nogil:
    cdef int ndim = PyArray_NDIM(a), axis
    if ndim != PyArray_NDIM(b):
        return False
    for axis in range(ndim):
        if PyArray_DIM(a, axis) != PyArray_DIM(b, axis):
            return False
    return True


cdef void bounds(PyArrayObject *array, uintptr_t *low, uintptr_t *high) noexcept nogil:
    """The address of an array's first byte, and of the one after its last; it is not empty."""
    cdef Py_ssize_t reach
    cdef int axis
    low[0] = <uintptr_t>PyArray_BYTES(array)
    high[0] = low[0] + PyArray_ITEMSIZE(array)
    for axis in range(PyArray_NDIM(array)):
        reach = (PyArray_DIM(array, axis) - 1) * PyArray_STRIDE(array, axis)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach


cdef inline void extent_of(
    const Item *item, int i, uintptr_t *low, uintptr_t *high
) noexcept nogil:
    """The same of array `i` of an item, at once where it is contiguous."""
    if item.walk == NULL:
        low[0] = <uintptr_t>item.data[i]
        high[0] = low[0] + item.n * item.itemsize[i]
    else:
        bounds(item.arrays[i], low, high)


def extent(array) -> tuple[int, int]:
    """The bounds of an array's memory, as `bounds` gives them."""
    cdef uintptr_t low, high
    if not isinstance(array, cnp.ndarray):
        raise TypeError(f"array must be an ndarray, got {type(array).__name__}")
    bounds(<PyArrayObject *><PyObject *>array, &low, &high)
    return low, high


cdef bint share_memory(const Item *item) noexcept nogil:
    """Whether two arrays of an item may share memory, judged by their first and last bytes."""
    cdef uintptr_t[STREAMS] low
    cdef uintptr_t[STREAMS] high
    cdef int i, j
    for i in range(item.count):
        extent_of(item, i, &low[i], &high[i])
        for j in range(i):
            if low[i] < high[j] and low[j] < high[i]:
                return True
    return False


cdef bint prepare(Item *item, const Rule *rule, PyObject **values) except -1:
    """Fill in `item` from a parameter, its gradient and its state, if all are usual.

    Changes nothing. An item that was filled in has to be released.
    """
    cdef int count = 2 + rule.slots, i, axis, kind
    cdef int order = NPY_ARRAY_ALIGNED | NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS
    cdef bint[STREAMS] wide
    cdef bint native = True
    cdef PyArrayObject **arrays = <PyArrayObject **>values
    for i in range(count):
        if not PyArray_CheckExact(values[i]):
            return False
        kind = PyArray_TYPE(arrays[i])
        if kind != NPY_FLOAT and kind != NPY_DOUBLE:
            return False
        if i > 0 and not same_shape(arrays[0], arrays[i]):
            return False
        if i != 1 and not PyArray_ISWRITEABLE(arrays[i]):
            return False
        wide[i] = kind == NPY_DOUBLE
        native = native and PyArray_ISNOTSWAPPED(arrays[i])
        order &= PyArray_FLAGS(arrays[i])
        item.arrays[i] = arrays[i]
        item.data[i] = PyArray_BYTES(arrays[i])
        item.itemsize[i] = 8 if wide[i] else 4
    for i in range(2, count):
        if wide[i] != (wide[0] or (rule.wide_state and wide[1])):
            return False
    item.count = count
    item.loop = rule.loops[wide[0]][wide[1]]
    item.walk = NULL
    item.n = 1
    for axis in range(PyArray_NDIM(arrays[0])):
        item.n *= PyArray_DIM(arrays[0], axis)
    if item.n > 0:
        # Aligned, and contiguous in one common order: anything else has to be walked.
        if not native or not order & NPY_ARRAY_ALIGNED or order == NPY_ARRAY_ALIGNED:
            item.walk = make_walk(arrays, count)
        if share_memory(item) or (item.walk != NULL and some_target_meets_itself(item)):
            free(item.walk)
            return False
    for i in range(count):
        Py_INCREF(values[i])
    return True


cdef bint some_target_meets_itself(const Item *item) noexcept nogil:
    cdef int i
    for i in range(item.count):
        if i != 1 and meets_itself(item.walk, i):
            return True
    return False


cdef void release(Item *item) noexcept:
    cdef int i
    free(item.walk)
    for i in range(item.count):
        Py_DECREF(<PyObject *>item.arrays[i])


cdef void execute(
    const Item *item, Py_ssize_t first, Py_ssize_t last, const double *scalars
) noexcept nogil:
    """Update the elements of an item from `first` up to `last`."""
    cdef Py_ssize_t past
    if item.walk != NULL:
        execute_blocks(item, first, last, scalars)
        return
    # NumPy's large arrays start 16 bytes past a border, where each wide access would touch
    # two cache lines.
    if (last - first) * item.itemsize[0] >= ALIGN_FROM:
        past = (<uintptr_t>item.data[0] + first * item.itemsize[0]) % BORDER
        if past:
            past = first + (BORDER - past) // item.itemsize[0]
            execute_span(item, first, past, scalars)
            first = past
    if length(item) < FETCH_FROM:
        execute_span(item, first, last, scalars)
        return
    # The CPU cannot look past the long divisions of many elements, and its own prefetchers are
    # too careful with so many streams: without help, memory would be idle for a tenth of the
    # time.
    while first < last:
        past = min(first + STEP // item.itemsize[0], last)
        fetch(item, past + (AHEAD - 1) * STEP // item.itemsize[0], STEP // item.itemsize[0])
        execute_span(item, first, past, scalars)
        first = past


cdef inline void fetch(const Item *item, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Prefetch `n` elements from `first` on, which may lie past the end."""
    cdef uintptr_t line, end
    cdef int i
    for i in range(item.count):
        line = <uintptr_t>item.data[i] + first * item.itemsize[i]
        end = line + n * item.itemsize[i]
        while line < end:
            ZDL_PREFETCH(line)
            line += BORDER


cdef inline void execute_span(
    const Item *item, Py_ssize_t first, Py_ssize_t last, const double *scalars
) noexcept nogil:
    cdef char *data[STREAMS]
    cdef int i
    for i in range(STREAMS):
        data[i] = item.data[i] + first * item.itemsize[i] if i < item.count else NULL
    item.loop(data[0], data[1], data[2], data[3], last - first, scalars)


cdef void execute_blocks(
    const Item *item, Py_ssize_t first, Py_ssize_t last, const double *scalars
) noexcept nogil:
    cdef double[STREAMS][BLOCK] buffers
    cdef char *data[STREAMS]
    cdef Py_ssize_t n
    cdef int i
    while first < last:
        n = min(<Py_ssize_t>BLOCK, last - first)
        for i in range(item.count):
            if item.walk.is_span[i]:
                data[i] = item.data[i] + first * item.itemsize[i]
            else:
                data[i] = <char *>buffers[i]
                copy_block(item.walk, i, item.data[i], first, n, data[i], True)
        item.loop(data[0], data[1], data[2], data[3], n, scalars)
        for i in range(item.count):
            if i != 1 and not item.walk.is_span[i]:
                copy_block(item.walk, i, item.data[i], first, n, data[i], False)
        first += n


include "_cut.pxi"
include "_turns.pxi"


# ------------------------------------------------------------------ a whole update

cdef bint prepare_lists(
    Item *items, Py_ssize_t *ready, const Rule *rule, PyObject **containers, Py_ssize_t size
) except -1:
    cdef PyObject *values[STREAMS]
    cdef int i
    for i in range(1, 2 + rule.slots):
        if PyList_Size(containers[i]) < size:
            return False
    while ready[0] < size:
        for i in range(2 + rule.slots):
            values[i] = PyList_GetItem(containers[i], ready[0])
        if not prepare(&items[ready[0]], rule, values):
            return False
        ready[0] += 1
    return True


cdef bint prepare_dicts(
    Item *items, Py_ssize_t *ready, const Rule *rule, PyObject **containers, Py_ssize_t size
) except -1:
    cdef PyObject *values[STREAMS]
    cdef Py_ssize_t[STREAMS] position
    cdef PyObject *key
    cdef bint usual = False
    cdef int i, count = 2 + rule.slots
    for i in range(count):
        position[i] = 0
    while PyDict_Next(containers[0], &position[0], &key, &values[0]):
        if ready[0] == size or not is_usual(key):
            return False
        # Dicts filled in the same order are walked in step, without a look-up.
        if not next_in_step(containers, position, count, key, values):
            if not usual:
                for i in range(1, count):
                    if not has_usual_keys(containers[i]):
                        return False
                usual = True
            for i in range(1, count):
                values[i] = PyDict_GetItemWithError(containers[i], key)
                if values[i] == NULL:
                    return False
        if not prepare(&items[ready[0]], rule, values):
            return False
        ready[0] += 1
    return ready[0] == size


cdef inline bint is_usual(PyObject *key) noexcept:
    """Whether to look up a key runs no Python code, which could change anything."""
    return is_str(key) or is_int(key)


cdef bint has_usual_keys(PyObject *mapping) noexcept:
    cdef Py_ssize_t at = 0
    cdef PyObject *key
    cdef PyObject *value
    while PyDict_Next(mapping, &at, &key, &value):
        if not is_usual(key):
            return False
    return True


cdef inline bint next_in_step(
    PyObject **containers, Py_ssize_t *position, int count, PyObject *key, PyObject **values
) noexcept:
    """Go on to the next entry of all dicts but the first; tell if each has this key."""
    cdef PyObject *other
    cdef bint same = True
    cdef int i
    for i in range(1, count):
        same = PyDict_Next(containers[i], &position[i], &other, &values[i]) and same and (
            other == key
            or (is_str(other) and is_str(key) and PyUnicode_Compare(other, key) == 0)
        )
    return same


cdef object attribute(object optimizer, dict attributes, str name, Py_ssize_t *at):
    """The value of an attribute, found fastest at place `at` of the instance's dict."""
    cdef PyObject *key
    cdef PyObject *value
    if PyDict_Next(<PyObject *>attributes, at, &key, &value) and key == <PyObject *>name:
        return <object>value
    return getattr(optimizer, name)


cdef class Kernel:
    """One rule, for all entries of an update at once.

    Parameters
    ----------
    rule : str
        The rule's name in the table of the kernels.
    options, slots : tuple of str
        The optimizer's attributes that hold its options and its state, in the order in which
        the rule takes them.
    counter : str, optional
        The optimizer's attribute that counts steps.
    """

    cdef int row
    cdef tuple options, slots
    cdef str counter

    def __init__(self, str rule, tuple options, tuple slots, str counter=None):
        cdef bytes name = rule.encode()
        self.row = 0
        while table[self.row].name != NULL and strcmp(table[self.row].name, name) != 0:
            self.row += 1
        if table[self.row].name == NULL:
            raise ValueError(f"the kernels have no rule {rule!r}")
        if table[self.row].options > MAX_SCALARS or table[self.row].slots > MAX_SLOTS:
            raise ValueError(f"rule {rule!r} has more options or slots than _kernels.pxd allows")
        if (table[self.row].options, table[self.row].slots) != (len(options), len(slots)):
            raise ValueError(
                f"rule {rule!r} takes {table[self.row].options} options and "
                f"{table[self.row].slots} slots, got {options} and {slots}"
            )
        self.options, self.slots, self.counter = options, slots, counter

    def takes(self, param, grad, tuple state) -> bool:
        """Whether `step` would take an entry of these arrays."""
        cdef Item item
        cdef PyObject *values[STREAMS]
        cdef int i
        values[0], values[1] = <PyObject *>param, <PyObject *>grad
        for i in range(table[self.row].slots):
            values[2 + i] = PyTuple_GetItem(<PyObject *>state, i)
        if not prepare(&item, &table[self.row], values):
            return False
        release(&item)
        return True

    def update(self, optimizer, params, grads) -> bool:
        """Do `step` in the optimizer's turn, with the state that lies in it."""
        cdef Use *use = begin_use(<PyObject *>optimizer, True)
        try:
            return self.update_in_turn(optimizer, params, grads)
        finally:
            end_use(use)

    cdef bint update_in_turn(self, optimizer, params, grads) except -1:
        cdef double[MAX_SCALARS] scalars
        cdef dict attributes = PyObject_GenericGetDict(optimizer, NULL)
        cdef Py_ssize_t at = 0
        cdef object s0 = None, s1 = None
        cdef object count = self.next_step(optimizer, attributes, &at, scalars)
        if count is NotImplemented:
            return False
        if table[self.row].slots > 0:
            s0 = attribute(optimizer, attributes, <str>self.slots[0], &at)
        if table[self.row].slots > 1:
            s1 = attribute(optimizer, attributes, <str>self.slots[1], &at)
        if attribute(optimizer, attributes, "nonfinite", &at) != "propagate":
            return False
        return self.apply(optimizer, count, params, grads, s0, s1, scalars)

    def step(self, optimizer, params, grads, s0=None, s1=None) -> bool:
        """Apply the rule to every entry and count the step, or return False: nothing changed.

        Parameters
        ----------
        optimizer : Optimizer
            What has the options and the step count.
        params, grads, s0, s1 : dict or list
            The arrays; of the state as many as the rule has slots.
        """
        cdef double[MAX_SCALARS] scalars
        cdef Py_ssize_t at = 0
        cdef dict attributes = PyObject_GenericGetDict(optimizer, NULL)
        cdef object count = self.next_step(optimizer, attributes, &at, scalars)
        if count is NotImplemented:
            return False
        return self.apply(optimizer, count, params, grads, s0, s1, scalars)

    cdef object next_step(
        self, object optimizer, dict attributes, Py_ssize_t *at, double *scalars
    ):
        """Compute the scalars of the coming step; return its count, if steps are counted.

        A count that is too large for a float is NotImplemented: NumPy's rule is to tell of it.
        """
        cdef const Rule *rule = &table[self.row]
        cdef double[MAX_SCALARS] options
        cdef double t = 0.0
        cdef object count = None
        cdef int i
        for i in range(rule.options):
            options[i] = attribute(optimizer, attributes, <str>self.options[i], at)
        if self.counter is not None:
            count = attribute(optimizer, attributes, self.counter, at) + 1
            t = PyFloat_AsDouble(<PyObject *>count)
            if t == -1.0:
                PyErr_Clear()
                return NotImplemented
        rule.scalars(options, t, scalars)
        return count

    cdef bint apply(
        self, optimizer, count, params, grads, s0, s1, const double *scalars
    ) except -1:
        cdef const Rule *rule = &table[self.row]
        cdef bint by_key = is_dict(<PyObject *>params)
        cdef PyObject *containers[STREAMS]
        cdef Item[FEW] few
        cdef Item *items = few
        cdef Py_ssize_t size, ready = 0, bytes = 0, k
        cdef int i, threads = 1
        containers[0], containers[1] = <PyObject *>params, <PyObject *>grads
        containers[2], containers[3] = <PyObject *>s0, <PyObject *>s1
        for i in range(2 + rule.slots):
            if not (is_dict(containers[i]) if by_key else is_list(containers[i])):
                return False
        size = len(params)
        if size > FEW:
            items = <Item *>malloc(size * sizeof(Item))
            if items == NULL:
                raise MemoryError(f"no memory for an update of {size} parameters")
        try:
            if by_key:
                if not prepare_dicts(items, &ready, rule, containers, size):
                    return False
            elif not prepare_lists(items, &ready, rule, containers, size):
                return False
            for k in range(ready):
                items[k].begin = bytes
                bytes += length(&items[k])
            if bytes >= HELP_FROM_AWAKE and (zdl_in_a_row() or bytes >= HELP_FROM):
                threads = get_num_threads()
            if bytes < RELEASE_FROM:
                execute_all(items, ready, bytes, threads, scalars)
            else:
                with nogil:
                    execute_all(items, ready, bytes, threads, scalars)
            if self.counter is not None:
                # Past the checks of __setattr__, which cost more than a small update.
                PyObject_GenericSetAttr(optimizer, self.counter, count)
            return True
        finally:
            for k in range(ready):
                release(&items[k])
            if items != few:
                free(items)
