# Steps over the tensors of another library, which are read through DLPack. Included by
# _engine.pyx.
#
# The library has its own optimizers: groups of parameters, each a dict of options with the list
# of its "params"; a gradient in the attribute `grad` of each; and state, a dict of a dict for each
# parameter. `TensorSteps` takes a step over what is usual there: dense float32 and float64 in the
# memory of the CPU. What else it finds it names, and has changed nothing then.
#
# No address is kept from one step to the next. A tensor may be resized, moved or given other
# memory while it stays the same object, so that it costs about as much to find that out as to read
# it again.

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()
    bint is_any_dict "PyDict_Check"(PyObject *value)
    PyObject *new_float "PyFloat_FromDouble"(double value) except NULL
    int PyDict_SetItem(PyObject *mapping, PyObject *key, PyObject *value) except -1


# ------------------------------------------------------------------ groups

cdef class Plan:
    """What a kernel is to do for a group of tensors.

    Parameters
    ----------
    kernel : Kernel
        Its slots, its counter and its numbers are the keys of a parameter's state.
    options : tuple of float
        Those of the rule; that of the learning rate is read anew in each step.
    weight_decay, decoupled, maximize
        As for every optimizer.
    own_decay : bool
        Whether the rule's last option is decoupled weight decay.
    wide : Kernel, optional
        What takes the place of `kernel` where numbers in the state are in double precision.
    keeping : object, optional
        How state is kept: with the attributes of an optimizer that say so.
    """

    cdef Kernel kernel
    cdef Kernel wide
    cdef double[MAX_OPTIONS] options
    cdef double weight_decay
    cdef bint decoupled, maximize, own_decay, has_state
    cdef Group kept         # what says how state is kept

    def __init__(
        self, Kernel kernel, tuple options, *, double weight_decay=0.0, bint decoupled=False,
        bint maximize=False, bint own_decay=False, Kernel wide=None, keeping=None,
    ):
        cdef int i
        memset(&self.kept, 0, sizeof(Group))
        if keeping is not None:
            learn_formats(&self.kept, keeping, {})
        if len(options) != len(kernel.options):
            raise ValueError(f"the kernel takes {kernel.options}, got {options}")
        for i in range(len(options)):
            self.options[i] = options[i]
        self.kernel, self.wide = kernel, kernel if wide is None else wide
        self.weight_decay, self.decoupled, self.maximize = weight_decay, decoupled, maximize
        self.own_decay = own_decay
        self.has_state = bool(
            kernel.slots or kernel.numbers or kernel.counter or self.kept.stochastic)

    cdef void fill(
        self, Group *group, Kernel kernel, double lr, double t, double step, double *numbers
    ) noexcept:
        """Compute what is of step `t`, with the chance of `step`.

        `numbers` become those after it.
        """
        group[0] = self.kept
        group.key = step_key(0, step)
        group.weight_decay, group.clip_value = self.weight_decay, INFINITY
        group.decoupled, group.maximize = self.decoupled, self.maximize
        if kernel.lr >= 0:
            self.options[kernel.lr] = lr
        fill_group(
            group, &table[kernel.row], self.options, kernel.lr, self.own_decay, t, numbers)


cdef class Planned:
    """A group as it was when its plan was made."""

    cdef dict group
    cdef list seen          # its keys and values by turns, but for params and lr
    cdef bint lasting       # whether all of these are immutable
    cdef Plan plan          # None: no kernel takes it
    cdef double lr          # of the coming step

    cdef bint holds(self, dict group) except -1:
        """Whether the group is still what it was."""
        cdef Py_ssize_t at = 0, i = 0, size = PyList_Size(<PyObject *>self.seen)
        cdef PyObject *key
        cdef PyObject *value
        if group is not self.group or not self.lasting:
            return False
        while PyDict_Next(<PyObject *>group, &at, &key, &value):
            if is_changing(key):
                continue
            if (
                i == size
                or PyList_GetItem(<PyObject *>self.seen, i) != key
                or PyList_GetItem(<PyObject *>self.seen, i + 1) != value
            ):
                return False
            i += 2
        return i == size


