# Arrays that are not contiguous: strided, transposed, unaligned or byte-swapped. Included by
# _engine.pyx.
#
# Strided iteration visits the elements of several arrays of one shape together, in the order in
# which the parameter's lie in memory. What it needs is allocated before an update begins, and
# nothing later: it cannot fail half-way.

ctypedef fused Word:
    uint16_t
    uint32_t
    uint64_t

cdef enum:
    MAX_DIMS = 64           # NumPy's own limit

cdef struct Strides:
    int ndim
    Py_ssize_t[MAX_DIMS] shape
    Py_ssize_t[MAX_ARRAYS][MAX_DIMS] strides
    Py_ssize_t[MAX_ARRAYS] itemsize
    bint[MAX_ARRAYS] is_contiguous  # in this order, aligned, of the machine's byte order
    bint[MAX_ARRAYS] swapped        # has the other byte order


# How an array lies in memory, whatever object it is.
cdef struct Layout:
    int ndim
    const Py_ssize_t *shape
    const Py_ssize_t *strides
    Py_ssize_t unit                 # of the strides, in bytes
    Py_ssize_t itemsize
    bint aligned
    bint swapped


cdef inline Layout layout_of(PyArrayObject *array) noexcept nogil:
    cdef Layout layout
    layout.ndim = PyArray_NDIM(array)
    layout.shape, layout.strides, layout.unit = PyArray_DIMS(array), PyArray_STRIDES(array), 1
    layout.itemsize = PyArray_ITEMSIZE(array)
    layout.aligned, layout.swapped = PyArray_ISALIGNED(array), not PyArray_ISNOTSWAPPED(array)
    return layout


cdef inline Py_ssize_t stride_of(const Layout *layout, int axis) noexcept nogil:
    return layout.strides[axis] * layout.unit


cdef Strides *make_strides(const Layout *arrays, int count, bint as_it_lies) except NULL:
    """Prepare to iterate over arrays of one shape.

    Parameters
    ----------
    as_it_lies : bool
        In the order in which the first array lies in memory; else in that of its elements (C).
    """
    cdef int ndim = arrays[0].ndim, axis, other, i
    cdef int[MAX_DIMS] order
    cdef Py_ssize_t stride
    cdef Strides *of = <Strides *>malloc(sizeof(Strides))
    if of == NULL:
        raise MemoryError("no memory to iterate over a strided array")
    # The first one's axes, longest stride first: an insertion sort of a few numbers.
    for axis in range(ndim):
        stride = stride_of(&arrays[0], axis)
        other = axis
        while (
            as_it_lies
            and other > 0
            and llabs(stride_of(&arrays[0], order[other - 1])) < llabs(stride)
        ):
            order[other] = order[other - 1]
            other -= 1
        order[other] = axis
    # Neighbouring axes that are one run in every array become one axis.
    of.ndim = 0
    for other in range(ndim):
        axis = order[other]
        if arrays[0].shape[axis] == 1:
            continue
        if of.ndim > 0 and continues(of, arrays, count, axis):
            of.shape[of.ndim - 1] *= arrays[0].shape[axis]
        else:
            of.shape[of.ndim] = arrays[0].shape[axis]
            of.ndim += 1
        for i in range(count):
            of.strides[i][of.ndim - 1] = stride_of(&arrays[i], axis)
    for i in range(count):
        of.itemsize[i], of.swapped[i] = arrays[i].itemsize, arrays[i].swapped
        of.is_contiguous[i] = arrays[i].aligned and not of.swapped[i]
        stride = of.itemsize[i]
        for axis in range(of.ndim - 1, -1, -1):
            of.is_contiguous[i] = of.is_contiguous[i] and of.strides[i][axis] == stride
            stride *= of.shape[axis]
    return of


cdef inline bint continues(
    const Strides *of, const Layout *arrays, int count, int axis
) noexcept nogil:
    """Whether this axis goes on where the last one steps, in every array."""
    cdef int i
    for i in range(count):
        if of.strides[i][of.ndim - 1] != stride_of(&arrays[i], axis) * arrays[i].shape[axis]:
            return False
    return True


cdef bint overlaps_itself(const Strides *of, int i) noexcept nogil:
    """Whether two elements of array `i` may lie in the same place (internal overlap)."""
    cdef int axis, other
    cdef Py_ssize_t step, reach
    for axis in range(of.ndim):
        step = llabs(of.strides[i][axis])
        reach = of.itemsize[i]
        for other in range(of.ndim):
            if llabs(of.strides[i][other]) < step or (
                llabs(of.strides[i][other]) == step and other > axis
            ):
                reach += (of.shape[other] - 1) * llabs(of.strides[i][other])
        if reach > step:
            return True
    return False


