# What an update does to the entries that have the same options, in numbers. Included by
# _engine.pyx. zdlfast/_groups.py is the same for NumPy.

cdef enum:
    PROPAGATE
    RAISE
    SKIP

cdef dict modes = {"propagate": PROPAGATE, "raise": RAISE, "skip": SKIP}

cdef struct Group:
    # What stays until an option is changed:
    bint[MAX_OPTIONS] given     # which of the rule's options it overrides,
    double[MAX_OPTIONS] own     # and with what
    double weight_decay
    double clip_value           # infinite for no limit
    bint decoupled, maximize, flush, frozen
    bint averages               # values, which are no gradients
    bint encodes                # whether any state is kept in few bits,
    int[MAX_SLOTS] formats      # and how, by slot,
    Py_ssize_t min_size         # of parameters with so many elements or more
    bint stochastic
    # What is of the coming step:
    Loop loop
    Loop avx2_loop              # the same, built for AVX2 at most
    double[MAX_SCALARS] scalars
    double g_scale, decay       # of the gradient before the loop, if it is staged
    bint staged
    int variant                 # SCALED, or 0
    uint64_t key                # what the chance of its rounding depends on


cdef inline object option_of(optimizer, dict given, str name):
    """An option of a group: its own, or the optimizer's."""
    if given and name in given:
        return given[name]
    # Not by getattr: where a class has __getattr__, that takes twice as long for all attributes.
    return PyObject_GenericGetAttr(optimizer, name)


cdef class Groups:
    """The groups of an optimizer: one, and one more for each combination of overrides."""

    cdef Group *array
    cdef Group first            # all of them, if nothing is overridden
    cdef Py_ssize_t count
    cdef dict place_of          # of a parameter's group, by key; None if there are no overrides
    cdef list options           # by group: what it overrides
    cdef list schedules         # by group: its own learning rate, if that is a schedule
    cdef list encodings         # by group, for NumPy; None before it is asked for
    cdef bint known             # whether all this is what the optimizer's attributes say
    cdef bint own_decay         # whether the rule does decoupled weight decay itself
    cdef double clip_norm       # infinite for no limit
    cdef int nonfinite
    cdef uint64_t seed

    def __cinit__(self):
        self.array, self.count = &self.first, 1

    def __dealloc__(self):
        if self.array != &self.first:
            free(self.array)

    cdef bint asks(self) noexcept:
        """Whether something has to be known of all gradients before an update."""
        return self.nonfinite != PROPAGATE or self.clip_norm != INFINITY

    cdef int learn(self, optimizer, tuple names, keys) except -1:
        """Look at an optimizer's attributes.

        Parameters
        ----------
        names : tuple of str
            The rule's own options.
        keys : iterable
            Those of the parameters, so far as they are known.
        """
        cdef Group *array = &self.first
        cdef Py_ssize_t k, count
        cdef int i
        cdef dict given, none = {}
        cdef list options = [none]
        self.known = False
        overrides = option_of(optimizer, none, "overrides")
        if overrides is not None:
            overrides.resolve(keys)
            options = overrides.groups
        count = len(options)
        if count > 1:
            array = <Group *>malloc(count * sizeof(Group))
            if array == NULL:
                raise MemoryError(f"no memory for {count} groups of options")
        if self.array != &self.first:
            free(self.array)
        self.array, self.count, self.options = array, count, options
        self.schedules = [None] * count
        self.encodings = [None] * count
        for k in range(count):
            given = options[k]
            memset(&array[k], 0, sizeof(Group))
            for i in range(len(names) if given else 0):
                value = given.get(names[i])
                array[k].given[i] = value is not None
                if isinstance(value, float):
                    array[k].own[i] = value
                elif value is not None:
                    self.schedules[k] = value       # of the learning rate
            array[k].weight_decay = option_of(optimizer, given, "weight_decay")
            array[k].decoupled = option_of(optimizer, given, "decoupled")
            array[k].maximize = option_of(optimizer, given, "maximize")
            array[k].flush = option_of(optimizer, given, "flush_subnormals")
            array[k].averages = option_of(optimizer, none, "_averages")
            array[k].frozen = bool(given) and given.get("frozen", False)
            limit = option_of(optimizer, given, "clip_value")
            array[k].clip_value = INFINITY if limit is None else limit
            learn_formats(&array[k], optimizer, given)
        self.place_of = None if overrides is None else overrides.group_of
        self.own_decay = option_of(optimizer, none, "_own_decay")
        limit = option_of(optimizer, none, "clip_norm")
        self.clip_norm = INFINITY if limit is None else limit
        self.nonfinite = modes[option_of(optimizer, none, "nonfinite")]
        self.seed = option_of(optimizer, none, "state_seed") % 2**64
        self.known = True
        return 0

    cdef int fill(
        self, optimizer, const Rule *rule, const double *options, int lr, double t,
        double *numbers,
    ) except -1:
        """Compute what is of step `t`; `numbers` become those after it."""
        cdef double[MAX_NUMBERS] of_others
        cdef Py_ssize_t k
        for k in range(1, self.count):
            if self.schedules[k] is not None:
                self.array[k].own[lr] = optimizer._lr_now(self.schedules[k])
            memcpy(of_others, numbers, sizeof(of_others))
            fill_group(&self.array[k], rule, options, lr, self.own_decay, t, of_others)
        fill_group(self.array, rule, options, lr, self.own_decay, t, numbers)
        # Only numbers that go on from step to step can come to where a division fails.
        for k in range(self.count if rule.numbers > 0 else 0):
            if not all_finite(self.array[k].scalars + FIRST_SCALAR, rule.count):
                self.compute_in_python(optimizer, k, options[lr] if lr >= 0 else 0.0)
        return 0

    cdef int compute_in_python(self, optimizer, Py_ssize_t k, double lr) except -1:
        """Raise where Python raises: in a division by zero, and where a power is too large."""
        cdef dict given = {"lr": lr}
        given.update(self.options[k])
        if self.schedules[k] is not None:
            given["lr"] = optimizer._lr_now(self.schedules[k])
        type(optimizer)._scalars(With(optimizer, given))
        return 0

    cdef void set_keys(self, double step) noexcept:
        """Let the chance of rounding be that of a step."""
        cdef uint64_t key = step_key(self.seed, step)
        cdef Py_ssize_t k
        for k in range(self.count):
            self.array[k].key = key

    cdef void scale(self, double rate) noexcept:
        """Multiply all gradients by this, too."""
        cdef Py_ssize_t k
        for k in range(self.count):
            if self.array[k].staged:
                self.array[k].g_scale *= rate
            else:
                self.array[k].scalars[G_SCALE] *= rate
                set_variant(&self.array[k])

    cdef object for_numpy(self, optimizer, Py_ssize_t k, int count, step):
        """Group `k` as NumPy takes it, with `count` scalars: a `zdlfast._groups.Group`."""
        cdef Group *group = &self.array[k]
        cdef double *scalars = group.scalars
        cdef list own = []
        cdef int i
        encoding = self.encodings[k]
        if encoding is None:
            given = optimizer
            if k > 0:
                given = With(optimizer, self.options[k])
            encoding = self.encodings[k] = encoding_of(given)
        for i in range(count):
            own.append(scalars[FIRST_SCALAR + i])
        return GroupForNumPy(
            step, tuple(own), group.g_scale if group.staged else scalars[G_SCALE],
            None if group.clip_value == INFINITY else group.clip_value, group.decay,
            scalars[P_DECAY], scalars[FLUSH] != 0.0, group.frozen, encoding,
        )

    cdef const Group *of(self, PyObject *key, Py_ssize_t place) except? NULL:
        """The group of the parameter with this key, or at this place of a list.

        NULL if it was not met before.
        """
        cdef PyObject *found
        cdef object index
        cdef Py_ssize_t k
        if self.place_of is None:
            return self.array
        if key == NULL:
            index = place
            key = <PyObject *>index
        found = PyDict_GetItemWithError(<PyObject *>self.place_of, key)
        if found == NULL:
            return NULL
        k = <object>found
        # The dict is that of the overrides, who may have met more parameters since.
        return &self.array[k] if k < self.count else NULL


