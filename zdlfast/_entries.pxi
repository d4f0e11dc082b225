# One parameter of one update with its gradient and its state. Included by _engine.pyx.

# What is to be done with an entry.
cdef enum:
    USUAL           # a kernel takes it
    FRESH           # a kernel will, once there is state
    SIMPLE          # its rule in Python does, and nothing has to be checked or converted for it
    ODD             # NumPy does, after a closer look
    FROZEN          # nothing: its gradient is None

cdef struct Entry:
    PyObject *key                   # NULL in a list, where the place says it
    ReadTensor read                 # of tensors; NULL for arrays
    PyObject *values[MAX_ARRAYS]    # parameter, gradient, state; NULL where there is none yet
    int count                       # of these
    int path
    bint made                       # whether its state is new, and has to be stored
    # What a kernel needs:
    int kind
    Py_ssize_t n
    Py_ssize_t width                # bytes per element, of all arrays
    char *data[MAX_ARRAYS]
    Strides *strides                # owned; NULL for contiguous arrays
    Coding *coding                  # owned; NULL if no state is encoded
    const Group *group              # its options
    int64_t begin                   # on the line of all entries: in bytes, or in chunks of a sum

# The memory of one array, from its first byte to the one after its last.
cdef struct Extent:
    uintptr_t low
    uintptr_t high
    bint written
    Py_ssize_t entry

cdef enum:
    DIGITS = 2048               # of 11 bits


cdef inline object key_of(const Entry *entry, Py_ssize_t place):
    return <object>entry.key if entry.key != NULL else place


cdef inline Py_ssize_t itemsize(const Entry *entry, int i) noexcept nogil:
    """The bytes of an element of array `i`; of encoded state, as the loop takes it."""
    if is_bfloat16(entry, i):
        return 2
    return 8 if entry.kind & (GRAD_DOUBLE if i == 1 else PARAM_DOUBLE) else 4


cdef inline int64_t length(const Entry *entry) noexcept nogil:
    """The bytes that an entry occupies, as a measure of the work on it."""
    return <int64_t>entry.n * entry.width


cdef enum:
    FLOAT32_KIND
    FLOAT64_KIND
    BFLOAT16_KIND
    OTHER_KIND


cdef inline int float_kind(PyArrayObject *array, bint *native) noexcept:
    """What the elements of an array are."""
    cdef PyArray_Descr *dtype = PyArray_DESCR(array)
    cdef int kind
    if dtype == float64:
        return FLOAT64_KIND
    if dtype == float32:
        return FLOAT32_KIND
    kind = PyArray_TYPE(array)
    if kind >= NPY_USERDEF:
        return BFLOAT16_KIND if holds_bfloat16(array) else OTHER_KIND
    if kind != NPY_FLOAT and kind != NPY_DOUBLE:
        return OTHER_KIND
    native[0] = native[0] and PyArray_ISNOTSWAPPED(array)
    return FLOAT64_KIND if kind == NPY_DOUBLE else FLOAT32_KIND


cdef bint holds_bfloat16(PyArrayObject *array) noexcept:
    """Whether an array is one of bfloat16, as `zdlfast._bfloat16` says; runs no Python code."""
    global bfloat16_type
    cdef PyObject *name
    if PyArray_TYPE(array) != bfloat16_type:
        if PyArray_ITEMSIZE(array) != 2:
            return False
        name = PyType_GetName(PyArray_DESCR(array).typeobj)
        if name == NULL:
            PyErr_Clear()
            return False
        if PyUnicode_CompareWithASCIIString(name, b"bfloat16") == 0:
            bfloat16_type = PyArray_TYPE(array)
        Py_DECREF(name)
    return PyArray_TYPE(array) == bfloat16_type and PyArray_ISNOTSWAPPED(array)


cdef inline bint is_array(PyObject *value) noexcept:
    """Whether a value is an array with nothing special about it; a memmap is, but for its type."""
    return PyArray_CheckExact(value) or Py_TYPE(value) == memmap_type


cdef inline bint is_real(PyObject *value) noexcept:
    """Whether a value is a number of Python's or NumPy's float types."""
    cdef void *kind = Py_TYPE(value)
    return (
        is_float(value) or kind == &PyDoubleArrType_Type or kind == &PyFloatArrType_Type
        or kind == &PyHalfArrType_Type or kind == &PyLongDoubleArrType_Type
    )


