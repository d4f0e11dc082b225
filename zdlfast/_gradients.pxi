# What is asked of all gradients before an update: their norm, and whether they are finite.
# Included by _engine.pyx. zdlfast/_gradients.py is the same for NumPy.
#
# Squares are added up in an order that no layout, width of instruction or thread changes: a
# chunk of SUMMED elements in LANES lanes, in the order of C; then chunk by chunk, in that of the
# entries.

cdef enum:
    SUMS_AT_ONCE = 16       # chunks that a thread takes

cdef struct Reading:
    double norm
    Py_ssize_t nonfinite    # the first entry whose gradient holds NaN or infinity, or -1

cdef struct SumJob:
    const Entry *entries
    Py_ssize_t count
    Strides **strides       # of the gradients that are not contiguous in the order of C; else NULL
    Py_ssize_t chunks
    double *sums            # by chunk


cdef int read_gradients(
    Entry *entries, Py_ssize_t count, bint with_norm, Reading *reading
) except -1:
    """Read the gradients of all entries that are updated; nothing is changed.

    Those of odd entries are read in Python. Their squares are only added up `with_norm`.
    """
    cdef SumJob job
    cdef Layout layout
    cdef int64_t bytes = 0
    cdef Py_ssize_t k
    job.entries, job.count, job.chunks, job.sums = entries, count, 0, NULL
    job.strides = <Strides **>malloc(max(count, 1) * sizeof(Strides *))
    if job.strides == NULL:
        raise MemoryError(f"no memory to read {count} gradients")
    memset(job.strides, 0, count * sizeof(Strides *))
    try:
        for k in range(count):
            entries[k].begin = job.chunks
            job.chunks += chunks_of(&entries[k])
            if chunks_of(&entries[k]) > 0:
                bytes += <int64_t>entries[k].n * itemsize(&entries[k], 1)
                if not is_plain_gradient(<PyArrayObject *>entries[k].values[1]):
                    layout = layout_of(<PyArrayObject *>entries[k].values[1])
                    job.strides[k] = make_strides(&layout, 1, False)
        job.sums = <double *>malloc(max(job.chunks, 1) * sizeof(double))
        if job.sums == NULL:
            raise MemoryError(f"no memory to read {count} gradients")
        with_threads(entries, count, bytes, sum_all, &job)
        add_up(&job, reading, with_norm)
    finally:
        for k in range(count):
            free(job.strides[k])
        free(job.strides)
        free(job.sums)
    return 0


cdef inline Py_ssize_t chunks_of(const Entry *entry) noexcept nogil:
    """In how many chunks an entry's gradient is read here."""
    if entry.path != USUAL and entry.path != FRESH:
        return 0
    return (entry.n + SUMMED - 1) // SUMMED


cdef inline bint is_plain_gradient(PyArrayObject *grad) noexcept nogil:
    cdef int needed = NPY_ARRAY_ALIGNED | NPY_ARRAY_C_CONTIGUOUS
    return PyArray_FLAGS(grad) & needed == needed and PyArray_ISNOTSWAPPED(grad)


