# What lies between memory and a rule's loop. Included by _engine.pyx.
#
# Contiguous arrays of the loop's own dtypes go to it as they are. All others go through
# buffers that stay in the first-level cache, block by block: decode, loop, encode. This is the
# place for every format that is not what the loop computes in.

cdef enum:
    BLOCK = 512             # elements; at 8 bytes for four arrays, half of a 32 kB cache


cdef void execute(
    const Entry *entry, Loop loop, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Update the elements of an entry from `first` up to `last`."""
    cdef void *data[MAX_ARRAYS]
    cdef Py_ssize_t n, size = itemsize(entry, 0), past
    cdef int i
    if entry.strides != NULL:
        execute_blocks(entry, loop, first, last)
        return
    n = last - first
    for i in range(entry.count):
        data[i] = entry.data[i] + first * itemsize(entry, i)
    # NumPy's large arrays start 16 bytes past a cache line, where each wide access would touch
    # two of them.
    if n * size >= tuning.align_from:
        past = <uintptr_t>data[0] % CACHE_LINE
        if past:
            past = (CACHE_LINE - past) // size
            loop(entry.kind, data, past, entry.scalars)
            n -= past
            for i in range(entry.count):
                data[i] = <char *>data[i] + past * itemsize(entry, i)
    if length(entry) < tuning.fetch_from:
        loop(entry.kind, data, n, entry.scalars)
    else:
        execute_prefetching(entry, loop, data, n)


cdef void execute_prefetching(
    const Entry *entry, Loop loop, void **data, Py_ssize_t n
) noexcept nogil:
    """Run a loop over `n` elements step by step, and prefetch some steps ahead.

    Some CPUs cannot look past the long divisions of many elements, and are too careful with so
    many streams: without help, memory would be idle for a tenth of the time.
    """
    cdef Py_ssize_t step = tuning.fetch_step // itemsize(entry, 0), bytes
    cdef int i
    while n > 0:
        for i in range(entry.count):
            bytes = step * itemsize(entry, i)
            fetch(<uintptr_t>data[i] + tuning.fetch_ahead * bytes, bytes)
        loop(entry.kind, data, min(step, n), entry.scalars)
        n -= step
        for i in range(entry.count):
            data[i] = <char *>data[i] + step * itemsize(entry, i)


cdef inline void fetch(uintptr_t line, Py_ssize_t bytes) noexcept nogil:
    """Prefetch so many bytes from a place on, which may lie past the end."""
    cdef uintptr_t end = line + bytes
    while line < end:
        ZDL_PREFETCH(line)
        line += CACHE_LINE


cdef void execute_blocks(
    const Entry *entry, Loop loop, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef double[MAX_ARRAYS][BLOCK] buffers
    cdef void *data[MAX_ARRAYS]
    cdef Py_ssize_t n
    cdef int i
    while first < last:
        n = min(<Py_ssize_t>BLOCK, last - first)
        for i in range(entry.count):
            data[i] = decode(entry, i, first, n, <char *>buffers[i])
        loop(entry.kind, data, n, entry.scalars)
        for i in range(entry.count):
            if i != 1:
                encode(entry, i, first, n, <char *>buffers[i])
        first += n


cdef inline void *decode(
    const Entry *entry, int i, Py_ssize_t first, Py_ssize_t n, char *buffer
) noexcept nogil:
    """A block of array `i` as the loop takes it: where it lies, or in the buffer."""
    if entry.strides.is_contiguous[i]:
        return entry.data[i] + first * itemsize(entry, i)
    copy_block(entry.strides, i, entry.data[i], first, n, buffer, True)
    return buffer


cdef inline void encode(
    const Entry *entry, int i, Py_ssize_t first, Py_ssize_t n, char *buffer
) noexcept nogil:
    """Put a block back that was decoded into the buffer."""
    if not entry.strides.is_contiguous[i]:
        copy_block(entry.strides, i, entry.data[i], first, n, buffer, False)
