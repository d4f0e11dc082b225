# The formats of state in few bits, block by block. Included by _kernels.pxi.
# zdlfast/_formats.py is the same in NumPy, and says what the numbers mean.
#
# The length of each loop is known when it is compiled, so that all becomes wide instructions.
# Codes of 8 bits lie four to a word: those of elements j, 128 + j, 256 + j and 384 + j of a block.
# To pack them takes shifts and no shuffles. All arithmetic on bits is unsigned, so that the
# compiler may join its constants.

cdef enum:
    HALF_CODE = 1 << (CODE_BITS - 1)
    HALF_CHANCE = 1 << (CODE_BITS - 17)     # half of what a random bit stands for
    TOP_BYTE = 24               # how far a code is shifted to become the upper byte of a word
    SIGN = 0x80000000           # of a float32, and of a code that is the upper byte
    MAGNITUDE = 0x7FFFFFFF      # all other bits
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


# A number for each place of half a block, that looks random: the finalizer of MurmurHash3.
cdef uint32_t[2 * WORDS] noise


cdef void fill_noise() noexcept:
    cdef uint32_t x
    cdef int place
    for place in range(2 * WORDS):
        x = place               # less than 2**16: the first step of the finalizer changes nothing
        x = x * <uint32_t>0x85EBCA6B
        x = (x ^ (x >> 13)) * <uint32_t>0xC2B2AE35
        noise[place] = x ^ (x >> 16)


fill_noise()


cdef inline uint32_t random_bits(uint32_t key, Py_ssize_t i) noexcept nogil:
    """32 random bits: 16 for place `i` of a block and 16 for that half a block behind it.

    Any number has the same chance at each place, as the key is random and the factor odd.
    """
    return (noise[i] ^ key) * <uint32_t>0x85EBCA6B


# ------------------------------------------------------------------ 8 bits

# In the bits of a start, those of a code are zero: to add a code is to put it there.
cdef inline float start_of(Sign sign) noexcept nogil:
    return 0.0078125 if Sign is Signed else 0.000030517578125       # 2**-7, 2**-15


cdef inline float top_of(Sign sign) noexcept nogil:
    return 1.9296875 if Sign is Signed else 1.937469482421875


cdef inline float least_scale() noexcept nogil:
    return 7.888609052210118e-31                            # 2**-100


cdef inline uint32_t shifted(uint32_t word, int by) noexcept nogil:
    return word << by if by >= 0 else word >> -by


cdef inline float from_code(uint32_t word, int byte, float factor, Sign sign) noexcept nogil:
    """The value of a code, which is a byte of a word; byte 0 is the lowest."""
    cdef float start = start_of(sign)
    cdef uint32_t code
    if Sign is Signed:
        code = shifted(word, CODE_BITS - 8 * byte) & (<uint32_t>127 << CODE_BITS)
        return float_of(
            (shifted(word, TOP_BYTE - 8 * byte) & <uint32_t>SIGN)
            | bits_of((float_of(code | bits_of(start)) - start) * factor))
    else:
        code = shifted(word, CODE_BITS - 8 * byte) & (<uint32_t>255 << CODE_BITS)
        return (float_of(code | bits_of(start)) - start) * factor


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
            value[j] = from_code(word[j], 0, factor0, sign)
            value[WORDS + j] = from_code(word[j], 1, factor1, sign)
            value[2 * WORDS + j] = from_code(word[j], 2, factor2, sign)
            value[3 * WORDS + j] = from_code(word[j], 3, factor3, sign)


cdef inline uint32_t to_code(
    float value, float factor, int byte, Sign sign, Rounding rounding, uint32_t random
) noexcept nogil:
    """The code of a value, by chance or the nearest one, as a byte of a word; 0 is the lowest."""
    cdef uint32_t bits = bits_of(value), magnitude = bits, code, least, most
    if Sign is Signed:
        magnitude = bits & <uint32_t>MAGNITUDE
    # The code, and CODE_BITS of a fraction below.
    code = bits_of(float_of(magnitude) * factor + start_of(sign))
    if Rounding is Stochastic:
        code += (random << (CODE_BITS - 16)) + HALF_CHANCE - bits_of(start_of(sign))
        # The largest magnitude may have become larger by a digit, and been rounded up.
        most = ((<uint32_t>128 if Sign is Signed else <uint32_t>256) << CODE_BITS) - 1
        code = code if code < most else most
    else:
        code += HALF_CODE - bits_of(start_of(sign))
    if Sign is Signed:
        code = (code << (TOP_BYTE - CODE_BITS)) & <uint32_t>0x7F000000
        return (code | (bits & <uint32_t>SIGN)) >> (TOP_BYTE - 8 * byte)
    else:
        code, least = code >> CODE_BITS, magnitude if magnitude < 1 else 1
        return (code if code > least else least) << (8 * byte)


