# What a kernel module hands to the engine: a table of rules, in a capsule.

cdef enum:
    MAX_RULES = 64
    MAX_SCALARS = 8         # of a step, and as many options
    MAX_SLOTS = 2

# The scalars of step t from the optimizer's options, in double precision.
ctypedef void (*Scalars)(const double *options, double t, double *scalars) noexcept nogil

# One loop over a span: n elements of a parameter, its gradient and up to two state arrays,
# each contiguous and aligned, none overlapping another.
ctypedef void (*Loop)(
    void *p, const void *g, void *s0, void *s1, Py_ssize_t n, const double *scalars
) noexcept nogil

ctypedef struct Rule:
    const char *name
    int options
    int slots
    bint wide_state         # state has the wider dtype of parameter and gradient
    Scalars scalars
    Loop[2][2] loops        # [the parameter is float64][the gradient is float64]