cdef inline bint holds_floats(PyObject *value) noexcept:
    """Whether a value is an exact array of one of NumPy's float types."""
    cdef int kind
    if not PyArray_CheckExact(value):
        return False
    kind = PyArray_TYPE(<PyArrayObject *>value)
    return NPY_FLOAT <= kind <= NPY_LONGDOUBLE or kind == NPY_HALF


cdef bint is_simple(const Entry *entry, int count) noexcept:
    """Whether the rule in Python can be given an odd entry as it is.

    That is: floats of whatever type, a gradient that may be of integers and broadcast, and all
    state of the parameter's own shape and type, in full.
    """
    cdef PyArrayObject *param = <PyArrayObject *>entry.values[0]
    cdef PyArrayObject *array
    cdef int i, axis, kind, shift, ndim = 0, of_state = NPY_DOUBLE
    if holds_floats(entry.values[0]):
        ndim, of_state = PyArray_NDIM(param), PyArray_TYPE(param)
        if entry.group.encodes or not PyArray_FLAGS(param) & NPY_ARRAY_WRITEABLE:
            return False
    elif not is_real(entry.values[0]):
        return False
    elif not is_float(entry.values[0]):
        of_state = -1       # any: a NumPy scalar may become one of a wider type
    for i in range(1, count):
        array = <PyArrayObject *>entry.values[i]
        if array == NULL:
            return False
        if i == 1 and is_real(entry.values[1]):
            continue
        if not PyArray_CheckExact(entry.values[i]):
            return False
        kind = PyArray_TYPE(array)
        if i == 1:
            if kind > NPY_LONGDOUBLE and kind != NPY_HALF:
                return False
        elif (
            not PyArray_FLAGS(array) & NPY_ARRAY_WRITEABLE or not holds_floats(entry.values[i])
            or (of_state >= 0 and kind != of_state)
        ):
            return False
        shift = ndim - PyArray_NDIM(array)
        if shift < 0 or (i > 1 and shift > 0):
            return False
        for axis in range(PyArray_NDIM(array)):
            if PyArray_DIM(array, axis) != PyArray_DIM(param, axis + shift) and (
                i > 1 or PyArray_DIM(array, axis) != 1
            ):
                return False
    return True


cdef inline bint is_plain(Entry *entry, int count) noexcept:
    """Do what `classify` does for what nearly all entries are, or say no.

    That is: aligned arrays of one dtype, contiguous in C order, none overlapping another.
    State may be missing; what there is of it then is looked at when the rest is made.
    """
    cdef PyArrayObject *array = <PyArrayObject *>entry.values[0]
    cdef PyArray_Descr *dtype
    cdef Py_ssize_t *shape
    cdef Py_ssize_t n = 1, bytes
    cdef int ndim, axis, i, j, needed = (
        NPY_ARRAY_ALIGNED | NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE
    )
    if not PyArray_CheckExact(<PyObject *>array):
        return False
    dtype, ndim, shape = PyArray_DESCR(array), PyArray_NDIM(array), PyArray_DIMS(array)
    if (dtype != float32 and dtype != float64) or PyArray_FLAGS(array) & needed != needed:
        return False
    for axis in range(ndim):
        n *= shape[axis]
    entry.data[0] = PyArray_BYTES(array)
    bytes = n * (8 if dtype == float64 else 4)
    entry.path = USUAL
    for i in range(1, count):
        array = <PyArrayObject *>entry.values[i]
        if array == NULL:
            for j in range(i + 1, count):
                if entry.values[j] != NULL:
                    return False        # some of its state was taken away
            entry.path = FRESH
            break
        if (
            not PyArray_CheckExact(<PyObject *>array)
            or PyArray_DESCR(array) != dtype
            or PyArray_NDIM(array) != ndim
            or (PyArray_FLAGS(array) | (NPY_ARRAY_WRITEABLE if i == 1 else 0)) & needed != needed
        ):
            return False
        for axis in range(ndim):
            if PyArray_DIMS(array)[axis] != shape[axis]:
                return False
        entry.data[i] = PyArray_BYTES(array)
        for j in range(i):
            # Nearer to each other than they are long, in either direction.
            if bytes > 0 and (
                <size_t>(entry.data[i] - entry.data[j] + bytes - 1) < <size_t>(2 * bytes - 1)
            ):
                return False
    if entry.group.encodes and n >= entry.group.min_size:
        return False
    entry.count, entry.made, entry.read = count, False, NULL
    entry.strides, entry.coding = NULL, NULL
    entry.kind = PARAM_DOUBLE | GRAD_DOUBLE if dtype == float64 else 0
    entry.n, entry.width = n, count * (8 if dtype == float64 else 4)
    return True


