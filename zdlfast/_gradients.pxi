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
    Strides **strides       # of the gradients that are not contiguous in the order of C; else NULL
    Py_ssize_t *begin       # the first chunk of each entry; behind the last one, how many
    Py_ssize_t count
    double *sums


cdef int read_gradients(
    Entry *entries, Py_ssize_t count, bint with_norm, Reading *reading
) except -1:
    """Read the gradients of all entries that are updated; nothing is changed.

    Those of odd entries are read in Python. Their squares are only added up `with_norm`.
    """
    cdef SumJob job
    cdef Py_ssize_t k, chunks
    cdef void *memory = malloc((count + 1) * (sizeof(Strides *) + sizeof(Py_ssize_t)))
    if memory == NULL:
        raise MemoryError(f"no memory to read {count} gradients")
    memset(memory, 0, count * sizeof(Strides *))
    job.entries, job.count, job.sums = entries, count, NULL
    job.strides, job.begin = <Strides **>memory, <Py_ssize_t *>(<Strides **>memory + count + 1)
    try:
        chunks = 0
        for k in range(count):
            job.begin[k] = chunks
            if by_kernel(&entries[k]) and entries[k].n > 0:
                chunks += (entries[k].n + SUMMED - 1) // SUMMED
                if not is_plain_gradient(<PyArrayObject *>entries[k].values[1]):
                    job.strides[k] = make_strides(
                        <PyArrayObject **>&entries[k].values[1], 1, False)
        job.begin[count] = chunks
        job.sums = <double *>malloc(max(chunks, 1) * sizeof(double))
        if job.sums == NULL:
            raise MemoryError(f"no memory to read {count} gradients")
        sum_all(&job, entries)
        add_up(&job, reading, with_norm)
    finally:
        for k in range(count):
            free(job.strides[k])
        free(job.sums)
        free(memory)
    return 0


cdef inline bint by_kernel(const Entry *entry) noexcept nogil:
    return entry.road == USUAL or entry.road == FRESH


cdef inline bint is_plain_gradient(PyArrayObject *grad) noexcept nogil:
    cdef int needed = NPY_ARRAY_ALIGNED | NPY_ARRAY_C_CONTIGUOUS
    return PyArray_FLAGS(grad) & needed == needed and PyArray_ISNOTSWAPPED(grad)


cdef int sum_all(SumJob *job, Entry *entries) except -1:
    cdef int64_t bytes = 0
    cdef Py_ssize_t k
    cdef int threads = 1
    for k in range(job.count):
        if by_kernel(&entries[k]):
            bytes += <int64_t>entries[k].n * itemsize(&entries[k], 1)
    if bytes < tuning.help_from_awake:
        sum_chunks(job, 0, job.begin[job.count])
        return 0
    # As in `run`: Python code runs now, and other threads may.
    hold(entries, job.count)
    try:
        if bytes >= tuning.help_from or zdl_in_a_row():
            threads = get_num_threads()
        check_again(entries, job.count)
        with nogil:
            zdl_run(sum_some, job, (job.begin[job.count] + SUMS_AT_ONCE - 1) // SUMS_AT_ONCE,
                    threads)
    finally:
        let_go(entries, job.count)
    return 0


cdef void sum_some(void *data, size_t chunk) noexcept nogil:
    cdef const SumJob *job = <const SumJob *>data
    cdef Py_ssize_t first = <Py_ssize_t>chunk * SUMS_AT_ONCE
    sum_chunks(job, first, min(first + SUMS_AT_ONCE, job.begin[job.count]))


cdef void sum_chunks(const SumJob *job, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Sum up the squares of the chunks from `first` up to `last`."""
    cdef double[SUMMED] buffer
    cdef const Entry *entry
    cdef const void *values
    cdef Py_ssize_t low = 0, high = job.count, middle, element, n, size
    # The last entry that begins at or before the first chunk.
    while low < high:
        middle = (low + high) // 2
        if job.begin[middle] <= first:
            low = middle + 1
        else:
            high = middle
    low -= 1
    while first < last:
        while job.begin[low + 1] <= first:
            low += 1
        entry = &job.entries[low]
        element = (first - job.begin[low]) * SUMMED
        n, size = min(<Py_ssize_t>SUMMED, entry.n - element), itemsize(entry, 1)
        values = entry.data[1] + element * size
        if job.strides[low] != NULL:
            copy_block(job.strides[low], 0, entry.data[1], element, n, <char *>buffer, True)
            values = buffer
        job.sums[first] = kernels.square_sum(size == 8, values, n)
        first += 1


cdef int add_up(const SumJob *job, Reading *reading, bint with_norm) except -1:
    cdef const Entry *entry
    cdef double total = 0.0, sums
    cdef Py_ssize_t k, i
    reading.nonfinite = -1
    for k in range(job.count):
        entry = &job.entries[k]
        sums = 0.0
        for i in range(job.begin[k], job.begin[k + 1]):
            total += job.sums[i]
            sums += job.sums[i]
        if reading.nonfinite < 0 and not isfinite(sums) and has_nonfinite(job, k):
            reading.nonfinite = k
        if entry.road == ODD:
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
    cdef const char *values
    cdef Py_ssize_t first = 0, n, i
    if itemsize(entry, 1) == 4:
        return True         # squares of float32 are finite in double precision
    while first < entry.n:
        n = min(<Py_ssize_t>SUMMED, entry.n - first)
        values = entry.data[1] + first * 8
        if job.strides[k] != NULL:
            copy_block(job.strides[k], 0, entry.data[1], first, n, <char *>buffer, True)
            values = <const char *>buffer
        for i in range(n):
            if not isfinite((<const double *>values)[i]):
                return True
        first += n
    return False
