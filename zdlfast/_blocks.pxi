# Arrays that are no spans: strided, transposed, unaligned or byte-swapped. Included by
# _engine.pyx.
#
# A walk visits the elements of several arrays of one shape together, in the order in which
# the parameter's lie in memory. Block by block it copies what is no span into buffers that
# stay in the first-level cache, so that the same loops run as for contiguous arrays. A walk
# is made before an update begins and allocates nothing later: it cannot fail half-way.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

ctypedef fused Word:
    uint32_t
    uint64_t

cdef enum:
    MAX_DIMS = 64           # NumPy's own limit
    BLOCK = 512             # elements; at 8 bytes for four arrays, half of a 32 kB cache

cdef struct Walk:
    int ndim
    Py_ssize_t[MAX_DIMS] shape
    Py_ssize_t[STREAMS][MAX_DIMS] strides
    Py_ssize_t[STREAMS] itemsize
    bint[STREAMS] is_span       # needs no copy
    bint[STREAMS] swap          # has the other byte order


cdef Walk *make_walk(PyArrayObject **arrays, int count) except NULL:
    cdef PyArrayObject *param = arrays[0]
    cdef int ndim = PyArray_NDIM(param), axis, other, i
    cdef int[MAX_DIMS] order
    cdef Py_ssize_t stride
    cdef Walk *walk = <Walk *>malloc(sizeof(Walk))
    if walk == NULL:
        raise MemoryError("no memory to walk over a strided array")
    # The parameter's axes, longest stride first: an insertion sort of a few numbers.
    for axis in range(ndim):
        stride = PyArray_STRIDE(param, axis)
        other = axis
        while other > 0 and llabs(PyArray_STRIDE(param, order[other - 1])) < llabs(stride):
            order[other] = order[other - 1]
            other -= 1
        order[other] = axis
    # Neighbouring axes that are one run in every array become one axis.
    walk.ndim = 0
    for other in range(ndim):
        axis = order[other]
        if PyArray_DIM(param, axis) == 1:
            continue
        if walk.ndim > 0 and continues(walk, arrays, count, axis):
            walk.shape[walk.ndim - 1] *= PyArray_DIM(param, axis)
        else:
            walk.shape[walk.ndim] = PyArray_DIM(param, axis)
            walk.ndim += 1
        for i in range(count):
            walk.strides[i][walk.ndim - 1] = PyArray_STRIDE(arrays[i], axis)
    for i in range(count):
        walk.itemsize[i] = 8 if PyArray_TYPE(arrays[i]) == NPY_DOUBLE else 4
        walk.swap[i] = not PyArray_ISNOTSWAPPED(arrays[i])
        walk.is_span[i] = PyArray_ISALIGNED(arrays[i]) and not walk.swap[i]
        stride = walk.itemsize[i]
        for axis in range(walk.ndim - 1, -1, -1):
            walk.is_span[i] = walk.is_span[i] and walk.strides[i][axis] == stride
            stride *= walk.shape[axis]
    return walk


cdef inline bint continues(
    const Walk *walk, PyArrayObject **arrays, int count, int axis
) noexcept nogil:
    """Whether this axis goes on where the walk's last one steps, in every array."""
    cdef int i
    for i in range(count):
        if walk.strides[i][walk.ndim - 1] != (
            PyArray_STRIDE(arrays[i], axis) * PyArray_DIM(arrays[i], axis)
        ):
            return False
    return True


cdef bint meets_itself(const Walk *walk, int i) noexcept nogil:
    """Whether two elements of array `i` may lie in the same place."""
    cdef int axis, other
    cdef Py_ssize_t step, reach
    for axis in range(walk.ndim):
        step = llabs(walk.strides[i][axis])
        reach = walk.itemsize[i]
        for other in range(walk.ndim):
            if llabs(walk.strides[i][other]) < step or (
                llabs(walk.strides[i][other]) == step and other > axis
            ):
                reach += (walk.shape[other] - 1) * llabs(walk.strides[i][other])
        if reach > step:
            return True
    return False


cdef void copy_block(
    const Walk *walk, int i, char *base, Py_ssize_t first, Py_ssize_t count, char *buffer,
    bint to_buffer,
) noexcept nogil:
    """Copy `count` elements of array `i`, from element `first` on, to a buffer or back."""
    cdef Py_ssize_t[MAX_DIMS] index
    cdef Py_ssize_t rest = first, run, stride, itemsize = walk.itemsize[i]
    cdef int axis, last = walk.ndim - 1
    cdef char *element = base
    for axis in range(last, -1, -1):
        index[axis] = rest % walk.shape[axis]
        rest //= walk.shape[axis]
        element += index[axis] * walk.strides[i][axis]
    stride = walk.strides[i][last] if last >= 0 else 0
    while True:
        run = min(walk.shape[last] - index[last], count) if last >= 0 else 1
        copy_run(buffer, element, stride, run, itemsize, walk.swap[i], to_buffer)
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
            element += walk.strides[i][axis]
            if index[axis] < walk.shape[axis]:
                break
            element -= walk.shape[axis] * walk.strides[i][axis]
            index[axis] = 0
            axis -= 1


cdef inline void copy_run(
    char *buffer, char *element, Py_ssize_t stride, Py_ssize_t count, Py_ssize_t itemsize,
    bint swap, bint to_buffer,
) noexcept nogil:
    cdef Py_ssize_t k, byte
    if swap:
        for k in range(count):
            for byte in range(itemsize):
                if to_buffer:
                    buffer[k * itemsize + byte] = element[k * stride + itemsize - 1 - byte]
                else:
                    element[k * stride + itemsize - 1 - byte] = buffer[k * itemsize + byte]
    elif itemsize == 8:
        copy_words[uint64_t](<uint64_t *>buffer, element, stride, count, to_buffer)
    else:
        copy_words[uint32_t](<uint32_t *>buffer, element, stride, count, to_buffer)


cdef inline void copy_words(
    Word *buffer, char *element, Py_ssize_t stride, Py_ssize_t count, bint to_buffer
) noexcept nogil:
    # Copies of a size that the compiler knows are one instruction, unaligned or not. Four at
    # a time take two thirds of the time.
    cdef Word[4] words
    cdef Py_ssize_t k = 0
    if to_buffer:
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
    else:
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