cdef int classify(Entry *entry, int count) except -1:
    """Say what is to be done with an entry, and fill in what a kernel needs. Changes nothing."""
    if is_plain(entry, count):
        return 0
    look_closer(entry, count)
    if entry.path == ODD and not entry.group.averages and is_simple(entry, count):
        entry.path = SIMPLE
    return 0


cdef int look_closer(Entry *entry, int count) except -1:
    """Do what `classify` does for an entry that is not plain, and call simple ones odd."""
    cdef PyArrayObject **arrays = <PyArrayObject **>entry.values
    cdef Layout[MAX_ARRAYS] layouts
    cdef int ndim, axis, i, flags, wide, kind
    cdef int order = NPY_ARRAY_ALIGNED | NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS
    cdef bint native = True, complete = True
    cdef Py_ssize_t n = 1
    cdef Py_ssize_t *shape
    for i in range(2, count):
        if entry.values[i] == Py_None:
            entry.values[i] = NULL
    entry.count, entry.made, entry.read = count, False, NULL
    entry.strides, entry.coding = NULL, NULL
    if entry.values[1] == Py_None:
        entry.path = ODD if entry.group.averages else FROZEN
        return 0
    entry.path = ODD
    entry.coding = find_coding(entry.values, count)
    if not is_array(entry.values[0]):
        return 0
    wide = float_kind(arrays[0], &native)
    ndim, shape = PyArray_NDIM(arrays[0]), PyArray_DIMS(arrays[0])
    if wide == OTHER_KIND or ndim > MAX_DIMS:
        return 0
    for axis in range(ndim):
        n *= shape[axis]
    entry.kind, entry.n = PARAM_DOUBLE if wide == FLOAT64_KIND else 0, n
    if wide == BFLOAT16_KIND:
        coding_of(entry).is_bfloat16[0] = True
    for i in range(count):
        if entry.values[i] == NULL:
            complete = False
            continue
        if i > 1:
            complete = complete and format_of(entry, i) == wanted_format(entry, i)
        if format_of(entry, i) != FULL:
            if not is_whole(entry.coding, i, n) or not is_state_of(
                <object>entry.values[i], arrays[0]
            ):
                return 0
            entry.data[i] = PyArray_BYTES(memory_of(entry, i))
            continue
        if i > 0:
            if not is_array(entry.values[i]) or PyArray_NDIM(arrays[i]) != ndim:
                return 0
            kind = float_kind(arrays[i], &native)
            if kind == OTHER_KIND or (i > 1 and kind != wide):
                return 0
            if i == 1 and kind == FLOAT64_KIND:
                entry.kind |= GRAD_DOUBLE
            if kind == BFLOAT16_KIND:
                coding_of(entry).is_bfloat16[i] = True
            for axis in range(ndim):
                if PyArray_DIMS(arrays[i])[axis] != shape[axis]:
                    return 0
        flags = PyArray_FLAGS(arrays[i])
        if i != 1 and not flags & NPY_ARRAY_WRITEABLE:
            return 0
        order &= flags
        entry.data[i] = PyArray_BYTES(arrays[i])
    entry.width = (count - 1) * itemsize(entry, 0) + itemsize(entry, 1)
    entry.path = USUAL if complete else FRESH
    if not complete or n == 0:
        return 0
    if entry.coding != NULL:
        order &= ~NPY_ARRAY_F_CONTIGUOUS    # codes are in the order of C, and so is chance
    # Aligned, and contiguous in one common order: anything else needs strided iteration.
    if not native or not order & NPY_ARRAY_ALIGNED or order == NPY_ARRAY_ALIGNED:
        for i in range(count):
            # Of what is encoded there is nothing to iterate over.
            layouts[i] = layout_of(arrays[i if format_of(entry, i) == FULL else 0])
        entry.strides = make_strides(layouts, count, entry.coding == NULL)
        entry.width *= 4    # to gather and scatter elements takes a multiple of the time
    if shares_memory_inside(entry):
        free(entry.strides)
        entry.strides, entry.path = NULL, ODD
    return 0


