# The loops of all rules; included once by each _kernels_<instruction set>.pyx.
#
# Design. The result of each line is a contract: the same bits as the line of the same rule
# in zdlfast.reference. So the order of operations is NumPy's, nothing is contracted to a fused
# multiply-add (-ffp-contract=off), and a mixed pair of dtypes is promoted as NumPy promotes
# it, which is what C does: float with float is float, with double it is double. An in-place
# operation of NumPy rounds to the dtype of its target: a cast to P here. A scalar is rounded
# to the dtype of the array that it meets: `times` and `plus` do that.
#
# The loops are plain on purpose. The C compiler makes wide instructions of them if it may
# assume that arrays do not overlap (restrict), that a division by zero raises nothing
# (cdivision) and that a root sets no errno (-fno-math-errno).
#
# Each rule is a loop for any pair of dtypes, and a function that takes its arrays as the engine
# has them and calls the loop of their dtypes. Where there are no divisions for the two
# multiplications by 1.0 to hide behind, there is a loop without them (`Plain`).

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport pow, sqrt, sqrtf

from zdlfast._kernels cimport (
    FIRST_SCALAR,
    G_SCALE,
    GRAD_DOUBLE,
    MAX_RULES,
    P_DECAY,
    PARAM_DOUBLE,
    SCALED,
    Loop,
    Rule,
    Scalars,
)

cdef extern from "_float.h":
    pass

# The dtypes of the parameter with its state, and of the gradient.
ctypedef fused P:
    float
    double

ctypedef fused G:
    float
    double

# Whether a loop scales: a type, so that it is decided when the loop is compiled.
ctypedef char Plain
ctypedef int Scaled
ctypedef fused Variant:
    Plain
    Scaled

cdef enum:
    FF = 0
    FD = GRAD_DOUBLE
    DF = PARAM_DOUBLE
    DD = PARAM_DOUBLE | GRAD_DOUBLE


cdef inline P times(double scalar, P array) noexcept nogil:
    return <P>scalar * array


cdef inline P plus(P array, double scalar) noexcept nogil:
    return array + <P>scalar


cdef inline P scaled(double scalar, P array, Variant variant) noexcept nogil:
    if Variant is Plain:
        return array
    else:
        return <P>scalar * array


cdef inline P root(P array) noexcept nogil:
    if P is float:
        return sqrtf(array)
    else:
        return sqrt(array)


# ------------------------------------------------------------------ SGD

cdef void sgd_scalars(const double *options, double t, double *scalars) noexcept nogil:
    scalars[0] = options[0]


