# The loops of the rules that came after the book. Included by _kernels.pxi, which says how they
# are written.

cdef inline P larger(P a, P b) noexcept nogil:
    """As numpy.maximum has it: NaN if one of them is."""
    return b if b > a or b != b else a


cdef inline W sign(W value) noexcept nogil:
    """As numpy.sign has it: 0.0 for zeros of both signs, and NaN stays."""
    # In this order gcc makes no branches of it, which would keep the loop from being vectorised.
    cdef W up = 1.0 if value > 0.0 else 0.0
    cdef W way = -1.0 if value < 0.0 else up
    return value if value != value else way


cdef inline P size(P value) noexcept nogil:
    if P is float:
        return fabsf(value)
    else:
        return fabs(value)


# ------------------------------------------------------------------ NesterovBook2

cdef inline void nesterovbook2_loop(
    P *restrict p, const G *restrict g, P *restrict v, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double mu2 = scalars[FIRST_SCALAR], lr_ahead = scalars[FIRST_SCALAR + 1]
    cdef double mu = scalars[FIRST_SCALAR + 2], lr = scalars[FIRST_SCALAR + 3]
    cdef P velocity, ahead
    cdef G grad
    for i in range(n):
        grad = times(g_scale, g[i])
        velocity = <P>(times(mu, v[i]) - times(lr, grad))
        ahead = times(p_decay, p[i]) + times(mu2, velocity)
        p[i] = <P>(ahead - times(lr_ahead, grad))
        v[i] = kept(velocity, flush)


cdef void nesterovbook2(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        nesterovbook2_loop, nesterovbook2_loop, nesterovbook2_loop,
        nesterovbook2_loop, nesterovbook2_loop, nesterovbook2_loop)


# ------------------------------------------------------------------ AdamW

# Its loop is Adam's.
cdef void adamw_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double root2 = sqrt(1 - pow(beta2, t))
    scalars[0], scalars[1] = 1 - beta1, 1 - beta2
    scalars[2], scalars[3] = lr * root2 / (1 - pow(beta1, t)), eps * root2


# ------------------------------------------------------------------ AMSGrad

cdef inline void amsgrad_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict v_max,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad
    cdef P mean, square, largest
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        square = <P>(v[i] + times(rate2, grad * grad - v[i]))
        largest = larger(v_max[i], square)
        p[i] = <P>(times(p_decay, p[i]) - times(lr_t, mean) / plus(root(largest), eps))
        m[i], v[i], v_max[i] = kept(mean, flush), kept(square, flush), kept(largest, flush)


cdef void amsgrad(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        amsgrad_loop, amsgrad_loop, amsgrad_loop, amsgrad_loop, amsgrad_loop, amsgrad_loop)


# ------------------------------------------------------------------ NAdam

cdef inline double nadam_momentum(const double *options, double t) noexcept nogil:
    cdef double beta1 = options[1], momentum_decay = options[3]
    return beta1 * (1 - 0.5 * pow(0.96, t * momentum_decay))


cdef void nadam_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    numbers[0] = numbers[0] * nadam_momentum(options, t)
    nadam_scalars_with(numbers[0], options, t, scalars)


cdef inline void nadam_scalars_with(
    double product, const double *options, double t, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[4]
    cdef double mu = nadam_momentum(options, t), mu_next = nadam_momentum(options, t + 1)
    cdef double root2 = sqrt(1 - pow(beta2, t))
    scalars[0], scalars[1] = 1 - beta1, 1 - beta2
    scalars[2] = lr * root2 * (1 - mu) / (1 - product)
    scalars[3] = lr * root2 * mu_next / (1 - product * mu_next)
    scalars[4] = eps * root2


cdef inline void nadam_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_g = scalars[FIRST_SCALAR + 2], lr_m = scalars[FIRST_SCALAR + 3]
    cdef double eps = scalars[FIRST_SCALAR + 4]
    cdef G grad
    cdef P mean, square
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        square = <P>(v[i] + times(rate2, grad * grad - v[i]))
        step = (times(lr_g, grad) + times(lr_m, mean)) / plus(root(square), eps)
        p[i] = <P>(times(p_decay, p[i]) - step)
        m[i], v[i] = kept(mean, flush), kept(square, flush)


cdef void nadam(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(kind, a, n, s, nadam_loop, nadam_loop, nadam_loop, nadam_loop, nadam_loop, nadam_loop)


# ------------------------------------------------------------------ RAdam

cdef void radam_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double power = pow(beta2, t)
    cdef double lr_t = lr / (1 - pow(beta1, t))
    cdef double longest = 2 / (1 - beta2) - 1
    cdef double length = longest - 2 * t * power / (1 - power)
    cdef double r
    scalars[4] = 0.0
    if length > 5:
        r = (length - 4) * (length - 2) * longest
        r = sqrt(r / ((longest - 4) * (longest - 2) * length))
        lr_t = lr_t * r * sqrt(1 - power)
        scalars[4] = 1.0
    scalars[0], scalars[1], scalars[2], scalars[3] = 1 - beta1, 1 - beta2, lr_t, eps


cdef inline void unrectified_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2]
    cdef G grad
    cdef P mean
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        v[i] = kept(<P>(v[i] + times(rate2, grad * grad - v[i])), flush)
        p[i] = times(p_decay, p[i]) - times(lr_t, mean)
        m[i] = kept(mean, flush)


cdef void radam(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if s[FIRST_SCALAR + 4] != 0.0:
        adam(kind, a, n, s)
    else:
        call(
            kind, a, n, s,
            unrectified_loop, unrectified_loop, unrectified_loop,
            unrectified_loop, unrectified_loop, unrectified_loop)


# ------------------------------------------------------------------ Adamax

cdef void adamax_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    scalars[0], scalars[1] = 1 - beta1, beta2
    scalars[2], scalars[3] = lr / (1 - pow(beta1, t)), eps


cdef inline void adamax_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict u, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], beta2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad, now
    cdef P mean, before, largest
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        before, now = times(beta2, u[i]), plus(size(grad), eps)
        # Of two dtypes: the comparison is in the wider one.
        largest = <P>(now if now > before or now != now else before)
        p[i] = times(p_decay, p[i]) - times(lr_t, mean) / largest
        m[i], u[i] = kept(mean, flush), kept(largest, flush)


cdef void adamax(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        adamax_loop, adamax_loop, adamax_loop, adamax_loop, adamax_loop, adamax_loop)


# ------------------------------------------------------------------ AdaDelta

# Its scalars are RMSprop's.
cdef inline void adadelta_loop(
    P *restrict p, const G *restrict g, P *restrict h, P *restrict d, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double decay = scalars[FIRST_SCALAR], rate = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef G grad
    cdef P square
    for i in range(n):
        grad = times(g_scale, g[i])
        square = <P>(times(decay, h[i]) + times(rate, grad) * grad)
        step = root(plus(d[i], eps) / plus(square, eps)) * grad
        p[i] = <P>(times(p_decay, p[i]) - times(lr, step))
        d[i] = kept(<P>(times(decay, d[i]) + times(rate, step) * step), flush)
        h[i] = kept(square, flush)


cdef void adadelta(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        adadelta_loop, adadelta_loop, adadelta_loop,
        adadelta_loop, adadelta_loop, adadelta_loop)


# ------------------------------------------------------------------ AdaBound

cdef void adabound_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2]
    cdef double final_lr = options[3], gamma = options[4], eps = options[5]
    cdef double base_lr = numbers[0] if numbers[0] != 0.0 else lr
    cdef double final = final_lr * lr / base_lr if base_lr != 0.0 else 0.0
    numbers[0] = base_lr
    scalars[0], scalars[1] = 1 - beta1, 1 - beta2
    scalars[2], scalars[3] = lr * sqrt(1 - pow(beta2, t)) / (1 - pow(beta1, t)), eps
    scalars[4] = final * (1 - 1 / (gamma * t + 1))
    scalars[5] = final * (1 + 1 / (gamma * t)) if gamma != 0.0 else INFINITY


cdef inline void adabound_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef double lower = scalars[FIRST_SCALAR + 4], upper = scalars[FIRST_SCALAR + 5]
    cdef G grad
    cdef P mean, square
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        square = <P>(v[i] + times(rate2, grad * grad - v[i]))
        rate = between(<P>lr_t / plus(root(square), eps), lower, upper)
        p[i] = times(p_decay, p[i]) - rate * mean
        m[i], v[i] = kept(mean, flush), kept(square, flush)


cdef void adabound(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        adabound_loop, adabound_loop, adabound_loop,
        adabound_loop, adabound_loop, adabound_loop)


# ------------------------------------------------------------------ AMSBound

# Its scalars are AdaBound's.
cdef inline void amsbound_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict v_max,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef double lower = scalars[FIRST_SCALAR + 4], upper = scalars[FIRST_SCALAR + 5]
    cdef G grad
    cdef P mean, square, largest
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        square = <P>(v[i] + times(rate2, grad * grad - v[i]))
        largest = larger(v_max[i], square)
        rate = between(<P>lr_t / plus(root(largest), eps), lower, upper)
        p[i] = times(p_decay, p[i]) - rate * mean
        m[i], v[i], v_max[i] = kept(mean, flush), kept(square, flush), kept(largest, flush)


cdef void amsbound(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        amsbound_loop, amsbound_loop, amsbound_loop,
        amsbound_loop, amsbound_loop, amsbound_loop)


# ------------------------------------------------------------------ AdaBelief

cdef void adabelief_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double root2 = sqrt(1 - pow(beta2, t))
    scalars[0], scalars[1] = 1 - beta1, 1 - beta2
    scalars[2], scalars[3] = lr * root2 / (1 - pow(beta1, t)), eps
    scalars[4] = eps * root2


cdef inline void adabelief_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict s, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr_t = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef double eps_t = scalars[FIRST_SCALAR + 4]
    cdef G grad
    cdef P mean, square
    for i in range(n):
        grad = times(g_scale, g[i])
        mean = <P>(m[i] + times(rate1, grad - m[i]))
        surprise = grad - mean
        square = <P>(s[i] + times(rate2, surprise * surprise - s[i]))
        square = plus(square, eps)
        p[i] = times(p_decay, p[i]) - times(lr_t, mean) / plus(root(square), eps_t)
        m[i], s[i] = kept(mean, flush), kept(square, flush)


cdef void adabelief(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(
        kind, a, n, s,
        adabelief_loop, adabelief_loop, adabelief_loop,
        adabelief_loop, adabelief_loop, adabelief_loop)


# ------------------------------------------------------------------ Lion

cdef void lion_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2]
    scalars[0], scalars[1], scalars[2], scalars[3] = beta1, 1 - beta1, 1 - beta2, lr


cdef inline void lion_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict _1, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double beta1 = scalars[FIRST_SCALAR], rate1 = scalars[FIRST_SCALAR + 1]
    cdef double rate2 = scalars[FIRST_SCALAR + 2], lr = scalars[FIRST_SCALAR + 3]
    cdef G grad
    for i in range(n):
        grad = times(g_scale, g[i])
        way = sign(times(beta1, m[i]) + times(rate1, grad))
        p[i] = <P>(times(p_decay, p[i]) - times(lr, way))
        m[i] = kept(<P>(m[i] + times(rate2, grad - m[i])), flush)


cdef void lion(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    call(kind, a, n, s, lion_loop, lion_loop, lion_loop, lion_loop, lion_loop, lion_loop)


# ------------------------------------------------------------------ ADOPT

cdef void adopt_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3]
    cdef double weight_decay = options[4]
    scalars[0], scalars[1], scalars[2], scalars[3] = 1 - beta1, 1 - beta2, lr, eps
    scalars[4], scalars[5] = sqrt(sqrt(t - 1)), 1 - lr * weight_decay


cdef inline void adopt_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate1 = scalars[FIRST_SCALAR], rate2 = scalars[FIRST_SCALAR + 1]
    cdef double lr = scalars[FIRST_SCALAR + 2], eps = scalars[FIRST_SCALAR + 3]
    cdef double limit = scalars[FIRST_SCALAR + 4], own_decay = scalars[FIRST_SCALAR + 5]
    cdef G grad
    cdef P mean, point
    for i in range(n):
        grad = times(g_scale, g[i])
        ratio = between(grad / larger(root(v[i]), <P>eps), -limit, limit)
        mean = <P>(m[i] + times(rate1, ratio - m[i]))
        point = times(own_decay, times(p_decay, p[i]))
        p[i] = point - times(lr, mean)
        m[i] = kept(mean, flush)
        v[i] = kept(<P>(v[i] + times(rate2, grad * grad - v[i])), flush)


cdef inline void adopt_first_loop(
    P *restrict p, const G *restrict g, P *restrict m, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef G grad
    for i in range(n):
        grad = times(g_scale, g[i])
        v[i] = kept(<P>(grad * grad), flush)


cdef void adopt(int kind, void *const *a, Py_ssize_t n, const double *s) noexcept nogil:
    if s[FIRST_SCALAR + 4] != 0.0:
        call(
            kind, a, n, s,
            adopt_loop, adopt_loop, adopt_loop, adopt_loop, adopt_loop, adopt_loop)
    else:
        call(
            kind, a, n, s,
            adopt_first_loop, adopt_first_loop, adopt_first_loop,
            adopt_first_loop, adopt_first_loop, adopt_first_loop)


# ------------------------------------------------------------------ ScheduleFreeAdamW

cdef void schedulefreeadamw_scalars(
    const double *options, double t, double *numbers, double *scalars
) noexcept nogil:
    cdef double lr = options[0], beta1 = options[1], beta2 = options[2]
    cdef double warmup_steps = options[3], r = options[4], weight_lr_power = options[5]
    cdef double eps = options[6], weight_decay = options[7]
    cdef double lr_t = lr * (t / warmup_steps) if t < warmup_steps else lr
    cdef double lr_max = lr_t if lr_t > numbers[1] else numbers[1]
    cdef double weight = pow(t, r) * pow(lr_max, weight_lr_power)
    cdef double weight_sum = numbers[0] + weight
    cdef double c = weight / weight_sum if weight_sum != 0.0 else 0.0
    cdef double root2 = sqrt(1 - pow(beta2, t))
    numbers[0], numbers[1] = weight_sum, lr_max
    scalars[0], scalars[1], scalars[2], scalars[3] = 1 - beta2, root2, eps * root2, weight_decay
    scalars[4], scalars[5] = c, lr_t * (1 - beta1 * (1 - c))
    scalars[6], scalars[7] = 1 - c, beta1 * lr_t


cdef inline void schedulefreeadamw_loop(
    P *restrict p, const G *restrict g, P *restrict d, P *restrict v, P *restrict _2,
    Py_ssize_t n, const double *scalars, Variant variant,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g_scale = unless_plain(scalars[G_SCALE], 1.0, variant)
    cdef double p_decay = unless_plain(scalars[P_DECAY], 1.0, variant)
    cdef double flush = unless_plain(scalars[FLUSH], 0.0, variant)
    cdef double rate2 = scalars[FIRST_SCALAR], root2 = scalars[FIRST_SCALAR + 1]
    cdef double eps = scalars[FIRST_SCALAR + 2], weight_decay = scalars[FIRST_SCALAR + 3]
    cdef double c = scalars[FIRST_SCALAR + 4], lr_y = scalars[FIRST_SCALAR + 5]
    cdef double rest = scalars[FIRST_SCALAR + 6], lr_d = scalars[FIRST_SCALAR + 7]
    cdef bint decays = weight_decay != 0.0
    cdef G grad
    cdef P point, square, difference
    for i in range(n):
        grad = times(g_scale, g[i])
        point = times(p_decay, p[i])
        square = <P>(v[i] + times(rate2, grad * grad - v[i]))
        along = times(root2, grad) / plus(root(square), eps)
        step = along + times(weight_decay, point) if decays else along
        p[i] = <P>(point + times(c, d[i]) - times(lr_y, step))
        difference = <P>(d[i] - times(lr_d, step))
        d[i] = kept(times(rest, difference), flush)
        v[i] = kept(square, flush)


cdef void schedulefreeadamw(
    int kind, void *const *a, Py_ssize_t n, const double *s
) noexcept nogil:
    call(
        kind, a, n, s,
        schedulefreeadamw_loop, schedulefreeadamw_loop, schedulefreeadamw_loop,
        schedulefreeadamw_loop, schedulefreeadamw_loop, schedulefreeadamw_loop)
