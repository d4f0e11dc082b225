# What lies between memory and a rule's loop. Included by _engine.pyx.
#
# Contiguous arrays of the loop's own dtypes go to it as they are. All others go through
# buffers that stay in the first-level cache, block by block: decode, loop, encode. This is the
# place for every format that is not what the loop computes in. Blocks of encoded state begin at
# multiples of BLOCK elements, wherever these lie.


cdef enum:
    # Bytes of a buffer: two blocks, and some cache lines so that no two buffers begin at the
    # same place of a page. Loads would take stores to the one for stores to the other.
    BUFFER = 2 * 8 * BLOCK + 33 * CACHE_LINE


cdef void execute(const Entry *entry, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Update the elements of an entry from `first` up to `last`."""
    cdef void *data[MAX_ARRAYS]
    cdef Py_ssize_t n, size = itemsize(entry, 0), past
    cdef int i, kind = entry.kind | entry.group.variant
    cdef const double *scalars = &entry.group.scalars[0]
    if entry.strides != NULL or entry.coding != NULL or entry.group.staged:
        execute_blocks(entry, first, last)
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
            entry.group.loop(kind, data, past, scalars)
            n -= past
            for i in range(entry.count):
                data[i] = <char *>data[i] + past * itemsize(entry, i)
    if length(entry) < tuning.fetch_from:
        entry.group.loop(kind, data, n, scalars)
    else:
        execute_prefetching(entry, data, n)


cdef void execute_prefetching(const Entry *entry, void **data, Py_ssize_t n) noexcept nogil:
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
        entry.group.loop(
            entry.kind | entry.group.variant, data, min(step, n), entry.group.scalars)
        n -= step
        for i in range(entry.count):
            data[i] = <char *>data[i] + step * itemsize(entry, i)


cdef inline void fetch(uintptr_t line, Py_ssize_t bytes) noexcept nogil:
    """Prefetch so many bytes from a place on, which may lie past the end."""
    cdef uintptr_t end = line + bytes
    while line < end:
        ZDL_PREFETCH(line)
        line += CACHE_LINE


cdef inline void fetch_early(uintptr_t line, Py_ssize_t bytes) noexcept nogil:
    """The same, only as far as the second-level cache."""
    cdef uintptr_t end = line + bytes
    while line < end:
        ZDL_PREFETCH_EARLY(line)
        line += CACHE_LINE


# How a loop gets at an array.
cdef enum:
    IN_PLACE
    COPIED                  # by strides
    ROUNDED                 # an array of bfloat16
    ENCODED                 # by a format of state

# An entry on its way through the buffers.
#
# Loops are fastest from a cache line of the parameter on, and blocks of codes begin elsewhere. So
# state is decoded one block ahead: a loop goes from a cache line within one block to that within
# the next, and the buffer is a ring of two blocks. The line behind it stands for its first one,
# where a loop goes past the end.
cdef struct Blocks:
    const Entry *entry
    char *buffers
    int how[MAX_ARRAYS]
    int size                # bytes of an element of parameter and state, as the loop takes them
    Py_ssize_t start        # the element that lies first in the buffers
    Py_ssize_t last         # the end of what is to be done
    Py_ssize_t held         # elements of a ring: one block, or two
    Py_ssize_t fetched      # the next element to be prefetched
    Py_ssize_t share        # how many are at a time; 0 if none


cdef void execute_blocks(const Entry *entry, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef char[(MAX_ARRAYS + 1) * BUFFER + CACHE_LINE] memory
    cdef char *buffers = memory + (-<uintptr_t>memory) % CACHE_LINE
    cdef void *staged = buffers + MAX_ARRAYS * BUFFER
    cdef void *data[MAX_ARRAYS]
    cdef const Group *group = entry.group
    cdef Py_ssize_t n, decoded = first, encoded = first
    cdef int i, kind = entry.kind | group.variant
    cdef Blocks blocks
    plan_blocks(&blocks, entry, buffers, first, last)
    n = to_cache_line(&blocks)
    blocks.held = 2 * BLOCK if n > 0 else BLOCK
    if group.staged and group.decay != 0.0 and kind & PARAM_DOUBLE:
        kind |= GRAD_DOUBLE         # a sum with the parameter is of the wider dtype
    while first < last:
        n = min(n if n > 0 else <Py_ssize_t>BLOCK, last - first)
        while decoded < first + n:
            blocks.fetched = decoded + BLOCK
            decode_block(&blocks, decoded)
            decoded += BLOCK
        for i in range(entry.count):
            data[i] = take(&blocks, i, first, n)
        if group.staged:
            kernels.stage(
                entry.kind, data[0], data[1], staged, n, group.g_scale, group.clip_value,
                group.decay)
            data[1] = staged
        group.loop(kind, data, n, group.scalars)
        for i in range(entry.count):
            if i != 1 and blocks.how[i] != IN_PLACE:
                give_back(&blocks, i, first, n)
        first += n
        n = 0
        while encoded < last and (encoded + BLOCK <= first or first == last):
            encode_block(&blocks, encoded)
            encoded += BLOCK


cdef void plan_blocks(
    Blocks *blocks, const Entry *entry, char *buffers, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef int i, times = 0
    blocks.entry, blocks.buffers, blocks.start, blocks.last = entry, buffers, first, last
    blocks.size = 8 if entry.kind & PARAM_DOUBLE else 4
    for i in range(entry.count):
        blocks.how[i] = IN_PLACE
        if format_of(entry, i) != FULL:
            blocks.how[i] = ENCODED
        elif is_bfloat16(entry, i):
            blocks.how[i] = ROUNDED
        elif entry.strides != NULL and not entry.strides.is_contiguous[i]:
            blocks.how[i] = COPIED
        if blocks.how[i] >= ROUNDED:
            times += 1 if i == 1 else 2
    # All of the next block at once would keep other loads waiting: a share is prefetched each
    # time that a format reads or writes one.
    blocks.share = 0
    if times > 0 and entry.strides == NULL and length(entry) >= tuning.fetch_blocks_from:
        blocks.share = (BLOCK + times - 1) // times


cdef inline Py_ssize_t to_cache_line(const Blocks *blocks) noexcept nogil:
    """The elements before the parameter begins a cache line; 0 if loops do not see where it lies."""
    if blocks.how[0] != IN_PLACE:
        return 0
    return (
        -(<uintptr_t>blocks.entry.data[0] + blocks.start * blocks.size) % CACHE_LINE // blocks.size)


cdef void fetch_share(Blocks *blocks) noexcept nogil:
    """Prefetch what a share of the next block is read from."""
    cdef const Entry *entry = blocks.entry
    cdef Py_ssize_t size
    cdef int i
    for i in range(entry.count):
        if blocks.how[i] != ENCODED:
            size = itemsize(entry, i)
            fetch_early(<uintptr_t>entry.data[i] + blocks.fetched * size, blocks.share * size)
            continue
        size = code_size(entry, i)
        fetch_early(<uintptr_t>codes_of(entry, i, blocks.fetched), blocks.share * size)
        if size == 1:
            fetch_early(<uintptr_t>scales_of(entry, i, blocks.fetched), 1)
    blocks.fetched += blocks.share


cdef inline char *held_at(const Blocks *blocks, int i, Py_ssize_t first) noexcept nogil:
    """Where the ring of encoded array `i` has element `first`."""
    cdef Py_ssize_t place = (first - blocks.start) & (blocks.held - 1)
    return blocks.buffers + i * BUFFER + place * blocks.size


cdef inline void decode_block(Blocks *blocks, Py_ssize_t first) noexcept nogil:
    """Read what is encoded, from element `first` on."""
    cdef const Entry *entry = blocks.entry
    cdef char *values
    cdef int i
    for i in range(2, entry.count):
        if blocks.how[i] != ENCODED:
            continue
        values = held_at(blocks, i, first)
        kernels.decode(
            entry.coding.format[i], blocks.size == 8, codes_of(entry, i, first),
            scales_of(entry, i, first), values, min(<Py_ssize_t>BLOCK, blocks.last - first))
        if values == blocks.buffers + i * BUFFER:
            memcpy(values + blocks.held * blocks.size, values, CACHE_LINE)
        if blocks.share > 0:
            fetch_share(blocks)


cdef inline void encode_block(Blocks *blocks, Py_ssize_t first) noexcept nogil:
    """Write what is encoded, from element `first` on."""
    cdef const Entry *entry = blocks.entry
    cdef int i
    for i in range(2, entry.count):
        if blocks.how[i] != ENCODED:
            continue
        kernels.encode(
            entry.coding.format[i], blocks.size == 8, held_at(blocks, i, first),
            codes_of(entry, i, first), scales_of(entry, i, first),
            min(<Py_ssize_t>BLOCK, blocks.last - first), by_chance(entry, i),
            block_key(entry, i, first))
        if blocks.share > 0:
            fetch_share(blocks)


cdef inline void *take(
    Blocks *blocks, int i, Py_ssize_t first, Py_ssize_t n
) noexcept nogil:
    """Elements of array `i` as the loop takes them: where they lie, or in a buffer."""
    cdef const Entry *entry = blocks.entry
    cdef char *buffer = blocks.buffers + i * BUFFER
    cdef int how = blocks.how[i]
    if how == IN_PLACE:
        return entry.data[i] + first * itemsize(entry, i)
    if how == ENCODED:
        return held_at(blocks, i, first)
    if how == COPIED:
        copy_block(entry.strides, i, entry.data[i], first, n, buffer, True)
        return buffer
    read_bfloat16(entry, entry.strides, i, i, first, n, buffer)
    if blocks.share > 0:
        fetch_share(blocks)
    return buffer


cdef void read_bfloat16(
    const Entry *entry, const Strides *strides, int place, int i, Py_ssize_t first, Py_ssize_t n,
    char *buffer,
) noexcept nogil:
    """A block of array `i` of bfloat16, as the loop takes it; `place` is its own in `strides`."""
    cdef uint16_t[BLOCK] halves
    cdef const void *codes = entry.data[i] + 2 * first
    if strides != NULL and not strides.is_contiguous[place]:
        copy_block(strides, place, entry.data[i], first, n, <char *>halves, True)
        codes = halves
    kernels.decode(BFLOAT16, i != 1 and entry.kind & PARAM_DOUBLE, codes, NULL, buffer, n)


cdef inline void give_back(
    Blocks *blocks, int i, Py_ssize_t first, Py_ssize_t n
) noexcept nogil:
    """Put elements back that the loop has changed in a buffer."""
    cdef const Entry *entry = blocks.entry
    cdef char *buffer = blocks.buffers + i * BUFFER
    cdef char *behind = buffer + blocks.held * blocks.size
    cdef int how = blocks.how[i]
    if how == COPIED:
        copy_block(entry.strides, i, entry.data[i], first, n, buffer, False)
    elif how == ROUNDED:
        write_bfloat16(entry, i, first, n, buffer)
        if blocks.share > 0:
            fetch_share(blocks)
    elif held_at(blocks, i, first) + n * blocks.size > behind:
        memcpy(buffer, behind, CACHE_LINE)


cdef void write_bfloat16(
    const Entry *entry, int i, Py_ssize_t first, Py_ssize_t n, char *buffer
) noexcept nogil:
    """Put a block of array `i` of bfloat16 back."""
    cdef uint16_t[BLOCK] halves
    cdef bint scattered = entry.strides != NULL and not entry.strides.is_contiguous[i]
    cdef void *codes = <char *>halves if scattered else entry.data[i] + 2 * first
    kernels.encode(
        BFLOAT16, entry.kind & PARAM_DOUBLE, buffer, codes, NULL, n, by_chance(entry, i),
        block_key(entry, i, first))
    if scattered:
        copy_block(entry.strides, i, entry.data[i], first, n, <char *>halves, False)


cdef inline bint by_chance(const Entry *entry, int i) noexcept nogil:
    """Whether what is written to array `i` is rounded by chance.

    State in bfloat16 always is: to the nearest, running means would stand still.
    """
    return entry.group.stochastic or (
        i > 0 and (is_bfloat16(entry, i) or format_of(entry, i) == BFLOAT16))


cdef inline uint32_t block_key(const Entry *entry, int i, Py_ssize_t first) noexcept nogil:
    """What the chance of a block depends on, which begins at element `first`; 0 without chance."""
    cdef uint64_t slot = i - 1 if i > 0 else 0      # 0 for the parameter
    if not by_chance(entry, i):
        return 0
    return <uint32_t>mixed(mixed(entry.group.key + slot) + <uint64_t>(first // BLOCK))


cdef inline char *codes_of(const Entry *entry, int i, Py_ssize_t first) noexcept nogil:
    """The codes of encoded state, from element `first` on."""
    return entry.data[i] + code_size(entry, i) * first


cdef inline Py_ssize_t code_size(const Entry *entry, int i) noexcept nogil:
    return 2 if entry.coding.format[i] == BFLOAT16 else 1


cdef inline float *scales_of(const Entry *entry, int i, Py_ssize_t first) noexcept nogil:
    """Its scales, from those of element `first` on; NULL if there are none."""
    if entry.coding.format[i] == BFLOAT16:
        return NULL
    if entry.read != NULL:      # they lie behind the codes
        return <float *>(entry.data[i] + blocks_of(entry.n) * BLOCK) + first // GROUP
    return <float *>PyArray_BYTES(<PyArrayObject *>entry.coding.scales[i]) + first // GROUP