cdef inline void sgd_loop(
    P *restrict p, const G *restrict g, Py_ssize_t n, const double *scalars, Variant variant
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double lr = scalars[FIRST_SCALAR]
    for i in range(n):
        p[i] = <P>(scaled(p_decay, p[i], variant) - times(lr, scaled(g_scale, g[i], variant)))


cdef void sgd(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if kind == FF:
        sgd_loop(<float *>a[0], <const float *>a[1], n, s, <Plain>0)
    elif kind == DD:
        sgd_loop(<double *>a[0], <const double *>a[1], n, s, <Plain>0)
    elif kind & DD == FF:
        sgd_loop(<float *>a[0], <const float *>a[1], n, s, <Scaled>0)
    elif kind & DD == FD:
        sgd_loop(<float *>a[0], <const double *>a[1], n, s, <Scaled>0)
    elif kind & DD == DF:
        sgd_loop(<double *>a[0], <const float *>a[1], n, s, <Scaled>0)
    else:
        sgd_loop(<double *>a[0], <const double *>a[1], n, s, <Scaled>0)


# ------------------------------------------------------------------ Momentum

cdef void momentum_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], mu = options[1]
    scalars[0], scalars[1] = mu, lr


cdef inline void momentum_loop(
    P *restrict p, const G *restrict g, P *restrict v, Py_ssize_t n, const double *scalars,
    Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double mu = scalars[FIRST_SCALAR], lr = scalars[FIRST_SCALAR + 1]
    for i in range(n):
        v[i] = <P>(times(mu, v[i]) - times(lr, scaled(g_scale, g[i], variant)))
        p[i] = scaled(p_decay, p[i], variant) + v[i]


cdef void momentum(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if kind == FF:
        momentum_loop(<float *>a[0], <const float *>a[1], <float *>a[2], n, s, <Plain>0)
    elif kind == DD:
        momentum_loop(<double *>a[0], <const double *>a[1], <double *>a[2], n, s, <Plain>0)
    elif kind & DD == FF:
        momentum_loop(<float *>a[0], <const float *>a[1], <float *>a[2], n, s, <Scaled>0)
    elif kind & DD == FD:
        momentum_loop(<float *>a[0], <const double *>a[1], <float *>a[2], n, s, <Scaled>0)
    elif kind & DD == DF:
        momentum_loop(<double *>a[0], <const float *>a[1], <double *>a[2], n, s, <Scaled>0)
    else:
        momentum_loop(<double *>a[0], <const double *>a[1], <double *>a[2], n, s, <Scaled>0)


# ------------------------------------------------------------------ Nesterov

cdef void nesterov_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], mu = options[1]
    scalars[0], scalars[1], scalars[2], scalars[3] = mu * mu, (1 + mu) * lr, mu, lr


cdef inline void nesterov_loop(
    P *restrict p, const G *restrict g, P *restrict v, Py_ssize_t n, const double *scalars,
    Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double mu2 = scalars[FIRST_SCALAR], lr_ahead = scalars[FIRST_SCALAR + 1]
    cdef double mu = scalars[FIRST_SCALAR + 2], lr = scalars[FIRST_SCALAR + 3]
    cdef P ahead
    cdef G grad
    for i in range(n):
        grad = scaled(g_scale, g[i], variant)
        ahead = scaled(p_decay, p[i], variant) + times(mu2, v[i])
        p[i] = <P>(ahead - times(lr_ahead, grad))
        v[i] = <P>(times(mu, v[i]) - times(lr, grad))


cdef void nesterov(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if kind == FF:
        nesterov_loop(<float *>a[0], <const float *>a[1], <float *>a[2], n, s, <Plain>0)
    elif kind == DD:
        nesterov_loop(<double *>a[0], <const double *>a[1], <double *>a[2], n, s, <Plain>0)
    elif kind & DD == FF:
        nesterov_loop(<float *>a[0], <const float *>a[1], <float *>a[2], n, s, <Scaled>0)
    elif kind & DD == FD:
        nesterov_loop(<float *>a[0], <const double *>a[1], <float *>a[2], n, s, <Scaled>0)
    elif kind & DD == DF:
        nesterov_loop(<double *>a[0], <const float *>a[1], <double *>a[2], n, s, <Scaled>0)
    else:
        nesterov_loop(<double *>a[0], <const double *>a[1], <double *>a[2], n, s, <Scaled>0)


# ------------------------------------------------------------------ AdaGrad

cdef void adagrad_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], eps = options[1]
    scalars[0], scalars[1] = lr, eps


cdef inline void adagrad_loop(
    P *restrict p, const G *restrict g, P *restrict h, Py_ssize_t n, const double *scalars
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double lr = scalars[FIRST_SCALAR], eps = scalars[FIRST_SCALAR + 1]
    cdef G grad
    for i in range(n):
        grad = times(g_scale, g[i])
        h[i] = <P>(h[i] + grad * grad)
        p[i] = <P>(times(p_decay, p[i]) - times(lr, grad) / plus(root(h[i]), eps))


cdef void adagrad(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    kind &= DD
    if kind == FF:
        adagrad_loop(<float *>a[0], <const float *>a[1], <float *>a[2], n, s)
    elif kind == FD:
        adagrad_loop(<float *>a[0], <const double *>a[1], <float *>a[2], n, s)
    elif kind == DF:
        adagrad_loop(<double *>a[0], <const float *>a[1], <double *>a[2], n, s)
    else:
        adagrad_loop(<double *>a[0], <const double *>a[1], <double *>a[2], n, s)


# ------------------------------------------------------------------ RMSprop

cdef void rmsprop_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], decay = options[1], eps = options[2]
    scalars[0], scalars[1], scalars[2], scalars[3] = decay, 1 - decay, lr, eps


cdef inline void rmsprop_loop(
    P *restrict p, const G *restrict g, P *restrict h, Py_ssize_t n, const double *scalars
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double decay = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad
    for i in range(n):
        grad = times(g_scale, g[i])
        h[i] = <P>(times(decay, h[i]) + times(rate, grad) * grad)
        p[i] = <P>(times(p_decay, p[i]) - times(lr, grad) / plus(root(h[i]), eps))


cdef void rmsprop(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    kind &= DD
    if kind == FF:
        rmsprop_loop(<float *>a[0], <const float *>a[1], <float *>a[2], n, s)
    elif kind == FD:
        rmsprop_loop(<float *>a[0], <const double *>a[1], <float *>a[2], n, s)
    elif kind == DF:
        rmsprop_loop(<double *>a[0], <const float *>a[1], <double *>a[2], n, s)
    else:
        rmsprop_loop(<double *>a[0], <const double *>a[1], <double *>a[2], n, s)


# ------------------------------------------------------------------ Adam

cdef void adam_scalars(const double *options, double t, double *scalars) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double lr_t = lr * sqrt(1 - pow(beta2, t)) / (1 - pow(beta1, t))
    scalars[0], scalars[1], scalars[2], scalars[3] = 1 - beta1, 1 - beta2, lr_t, eps


cdef inline void adam_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, Py_ssize_t n,
    const double *scalars,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad
    for i in range(n):
        grad = times(g_scale, g[i])
        m[i] = <P>(m[i] + times(rate1, grad - m[i]))
        v[i] = <P>(v[i] + times(rate2, grad * grad - v[i]))
        p[i] = <P>(times(p_decay, p[i]) - times(lr_t, m[i]) / plus(root(v[i]), eps))


cdef void adam(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    kind &= DD
    if kind == FF:
        adam_loop(<float *>a[0], <const float *>a[1], <float *>a[2], <float *>a[3], n, s)
    elif kind == FD:
        adam_loop(<float *>a[0], <const double *>a[1], <float *>a[2], <float *>a[3], n, s)
    elif kind == DF:
        adam_loop(<double *>a[0], <const float *>a[1], <double *>a[2], <double *>a[3], n, s)
    else:
        adam_loop(<double *>a[0], <const double *>a[1], <double *>a[2], <double *>a[3], n, s)


# ------------------------------------------------------------------ the benchmark's limit

# No optimizer, but what memory allows one. As many streams are read and written as by a rule
# with 0, 1 or 2 slots, with next to no arithmetic. Of one dtype only.

cdef void stream_scalars(const double *options, double t, double *scalars) noexcept nogil:
    pass


cdef inline void stream_0_loop(P *restrict p, const P *restrict g, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] + g[i]


cdef void stream_0(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if kind == DD:
        stream_0_loop(<double *>a[0], <const double *>a[1], n)
    else:
        stream_0_loop(<float *>a[0], <const float *>a[1], n)


cdef inline void stream_1_loop(
    P *restrict p, const P *restrict g, P *restrict s0, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        s0[i] = s0[i] + g[i]
        p[i] = p[i] + s0[i]


cdef void stream_1(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if kind == DD:
        stream_1_loop(<double *>a[0], <const double *>a[1], <double *>a[2], n)
    else:
        stream_1_loop(<float *>a[0], <const float *>a[1], <float *>a[2], n)


cdef inline void stream_2_loop(
    P *restrict p, const P *restrict g, P *restrict s0, P *restrict s1, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        s0[i] = s0[i] + g[i]
        s1[i] = s1[i] + s0[i]
        p[i] = p[i] + s1[i]


cdef void stream_2(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if kind == DD:
        stream_2_loop(<double *>a[0], <const double *>a[1], <double *>a[2], <double *>a[3], n)
    else:
        stream_2_loop(<float *>a[0], <const float *>a[1], <float *>a[2], <float *>a[3], n)


# ------------------------------------------------------------------ the table

cdef Rule[MAX_RULES] rules
cdef int rule_count = 0


cdef int add(
    const char *name, int options, int slots, Scalars scalars, Loop loop
) except -1:
    """Add a row to the table; the row after the last one has no name."""
    global rule_count
    if rule_count + 1 == MAX_RULES:
        raise SystemError("the table of rules is full: raise MAX_RULES in _kernels.pxd")
    cdef Rule *row = &rules[rule_count]
    row.name, row.options, row.slots = name, options, slots
    row.scalars, row.loop = scalars, loop
    rule_count += 1
    return 0


# The name, how many options and slots, and what to run.
add(b"sgd", 1, 0, sgd_scalars, sgd)
add(b"momentum", 2, 1, momentum_scalars, momentum)
add(b"nesterov", 2, 1, nesterov_scalars, nesterov)
add(b"adagrad", 2, 1, adagrad_scalars, adagrad)
add(b"rmsprop", 3, 1, rmsprop_scalars, rmsprop)
add(b"adam", 4, 2, adam_scalars, adam)
add(b"stream_0", 0, 0, stream_scalars, stream_0)
add(b"stream_1", 0, 1, stream_scalars, stream_1)
add(b"stream_2", 0, 2, stream_scalars, stream_2)

table = PyCapsule_New(&rules[0], b"zdlfast.rules", NULL)