cdef inline bint is_changing(PyObject *key) except -1:
    """Whether this is a group's key for what a plan does not depend on."""
    if key == <PyObject *>PARAMS or key == <PyObject *>LR:
        return True
    return is_str(key) and (<str>key == PARAMS or <str>key == LR)


cdef str PARAMS = "params"
cdef str LR = "lr"
cdef str STEP = "step"      # the count of a rule that counts none
cdef tuple IMMUTABLE = (float, int, bool, str, type(None))


cdef bint is_immutable(value) except -1:
    if type(value) is tuple:
        return all([type(item) in IMMUTABLE for item in value])
    return type(value) in IMMUTABLE


# ------------------------------------------------------------------ tensors -> entries

# A number in a parameter's state: a Python float, which is replaced, or a tensor of one element.
cdef struct Number:
    void *data              # of a tensor, else NULL
    bint wide
    double value
    double after
    PyObject *held          # the tensor, or the float that takes its place; owned

# What a step over one parameter has beside its entry.
cdef struct Beside:
    Py_ssize_t place        # of its group
    Py_ssize_t options      # its place among the structs that were filled
    PyObject *state         # its dict, or NULL
    bint made               # whether its state was made for this step
    double t                # the step that its rule is told, and
    double step             # that which chance depends on
    Number count
    Number[MAX_NUMBERS] numbers