cdef inline int format_of(const Entry *entry, int i) noexcept nogil:
    """How array `i` of an entry is kept."""
    return FULL if entry.coding == NULL else entry.coding.format[i]


cdef inline bint is_bfloat16(const Entry *entry, int i) noexcept nogil:
    """Whether array `i` of an entry, which is kept in full, is one of bfloat16."""
    return entry.coding != NULL and entry.coding.is_bfloat16[i]


cdef inline int wanted_format(const Entry *entry, int i) noexcept nogil:
    """How an array of state has to be kept."""
    return entry.group.formats[i - 2] if entry.n >= entry.group.min_size else FULL


cdef inline int pieces(const Entry *entry) noexcept nogil:
    """How many pieces of memory an entry may have: its arrays, then the scales of its state."""
    return entry.count if entry.coding == NULL else 2 * entry.count - 2


cdef inline PyArrayObject *memory_of(const Entry *entry, int i) noexcept nogil:
    """The array that has piece `i` of an entry's memory; NULL if there is none."""
    if i >= entry.count:
        return <PyArrayObject *>entry.coding.scales[i - entry.count + 2]
    return <PyArrayObject *>(
        entry.values[i] if format_of(entry, i) == FULL else entry.coding.codes[i])


cdef inline bint has_state(const Entry *entry) noexcept nogil:
    cdef int i
    for i in range(2, entry.count):
        if entry.values[i] == NULL:
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


cdef inline void found_bounds(
    const Entry *entry, int i, uintptr_t *low, uintptr_t *high
) noexcept nogil:
    """The same of a usual entry's array `i`, as it was found: `check_again` tells of changes."""
    cdef const Strides *of = entry.strides
    cdef Py_ssize_t reach
    cdef int axis
    low[0] = <uintptr_t>entry.data[i]
    high[0] = low[0] + (entry.n if of == NULL else 1) * itemsize(entry, i)
    for axis in range(of.ndim if of != NULL else 0):
        reach = (of.shape[axis] - 1) * of.strides[i][axis]
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach


cdef bint shares_memory_inside(const Entry *entry) noexcept nogil:
    """Whether two arrays of an entry may share memory, or two elements of one that is written."""
    cdef Extent[2 * MAX_ARRAYS] extents
    cdef int i, j, size = 0
    for i in range(pieces(entry)):
        if not extent_of(entry, i, &extents[size]):
            continue
        if i != 1 and i < entry.count and entry.strides != NULL:
            if overlaps_itself(entry.strides, i):
                return True
        for j in range(size):
            if extents[size].low < extents[j].high and extents[j].low < extents[size].high:
                return True
        size += 1
    return False


cdef bint share_memory(const Entry *entries, Py_ssize_t count) noexcept nogil:
    """Whether an array that is written to may share memory with another one.

    The order of the entries counts then. So it does, to be safe, if there is no memory to find
    out. (One that shares memory inside itself is odd, and counts too.)
    """
    cdef Extent *memory
    cdef Extent *extents
    cdef Py_ssize_t k, size = 0
    cdef uintptr_t lowest = 0, highest = 0, end_of_all = 0, end_of_written = 0
    cdef bint found = False
    cdef int i
    if count < 2:
        return False
    memory = extents = <Extent *>malloc(2 * 2 * MAX_ARRAYS * count * sizeof(Extent))
    if memory == NULL:
        return True
    for k in range(count):
        if entries[k].path == FROZEN:
            continue
        for i in range(pieces(&entries[k])):
            if extent_of(&entries[k], i, &extents[size]):
                lowest = extents[size].low if size == 0 else min(lowest, extents[size].low)
                highest = max(highest, extents[size].low)
                size += 1
    extents = sort(extents, extents + size, size, lowest, highest)
    for k in range(size):
        if extents[k].low < (end_of_all if extents[k].written else end_of_written):
            found = True
            break
        end_of_all = max(end_of_all, extents[k].high)
        if extents[k].written:
            end_of_written = max(end_of_written, extents[k].high)
    free(memory)
    return found