cdef inline void encode_8bit(
    const float *restrict x, uint32_t *restrict words, const float *restrict scales, Sign sign,
    Rounding rounding, uint32_t key,
) noexcept nogil:
    cdef float[GROUPS] factors
    cdef float factor0, factor1, factor2, factor3
    cdef uint32_t first = 0, second = 0
    cdef int group, j
    cdef uint32_t *word
    cdef const float *value
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
                to_code(value[j], factor0, 0, sign, rounding, first >> 16)
                | to_code(value[WORDS + j], factor1, 1, sign, rounding, second >> 16)
                | to_code(
                    value[2 * WORDS + j], factor2, 2, sign, rounding, first & 0xFFFF)
                | to_code(
                    value[3 * WORDS + j], factor3, 3, sign, rounding, second & 0xFFFF))


cdef inline bint largest_of_groups(
    const float *restrict x, float *restrict scales, Sign sign
) noexcept nogil:
    """The largest magnitude of each group, NaN if it is not finite; whether one of them is not.

    What is less than zero in state that has no sign counts as not finite.
    """
    cdef uint32_t[16 * GROUPS] of_16
    cdef uint32_t[8 * GROUPS] of_8
    cdef uint32_t[4 * GROUPS] of_4
    cdef uint32_t[2 * GROUPS] of_2
    cdef uint32_t[GROUPS] largest
    cdef uint32_t mask = MAGNITUDE if Sign is Signed else <uint32_t>0xFFFFFFFF, of_all = 0
    cdef int group, j
    # Of positive numbers the order is that of their bits, which NaN does not disturb. Each group
    # is folded in half until one is left: all groups at once, so that it takes wide instructions.
    for group in range(GROUPS):
        for j in range(16):
            of_16[16 * group + j] = larger_bits(
                bits_of(x[GROUP * group + j]) & mask, bits_of(x[GROUP * group + 16 + j]) & mask)
    for group in range(GROUPS):
        for j in range(8):
            of_8[8 * group + j] = larger_bits(of_16[16 * group + j], of_16[16 * group + 8 + j])
    for group in range(GROUPS):
        for j in range(4):
            of_4[4 * group + j] = larger_bits(of_8[8 * group + j], of_8[8 * group + 4 + j])
    for j in range(2 * GROUPS):
        of_2[j] = larger_bits(of_4[2 * j], of_4[2 * j + 1])
    for group in range(GROUPS):
        largest[group] = larger_bits(of_2[2 * group], of_2[2 * group + 1])
    for group in range(GROUPS):
        of_all = larger_bits(of_all, largest[group])
    for group in range(GROUPS):
        scales[group] = float_of(
            largest[group] if largest[group] < <uint32_t>INFINITE else <uint32_t>NOT_A_NUMBER)
    return of_all >= <uint32_t>INFINITE


cdef inline uint32_t larger_bits(uint32_t one, uint32_t other) noexcept nogil:
    return one if one > other else other


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
    return NOT_A_NUMBER >> 16 if (bits & MAGNITUDE) > <uint32_t>INFINITE else rounded


cdef inline void encode_bfloat16(
    const float *restrict x, uint16_t *restrict codes, uint32_t key
) noexcept nogil:
    cdef uint32_t[BLOCK] halves
    cdef uint32_t random
    cdef Py_ssize_t j
    # 32 random bits are enough for two.
    for j in range(2 * WORDS):
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
    if format == BFLOAT16 and n == BLOCK:
        decode_bfloat16(<const uint16_t *>codes, x, BLOCK)
    elif format == BFLOAT16:
        decode_bfloat16(<const uint16_t *>codes, x, n)
    elif format == SIGNED_8BIT:
        decode_8bit(<const uint32_t *>codes, scales, x, <Signed>0)
    else:
        decode_8bit(<const uint32_t *>codes, scales, x, <Unsigned>0)
    if is_double:
        for j in range(n):
            (<double *>values)[j] = narrow[j]


cdef void find_scales(
    int format, bint is_double, void *values, float *scales, Py_ssize_t n
) noexcept nogil:
    """Find the scales of a block in 8 bits, and leave its values as `encode` takes them.

    That is: float32, whatever they were; zeros behind the last, and where a group has no scale.
    """
    cdef float[BLOCK] narrow
    cdef float *x = <float *>values
    cdef bint is_bad
    cdef int group, j
    if is_double:
        narrow_block(<double *>values, narrow, n)
        memcpy(values, narrow, BLOCK * sizeof(float))
    for j in range(n, BLOCK):
        x[j] = 0.0
    if format == SIGNED_8BIT:
        is_bad = largest_of_groups(x, scales, <Signed>0)
    else:
        is_bad = largest_of_groups(x, scales, <Unsigned>0)
    if not is_bad:
        return
    for group in range(GROUPS):
        if scales[group] != scales[group]:
            for j in range(GROUP * group, GROUP * group + GROUP):
                x[j] = 0.0


cdef inline void narrow_block(
    const double *restrict wide, float *restrict x, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        x[j] = <float>wide[j]


cdef void encode(
    int format, bint is_double, const void *values, void *codes, const float *scales,
    Py_ssize_t n, bint stochastic, uint32_t key,
) noexcept nogil:
    cdef float[BLOCK] narrow
    cdef uint16_t[BLOCK] halves
    cdef const float *x = <const float *>values
    if is_double and format == BFLOAT16:
        narrow_block(<const double *>values, narrow, n)
        x = narrow
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
