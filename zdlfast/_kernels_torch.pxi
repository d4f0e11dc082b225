# The loops and scalars of torch's optimizers that differ from those of zdlfast's own rules.
# Included by _kernels.pxi, which says how they are written.

# ------------------------------------------------------------------ SGD with momentum

# The first step takes the gradient as it is, whatever the dampening.
cdef void torchmomentum_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], momentum = options[1], dampening = options[2]
    scalars[0], scalars[1], scalars[2] = momentum, 1 - dampening if t > 1 else 1.0, lr


cdef inline void torchmomentum_loop(
    P *restrict p, const G *restrict g, P *restrict b, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double momentum = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2]
    cdef P buffer
    for i in range(n):
        buffer = <P>(times(momentum, b[i]) + times(rate, times(g_scale, g[i])))
        p[i] = times(p_decay, p[i]) - times(lr, buffer)
        b[i] = kept(buffer, flush)


cdef void torchmomentum(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        torchmomentum_loop, torchmomentum_loop, torchmomentum_loop,
        torchmomentum_loop, torchmomentum_loop, torchmomentum_loop)


# Its scalars are those above.
cdef inline void torchnesterov_loop(
    P *restrict p, const G *restrict g, P *restrict b, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double momentum = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2]
    cdef G grad
    cdef P buffer
    for i in range(n):
        grad = times(g_scale, g[i])
        buffer = <P>(times(momentum, b[i]) + times(rate, grad))
        p[i] = <P>(times(p_decay, p[i]) - times(lr, grad + times(momentum, buffer)))
        b[i] = kept(buffer, flush)


cdef void torchnesterov(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        torchnesterov_loop, torchnesterov_loop, torchnesterov_loop,
        torchnesterov_loop, torchnesterov_loop, torchnesterov_loop)


# ------------------------------------------------------------------ Adagrad

# Its loop is AdaGrad's.
cdef void torchadagrad_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], lr_decay = options[1], eps = options[2]
    scalars[0], scalars[1] = lr / (1 + (t - 1) * lr_decay), eps


# ------------------------------------------------------------------ RMSprop

cdef void torchrmsprop_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], alpha = options[1], momentum = options[2], eps = options[3]
    scalars[0], scalars[1], scalars[2], scalars[3] = alpha, 1 - alpha, lr, eps
    scalars[4] = momentum


cdef inline void torchrmspropmomentum_loop(
    P *restrict p, const G *restrict g, P *restrict v, P *restrict b, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double alpha = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef double momentum = scalars[FIRST_SCALAR + 4]
    cdef G grad
    cdef P square, buffer
    for i in range(n):
        grad = times(g_scale, g[i])
        square = <P>(times(alpha, v[i]) + times(rate, grad) * grad)
        buffer = <P>(times(momentum, b[i]) + grad / plus(root(square), eps))
        p[i] = times(p_decay, p[i]) - times(lr, buffer)
        v[i], b[i] = kept(square, flush), kept(buffer, flush)


cdef void torchrmspropmomentum(
    int kind, void *const *a, Py_ssize_t n, const double *s
) noexcept nogil:
    call(
        kind, a, n, s,
        torchrmspropmomentum_loop, torchrmspropmomentum_loop, torchrmspropmomentum_loop,
        torchrmspropmomentum_loop, torchrmspropmomentum_loop, torchrmspropmomentum_loop)


# Its scalars are RMSprop's.
cdef inline void torchrmspropcentered_loop(
    P *restrict p, const G *restrict g, P *restrict v, P *restrict a, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double alpha = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad
    cdef P square, mean, variance
    for i in range(n):
        grad = times(g_scale, g[i])
        square = <P>(times(alpha, v[i]) + times(rate, grad) * grad)
        mean = <P>(a[i] + times(rate, grad - a[i]))
        variance = larger(square - mean * mean, <P>0.0)
        p[i] = <P>(times(p_decay, p[i]) - times(lr, grad) / plus(root(variance), eps))
        v[i], a[i] = kept(square, flush), kept(mean, flush)


cdef void torchrmspropcentered(
    int kind, void *const *a, Py_ssize_t n, const double *s
) noexcept nogil:
    call(
        kind, a, n, s,
        torchrmspropcentered_loop, torchrmspropcentered_loop, torchrmspropcentered_loop,
        torchrmspropcentered_loop, torchrmspropcentered_loop, torchrmspropcentered_loop)


cdef inline void torchrmspropcenteredmomentum_loop(
    P *restrict p, const G *restrict g, P *restrict v, P *restrict a, P *restrict b,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double alpha = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef double momentum = scalars[FIRST_SCALAR + 4]
    cdef G grad
    cdef P square, mean, variance, buffer
    for i in range(n):
        grad = times(g_scale, g[i])
        square = <P>(times(alpha, v[i]) + times(rate, grad) * grad)
        mean = <P>(a[i] + times(rate, grad - a[i]))
        variance = larger(square - mean * mean, <P>0.0)
        buffer = <P>(times(momentum, b[i]) + grad / plus(root(variance), eps))
        p[i] = times(p_decay, p[i]) - times(lr, buffer)
        v[i], a[i], b[i] = kept(square, flush), kept(mean, flush), kept(buffer, flush)


cdef void torchrmspropcenteredmomentum(
    int kind, void *const *a, Py_ssize_t n, const double *s
) noexcept nogil:
    call(
        kind, a, n, s,
        torchrmspropcenteredmomentum_loop, torchrmspropcenteredmomentum_loop,
        torchrmspropcenteredmomentum_loop, torchrmspropcenteredmomentum_loop,
        torchrmspropcenteredmomentum_loop, torchrmspropcenteredmomentum_loop)


# ------------------------------------------------------------------ NAdam

# Its loop is NAdam's. The product of momenta is kept in single precision.
cdef void torchnadam_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    numbers[0] = <float>numbers[0] * <float>nadam_momentum(options, t)
    nadam_scalars_with(numbers[0], options, t, scalars)
