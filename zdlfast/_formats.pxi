# What has fewer bits than a loop computes in, as an entry has it. Included by _engine.pyx.
# _encoded.py has the object that holds encoded state, _bfloat16.py tells arrays of bfloat16;
# _kernels_formats.pxi reads and writes the codes of both.

cdef void *encoded_type = <PyObject *>EncodedState
cdef dict formats = {
    FULL: None, BFLOAT16: "bfloat16", SIGNED_8BIT: "8bit", UNSIGNED_8BIT: "8bit"
}

# Of the arrays of an entry, those that are encoded, and those of bfloat16.
cdef struct Coding:
    bint[MAX_ARRAYS] is_bfloat16    # an array of NumPy's with such numbers; its format is FULL
    int[MAX_ARRAYS] format          # FULL: an array as it is
    PyObject *codes[MAX_ARRAYS]     # held; what the object has there, or NULL
    PyObject *scales[MAX_ARRAYS]    # held; the same


cdef Coding *find_coding(PyObject **values, int count) except? NULL:
    """What is encoded of an entry's arrays; NULL if nothing is."""
    cdef Coding *coding = NULL
    cdef int i
    for i in range(2, count):
        if values[i] == NULL or Py_TYPE(values[i]) != encoded_type:
            continue
        if coding == NULL:
            coding = new_coding()
        try:
            find_codes(coding, i, <object>values[i])
        except BaseException:
            free_coding(coding)
            raise
    return coding


cdef Coding *new_coding() except NULL:
    cdef Coding *coding = <Coding *>malloc(sizeof(Coding))
    if coding == NULL:
        raise MemoryError("no memory for an update of encoded state")
    memset(coding, 0, sizeof(Coding))
    return coding


cdef Coding *coding_of(Entry *entry) except NULL:
    """That of an entry, which is made if there is none."""
    if entry.coding == NULL:
        entry.coding = new_coding()
    return entry.coding


cdef int find_codes(Coding *coding, int i, encoded) except -1:
    cdef object codes = encoded.codes, scales = encoded.scales
    coding.format[i] = SIGNED_8BIT if encoded.signed else UNSIGNED_8BIT
    if encoded.format == "bfloat16":
        coding.format[i] = BFLOAT16
    elif encoded.format != "8bit":
        return 0                # without codes it is not whole
    else:
        coding.scales[i] = <PyObject *>scales
        Py_INCREF(coding.scales[i])
    coding.codes[i] = <PyObject *>codes
    Py_INCREF(coding.codes[i])
    return 0


cdef void free_coding(Coding *coding) noexcept:
    cdef int i
    if coding == NULL:
        return
    for i in range(MAX_ARRAYS):
        Py_XDECREF(coding.codes[i])
        Py_XDECREF(coding.scales[i])
    free(coding)


cdef inline bint is_whole(const Coding *coding, int i, Py_ssize_t n) noexcept:
    """Whether codes and scales are those of `n` elements."""
    if coding.format[i] == BFLOAT16:
        return is_memory(coding.codes[i], NPY_UINT16, n)
    return is_memory(coding.codes[i], NPY_UINT8, blocks_of(n) * BLOCK) and is_memory(
        coding.scales[i], NPY_FLOAT, blocks_of(n) * GROUPS)


cdef inline Py_ssize_t blocks_of(Py_ssize_t n) noexcept nogil:
    """How many blocks `n` elements take."""
    return (n + BLOCK - 1) // BLOCK


cdef inline Py_ssize_t packed_bytes(Py_ssize_t n) noexcept nogil:
    """Those of a tensor with state in 8 bits: all codes, and behind them the scales."""
    return blocks_of(n) * (BLOCK + GROUPS * <Py_ssize_t>sizeof(float))


cdef inline bint is_memory(PyObject *value, int kind, Py_ssize_t n) noexcept:
    """Whether a value is a plain array of `n` numbers of a kind, which can be written to."""
    cdef PyArrayObject *array = <PyArrayObject *>value
    cdef int needed = NPY_ARRAY_ALIGNED | NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE
    return (
        value != NULL
        and PyArray_CheckExact(value)
        and PyArray_TYPE(array) == kind
        and PyArray_ISNOTSWAPPED(array)
        and PyArray_FLAGS(array) & needed == needed
        and PyArray_NDIM(array) == 1
        and PyArray_DIM(array, 0) == n
    )


cdef bint is_state_of(encoded, PyArrayObject *param) except -1:
    """Whether encoded state has the shape and the dtype of a parameter."""
    cdef tuple shape = encoded.shape
    cdef object dtype = encoded.dtype
    cdef int axis
    if len(shape) != PyArray_NDIM(param):
        return False
    for axis in range(PyArray_NDIM(param)):
        if shape[axis] != PyArray_DIM(param, axis):
            return False
    return <void *>dtype == (
        <void *>float64 if PyArray_TYPE(param) == NPY_DOUBLE else <void *>float32)


cdef inline uint64_t mixed(uint64_t number) noexcept nogil:
    """A number that looks random: the output of SplitMix64."""
    cdef uint64_t x = number + <uint64_t>0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)
