# What a kernel module hands to the engine: a table of rules, in a capsule.

cdef enum:
    MAX_RULES = 64
    MAX_OPTIONS = 16
    MAX_SCALARS = 16
    MAX_SLOTS = 4
    MAX_ARRAYS = 2 + MAX_SLOTS  # the parameter, its gradient, and the state

# The scalars that every loop takes. Both are 1.0 if nothing is to be scaled.
cdef enum:
    G_SCALE = 0             # the gradient is multiplied by it before anything else
    P_DECAY = 1             # and so is the parameter, where the rule has it
    FIRST_SCALAR = 2        # where a rule's own begin

# Which of its loops a rule is to take: the sum of these.
cdef enum:
    PARAM_DOUBLE = 1        # parameter and state are float64, not float32
    GRAD_DOUBLE = 2
    SCALED = 4              # G_SCALE or P_DECAY is not 1.0

# A rule's own scalars of step t from the optimizer's options, in double precision.
ctypedef void (*Scalars)(const double *options, double t, double *scalars) noexcept nogil

# One loop over n elements of a parameter, its gradient and its state: contiguous and aligned,
# none overlapping another.
ctypedef void (*Loop)(
    int kind, void *const *arrays, Py_ssize_t n, const double *scalars
) noexcept nogil

ctypedef struct Rule:
    const char *name
    int options
    int slots
    Scalars scalars
    Loop loop