cdef void copy_block(
    const Strides *of, int i, char *base, Py_ssize_t first, Py_ssize_t count, char *buffer,
    bint to_buffer,
) noexcept nogil:
    """Copy `count` elements of array `i`, from element `first` on, to a buffer or back."""
    cdef Py_ssize_t[MAX_DIMS] index
    cdef Py_ssize_t rest = first, run, stride, itemsize = of.itemsize[i]
    cdef int axis, last = of.ndim - 1
    cdef char *element = base
    for axis in range(last, -1, -1):
        index[axis] = rest % of.shape[axis]
        rest //= of.shape[axis]
        element += index[axis] * of.strides[i][axis]
    stride = of.strides[i][last] if last >= 0 else 0
    while True:
        run = min(of.shape[last] - index[last], count) if last >= 0 else 1
        if itemsize == 8:
            copy_run[uint64_t](<uint64_t *>buffer, element, stride, run, of.swapped[i], to_buffer)
        elif itemsize == 2:
            copy_run[uint16_t](<uint16_t *>buffer, element, stride, run, of.swapped[i], to_buffer)
        else:
            copy_run[uint32_t](<uint32_t *>buffer, element, stride, run, of.swapped[i], to_buffer)
        count -= run
        if count == 0:
            return
        buffer += run * itemsize
        # To the start of the next run, carrying over from axis to axis.
        element -= index[last] * stride
        index[last] = 0
        axis = last - 1
        while True:
            index[axis] += 1
            element += of.strides[i][axis]
            if index[axis] < of.shape[axis]:
                break
            element -= of.shape[axis] * of.strides[i][axis]
            index[axis] = 0
            axis -= 1


cdef inline void copy_run(
    Word *buffer, char *element, Py_ssize_t stride, Py_ssize_t count, bint swapped, bint to_buffer
) noexcept nogil:
    # What is not contiguous is swapped where it is: in the buffer.
    if swapped and stride == sizeof(Word):
        if to_buffer:
            kernels.swap_bytes(sizeof(Word), element, buffer, count)
        else:
            kernels.swap_bytes(sizeof(Word), buffer, element, count)
    elif to_buffer:
        gather(buffer, element, stride, count)
        if swapped:
            kernels.swap_bytes(sizeof(Word), buffer, buffer, count)
    else:
        if swapped:
            kernels.swap_bytes(sizeof(Word), buffer, buffer, count)
        scatter(buffer, element, stride, count)


cdef inline void gather(
    Word *buffer, const char *element, Py_ssize_t stride, Py_ssize_t count
) noexcept nogil:
    # Copies of a size that the compiler knows are one instruction, unaligned or not. Four at
    # a time take two thirds of the time.
    cdef Word[4] words
    cdef Py_ssize_t k = 0
    if stride == sizeof(Word):
        memcpy(buffer, element, count * sizeof(Word))
        return
    while k + 4 <= count:
        memcpy(&words[0], element, sizeof(Word))
        memcpy(&words[1], element + stride, sizeof(Word))
        memcpy(&words[2], element + 2 * stride, sizeof(Word))
        memcpy(&words[3], element + 3 * stride, sizeof(Word))
        memcpy(buffer + k, words, 4 * sizeof(Word))
        element += 4 * stride
        k += 4
    while k < count:
        memcpy(buffer + k, element, sizeof(Word))
        element += stride
        k += 1


cdef inline void scatter(
    const Word *buffer, char *element, Py_ssize_t stride, Py_ssize_t count
) noexcept nogil:
    cdef Word[4] words
    cdef Py_ssize_t k = 0
    if stride == sizeof(Word):
        memcpy(element, buffer, count * sizeof(Word))
        return
    while k + 4 <= count:
        memcpy(words, buffer + k, 4 * sizeof(Word))
        memcpy(element, &words[0], sizeof(Word))
        memcpy(element + stride, &words[1], sizeof(Word))
        memcpy(element + 2 * stride, &words[2], sizeof(Word))
        memcpy(element + 3 * stride, &words[3], sizeof(Word))
        element += 4 * stride
        k += 4
    while k < count:
        memcpy(element, buffer + k, sizeof(Word))
        element += stride
        k += 1
