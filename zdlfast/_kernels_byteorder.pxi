# Elements of the other byte order. Included by _kernels.pxi: with AVX2 the bytes of 32 are
# reversed by one instruction.

ctypedef fused Bits:
    uint32_t
    uint64_t


cdef void swap_bytes(int itemsize, const void *source, void *target, Py_ssize_t n) noexcept nogil:
    """Copy elements, aligned or not, and reverse the bytes of each; in place if both are one."""
    if itemsize == 4:
        swap_words(<const char *>source, <char *>target, n, <uint32_t>0)
    else:
        swap_words(<const char *>source, <char *>target, n, <uint64_t>0)


cdef inline void swap_words(
    const char *source, char *target, Py_ssize_t n, Bits kind
) noexcept nogil:
    # One loop for both would first have to find out whether they overlap.
    cdef Py_ssize_t k
    cdef Bits w
    if source != target:
        copy_swapped(source, target, n, kind)
        return
    for k in range(n):
        memcpy(&w, target + k * sizeof(Bits), sizeof(Bits))
        w = swapped(w)
        memcpy(target + k * sizeof(Bits), &w, sizeof(Bits))


cdef inline void copy_swapped(
    const char *restrict source, char *restrict target, Py_ssize_t n, Bits kind
) noexcept nogil:
    cdef Py_ssize_t k
    cdef Bits w
    for k in range(n):
        memcpy(&w, source + k * sizeof(Bits), sizeof(Bits))
        w = swapped(w)
        memcpy(target + k * sizeof(Bits), &w, sizeof(Bits))


cdef inline Bits swapped(Bits w) noexcept nogil:
    # Shifts of whole words, which compilers know as one instruction.
    if Bits is uint32_t:
        w = ((w & <uint32_t>0x00FF00FF) << 8) | ((w >> 8) & <uint32_t>0x00FF00FF)
        return (w << 16) | (w >> 16)
    w = ((w & <uint64_t>0x00FF00FF00FF00FF) << 8) | ((w >> 8) & <uint64_t>0x00FF00FF00FF00FF)
    w = ((w & <uint64_t>0x0000FFFF0000FFFF) << 16) | ((w >> 16) & <uint64_t>0x0000FFFF0000FFFF)
    return (w << 32) | (w >> 32)