cdef class TensorBatch:
    """The entries of one step over tensors."""

    cdef const Exchange *exchange
    cdef (void *)[2] types
    cdef list planned       # by place of the group
    cdef Entry *entries
    cdef Beside *beside
    cdef Group *options
    cdef Py_ssize_t capacity, size, filled, allocated
    cdef list changed
    cdef list fresh, odd    # None for none

    def __dealloc__(self):
        cdef Py_ssize_t k
        cdef int i
        let_go(self.entries, self.size)
        free_owned(self.entries, self.size)
        for k in range(self.size):
            Py_XDECREF(self.beside[k].state)
            Py_XDECREF(self.beside[k].count.held)
            for i in range(MAX_NUMBERS):
                Py_XDECREF(self.beside[k].numbers[i].held)
        free(self.entries)
        free(self.beside)
        free(self.options)

    cdef int allocate(self, Py_ssize_t count) except -1:
        self.entries = <Entry *>malloc(max(count, 1) * sizeof(Entry))
        self.beside = <Beside *>malloc(max(count, 1) * sizeof(Beside))
        if self.entries == NULL or self.beside == NULL:
            raise MemoryError(f"no memory for a step over {count} tensors")
        self.capacity = count
        return 0

    cdef int gather(self, PyObject *state, dict made, left_out) except -1:
        """Fill in the parameters that have a gradient. Python code may run meanwhile."""
        cdef Py_ssize_t place, i, at = 0
        cdef list params
        cdef Planned planned
        cdef Plan plan
        cdef PyObject *held
        for place in range(len(self.planned)):
            planned = self.planned[place]
            plan = planned.plan
            params = planned.group[PARAMS]
            i = 0
            while i < len(params):
                param = params[i]
                i += 1
                grad = param.grad
                held = NULL
                if plan is not None and plan.has_state:
                    held = next_in_order(state, &at, <PyObject *>param)
                if grad is None or (left_out and id(param) in left_out):
                    continue
                if plan is None or self.size == self.capacity:
                    self.odd = with_one_more(self.odd, planned.group, param)
                    continue
                if held == NULL and plan.has_state:
                    held = PyDict_GetItemWithError(state, <PyObject *>param)
                self.add(place, <PyObject *>param, <PyObject *>grad, held)
                if made:
                    self.beside[self.size - 1].made = param in made
                self.changed.append(param)
        return 0

    cdef void add(
        self, Py_ssize_t place, PyObject *param, PyObject *grad, PyObject *held
    ) noexcept:
        cdef Entry *entry = &self.entries[self.size]
        cdef Beside *beside = &self.beside[self.size]
        cdef int i
        # Written out: to clear all of both would take a tenth of a small step.
        entry.key, entry.read, entry.strides, entry.coding = NULL, self.exchange.read, NULL, NULL
        entry.values[0], entry.values[1], entry.count = param, grad, 2
        beside.place, beside.state, beside.made = place, held, False
        beside.t = beside.step = 0.0
        beside.count.held = NULL
        for i in range(MAX_NUMBERS):
            beside.numbers[i].held = NULL
        Py_INCREF(param)
        Py_INCREF(grad)
        Py_XINCREF(held)
        self.size += 1

    cdef bint classify(self) except -1:
        """Fill in what kernels need; whether they take all. No Python code runs meanwhile."""
        cdef Py_ssize_t k
        cdef Planned planned
        cdef int path
        for k in range(self.size):
            path = self.look_at(k)
            if path != USUAL:
                planned = self.planned[self.beside[k].place]
                param = <object>self.entries[k].values[0]
                if path == FRESH:
                    self.fresh = with_one_more(self.fresh, planned.group, param)
                else:
                    self.odd = with_one_more(self.odd, planned.group, param)
        if self.fresh is not None or self.odd is not None:
            return False
        for k in range(self.size):
            self.entries[k].group = &self.options[self.beside[k].options]
        return True

    cdef int look_at(self, Py_ssize_t k) except -1:
        """Say what is to be done with an entry, and fill in what a kernel needs."""
        cdef Entry *entry = &self.entries[k]
        cdef Beside *beside = &self.beside[k]
        cdef Planned planned = self.planned[beside.place]
        cdef Plan plan = planned.plan
        cdef Kernel kernel = plan.kernel
        cdef int i, slots = table[kernel.row].slots, numbers = table[kernel.row].numbers
        cdef Py_ssize_t at = 0
        cdef PyObject *found
        cdef int missing = 0, parts = slots + numbers, path
        cdef bint chance
        if plan.has_state:
            if beside.state == NULL:
                return FRESH if self.read_arrays(entry, plan) != ODD else ODD
            if not is_dict(beside.state):
                return ODD
            if kernel.counter is not None:
                parts += 1
                found = look_up(<dict>beside.state, kernel.counter, &at)
                if found == NULL:
                    missing += 1
                elif not self.read_number(found, &beside.count) or beside.count.data == NULL:
                    return ODD
            for i in range(numbers):
                found = look_up(<dict>beside.state, <str>kernel.numbers[i], &at)
                if found == NULL:
                    missing += 1
                elif not self.read_number(found, &beside.numbers[i]):
                    return ODD
            for i in range(slots):
                found = look_up(<dict>beside.state, <str>kernel.slots[i], &at)
                if found == NULL or found == Py_None:
                    missing += 1
                else:
                    entry.values[entry.count] = found
                    entry.count += 1
                    Py_INCREF(found)
            if missing:
                if missing < parts or self.read_arrays(entry, plan) == ODD:
                    return ODD
                return FRESH
        path = self.read_arrays(entry, plan)
        if path != USUAL:
            return path
        if kernel.counter is None and plan.has_state:
            # A rule that counts no steps needs a count for chance; where there is one it goes on.
            chance = uses_chance(entry, plan)
            if chance or len(<dict>beside.state) > parts:
                found = look_up(<dict>beside.state, STEP, &at)
                if found == NULL and chance:
                    return FRESH
                if found != NULL and (
                    not self.read_number(found, &beside.count) or beside.count.data == NULL
                ):
                    return ODD
        if beside.count.held != NULL:
            beside.step = beside.count.value + 1.0
        if kernel.counter is not None:
            beside.t = beside.step
        else:
            beside.t = 1.0 if beside.made else 2.0
        self.choose_options(k, plan, planned.lr)
        return USUAL

    cdef bint read_number(self, PyObject *value, Number *number) except -1:
        cdef Tensor tensor
        if is_float(value):
            number.value, number.data, number.wide = PyFloat_AsDouble(value), NULL, False
            return True
        if not read_tensor(self, value, &tensor) or tensor.ndim != 0 or tensor.data == NULL:
            return False
        if tensor.code != ZDL_DLPACK_FLOAT or tensor.bits < 32:
            return False
        number.data, number.wide = <char *>tensor.data + tensor.byte_offset, tensor.bits == 64
        number.held = value
        Py_INCREF(value)
        number.value = (
            (<double *>number.data)[0] if number.wide else (<float *>number.data)[0]
        )
        return True

    cdef int read_arrays(self, Entry *entry, Plan plan) except -1:
        """Fill in where an entry's arrays lie: USUAL, or FRESH if state is in another format.

        ODD if no kernel takes them.
        """
        cdef Tensor[MAX_ARRAYS] tensors
        cdef Layout[MAX_ARRAYS] layouts
        cdef bint alike = True, other_format = False
        cdef Py_ssize_t n = 1
        cdef int i, axis, kind, own = OTHER_KIND, wanted, size
        for i in range(entry.count):
            if not read_tensor(self, entry.values[i], &tensors[i]):
                return ODD
            kind, wanted = kind_of(&tensors[i]), FULL
            if i == 0:
                own = kind
                for axis in range(tensors[0].ndim):
                    n *= tensors[0].shape[axis]
            elif i > 1:
                wanted = plan.kept.formats[i - 2] if n >= plan.kept.min_size else FULL
                if is_packed(&tensors[i], n):
                    if wanted != SIGNED_8BIT and wanted != UNSIGNED_8BIT:
                        other_format = True
                    else:
                        coding_of(entry).format[i] = wanted
                    continue
                # A parameter of bfloat16 has such state already.
                if (BFLOAT16 if kind == BFLOAT16_KIND else FULL) != (
                    BFLOAT16 if wanted == FULL and own == BFLOAT16_KIND else wanted
                ):
                    other_format = True
            if kind == OTHER_KIND or (kind != own and (i < 2 or kind != BFLOAT16_KIND)):
                return ODD
            if kind == BFLOAT16_KIND:
                coding_of(entry).is_bfloat16[i] = True
            if tensors[i].ndim != tensors[0].ndim:
                return ODD
            for axis in range(tensors[0].ndim):
                if tensors[i].shape[axis] != tensors[0].shape[axis]:
                    return ODD
                alike = alike and (
                    tensors[i].strides[axis] == tensors[0].strides[axis]
                    or tensors[0].shape[axis] == 1
                )
        if other_format:
            return FRESH
        entry.n, entry.kind = n, PARAM_DOUBLE | GRAD_DOUBLE if own == FLOAT64_KIND else 0
        for i in range(entry.count):
            entry.data[i] = <char *>tensors[i].data + tensors[i].byte_offset
            if tensors[i].data == NULL and n > 0:
                return ODD
            size = tensors[i].bits // 8
            alike = alike and <uintptr_t>entry.data[i] % size == 0
        entry.width = entry.count * itemsize(entry, 0)
        entry.path = USUAL
        if n == 0:
            return USUAL
        alike = alike and (
            is_dense(&tensors[0]) if entry.coding == NULL else is_contiguous_tensor(&tensors[0]))
        # A tensor may stand for the negative of what lies in its memory; it never does so where it
        # is dense and has more than one element.
        if n == 1 or not alike:
            for i in range(entry.count):
                if (<object>entry.values[i]).is_neg():
                    return ODD
        if not alike:
            for i in range(entry.count):
                # Of what is encoded there is nothing to iterate over.
                layouts[i] = layout_of_tensor(
                    &tensors[i if format_of(entry, i) == FULL else 0])
            entry.strides = make_strides(layouts, entry.count, entry.coding == NULL)
            entry.width *= 4    # as in `classify`
        return ODD if shares_memory_inside(entry) else USUAL

    cdef int choose_options(self, Py_ssize_t k, Plan plan, double lr) except -1:
        """Take the options of the entry before, if nothing differs, or fill in further ones."""
        cdef Beside *beside = &self.beside[k]
        cdef const Beside *before = &self.beside[k - 1 if k > 0 else 0]
        cdef double[MAX_NUMBERS] now
        cdef Kernel kernel = plan.kernel
        cdef int i, numbers = table[plan.kernel.row].numbers
        cdef bint same = (
            k > 0 and before.place == beside.place and before.t == beside.t
            and before.step == beside.step
        )
        for i in range(numbers):
            now[i] = beside.numbers[i].value
            same = same and (
                before.numbers[i].value == beside.numbers[i].value
                and before.numbers[i].wide == beside.numbers[i].wide
            )
        if same:
            beside.options = before.options
        else:
            if numbers > 0 and beside.numbers[0].wide:
                kernel = plan.wide
            beside.options = self.new_options()
            plan.fill(&self.options[beside.options], kernel, lr, beside.t, beside.step, now)
        for i in range(numbers):
            beside.numbers[i].after = before.numbers[i].after if same else now[i]
            if beside.numbers[i].data == NULL:
                beside.numbers[i].held = new_float(beside.numbers[i].after)
        return 0

    cdef Py_ssize_t new_options(self) except -1:
        """The place of one more struct of options."""
        cdef Group *more
        if self.filled == self.allocated:
            self.allocated = 2 * self.allocated + 1
            more = <Group *>realloc(self.options, self.allocated * sizeof(Group))
            if more == NULL:
                raise MemoryError(f"no memory for the options of {self.allocated} tensors")
            self.options = more
        self.filled += 1
        return self.filled - 1

    cdef int store(self) except -1:
        """Count the step, and store the numbers after it."""
        cdef Kernel kernel
        cdef Beside *beside
        cdef Number *number
        cdef Py_ssize_t k
        cdef int i
        for k in range(self.size):
            beside = &self.beside[k]
            kernel = (<Planned>self.planned[beside.place]).plan.kernel
            if beside.count.held != NULL:
                set_number(&beside.count, beside.step)
            for i in range(table[kernel.row].numbers):
                number = &beside.numbers[i]
                if number.data != NULL:
                    set_number(number, number.after)
                else:
                    # It replaces a value: there is nothing to allocate.
                    PyDict_SetItem(
                        beside.state, <PyObject *><str>kernel.numbers[i], number.held)
        return 0


