# The loops of all rules; included once by each _kernels_<instruction set>.pyx.
#
# Design. The result of each line is a contract: the same bits as the line of the same rule
# in reference.py. So the order of operations is NumPy's, nothing is contracted to a fused
# multiply-add (-ffp-contract=off), and a mixed pair of dtypes is promoted as NumPy promotes
# it, which is what C does: float with float is float, with double it is double. An in-place
# operation of NumPy rounds to the dtype of its target: a cast to P here. A scalar is rounded
# to the dtype of the array that it meets: `times` and `plus` do that.
#
# The loops are plain on purpose. The C compiler makes wide instructions of them if it may
# assume that arrays do not overlap (restrict), that a division by zero raises nothing
# (cdivision) and that a root sets no errno (-fno-math-errno).

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport pow, sqrt, sqrtf

from zdlfast._kernels cimport MAX_RULES, Loop, Rule, Scalars

# The dtypes of the parameter, of the gradient, and of state that may be wider than either.
ctypedef fused P:
    float
    double

ctypedef fused G:
    float
    double

ctypedef fused W:
    float
    double


cdef inline P times(double scalar, P array) noexcept nogil:
    return <P>scalar * array


cdef inline P plus(P array, double scalar) noexcept nogil:
    return array + <P>scalar


cdef inline P root(P array) noexcept nogil:
    if P is float:
        return sqrtf(array)
    else:
        return sqrt(array)


cdef void sgd_scalars(const double *options, double t, double *scalars) noexcept nogil:
    scalars[0] = options[0]


cdef void sgd(
    P *restrict p, const G *restrict g, void *s0, void *s1, Py_ssize_t n, const double *scalars
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double lr = scalars[0]
    for i in range(n):
        p[i] = <P>(p[i] - times(lr, g[i]))


cdef void momentum_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], mu = options[1]
    scalars[0], scalars[1] = mu, lr


cdef void momentum(
    P *restrict p, const G *restrict g, W *restrict v, void *s1, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double mu = scalars[0], lr = scalars[1]
    for i in range(n):
        v[i] = times(mu, v[i]) - times(lr, g[i])
        p[i] = <P>(p[i] + v[i])


cdef void nesterov_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], mu = options[1]
    scalars[0], scalars[1], scalars[2], scalars[3] = mu * mu, (1 + mu) * lr, mu, lr


cdef void nesterov(
    P *restrict p, const G *restrict g, P *restrict v, void *s1, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double mu2 = scalars[0], lr_ahead = scalars[1], mu = scalars[2], lr = scalars[3]
    cdef P ahead
    for i in range(n):
        ahead = p[i] + times(mu2, v[i])
        p[i] = <P>(ahead - times(lr_ahead, g[i]))
        v[i] = <P>(times(mu, v[i]) - times(lr, g[i]))


cdef void adagrad_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], eps = options[1]
    scalars[0], scalars[1] = lr, eps


cdef void adagrad(
    P *restrict p, const G *restrict g, P *restrict h, void *s1, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double lr = scalars[0], eps = scalars[1]
    for i in range(n):
        h[i] = <P>(h[i] + g[i] * g[i])
        p[i] = <P>(p[i] - times(lr, g[i]) / plus(root(h[i]), eps))


cdef void rmsprop_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], decay = options[1], eps = options[2]
    scalars[0], scalars[1], scalars[2], scalars[3] = decay, 1 - decay, lr, eps


