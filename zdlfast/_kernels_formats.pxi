# The formats of state in few bits, block by block. Included by _kernels.pxi.
# zdlfast/_formats.py is the same in NumPy, and says what the numbers mean.
#
# The length of each loop is known when it is compiled, so that all becomes wide instructions.
# Codes of 8 bits lie four to a word: those of elements j, 128 + j, 256 + j and 384 + j of a block.
# To pack them takes shifts and no shuffles.

cdef enum:
    HALF_CODE = 1 << (CODE_BITS - 1)
    HALF_CHANCE = 1 << (CODE_BITS - 17)     # half of what a random bit stands for
    MAGNITUDE = 0x7FFFFFFF      # of a float32: all bits but the sign
    INFINITE = 0x7F800000
    NOT_A_NUMBER = 0x7FC00000

# Whether values have signs, and whether they are rounded by chance: types, so that it is decided
# when it is compiled.
ctypedef char Unsigned
ctypedef int Signed
ctypedef fused Sign:
    Unsigned
    Signed

ctypedef char Nearest
ctypedef int Stochastic
ctypedef fused Rounding:
    Nearest
    Stochastic

cdef union Word:
    float value
    uint32_t bits


cdef inline uint32_t bits_of(float value) noexcept nogil:
    cdef Word word
    word.value = value
    return word.bits


cdef inline float float_of(uint32_t bits) noexcept nogil:
    cdef Word word
    word.bits = bits
    return word.value


cdef inline uint32_t random_bits(uint32_t key, Py_ssize_t i) noexcept nogil:
    """32 random bits: 16 for place `i` of a block and 16 for that half a block behind it.

    The finalizer of MurmurHash3.
    """
    cdef uint32_t x = key + <uint32_t>i
    x = (x ^ (x >> 16)) * <uint32_t>0x85EBCA6B
    x = (x ^ (x >> 13)) * <uint32_t>0xC2B2AE35
    return x ^ (x >> 16)


# ------------------------------------------------------------------ 8 bits

cdef inline float start_of(Sign sign) noexcept nogil:
    return 0.015625 if Sign is Signed else 0.00006103515625         # 2**-6, 2**-14


cdef inline float top_of(Sign sign) noexcept nogil:
    return 3.859375 if Sign is Signed else 3.87493896484375


cdef inline float least_scale() noexcept nogil:
    return 7.888609052210118e-31                            # 2**-100


cdef inline float from_code(uint32_t code, float factor, Sign sign) noexcept nogil:
    """The value of a code, which is the upper byte of a word."""
    cdef float start = start_of(sign)
    cdef uint32_t upper = 0
    if Sign is Signed:
        code, upper = code & 0x7FFFFFFF, code & <uint32_t>0x80000000
    code = (code >> 24) << CODE_BITS
    return float_of(upper | bits_of((float_of(code + bits_of(start)) - start) * factor))