cdef void sum_all(void *data, int threads) noexcept nogil:
    cdef const SumJob *job = <const SumJob *>data
    zdl_run(sum_some, data, (job.chunks + SUMS_AT_ONCE - 1) // SUMS_AT_ONCE, threads)


cdef void sum_some(void *data, size_t some) noexcept nogil:
    """Sum up the squares of SUMS_AT_ONCE chunks."""
    cdef const SumJob *job = <const SumJob *>data
    cdef double[SUMMED] buffer
    cdef const Entry *entry
    cdef const void *values
    cdef Py_ssize_t chunk = <Py_ssize_t>some * SUMS_AT_ONCE, k, first, n
    cdef Py_ssize_t last = min(chunk + SUMS_AT_ONCE, job.chunks)
    k = entry_at(job.entries, job.count, chunk)
    while chunk < last:
        entry = &job.entries[k]
        first = (chunk - <Py_ssize_t>entry.begin) * SUMMED
        if first >= entry.n or chunks_of(entry) == 0:
            k += 1
            continue
        n = min(<Py_ssize_t>SUMMED, entry.n - first)
        values = block_of(job, k, first, n, <char *>buffer)
        job.sums[chunk] = kernels.square_sum(itemsize(entry, 1) == 8, values, n)
        chunk += 1


cdef inline const void *block_of(
    const SumJob *job, Py_ssize_t k, Py_ssize_t first, Py_ssize_t n, char *buffer
) noexcept nogil:
    """A block of a gradient in the order of C: where it lies, or in the buffer."""
    cdef const Entry *entry = &job.entries[k]
    cdef Py_ssize_t past = 0
    if is_bfloat16(entry, 1):
        while past < n:
            read_bfloat16(
                entry, job.strides[k], 0, 1, first + past, min(<Py_ssize_t>BLOCK, n - past),
                buffer + past * sizeof(float))
            past += BLOCK
        return buffer
    if job.strides[k] == NULL:
        return entry.data[1] + first * itemsize(entry, 1)
    copy_block(job.strides[k], 0, entry.data[1], first, n, buffer, True)
    return buffer


cdef int add_up(const SumJob *job, Reading *reading, bint with_norm) except -1:
    cdef const Entry *entry
    cdef double total = 0.0, sums
    cdef Py_ssize_t k, i, chunk = 0
    reading.nonfinite = -1
    for k in range(job.count):
        entry = &job.entries[k]
        sums = 0.0
        for i in range(chunks_of(entry)):
            total += job.sums[chunk]
            sums += job.sums[chunk]
            chunk += 1
        if reading.nonfinite < 0 and not isfinite(sums) and has_nonfinite(job, k):
            reading.nonfinite = k
        if entry.path == ODD:
            if with_norm:
                total = add_squares(total, key_of(entry, k), <object>entry.values[1])
            if reading.nonfinite < 0 and not is_finite(<object>entry.values[1]):
                reading.nonfinite = k
    reading.norm = sqrt(total)
    return 0


cdef bint has_nonfinite(const SumJob *job, Py_ssize_t k) noexcept nogil:
    """Whether a gradient holds NaN or infinity, or just squares that are too large."""
    cdef double[SUMMED] buffer
    cdef const Entry *entry = &job.entries[k]
    cdef const double *values
    cdef Py_ssize_t first = 0, n, i
    if itemsize(entry, 1) != 8:
        return True         # squares of float32 are finite in double precision
    while first < entry.n:
        n = min(<Py_ssize_t>SUMMED, entry.n - first)
        values = <const double *>block_of(job, k, first, n, <char *>buffer)
        for i in range(n):
            if not isfinite(values[i]):
                return True
        first += n
    return False


def square_sums(values, sums):
    """Sum up the squares of an array of floats, chunk by chunk.

    Parameters
    ----------
    values : ndarray
        One-dimensional, contiguous, float32 or float64 in the machine's byte order.
    sums : ndarray
        Of float64, contiguous: takes the sum of each chunk.
    """
    cdef PyArrayObject *array = <PyArrayObject *>values
    cdef PyArrayObject *target = <PyArrayObject *>sums
    cdef Py_ssize_t n, chunk, first, size
    cdef double *out
    cdef const char *data
    for each in (values, sums):
        if not PyArray_CheckExact(<PyObject *>each) or each.ndim != 1 or not is_plain_gradient(
            <PyArrayObject *>each
        ):
            raise TypeError("expected contiguous arrays of one dimension")
    if values.dtype.char not in "fd" or sums.dtype.char != "d":
        raise TypeError(f"expected arrays of floats, got {values.dtype} and {sums.dtype}")
    n, size = PyArray_DIM(array, 0), PyArray_ITEMSIZE(array)
    if PyArray_DIM(target, 0) != (n + SUMMED - 1) // SUMMED:
        raise ValueError(f"{len(sums)} sums do not fit {n} values")
    data, out = PyArray_BYTES(array), <double *>PyArray_BYTES(target)
    with nogil:
        for chunk in range((n + SUMMED - 1) // SUMMED):
            first = chunk * SUMMED
            out[chunk] = kernels.square_sum(
                size == 8, data + first * size, min(<Py_ssize_t>SUMMED, n - first)
            )
