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
# has them and has `call` take the loop of their dtypes. Where there are no divisions for the
# scalars of every loop to hide behind, there is a loop in which they are constants that change
# nothing (`Plain`).

from cpython.pycapsule cimport PyCapsule_New
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport INFINITY, fabs, fabsf, pow, sqrt, sqrtf
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zdlfast._kernels cimport (
    BFLOAT16,
    BLOCK,
    CODE_BITS,
    FIRST_SCALAR,
    FLUSH,
    G_SCALE,
    GRAD_DOUBLE,
    GROUP,
    GROUPS,
    LANES,
    MAX_RULES,
    P_DECAY,
    PARAM_DOUBLE,
    SCALED,
    SIGNED_8BIT,
    WORDS,
    Kernels,
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

# The wider of the two, or either.
ctypedef fused W:
    float
    double

# Whether the scalars of every loop count: a type, so that it is decided when it is compiled.
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


cdef inline double unless_plain(double scalar, double neutral, Variant variant) noexcept nogil:
    if Variant is Plain:
        return neutral
    else:
        return scalar


cdef inline P kept(P state, double flush) noexcept nogil:
    """What is stored of new state: zero in the place of a subnormal number, if that is asked."""
    if P is float:
        return 0.0 if fabsf(state) < <P>flush * FLT_MIN else state
    else:
        return 0.0 if fabs(state) < <P>flush * DBL_MIN else state


cdef inline W between(W value, double lower, double upper) noexcept nogil:
    """As numpy.maximum and numpy.minimum have it: NaN stays."""
    value = value if value > <W>lower or value != value else <W>lower
    return value if value < <W>upper or value != value else <W>upper


cdef inline P root(P array) noexcept nogil:
    if P is float:
        return sqrtf(array)
    else:
        return sqrt(array)


# ------------------------------------------------------------------ kinds

# A loop for one kind: the parameter, the gradient, and up to three arrays of state. All loops
# take three, those that a rule has not got are not looked at.
ctypedef void (*LoopOfFF)(
    float *, const float *, float *, float *, float *, Py_ssize_t, const double *, Scaled
) noexcept nogil
ctypedef void (*LoopOfFD)(
    float *, const double *, float *, float *, float *, Py_ssize_t, const double *, Scaled
) noexcept nogil
ctypedef void (*LoopOfDF)(
    double *, const float *, double *, double *, double *, Py_ssize_t, const double *, Scaled
) noexcept nogil
ctypedef void (*LoopOfDD)(
    double *, const double *, double *, double *, double *, Py_ssize_t, const double *, Scaled
) noexcept nogil
ctypedef void (*PlainLoopOfFF)(
    float *, const float *, float *, float *, float *, Py_ssize_t, const double *, Plain
) noexcept nogil
ctypedef void (*PlainLoopOfDD)(
    double *, const double *, double *, double *, double *, Py_ssize_t, const double *, Plain
) noexcept nogil


cdef inline void call(
    int kind, void *const *a, Py_ssize_t n, const double *s, PlainLoopOfFF plain_ff,
    PlainLoopOfDD plain_dd, LoopOfFF ff, LoopOfFD fd, LoopOfDF df, LoopOfDD dd,
) noexcept nogil:
    """Call the loop of a kind.

    A rule gives its loop six times, of which Cython takes the one of each type. The C compiler
    sees which ones these are: nothing of this is left when it runs.
    """
    if kind == FF:
        plain_ff(
            <float *>a[0], <const float *>a[1], <float *>a[2], <float *>a[3], <float *>a[4],
            n, s, <Plain>0)
    elif kind == DD:
        plain_dd(
            <double *>a[0], <const double *>a[1], <double *>a[2], <double *>a[3], <double *>a[4],
            n, s, <Plain>0)
    elif kind & DD == FF:
        ff(
            <float *>a[0], <const float *>a[1], <float *>a[2], <float *>a[3], <float *>a[4],
            n, s, <Scaled>0)
    elif kind & DD == FD:
        fd(
            <float *>a[0], <const double *>a[1], <float *>a[2], <float *>a[3], <float *>a[4],
            n, s, <Scaled>0)
    elif kind & DD == DF:
        df(
            <double *>a[0], <const float *>a[1], <double *>a[2], <double *>a[3], <double *>a[4],
            n, s, <Scaled>0)
    else:
        dd(
            <double *>a[0], <const double *>a[1], <double *>a[2], <double *>a[3], <double *>a[4],
            n, s, <Scaled>0)


# ------------------------------------------------------------------ SGD

cdef void sgd_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    scalars[0] = options[0]


cdef inline void sgd_loop(
    P *restrict p, const G *restrict g, P *restrict _0, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double lr = scalars[FIRST_SCALAR]
    for i in range(n):
        p[i] = <P>(times(p_decay, p[i]) - times(lr, times(g_scale, g[i])))


cdef void sgd(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(kind, a, n, s, sgd_loop, sgd_loop, sgd_loop, sgd_loop, sgd_loop, sgd_loop)


# ------------------------------------------------------------------ Momentum

cdef void momentum_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], mu = options[1]
    scalars[0], scalars[1] = mu, lr


cdef inline void momentum_loop(
    P *restrict p, const G *restrict g, P *restrict v, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double mu = scalars[FIRST_SCALAR], lr = scalars[FIRST_SCALAR + 1]
    cdef P new
    for i in range(n):
        new = <P>(times(mu, v[i]) - times(lr, times(g_scale, g[i])))
        p[i] = times(p_decay, p[i]) + new
        v[i] = kept(new, flush)


cdef void momentum(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        momentum_loop, momentum_loop, momentum_loop,
        momentum_loop, momentum_loop, momentum_loop)


# ------------------------------------------------------------------ Nesterov

cdef void nesterov_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], mu = options[1]
    scalars[0], scalars[1], scalars[2], scalars[3] = mu * mu, (1 + mu) * lr, mu, lr


cdef inline void nesterov_loop(
    P *restrict p, const G *restrict g, P *restrict v, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double mu2 = scalars[FIRST_SCALAR], lr_ahead = scalars[FIRST_SCALAR + 1]
    cdef double mu = scalars[FIRST_SCALAR + 2], lr = scalars[FIRST_SCALAR + 3]
    cdef P ahead
    cdef G grad
    for i in range(n):
        grad = times(g_scale, g[i])
        ahead = times(p_decay, p[i]) + times(mu2, v[i])
        p[i] = <P>(ahead - times(lr_ahead, grad))
        v[i] = kept(<P>(times(mu, v[i]) - times(lr, grad)), flush)


cdef void nesterov(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        nesterov_loop, nesterov_loop, nesterov_loop,
        nesterov_loop, nesterov_loop, nesterov_loop)


# ------------------------------------------------------------------ AdaGrad

cdef void adagrad_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], eps = options[1]
    scalars[0], scalars[1] = lr, eps


cdef inline void adagrad_loop(
    P *restrict p, const G *restrict g, P *restrict h, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double flush = scalars[FLUSH]
    cdef double lr = scalars[FIRST_SCALAR], eps = scalars[FIRST_SCALAR + 1]
    cdef G grad
    cdef P new
    for i in range(n):
        grad = times(g_scale, g[i])
        new = <P>(h[i] + grad * grad)
        p[i] = <P>(times(p_decay, p[i]) - times(lr, grad) / plus(root(new), eps))
        h[i] = kept(new, flush)


cdef void adagrad(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        adagrad_loop, adagrad_loop, adagrad_loop,
        adagrad_loop, adagrad_loop, adagrad_loop)


# ------------------------------------------------------------------ RMSprop

cdef void rmsprop_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], decay = options[1], eps = options[2]
    scalars[0], scalars[1], scalars[2], scalars[3] = decay, 1 - decay, lr, eps


cdef inline void rmsprop_loop(
    P *restrict p, const G *restrict g, P *restrict h, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = scalars[G_SCALE], p_decay = scalars[P_DECAY]
    cdef double flush = scalars[FLUSH]
    cdef double decay = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad
    cdef P new
    for i in range(n):
        grad = times(g_scale, g[i])
        new = <P>(times(decay, h[i]) + times(rate, grad) * grad)
        p[i] = <P>(times(p_decay, p[i]) - times(lr, grad) / plus(root(new), eps))
        h[i] = kept(new, flush)


cdef void rmsprop(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        rmsprop_loop, rmsprop_loop, rmsprop_loop,
        rmsprop_loop, rmsprop_loop, rmsprop_loop)


# ------------------------------------------------------------------ Adam

cdef void adam_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double lr_t = lr * sqrt(1 - pow(beta2, t)) / (1 - pow(beta1, t))
    scalars[0], scalars[1], scalars[2], scalars[3] = 1 - beta1, 1 - beta2, lr_t, eps


cdef inline void adam_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad
    cdef P mean, square
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        square = <P>(v[i] + times(rate2, grad * grad - v[i]))
        p[i] = <P>(times(p_decay, p[i]) - times(lr_t, mean) / plus(root(square), eps))
        m[i], v[i] = kept(mean, flush), kept(square, flush)


cdef void adam(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(kind, a, n, s, adam_loop, adam_loop, adam_loop, adam_loop, adam_loop, adam_loop)


include "_kernels_newer.pxi"
include "_kernels_sklearn.pxi"
include "_kernels_torch.pxi"


# ------------------------------------------------------------------ moving averages

# No optimizer: an average in the parameter's place, and its parameter in the gradient's. The
# scalars of every loop do not count.

cdef void ema_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    scalars[0] = 1 - options[0]


cdef inline void ema_loop(
    P *restrict p, const G *restrict g, Py_ssize_t n, const double *scalars
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double rate = scalars[FIRST_SCALAR]
    for i in range(n):
        p[i] = <P>(p[i] + times(rate, g[i] - p[i]))


cdef void ema(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    kind &= DD
    if kind == FF:
        ema_loop(<float *>a[0], <const float *>a[1], n, s)
    elif kind == FD:
        ema_loop(<float *>a[0], <const double *>a[1], n, s)
    elif kind == DF:
        ema_loop(<double *>a[0], <const float *>a[1], n, s)
    else:
        ema_loop(<double *>a[0], <const double *>a[1], n, s)


# ------------------------------------------------------------------ the benchmark's limit

# No optimizer, but what memory allows one. As many streams are read and written as by a rule
# with up to three slots, with next to no arithmetic. Of one dtype only.

cdef void stream_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
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


cdef inline void stream_3_loop(
    P *restrict p, const P *restrict g, P *restrict s0, P *restrict s1, P *restrict s2,
    Py_ssize_t n,
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        s0[i] = s0[i] + g[i]
        s1[i] = s1[i] + s0[i]
        s2[i] = s2[i] + s1[i]
        p[i] = p[i] + s2[i]


cdef void stream_3(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if kind == DD:
        stream_3_loop(
            <double *>a[0], <const double *>a[1], <double *>a[2], <double *>a[3], <double *>a[4],
            n)
    else:
        stream_3_loop(
            <float *>a[0], <const float *>a[1], <float *>a[2], <float *>a[3], <float *>a[4], n)


# ------------------------------------------------------------------ gradients

cdef inline void stage_loop(
    const P *restrict p, const G *restrict g, W *restrict staged, Py_ssize_t n, double g_scale,
    double clip, double decay,
) noexcept nogil:
    cdef Py_ssize_t i
    if decay == 0.0:
        for i in range(n):
            staged[i] = <W>between(times(g_scale, g[i]), -clip, clip)
    else:
        for i in range(n):
            staged[i] = <W>(between(times(g_scale, g[i]), -clip, clip) + times(decay, p[i]))


cdef void stage(
    int kind, const void *p, const void *g, void *staged, Py_ssize_t n, double g_scale,
    double clip, double decay,
) noexcept nogil:
    kind &= DD
    if kind == FF:
        stage_loop(<const float *>p, <const float *>g, <float *>staged, n, g_scale, clip, decay)
    elif kind == FD:
        stage_loop(<const float *>p, <const double *>g, <double *>staged, n, g_scale, clip, decay)
    elif kind == DD:
        stage_loop(<const double *>p, <const double *>g, <double *>staged, n, g_scale, clip, decay)
    elif decay == 0.0:
        stage_loop(<const double *>p, <const float *>g, <float *>staged, n, g_scale, clip, decay)
    else:
        stage_loop(<const double *>p, <const float *>g, <double *>staged, n, g_scale, clip, decay)


cdef inline double square_sum_loop(const G *g, Py_ssize_t n) noexcept nogil:
    # Lane by lane, and the lanes folded in halves: an order that no width of instruction changes.
    cdef double[LANES] sums
    cdef double value
    cdef Py_ssize_t row, lane, half = LANES // 2
    for lane in range(LANES):
        sums[lane] = 0.0
    for row in range(n // LANES):
        for lane in range(LANES):
            value = g[row * LANES + lane]
            sums[lane] += value * value
    for lane in range(n % LANES):
        value = g[n - n % LANES + lane]
        sums[lane] += value * value
    while half > 0:
        for lane in range(half):
            sums[lane] += sums[half + lane]
        half //= 2
    return sums[0]


cdef double square_sum(bint is_double, const void *g, Py_ssize_t n) noexcept nogil:
    if is_double:
        return square_sum_loop(<const double *>g, n)
    return square_sum_loop(<const float *>g, n)


include "_kernels_formats.pxi"
include "_kernels_byteorder.pxi"


# ------------------------------------------------------------------ the table

cdef Kernels kernels
cdef int rule_count = 0


cdef int add(
    const char *name, int options, int slots, int numbers, int count, Scalars scalars, Loop loop
) except -1:
    """Add a row to the table; the row after the last one has no name."""
    global rule_count
    if rule_count + 1 == MAX_RULES:
        raise SystemError("the table of rules is full: raise MAX_RULES in _kernels.pxd")
    cdef Rule *row = &kernels.rules[rule_count]
    row.name, row.options, row.slots, row.numbers = name, options, slots, numbers
    row.count, row.scalars, row.loop = count, scalars, loop
    rule_count += 1
    return 0


# The name, how many options, slots, numbers and scalars, and what to run.
add(b"sgd", 1, 0, 0, 1, sgd_scalars, sgd)
add(b"momentum", 2, 1, 0, 2, momentum_scalars, momentum)
add(b"nesterov", 2, 1, 0, 4, nesterov_scalars, nesterov)
add(b"adagrad", 2, 1, 0, 2, adagrad_scalars, adagrad)
add(b"rmsprop", 3, 1, 0, 4, rmsprop_scalars, rmsprop)
add(b"adam", 4, 2, 0, 4, adam_scalars, adam)
add(b"nesterovbook2", 2, 1, 0, 4, nesterov_scalars, nesterovbook2)
add(b"adamw", 4, 2, 0, 4, adamw_scalars, adam)
add(b"adamw_amsgrad", 4, 3, 0, 4, adamw_scalars, amsgrad)
add(b"amsgrad", 4, 3, 0, 4, adam_scalars, amsgrad)
add(b"nadam", 5, 2, 1, 5, nadam_scalars, nadam)
add(b"radam", 4, 2, 0, 5, radam_scalars, radam)
add(b"adamax", 4, 2, 0, 4, adamax_scalars, adamax)
add(b"adadelta", 3, 2, 0, 4, rmsprop_scalars, adadelta)
add(b"adabound", 6, 2, 1, 6, adabound_scalars, adabound)
add(b"amsbound", 6, 3, 1, 6, adabound_scalars, amsbound)
add(b"adabelief", 4, 2, 0, 5, adabelief_scalars, adabelief)
add(b"lion", 3, 1, 0, 4, lion_scalars, lion)
add(b"adopt", 5, 2, 0, 6, adopt_scalars, adopt)
add(b"schedulefreeadamw", 8, 2, 2, 8, schedulefreeadamw_scalars, schedulefreeadamw)
add(b"sklearnadam", 4, 2, 0, 6, sklearnadam_scalars, sklearnadam)
add(b"sklearnadam_numpy1", 4, 2, 0, 6, sklearnadam_scalars, sklearnadam_numpy1)
add(b"sklearnnesterov", 2, 1, 0, 2, momentum_scalars, sklearnnesterov)
add(b"torchmomentum", 3, 1, 0, 3, torchmomentum_scalars, torchmomentum)
add(b"torchnesterov", 3, 1, 0, 3, torchmomentum_scalars, torchnesterov)
add(b"torchadagrad", 3, 1, 0, 2, torchadagrad_scalars, adagrad)
add(b"torchrmspropmomentum", 4, 2, 0, 5, torchrmsprop_scalars, torchrmspropmomentum)
add(b"torchrmspropcentered", 3, 2, 0, 4, rmsprop_scalars, torchrmspropcentered)
add(
    b"torchrmspropcenteredmomentum", 4, 3, 0, 5, torchrmsprop_scalars,
    torchrmspropcenteredmomentum)
add(b"torchnadam", 5, 2, 1, 5, torchnadam_scalars, nadam)
add(b"ema", 1, 0, 0, 1, ema_scalars, ema)
add(b"stream_0", 0, 0, 0, 0, stream_scalars, stream_0)
add(b"stream_1", 0, 1, 0, 0, stream_scalars, stream_1)
add(b"stream_2", 0, 2, 0, 0, stream_scalars, stream_2)
add(b"stream_3", 0, 3, 0, 0, stream_scalars, stream_3)

kernels.stage, kernels.square_sum = stage, square_sum
kernels.decode, kernels.find_scales, kernels.encode = decode, find_scales, encode
kernels.swap_bytes = swap_bytes
table = PyCapsule_New(&kernels, b"zdlfast.kernels", NULL)
