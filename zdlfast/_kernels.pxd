# What a kernel module hands to the engine: a table of rules, as a capsule.

# One loop over a span: the n elements of a parameter, its gradient and up to two state
# arrays, each contiguous, none overlapping another; then the scalars of the step.
ctypedef void (*Loop)(
    void *p, const void *g, void *s0, void *s1, Py_ssize_t n, const double *scalars
) noexcept nogil

ctypedef struct Rule:
    const char *name
    int slots
    int scalars
    bint wide_state       # state has the wider dtype of parameter and gradient
    Loop[2][2] loops      # [parameter is float64][gradient is float64]