cdef inline bint uses_chance(const Entry *entry, Plan plan) noexcept:
    """Whether something of an entry's is rounded by chance."""
    cdef int i
    if entry.coding == NULL:
        return False
    for i in range(2, entry.count):
        if is_bfloat16(entry, i):
            return True
    return plan.kept.stochastic


cdef inline void set_number(const Number *number, double value) noexcept nogil:
    if number.wide:
        (<double *>number.data)[0] = value
    else:
        (<float *>number.data)[0] = <float>value


cdef list with_one_more(list members, dict group, param):
    """A list of groups with a parameter each, or a new one for None."""
    if members is None:
        members = []
    members.append((group, param))
    return members


cdef inline bint read_tensor(
    TensorBatch batch, PyObject *value, Tensor *tensor
) noexcept:
    """Read a tensor, or say that this is none whose memory can be taken as it is."""
    cdef void *kind = Py_TYPE(value)
    if kind != batch.types[0] and kind != batch.types[1]:
        return False
    if batch.exchange.read(value, tensor) != 0:
        PyErr_Clear()
        return False
    return (
        tensor.device_type == ZDL_DLPACK_CPU
        and tensor.lanes == 1
        and tensor.ndim <= MAX_DIMS
    )


cdef inline int kind_of(const Tensor *tensor) noexcept nogil:
    """What the elements of a tensor are."""
    if tensor.code == ZDL_DLPACK_FLOAT and tensor.bits == 32:
        return FLOAT32_KIND
    if tensor.code == ZDL_DLPACK_FLOAT and tensor.bits == 64:
        return FLOAT64_KIND
    if tensor.code == ZDL_DLPACK_BFLOAT and tensor.bits == 16:
        return BFLOAT16_KIND
    return OTHER_KIND