cdef bint odd_shares_memory(const Entry *entries, Py_ssize_t count) noexcept nogil:
    """Whether an array of an entry that no kernel takes may share memory with another entry's."""
    cdef Extent[FEW] odd
    cdef Extent other
    cdef uintptr_t lowest = 0, highest = 0  # of these
    cdef Py_ssize_t k, j, size = 0
    cdef int i
    for k in range(count):
        if entries[k].path != ODD and entries[k].path != SIMPLE:
            continue
        for i in range(pieces(&entries[k])):
            if extent_of(&entries[k], i, &other):
                if size == FEW:
                    return share_memory(entries, count)
                odd[size] = other
                odd[size].entry = k
                lowest = other.low if size == 0 else min(lowest, other.low)
                highest = max(highest, other.high)
                size += 1
    if size == 0:
        return False
    for k in range(count):
        if entries[k].path == FROZEN:
            continue
        for i in range(pieces(&entries[k])):
            if (
                extent_of(&entries[k], i, &other)
                and other.low < highest and lowest < other.high
            ):
                for j in range(size):
                    if (
                        other.low < odd[j].high and odd[j].low < other.high
                        and odd[j].entry != k
                        and (other.written or odd[j].written)
                    ):
                        return True
    return False


cdef inline bint extent_of(const Entry *entry, int i, Extent *extent) noexcept nogil:
    """Piece `i` of an entry's memory, if that is an array and has any."""
    cdef PyArrayObject *array
    cdef int axis
    if entry.path == USUAL and i < entry.count and format_of(entry, i) == FULL:
        found_bounds(entry, i, &extent.low, &extent.high)
        extent.written = i != 1
        return entry.n > 0
    if entry.read != NULL:
        if i >= entry.count:
            return False        # a tensor has its scales with its codes
        extent.low = <uintptr_t>entry.data[i]
        extent.high = extent.low + packed_bytes(entry.n)
        extent.written = True
        return entry.n > 0
    array = memory_of(entry, i)
    if array == NULL or not PyArray_Check(<PyObject *>array):
        return False
    for axis in range(PyArray_NDIM(array)):
        if PyArray_DIM(array, axis) == 0:
            return False
    bounds(array, &extent.low, &extent.high)
    extent.written = i != 1
    return True


cdef Extent *sort(
    Extent *extents, Extent *spare, Py_ssize_t size, uintptr_t lowest, uintptr_t highest
) noexcept nogil:
    """Sort by the lower end, digit by digit; the result is in `extents` or in `spare`.

    The last 4 bits of an address are ignored, which saves work: an allocator aligns to 16 bytes.
    Views that begin nearer to each other than that may come in either order, so that it may seem
    that they overlap. That costs speed and harms nothing.
    """
    cdef Py_ssize_t[DIGITS] place
    cdef Py_ssize_t k, digit, before, here
    cdef int shift = 4
    while shift < <int>(8 * sizeof(uintptr_t)) and (highest - lowest) >> shift > 0:
        memset(place, 0, sizeof(place))
        for k in range(size):
            place[((extents[k].low - lowest) >> shift) % DIGITS] += 1
        before = 0
        for digit in range(DIGITS):
            here = place[digit]
            place[digit] = before
            before += here
        for k in range(size):
            digit = ((extents[k].low - lowest) >> shift) % DIGITS
            spare[place[digit]] = extents[k]
            place[digit] += 1
        extents, spare = spare, extents
        shift += 11
    return extents


# ------------------------------------------------------------------ fresh state

# State in the layout of its parameter and of the machine's own byte order. The small arrays of one
# update share memory that is allocated at once; a large one has memory of its own, and starts at
# the same place of a cache line as the parameter, so that one peeled start aligns both. From
# 64 kB on it starts at another place of a page than its parameter and the rest of its state: CPUs
# take a load for one from an earlier store if the last 12 bits of their addresses are equal, and
# wait. (Adam, float32, 100,000 elements, Zen 4: up to 1.4 times as long.)

cdef enum:
    SMALL_ALIGNMENT = 16        # bytes, as of any memory
    PAGE = 4096
    APART = 1024                # bytes from the place of one array in a page to that of the next
    APART_FROM = 65536          # bytes of an array, of which a page is little

# The same for those who make state of another library's.
STATE_PLACES = (PAGE, APART, APART_FROM)


