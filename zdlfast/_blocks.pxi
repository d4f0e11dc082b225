# What lies between memory and a rule's loop. Included by _engine.pyx.
#
# Contiguous arrays of the loop's own dtypes go to it as they are. All others go through
# buffers that stay in the first-level cache, block by block: decode, loop, encode. This is the
# place for every format that is not what the loop computes in. Blocks of encoded state begin at
# multiples of BLOCK elements, wherever these lie.


cdef enum:
    # Bytes, with some between one buffer and the next: those of up to six begin at places of a
    # page far from each other.
    BUFFER = 8 * BLOCK + 640


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


# How the loop gets at each array of an entry.
cdef enum:
    IN_PLACE
    COPIED                  # by strides
    ROUNDED                 # an array of bfloat16
    ENCODED                 # by a format of state

cdef struct Blocks:
    const Entry *entry
    bint is_double          # parameter and state, as the loop takes them
    int how[MAX_ARRAYS]
    char *buffer[MAX_ARRAYS]


cdef void execute_blocks(const Entry *entry, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef char[8 * BLOCK + MAX_ARRAYS * BUFFER + PAGE + 2 * CACHE_LINE] memory
    cdef void *staged = memory + (-<uintptr_t>memory) % CACHE_LINE
    cdef void *data[MAX_ARRAYS]
    cdef const Group *group = entry.group
    cdef Loop loop = group.loop
    cdef Py_ssize_t n, past = 0
    cdef int i, kind = entry.kind | group.variant
    cdef Blocks blocks
    plan_blocks(&blocks, entry, first, <char *>staged + 8 * BLOCK)
    if blocks.how[0] == IN_PLACE and entry.coding == NULL:
        past = <uintptr_t>entry.data[0] % CACHE_LINE // itemsize(entry, 0)
        past = (past + first) % (CACHE_LINE // itemsize(entry, 0))
    if entry.coding != NULL and not entry.kind & PARAM_DOUBLE:
        # Blocks of codes begin anywhere in a cache line of the parameter, so that accesses of 64
        # bytes would each cross from one line to the next.
        loop = group.avx2_loop
    if group.staged and group.decay != 0.0 and kind & PARAM_DOUBLE:
        kind |= GRAD_DOUBLE         # a sum with the parameter is of the wider dtype
    while first < last:
        n = min(<Py_ssize_t>BLOCK - past, last - first)
        past = 0        # from the second one on, blocks begin at a cache line
        for i in range(entry.count):
            data[i] = take(&blocks, i, first, n)
        if group.staged:
            kernels.stage(
                entry.kind, data[0], data[1], staged, n, group.g_scale, group.clip_value,
                group.decay)
            data[1] = staged
        loop(kind, data, n, group.scalars)
        # The scales of all before the codes of any: each waits long for its last comparison.
        for i in range(2, entry.count):
            if blocks.how[i] == ENCODED and entry.coding.format[i] != BFLOAT16:
                kernels.find_scales(
                    entry.coding.format[i], blocks.is_double, blocks.buffer[i],
                    scales_of(entry, i, first), n)
        for i in range(entry.count):
            if i != 1 and blocks.how[i] != IN_PLACE:
                give_back(&blocks, i, first, n)
        first += n


cdef void plan_blocks(
    Blocks *blocks, const Entry *entry, Py_ssize_t first, char *memory
) noexcept nogil:
    """Tell how the loop gets at each array of an entry, and where its buffer is in `memory`."""
    cdef Py_ssize_t size = 8 if entry.kind & PARAM_DOUBLE else 4
    cdef int i
    blocks.entry, blocks.is_double = entry, size == 8
    # Each buffer begins at another place of a page, those of state far from the parameter's: a
    # load would wait for a store whose address ends alike, as with fresh state.
    memory += (<uintptr_t>entry.data[0] + first * size - <uintptr_t>memory) % PAGE
    memory += -<uintptr_t>memory % CACHE_LINE
    for i in range(entry.count):
        blocks.buffer[i] = memory + i * BUFFER
        blocks.how[i] = IN_PLACE
        if format_of(entry, i) != FULL:
            blocks.how[i] = ENCODED
        elif is_bfloat16(entry, i):
            blocks.how[i] = ROUNDED
        elif entry.strides != NULL and not entry.strides.is_contiguous[i]:
            blocks.how[i] = COPIED


cdef inline void *take(
    const Blocks *blocks, int i, Py_ssize_t first, Py_ssize_t n
) noexcept nogil:
    """A block of array `i` as the loop takes it: where it lies, or in its buffer."""
    cdef const Entry *entry = blocks.entry
    cdef char *buffer = blocks.buffer[i]
    cdef int how = blocks.how[i]
    if how == IN_PLACE:
        return entry.data[i] + first * itemsize(entry, i)
    if how == COPIED:
        copy_block(entry.strides, i, entry.data[i], first, n, buffer, True)
    elif how == ROUNDED:
        read_bfloat16(entry, entry.strides, i, i, first, n, buffer)
    else:
        kernels.decode(
            entry.coding.format[i], blocks.is_double, codes_of(entry, i, first),
            scales_of(entry, i, first), buffer, n)
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
    const Blocks *blocks, int i, Py_ssize_t first, Py_ssize_t n
) noexcept nogil:
    """Put a block back that the loop has changed in its buffer."""
    cdef const Entry *entry = blocks.entry
    cdef char *buffer = blocks.buffer[i]
    cdef int how = blocks.how[i]
    if how == COPIED:
        copy_block(entry.strides, i, entry.data[i], first, n, buffer, False)
    elif how == ROUNDED:
        write_bfloat16(entry, i, first, n, buffer)
    else:
        kernels.encode(
            entry.coding.format[i], blocks.is_double, buffer, codes_of(entry, i, first),
            scales_of(entry, i, first), n, by_chance(entry, i), block_key(entry, i, first))


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
    return entry.data[i] + (2 * first if entry.coding.format[i] == BFLOAT16 else first)


cdef inline float *scales_of(const Entry *entry, int i, Py_ssize_t first) noexcept nogil:
    """Its scales, from those of element `first` on; NULL if there are none."""
    if entry.coding.format[i] == BFLOAT16:
        return NULL
    if entry.read != NULL:      # they lie behind the codes
        return <float *>(entry.data[i] + blocks_of(entry.n) * BLOCK) + first // GROUP
    return <float *>PyArray_BYTES(<PyArrayObject *>entry.coding.scales[i]) + first // GROUP