cdef inline bint is_packed(const Tensor *tensor, Py_ssize_t n) noexcept nogil:
    """Whether a tensor is the state of `n` elements in 8 bits."""
    return (
        tensor.code == ZDL_DLPACK_UINT
        and tensor.bits == 8
        and tensor.ndim == 1
        and tensor.shape[0] == packed_bytes(n)
        and (tensor.strides[0] == 1 or n == 0)
        and (<uintptr_t>tensor.data + tensor.byte_offset) % sizeof(float) == 0
    )


cdef inline PyObject *next_in_order(
    PyObject *state, Py_ssize_t *at, PyObject *param
) noexcept:
    """The value of a parameter that comes next in a dict, or after the next; else NULL."""
    cdef Py_ssize_t ahead = at[0]
    cdef PyObject *key
    cdef PyObject *value
    cdef int i
    for i in range(2):
        if not PyDict_Next(state, &ahead, &key, &value):
            return NULL
        if key == param:
            at[0] = ahead
            return value
    return NULL


cdef inline bint is_contiguous_tensor(const Tensor *tensor) noexcept nogil:
    """Whether a tensor's elements fill one run of memory, in the order of C."""
    cdef int64_t expected = 1
    cdef int axis
    for axis in range(tensor.ndim - 1, -1, -1):
        if tensor.shape[axis] != 1:
            if tensor.strides[axis] != expected:
                return False
            expected *= tensor.shape[axis]
    return True