cdef Py_ssize_t small_bytes(const Entry *entry) noexcept:
    """What the shared memory has to hold for one array of state; 0 if it is not to lie there."""
    cdef PyArrayObject *param = <PyArrayObject *>entry.values[0]
    cdef Py_ssize_t bytes = entry.n * itemsize(entry, 0)
    if bytes >= tuning.align_from or not is_contiguous(param):
        return 0
    return (bytes + SMALL_ALIGNMENT - 1) // SMALL_ALIGNMENT * SMALL_ALIGNMENT


cdef inline bint is_contiguous(PyArrayObject *array) noexcept:
    cdef int flags = PyArray_FLAGS(array)
    return flags & NPY_ARRAY_ALIGNED and flags & (
        NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS
    )


cdef PyObject *new_memory(Py_ssize_t bytes) except NULL:
    return PyArray_Zeros(1, &bytes, PyArray_DescrFromType(NPY_UINT8), 0)


cdef inline PyArray_Descr *native_dtype(PyArrayObject *param) noexcept:
    """The dtype of a parameter's state: a new reference, which NumPy takes."""
    cdef PyArray_Descr *dtype = PyArray_DESCR(param)
    if dtype == float32 or dtype == float64:
        Py_INCREF(<PyObject *>dtype)
        return dtype
    return PyArray_DescrFromType(PyArray_TYPE(param))


cdef PyObject *zeros_in(PyObject *memory, Py_ssize_t place, PyArrayObject *param) except NULL:
    """Zeros like a contiguous parameter, in memory that they keep."""
    cdef PyObject *zeros = PyArray_NewFromDescr(
        &PyArray_Type, native_dtype(param), PyArray_NDIM(param), PyArray_DIMS(param),
        NULL if PyArray_FLAGS(param) & NPY_ARRAY_C_CONTIGUOUS else PyArray_STRIDES(param),
        PyArray_BYTES(<PyArrayObject *>memory) + place, NPY_ARRAY_WRITEABLE, NULL,
    )
    Py_INCREF(memory)
    PyArray_SetBaseObject(<PyArrayObject *>zeros, memory)
    return zeros


cdef object one_element(PyArrayObject *array):
    """A view of a 0-d array that has one dimension."""
    cdef Py_ssize_t n = 1
    cdef PyArray_Descr *dtype = PyArray_DESCR(array)
    Py_INCREF(<PyObject *>dtype)    # which NumPy takes
    cdef object view = <object>PyArray_NewFromDescr(
        &PyArray_Type, dtype, 1, &n, NULL, PyArray_BYTES(array),
        PyArray_FLAGS(array) & NPY_ARRAY_WRITEABLE, NULL,
    )
    Py_DECREF(<PyObject *>view)     # of which `view` is the owner now
    Py_INCREF(<PyObject *>array)
    PyArray_SetBaseObject(<PyArrayObject *>view, <PyObject *>array)
    return view


cdef PyObject *zeros_beside(const Entry *entry, int i) except NULL:
    """Array `i` of a large or a strided parameter, which is state."""
    cdef PyArrayObject *param = <PyArrayObject *>entry.values[0]
    cdef Py_ssize_t bytes = entry.n * itemsize(entry, 0)
    cdef PyObject *memory
    cdef PyObject *zeros
    if not is_contiguous(param):
        zeros = PyArray_NewLikeArray(param, NPY_KEEPORDER, native_dtype(param), 0)
        memset(PyArray_BYTES(<PyArrayObject *>zeros), 0, bytes)
        return zeros
    memory = new_memory(bytes + (PAGE if bytes >= APART_FROM else CACHE_LINE))
    try:
        return zeros_in(memory, to_its_place(entry, i, memory), param)
    finally:
        Py_DECREF(memory)


cdef inline Py_ssize_t to_its_place(const Entry *entry, int i, PyObject *memory) noexcept:
    """How many bytes from the start of an array the place of array `i` is, which is state."""
    cdef uintptr_t param = <uintptr_t>PyArray_BYTES(<PyArrayObject *>entry.values[0])
    cdef uintptr_t start = <uintptr_t>PyArray_BYTES(<PyArrayObject *>memory)
    if entry.n * itemsize(entry, 0) < APART_FROM:
        return (param - start) % CACHE_LINE
    return (param + (i - 1) * APART - start) % PAGE
