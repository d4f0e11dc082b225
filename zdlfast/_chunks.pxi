# How the work of a large update is cut into chunks, for several threads. Included by
# _engine.pyx.
#
# The entries of an update lie one behind the other on a line, each as long as the bytes that
# it occupies. The line is cut into chunks of equal length, so that one huge array and a thousand
# small ones are both shared out evenly. A cut through an array is moved to the start of a cache
# line: no two threads write to one, and wide accesses stay within one.

cdef extern from "_pool.h":
    ctypedef void (*Chunk "zdl_chunk")(void *job, size_t chunk) noexcept nogil
    void zdl_run(Chunk run, void *job, size_t chunks, int threads) noexcept nogil
    bint zdl_in_a_row() nogil

cdef struct Job:
    const Entry *entries
    Py_ssize_t count
    int64_t bytes                   # of all entries
    int64_t chunk                   # bytes

# Some work on entries, done on so many threads at most.
ctypedef void (*Work)(void *job, int threads) noexcept nogil


cdef int with_threads(
    Entry *entries, Py_ssize_t count, int64_t bytes, Work work, void *job, most=None,
    bint held=False,
) except -1:
    """Have work done that moves so many bytes of entries' arrays, on threads if that pays.

    Parameters
    ----------
    held : bool
        Whether the entries hold their arrays, so that Python code may have run meanwhile.
    """
    cdef int threads = 1
    if bytes < tuning.help_from_awake:
        if held:
            check_again(entries, count)
        work(job, threads)
        return 0
    # Python code runs now, and other threads may.
    if not held:
        hold(entries, count)
    try:
        if bytes >= tuning.help_from or zdl_in_a_row():
            threads = get_num_threads()
            if most is not None:
                threads = min(threads, <int>most())
        check_again(entries, count)
        if bytes < tuning.release_from:
            work(job, threads)
        else:
            with nogil:
                work(job, threads)
    finally:
        if not held:
            let_go(entries, count)
    return 0


cdef int64_t measure(Entry *entries, Py_ssize_t count) noexcept nogil:
    """Lay the entries that kernels take on a line; return its length in bytes."""
    cdef int64_t bytes = 0
    cdef Py_ssize_t k
    for k in range(count):
        entries[k].begin = bytes
        if entries[k].path != USUAL:
            entries[k].n = 0
        else:
            bytes += length(&entries[k])
    return bytes


cdef void execute_all(void *data, int threads) noexcept nogil:
    """Execute all entries, in order or on several threads at once."""
    cdef Job *job = <Job *>data
    cdef const Entry *entries = job.entries
    cdef Py_ssize_t k
    if threads > 1 and not share_memory(entries, job.count):
        job.chunk = max(job.bytes // (8 * threads), tuning.shortest_chunk)
        job.chunk = min(job.chunk, tuning.longest_chunk)
        zdl_run(execute_chunk, job, (job.bytes + job.chunk - 1) // job.chunk, threads)
    else:
        for k in range(job.count):
            if is_small(&entries[k]):
                entries[k].group.loop(
                    entries[k].kind | entries[k].group.variant, <void **>entries[k].data,
                    entries[k].n, entries[k].group.scalars)
            elif entries[k].n > 0:
                execute(&entries[k], 0, entries[k].n)


cdef inline bint is_small(const Entry *entry) noexcept nogil:
    """Whether an entry's loop is all that there is to do."""
    return (
        entry.strides == NULL
        and entry.coding == NULL
        and not entry.group.staged
        and entry.n * entry.width < tuning.align_from
    )


cdef void execute_chunk(void *data, size_t chunk) noexcept nogil:
    cdef const Job *job = <const Job *>data
    cdef Py_ssize_t k, last_k, first, last
    cut(job, <int64_t>chunk * job.chunk, &k, &first)
    cut(job, (<int64_t>chunk + 1) * job.chunk, &last_k, &last)
    while k < last_k:
        if job.entries[k].n > 0:
            execute(&job.entries[k], first, job.entries[k].n)
        first = 0
        k += 1
    if k < job.count and first < last:
        execute(&job.entries[k], first, last)


cdef void cut(
    const Job *job, int64_t place, Py_ssize_t *found, Py_ssize_t *element
) noexcept nogil:
    """The entry, and its element, where the line is cut near `place`."""
    cdef Py_ssize_t k = entry_at(job.entries, job.count, place), past
    cdef const Entry *entry = &job.entries[k]
    place -= entry.begin
    if place >= length(entry):
        found[0], element[0] = k + 1, 0
        return
    found[0] = k
    element[0] = <Py_ssize_t>(place // entry.width)
    if entry.strides != NULL or entry.coding != NULL:
        element[0] -= element[0] % BLOCK
    else:
        past = (<uintptr_t>entry.data[0] + element[0] * itemsize(entry, 0)) % CACHE_LINE
        element[0] = max(element[0] - past // itemsize(entry, 0), 0)


cdef inline Py_ssize_t entry_at(
    const Entry *entries, Py_ssize_t count, int64_t place
) noexcept nogil:
    """The last entry that begins at or before this place of the line."""
    cdef Py_ssize_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) // 2
        if entries[middle].begin <= place:
            low = middle + 1
        else:
            high = middle
    return low - 1