cdef inline bint is_dense(const Tensor *tensor) noexcept nogil:
    """The same in whatever order of its axes."""
    return is_contiguous_tensor(tensor) or is_dense_permuted(tensor)


cdef bint is_dense_permuted(const Tensor *tensor) noexcept nogil:
    cdef int64_t expected = 1
    cdef int axis
    cdef bint found = True
    cdef uint64_t taken = 0
    while found:
        found = False
        for axis in range(tensor.ndim):
            if (
                tensor.shape[axis] != 1
                and tensor.strides[axis] == expected
                and not taken >> axis & 1
            ):
                taken |= <uint64_t>1 << axis
                expected *= tensor.shape[axis]
                found = True
    for axis in range(tensor.ndim):
        if tensor.shape[axis] != 1 and not taken >> axis & 1:
            return False
    return True


cdef inline Layout layout_of_tensor(const Tensor *tensor) noexcept nogil:
    cdef Layout layout
    layout.ndim = tensor.ndim
    layout.shape, layout.strides = <Py_ssize_t *>tensor.shape, <Py_ssize_t *>tensor.strides
    layout.itemsize = layout.unit = tensor.bits // 8
    layout.aligned = (<uintptr_t>tensor.data + tensor.byte_offset) % layout.itemsize == 0
    layout.swapped = False
    return layout


# ------------------------------------------------------------------ a step