cdef void rmsprop(
    P *restrict p, const G *restrict g, P *restrict h, void *s1, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double decay = scalars[0], rate = scalars[1], lr = scalars[2], eps = scalars[3]
    for i in range(n):
        h[i] = <P>(times(decay, h[i]) + times(rate, g[i]) * g[i])
        p[i] = <P>(p[i] - times(lr, g[i]) / plus(root(h[i]), eps))


cdef void adam_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double lr_t = lr * sqrt(1 - pow(beta2, t)) / (1 - pow(beta1, t))
    scalars[0], scalars[1], scalars[2], scalars[3] = 1 - beta1, 1 - beta2, lr_t, eps


cdef void adam(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double rate1 = scalars[0], rate2 = scalars[1], lr_t = scalars[2], eps = scalars[3]
    for i in range(n):
        m[i] = <P>(m[i] + times(rate1, g[i] - m[i]))
        v[i] = <P>(v[i] + times(rate2, g[i] * g[i] - v[i]))
        p[i] = <P>(p[i] - times(lr_t, m[i]) / plus(root(v[i]), eps))


# No optimizer, but what memory allows one: the benchmark's limit. As many streams are read and
# written as by a rule with 0, 1 or 2 slots, with next to no arithmetic.

cdef void stream_scalars(const double *options, double t, double *scalars) noexcept nogil:
    pass


cdef void stream_0(
    P *restrict p, const G *restrict g, void *s0, void *s1, Py_ssize_t n, const double *scalars
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = <P>(p[i] + g[i])


cdef void stream_1(
    P *restrict p, const G *restrict g, P *restrict s, void *s1, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        s[i] = <P>(s[i] + g[i])
        p[i] = p[i] + s[i]


cdef void stream_2(
    P *restrict p, const G *restrict g, P *restrict s, P *restrict s1, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        s[i] = <P>(s[i] + g[i])
        s1[i] = s1[i] + s[i]
        p[i] = p[i] + s1[i]


cdef Rule[MAX_RULES] rules
cdef int rule_count = 0


cdef int add(
    const char *name, int options, int slots, bint wide_state, Scalars scalars,
    Loop ff, Loop fd, Loop df, Loop dd,
) except -1:
    """Add a row to the table; the row after the last one has no name."""
    global rule_count
    if rule_count + 1 == MAX_RULES:
        raise SystemError("the table of rules is full: raise MAX_RULES in _kernels.pxd")
    cdef Rule *row = &rules[rule_count]
    row.name, row.options, row.slots, row.wide_state = name, options, slots, wide_state
    row.scalars = scalars
    row.loops[0][0], row.loops[0][1], row.loops[1][0], row.loops[1][1] = ff, fd, df, dd
    rule_count += 1
    return 0


# The name, how many options and slots, whether state is wide; then what to run.
add(
    b"sgd", 1, 0, False, sgd_scalars,
    <Loop>sgd[float, float], <Loop>sgd[float, double],
    <Loop>sgd[double, float], <Loop>sgd[double, double],
)
add(
    b"momentum", 2, 1, True, momentum_scalars,
    <Loop>momentum[float, float, float], <Loop>momentum[float, double, double],
    <Loop>momentum[double, float, double], <Loop>momentum[double, double, double],
)
add(
    b"nesterov", 2, 1, False, nesterov_scalars,
    <Loop>nesterov[float, float], <Loop>nesterov[float, double],
    <Loop>nesterov[double, float], <Loop>nesterov[double, double],
)
add(
    b"adagrad", 2, 1, False, adagrad_scalars,
    <Loop>adagrad[float, float], <Loop>adagrad[float, double],
    <Loop>adagrad[double, float], <Loop>adagrad[double, double],
)
add(
    b"rmsprop", 3, 1, False, rmsprop_scalars,
    <Loop>rmsprop[float, float], <Loop>rmsprop[float, double],
    <Loop>rmsprop[double, float], <Loop>rmsprop[double, double],
)
add(
    b"adam", 4, 2, False, adam_scalars,
    <Loop>adam[float, float], <Loop>adam[float, double],
    <Loop>adam[double, float], <Loop>adam[double, double],
)
add(
    b"stream_0", 0, 0, False, stream_scalars,
    <Loop>stream_0[float, float], <Loop>stream_0[float, double],
    <Loop>stream_0[double, float], <Loop>stream_0[double, double],
)
add(
    b"stream_1", 0, 1, False, stream_scalars,
    <Loop>stream_1[float, float], <Loop>stream_1[float, double],
    <Loop>stream_1[double, float], <Loop>stream_1[double, double],
)
add(
    b"stream_2", 0, 2, False, stream_scalars,
    <Loop>stream_2[float, float], <Loop>stream_2[float, double],
    <Loop>stream_2[double, float], <Loop>stream_2[double, double],
)

table = PyCapsule_New(&rules[0], b"zdlfast.rules", NULL)