cdef inline uint64_t step_key(uint64_t seed, double step) noexcept nogil:
    """What the chance of one step depends on."""
    return mixed(mixed(seed) + <uint64_t>(step if step < 2.0**64 else fmod(step, 2.0**64)))


cdef inline bint all_finite(const double *values, int count) noexcept nogil:
    cdef int i
    for i in range(count):
        if not isfinite(values[i]):
            return False
    return True


cdef int learn_formats(Group *group, optimizer, dict given) except -1:
    """How a group keeps its state, which is in full as far as nothing else is said."""
    cdef object name = option_of(optimizer, given, "state"), slot
    cdef int i = 0
    group.stochastic = option_of(optimizer, given, "state_rounding") == "stochastic"
    if name is None:
        return 0
    group.min_size = min(option_of(optimizer, given, "state_min_size"), sys.maxsize)
    for slot in optimizer._slots:
        if slot in optimizer._exact:
            group.formats[i] = FULL
        elif name == "bfloat16":
            group.formats[i] = BFLOAT16
        else:
            group.formats[i] = UNSIGNED_8BIT if slot in optimizer._positive else SIGNED_8BIT
        group.encodes = group.encodes or group.formats[i] != FULL
        i += 1
    return 0


cdef void fill_group(
    Group *group, const Rule *rule, const double *options, int lr, bint own_decay, double t,
    double *numbers,
) noexcept nogil:
    cdef double[MAX_OPTIONS] own
    cdef double *scalars = group.scalars
    cdef int i, last = rule.options - 1
    for i in range(rule.options - own_decay):
        own[i] = group.own[i] if group.given[i] else options[i]
    if own_decay:
        own[last] = group.weight_decay if group.decoupled else 0.0
    group.loop, group.avx2_loop = rule.loop, avx2_table[rule - table].loop
    rule.scalars(own, t, numbers, scalars + FIRST_SCALAR)
    scalars[G_SCALE] = -1.0 if group.maximize else 1.0
    scalars[P_DECAY], scalars[FLUSH] = 1.0, <double>group.flush
    group.decay = group.weight_decay
    if group.decoupled and group.decay != 0.0:
        if not own_decay:
            scalars[P_DECAY] = 1.0 - own[lr] * group.decay
        group.decay = 0.0
    group.staged = group.decay != 0.0 or group.clip_value != INFINITY
    if group.staged:
        group.g_scale, scalars[G_SCALE] = scalars[G_SCALE], 1.0
    set_variant(group)


cdef inline void set_variant(Group *group) noexcept nogil:
    cdef double *scalars = group.scalars
    group.variant = SCALED if (
        scalars[G_SCALE] != 1.0 or scalars[P_DECAY] != 1.0 or scalars[FLUSH] != 0.0
    ) else 0