cdef class TensorSteps:
    """The steps of one optimizer over tensors.

    Parameters
    ----------
    exchange : capsule
        The tensors' ``__dlpack_c_exchange_api__``.
    types : tuple of type
        The two types of tensors that are what they seem; of a subclass nobody knows.
    plan : callable
        What gives the `Plan` of a group, or None if no kernel is to take it.
    changed : callable
        What is told which tensors will be changed, a list.
    threads : callable
        What gives the number of threads that the other library would use.
    """

    cdef const Exchange *exchange
    cdef tuple types
    cdef object plan, changed, threads
    cdef list planned       # by place of the group

    def __init__(self, exchange, tuple types, plan, changed, threads):
        self.exchange = <const Exchange *>PyCapsule_GetPointer(exchange, b"dlpack_exchange_api")
        while self.exchange != NULL and self.exchange.major != ZDL_DLPACK_MAJOR:
            self.exchange = self.exchange.previous
        if self.exchange == NULL or self.exchange.read == NULL:
            raise ImportError(f"the tensors have no exchange API of DLPack {ZDL_DLPACK_MAJOR}")
        self.types, self.plan, self.changed, self.threads = types, plan, changed, threads
        self.planned = []

    def take(self, list groups, state, dict made=None, left_out=frozenset()):
        """Take a step over all parameters that have a gradient, or tell what is not usual.

        Parameters
        ----------
        groups : list of dict
            Options and parameters.
        state : dict
            That of each parameter.
        made : dict, optional
            New state of parameters that had none, or had it in another format: it is stored in
            `state` if the step is done.
        left_out : set
            The ids of parameters that are not looked at.

        Returns
        -------
        None or tuple
            None: the step is done. Else nothing was changed, because of these: the parameters
            that need new state, or theirs in another format, and those that no kernel takes, as
            lists of pairs of a group and a parameter.
        """
        cdef list stored = []
        cdef dict fresh = {}
        cdef object rest = made
        if not is_any_dict(<PyObject *>state):
            raise TypeError(f"state must be a dict, got {type(state).__name__}")
        if not made:
            return self.try_step(groups, state, None, left_out)
        try:
            for param, new in made.items():
                held = state.get(param)
                stored.append((param, held))
                # What is only in another format now is not fresh.
                if held is None or not any([held.get(name) is not None for name in new]):
                    fresh[param] = new
                state[param] = new if held is None else {**held, **new}
            rest = self.try_step(groups, state, fresh, left_out)
        finally:
            if rest is not None:
                for param, held in stored:
                    if held is None:
                        state.pop(param, None)
                    else:
                        state[param] = held
        return rest

    cdef object try_step(self, list groups, state, dict made, left_out):
        cdef TensorBatch batch = TensorBatch.__new__(TensorBatch)
        cdef Planned planned
        cdef Py_ssize_t place, count = 0
        cdef bint collects, usual
        batch.exchange, batch.planned, batch.changed = self.exchange, [], []
        batch.types[0], batch.types[1] = <PyObject *>self.types[0], <PyObject *>self.types[1]
        for place in range(len(groups)):
            planned = self.planned_for(groups, place)
            if planned.plan is not None:
                planned.lr = planned.group[LR]
            batch.planned.append(planned)
            count += len(<list>planned.group[PARAMS])
        batch.allocate(count)
        if ZDL_FREE_THREADED:
            state = state.copy()        # as for `update`: no other thread knows this one
        batch.gather(<PyObject *>state, made, left_out)
        # From here on addresses are known. To collect garbage may run Python code.
        collects = PyGC_Disable()
        try:
            usual = batch.classify()
            if usual:
                self.changed(batch.changed)
        finally:
            if collects:
                PyGC_Enable()
        if not usual:
            return batch.fresh or [], batch.odd or []
        run(batch.entries, batch.size, self.threads)
        batch.store()
        return None

    cdef Planned planned_for(self, list groups, Py_ssize_t place):
        cdef dict group = groups[place]
        cdef Planned planned
        if place < len(self.planned):
            planned = self.planned[place]
            if planned.holds(group):
                return planned
        planned = Planned.__new__(Planned)
        planned.group, planned.seen, planned.lasting = group, [], True
        for key, value in group.items():
            if not is_changing(<PyObject *>key):
                planned.seen.append(key)
                planned.seen.append(value)
                planned.lasting = planned.lasting and is_immutable(value)
        planned.plan = self.plan(group)
        self.planned[place:place + 1] = [planned]
        return planned