cdef inline void decode_8bit(
    const uint32_t *restrict words, const float *restrict scales, float *restrict x, Sign sign
) noexcept nogil:
    cdef float[GROUPS] factors
    cdef float factor0, factor1, factor2, factor3
    cdef int group, j
    cdef const uint32_t *word
    cdef float *value
    for group in range(GROUPS):
        # NaN stays.
        factors[group] = (
            least_scale() if scales[group] < least_scale() else scales[group]) / top_of(sign)
    for group in range(GROUPS // 4):
        word, value = words + group * GROUP, x + group * GROUP
        factor0, factor1 = factors[group], factors[4 + group]
        factor2, factor3 = factors[8 + group], factors[12 + group]
        for j in range(GROUP):
            value[j] = from_code(word[j] << 24, factor0, sign)
            value[WORDS + j] = from_code(word[j] << 16, factor1, sign)
            value[2 * WORDS + j] = from_code(word[j] << 8, factor2, sign)
            value[3 * WORDS + j] = from_code(word[j], factor3, sign)


cdef inline uint32_t to_code(
    float value, float factor, Sign sign, Rounding rounding, uint32_t random
) noexcept nogil:
    """The code of a value, by chance or the nearest one."""
    cdef uint32_t bits = bits_of(value)
    cdef int32_t magnitude = <int32_t>(bits & MAGNITUDE), code, least, most
    code = <int32_t>(
        bits_of(float_of(<uint32_t>magnitude) * factor + start_of(sign))
        - bits_of(start_of(sign)))
    if Rounding is Stochastic:
        code = (code + <int32_t>(random << (CODE_BITS - 16)) + HALF_CHANCE) >> CODE_BITS
        # The largest magnitude may have become larger by a digit, and been rounded up.
        most = 127 if Sign is Signed else 255
        code = code if code < most else most
    else:
        code = (code + HALF_CODE) >> CODE_BITS
    if Sign is Signed:
        return <uint32_t>code | ((bits >> 24) & 128)
    else:
        least = magnitude if magnitude < 1 else 1
        return <uint32_t>(code if code > least else least)


cdef inline void encode_8bit(
    float *restrict x, uint32_t *restrict words, float *restrict scales, Sign sign,
    Rounding rounding, uint32_t key,
) noexcept nogil:
    cdef float[GROUPS] factors
    cdef float factor0, factor1, factor2, factor3
    cdef uint32_t first = 0, second = 0
    cdef int group, j
    cdef uint32_t *word
    cdef const float *value
    find_scales(x, scales)
    for group in range(GROUPS):
        # NaN, which a group of zeros has for a scale now, must not get into its codes.
        factors[group] = top_of(sign) / (
            scales[group] if scales[group] > least_scale() else least_scale())
    for group in range(GROUPS // 4):
        word, value = words + group * GROUP, x + group * GROUP
        factor0, factor1 = factors[group], factors[4 + group]
        factor2, factor3 = factors[8 + group], factors[12 + group]
        for j in range(GROUP):
            if Rounding is Stochastic:
                first = random_bits(key, group * GROUP + j)
                second = random_bits(key, WORDS + group * GROUP + j)
            word[j] = (
                to_code(value[j], factor0, sign, rounding, first >> 16)
                | to_code(value[WORDS + j], factor1, sign, rounding, second >> 16) << 8
                | to_code(
                    value[2 * WORDS + j], factor2, sign, rounding, first & 0xFFFF) << 16
                | to_code(
                    value[3 * WORDS + j], factor3, sign, rounding, second & 0xFFFF) << 24)


cdef inline void find_scales(float *restrict x, float *restrict scales) noexcept nogil:
    """The largest magnitude of each group; NaN, and zeros in its place, if it is not finite."""
    cdef int32_t[GROUPS] largest
    cdef int32_t magnitude, most, of_all = 0
    cdef int group, j
    cdef float *value
    # Of positive numbers the order is that of their bits, which NaN does not disturb.
    for group in range(GROUPS):
        value, most = x + group * GROUP, 0
        for j in range(GROUP):
            magnitude = <int32_t>(bits_of(value[j]) & MAGNITUDE)
            most = magnitude if magnitude > most else most
        largest[group] = most
        of_all = most if most > of_all else of_all
    if of_all >= INFINITE:
        for group in range(GROUPS):
            if largest[group] >= INFINITE:
                largest[group] = NOT_A_NUMBER
                for j in range(GROUP):
                    x[group * GROUP + j] = 0.0
    for group in range(GROUPS):
        scales[group] = float_of(<uint32_t>largest[group])


# ------------------------------------------------------------------ bfloat16

cdef inline void decode_bfloat16(
    const uint16_t *restrict codes, float *restrict x, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        x[j] = float_of(<uint32_t>codes[j] << 16)


cdef inline uint32_t upper_half(uint32_t bits, uint32_t rounding) noexcept nogil:
    """The upper half of a float32, after the lower one was rounded; NaN stays."""
    cdef uint32_t rounded = (bits + rounding) >> 16
    return NOT_A_NUMBER >> 16 if <int32_t>(bits & MAGNITUDE) > INFINITE else rounded


cdef inline void encode_bfloat16(
    const float *restrict x, uint16_t *restrict codes, uint32_t key
) noexcept nogil:
    cdef uint32_t[BLOCK] halves
    cdef uint32_t random
    cdef Py_ssize_t j
    # 32 random bits are enough for two.
    for j in range(BLOCK // 2):
        random = random_bits(key, j)
        halves[j] = upper_half(bits_of(x[j]), random >> 16)
        halves[BLOCK // 2 + j] = upper_half(bits_of(x[BLOCK // 2 + j]), random & 0xFFFF)
    for j in range(BLOCK):
        codes[j] = <uint16_t>halves[j]


cdef inline void round_to_bfloat16(
    const float *restrict x, uint16_t *restrict codes, Py_ssize_t n
) noexcept nogil:
    """To the nearest; of two, to the even one."""
    cdef uint32_t bits
    cdef Py_ssize_t j
    for j in range(n):
        bits = bits_of(x[j])
        codes[j] = <uint16_t>upper_half(bits, 0x7FFF + ((bits >> 16) & 1))


# ------------------------------------------------------------------ every format

cdef void decode(
    int format, bint is_double, const void *codes, const float *scales, void *values,
    Py_ssize_t n,
) noexcept nogil:
    cdef float[BLOCK] narrow
    cdef float *x = <float *>narrow if is_double else <float *>values
    cdef Py_ssize_t j
    if format == BFLOAT16:
        decode_bfloat16(<const uint16_t *>codes, x, n)
    elif format == SIGNED_8BIT:
        decode_8bit(<const uint32_t *>codes, scales, x, <Signed>0)
    else:
        decode_8bit(<const uint32_t *>codes, scales, x, <Unsigned>0)
    if is_double:
        for j in range(n):
            (<double *>values)[j] = narrow[j]


cdef void encode(
    int format, bint is_double, void *values, void *codes, float *scales, Py_ssize_t n,
    bint stochastic, uint32_t key,
) noexcept nogil:
    cdef float[BLOCK] narrow
    cdef uint16_t[BLOCK] halves
    cdef float *x = <float *>narrow if is_double else <float *>values
    cdef Py_ssize_t j
    if is_double:
        for j in range(n):
            narrow[j] = <float>(<double *>values)[j]
    for j in range(n, BLOCK):
        x[j] = 0.0
    if format == BFLOAT16 and not stochastic:
        round_to_bfloat16(x, <uint16_t *>codes, n)
    elif format == BFLOAT16 and n == BLOCK:
        encode_bfloat16(x, <uint16_t *>codes, key)
    elif format == BFLOAT16:
        encode_bfloat16(x, halves, key)
        memcpy(codes, halves, n * sizeof(uint16_t))
    elif format == SIGNED_8BIT and stochastic:
        encode_8bit(x, <uint32_t *>codes, scales, <Signed>0, <Stochastic>0, key)
    elif format == SIGNED_8BIT:
        encode_8bit(x, <uint32_t *>codes, scales, <Signed>0, <Nearest>0, key)
    elif stochastic:
        encode_8bit(x, <uint32_t *>codes, scales, <Unsigned>0, <Stochastic>0, key)
    else:
        encode_8bit(x, <uint32_t *>codes, scales, <Unsigned>0, <Nearest>0, key)
