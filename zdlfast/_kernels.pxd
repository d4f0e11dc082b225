# What a kernel module hands to the engine, in a capsule: a table of rules, and what reads or
# prepares gradients.

from libc.stdint cimport uint32_t

cdef enum:
    MAX_RULES = 64
    MAX_OPTIONS = 16
    MAX_SCALARS = 16
    MAX_SLOTS = 4
    MAX_NUMBERS = 4
    MAX_ARRAYS = 2 + MAX_SLOTS  # the parameter, its gradient, and the state

# State may be kept in few bits: in blocks of elements and, in 8 bits, in groups with one scale.
cdef enum:
    BLOCK = 512             # at 8 bytes for four arrays, half of a 32 kB cache
    GROUP = 32
    GROUPS = 16             # of a block
    WORDS = 128             # of a block, with four codes of 8 bits each
    CODE_BITS = 19          # of a float32, below a code of 8 bits

# How an array of state is kept. Memory of zeros is state of zeros in each.
cdef enum:
    FULL                    # in the parameter's dtype
    BFLOAT16
    SIGNED_8BIT
    UNSIGNED_8BIT

# The scalars that every loop takes. With these values they change nothing: 1.0, 1.0, 0.0.
cdef enum:
    G_SCALE = 0             # the gradient is multiplied by it before anything else
    P_DECAY = 1             # and so is the parameter
    FLUSH = 2               # 1.0: state below the smallest normal number becomes zero
    FIRST_SCALAR = 3        # where a rule's own begin

# Which of its loops a rule is to take: the sum of these.
cdef enum:
    PARAM_DOUBLE = 1        # parameter and state are float64, not float32
    GRAD_DOUBLE = 2
    SCALED = 4              # one of the scalars of every loop changes something

# A rule's own scalars of step t from the optimizer's options, in double precision. Its numbers,
# which are state like the slots, are those before the step and become those after it.
ctypedef void (*Scalars)(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil

# One loop over n elements of a parameter, its gradient and its state: contiguous and aligned,
# none overlapping another.
ctypedef void (*Loop)(
    int kind, void *const *arrays, Py_ssize_t n, const double *scalars
) noexcept nogil

ctypedef struct Rule:
    const char *name
    int options
    int slots
    int numbers
    int count           # of its own scalars
    Scalars scalars
    Loop loop

# The gradient that a loop takes, from the one that was given: scaled, then clipped to
# [-clip, clip], then with `decay` times the parameter added, which promotes it to the wider dtype.
ctypedef void (*Stage)(
    int kind, const void *p, const void *g, void *staged, Py_ssize_t n, double g_scale,
    double clip, double decay
) noexcept nogil

# The sum of the squares of up to SUMMED elements, in double precision and in a fixed order.
ctypedef double (*SquareSum)(bint is_double, const void *g, Py_ssize_t n) noexcept nogil

cdef enum:
    SUMMED = 4096
    LANES = 16

# A block of `n` elements from their codes, as the loop takes it; and back, for which there has to
# be room for a whole block. They are rounded to the nearest or by chance, with the key of the
# block. In 8 bits their scales have to be found first: that makes float32 of the values, and zeros
# of those in a group without a scale.
ctypedef void (*Decode)(
    int format, bint is_double, const void *codes, const float *scales, void *values,
    Py_ssize_t n
) noexcept nogil
ctypedef void (*FindScales)(
    int format, bint is_double, void *values, float *scales, Py_ssize_t n
) noexcept nogil
ctypedef void (*Encode)(
    int format, bint is_double, const void *values, void *codes, const float *scales,
    Py_ssize_t n, bint stochastic, uint32_t key
) noexcept nogil

# Copies elements of 4 or 8 bytes, and reverses the bytes of each; in place if both are one.
ctypedef void (*SwapBytes)(
    int itemsize, const void *source, void *target, Py_ssize_t n
) noexcept nogil

ctypedef struct Kernels:
    Rule rules[MAX_RULES]
    Stage stage
    SquareSum square_sum
    Decode decode
    FindScales find_scales
    Encode encode
    SwapBytes swap_bytes
