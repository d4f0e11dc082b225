# How the work of a large update is cut into pieces, for several threads. Included by
# _engine.pyx.
#
# The entries of an update lie one behind the other on a line, each as long as the bytes that
# it occupies. The line is cut into pieces of equal length, so that one huge array and a thousand
# small ones are both shared out evenly. A cut through an array is moved to a border of its
# memory: no two threads write to one cache line, and wide accesses stay within one.

from zdlfast._threads import get_num_threads

cdef extern from "_pool.h":
    ctypedef void (*Piece "zdl_piece")(void *job, size_t piece) noexcept nogil
    void zdl_run(Piece run, void *job, size_t pieces, int threads) noexcept nogil
    bint zdl_in_a_row() nogil

cdef enum:
    HELP_FROM = 1572864         # bytes: some 30 us, from which on to wake helpers pays
    HELP_FROM_AWAKE = 524288    # the same if one update follows the other
    SHORTEST_PIECE = 65536      # bytes: some microseconds
    LONGEST_PIECE = 1048576
    DIGITS = 2048               # of 11 bits

cdef struct Job:
    const Item *items
    Py_ssize_t count
    const double *scalars
    Py_ssize_t piece                # bytes

# The memory of one array, from its first byte to the one after its last.
cdef struct Extent:
    uintptr_t low
    uintptr_t high
    int written


cdef void execute_all(
    Item *items, Py_ssize_t count, Py_ssize_t bytes, int threads, const double *scalars
) noexcept nogil:
    """Execute items of `bytes` in all, in order or on several threads at once."""
    cdef Job job
    cdef Py_ssize_t k
    if threads > 1 and not any_share_memory(items, count):
        job.items, job.count, job.scalars = items, count, scalars
        job.piece = min(max(bytes // (8 * threads), SHORTEST_PIECE), LONGEST_PIECE)
        zdl_run(execute_piece, &job, (bytes + job.piece - 1) // job.piece, threads)
    else:
        for k in range(count):
            execute(&items[k], 0, items[k].n, scalars)


cdef void execute_piece(void *data, size_t piece) noexcept nogil:
    cdef const Job *job = <const Job *>data
    cdef Py_ssize_t k, last_k, first, last
    cut(job, piece * job.piece, &k, &first)
    cut(job, (piece + 1) * job.piece, &last_k, &last)
    while k < last_k:
        execute(&job.items[k], first, job.items[k].n, job.scalars)
        first = 0
        k += 1
    if k < job.count:
        execute(&job.items[k], first, last, job.scalars)


cdef void cut(
    const Job *job, Py_ssize_t place, Py_ssize_t *found, Py_ssize_t *element
) noexcept nogil:
    """The item, and its element, where the line is cut near `place`."""
    cdef const Item *item
    cdef Py_ssize_t low = 0, high = job.count, middle, past
    # The last item that begins at or before this place.
    while low < high:
        middle = (low + high) // 2
        if job.items[middle].begin <= place:
            low = middle + 1
        else:
            high = middle
    item = &job.items[low - 1]
    place -= item.begin
    if place >= length(item):
        found[0], element[0] = low, 0
        return
    found[0] = low - 1
    element[0] = place // (length(item) // item.n)
    if item.walk != NULL:
        element[0] -= element[0] % BLOCK
    else:
        past = (<uintptr_t>item.data[0] + element[0] * item.itemsize[0]) % BORDER
        element[0] = max(element[0] - past // item.itemsize[0], 0)


cdef bint any_share_memory(const Item *items, Py_ssize_t count) noexcept nogil:
    """Whether an array that is written to may share memory with one of another item.

    Their order counts then. So it does, to be safe, if there is no memory to find out.
    """
    cdef Extent *memory
    cdef Extent *extents
    cdef Py_ssize_t k, size = 0
    cdef uintptr_t lowest = 0, highest = 0, end_of_all = 0, end_of_written = 0
    cdef bint found = False
    cdef int i
    if count == 1:
        return False
    memory = extents = <Extent *>malloc(2 * STREAMS * count * sizeof(Extent))
    if memory == NULL:
        return True
    for k in range(count):
        if items[k].n > 0:
            for i in range(items[k].count):
                extent_of(&items[k], i, &extents[size].low, &extents[size].high)
                extents[size].written = i != 1
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


cdef Extent *sort(
    Extent *extents, Extent *spare, Py_ssize_t size, uintptr_t lowest, uintptr_t highest
) noexcept nogil:
    """Sort by the lower end, digit by digit; the result is in `extents` or in `spare`.

    Places within 16 bytes are one, because memory is allocated so: of arrays that begin
    nearer to each other than that, it may seem that they overlap.
    """
    cdef Py_ssize_t[DIGITS] place
    cdef Py_ssize_t k, digit, before, here
    cdef int shift = 4
    while (highest - lowest) >> shift > 0:
        for digit in range(DIGITS):
            place[digit] = 0
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
