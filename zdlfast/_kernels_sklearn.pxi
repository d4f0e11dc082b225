# The loops of scikit-learn's optimizers, for its adapter alone. Included by _kernels.pxi, which
# says how they are written.

# ------------------------------------------------------------------ Adam

cdef void sklearnadam_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double lr_t = lr * sqrt(1 - pow(beta2, t)) / (1 - pow(beta1, t))
    scalars[0], scalars[1], scalars[2], scalars[3] = beta1, 1 - beta1, beta2, 1 - beta2
    scalars[4], scalars[5] = lr_t, eps


# The last line is computed in W: scikit-learn's step size is an np.float64, which lifts arrays of
# float32 with NumPy 2, and does not with NumPy 1.
cdef inline void sklearnadam_in(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, Py_ssize_t n,
    const double *scalars, Variant variant, W last_line,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double beta1 = scalars[FIRST_SCALAR], rate1 = scalars[FIRST_SCALAR + 1]
    cdef double beta2 = scalars[FIRST_SCALAR + 2], rate2 = scalars[FIRST_SCALAR + 3]
    cdef double lr_t = scalars[FIRST_SCALAR + 4], eps = scalars[FIRST_SCALAR + 5]
    cdef G grad
    cdef P mean, square
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(times(beta1, m[i]) + times(rate1, grad))
        square = <P>(times(beta2, v[i]) + times(rate2, grad * grad))
        p[i] = <P>(times(p_decay, p[i]) - <W>lr_t * mean / plus(root(square), eps))
        m[i], v[i] = kept(mean, flush), kept(square, flush)


cdef inline void sklearnadam_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    sklearnadam_in(p, g, m, v, n, scalars, variant, <double>0)


cdef void sklearnadam(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        sklearnadam_loop, sklearnadam_loop, sklearnadam_loop,
        sklearnadam_loop, sklearnadam_loop, sklearnadam_loop)


cdef inline void sklearnadam_numpy1_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    sklearnadam_in(p, g, m, v, n, scalars, variant, <P>0)


cdef void sklearnadam_numpy1(
    int kind, void *const *a, Py_ssize_t n, const double *s
) noexcept nogil:
    call(
        kind, a, n, s,
        sklearnadam_numpy1_loop, sklearnadam_numpy1_loop, sklearnadam_numpy1_loop,
        sklearnadam_numpy1_loop, sklearnadam_numpy1_loop, sklearnadam_numpy1_loop)


# ------------------------------------------------------------------ SGD with Nesterov's momentum

cdef inline void sklearnnesterov_loop(
    P *restrict p, const G *restrict g, P *restrict v, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double mu = scalars[FIRST_SCALAR], lr = scalars[FIRST_SCALAR + 1]
    cdef G grad
    cdef P new
    for i in range(n):
        grad = times(g_scale, g[i])
        new = <P>(times(mu, v[i]) - times(lr, grad))
        p[i] = <P>(times(p_decay, p[i]) + (times(mu, new) - times(lr, grad)))
        v[i] = kept(new, flush)


cdef void sklearnnesterov(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        sklearnnesterov_loop, sklearnnesterov_loop, sklearnnesterov_loop,
        sklearnnesterov_loop, sklearnnesterov_loop, sklearnnesterov_loop)
