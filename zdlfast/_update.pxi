# A whole update. Included by _engine.pyx.
#
# `OnKernels.update` does an update if every entry of it is usual: exact ndarrays of float32 or
# float64 with their state, whose memory does not overlap within the entry, in dicts or lists.
# Else it makes a `Batch` of the entries, with the state that is missing. If all that is odd of
# them is simple, it is given to the rule in Python. Else nothing has changed, and
# `KernelOptimizer._update_rest` does the update with this batch, of which NumPy takes the odd
# entries.

cdef class Kernel:
    """One rule, as an optimizer runs it.

    Parameters
    ----------
    rule : str
        The rule's name in the table of the kernels.
    options, slots : tuple of str
        The optimizer's attributes that hold its options and its state, in the order in which
        the rule takes them.
    counter : str, optional
        The optimizer's attribute that counts steps.
    numbers : tuple of str
        The optimizer's attributes that hold further state, as the rule takes it.
    own_decay : bool
        Whether the rule's last option is decoupled weight decay, which it does itself.
    """

    cdef int row
    cdef int lr             # the place of the learning rate among the options, or -1
    cdef tuple changed      # the attributes that an update sets: slots, counter, numbers
    cdef readonly tuple options, slots, numbers
    cdef readonly str rule, counter

    def __init__(
        self, str rule, tuple options, tuple slots, str counter=None, tuple numbers=(),
        bint own_decay=False,
    ):
        cdef bytes name = rule.encode()
        if table == NULL:
            raise RuntimeError(
                "no kernels were chosen: import zdlfast, not a module of it from a folder above"
            )
        self.row = 0
        while table[self.row].name != NULL and strcmp(table[self.row].name, name) != 0:
            self.row += 1
        if table[self.row].name == NULL:
            raise ValueError(f"the kernels have no rule {rule!r}")
        takes = (table[self.row].options, table[self.row].slots, table[self.row].numbers)
        if (
            takes[0] > MAX_OPTIONS or takes[1] > MAX_SLOTS or takes[2] > MAX_NUMBERS
            or FIRST_SCALAR + table[self.row].count > MAX_SCALARS
        ):
            raise ValueError(
                f"rule {rule!r} has more options, slots, numbers or scalars than _kernels.pxd "
                "allows"
            )
        if takes != (len(options) + own_decay, len(slots), len(numbers)):
            raise ValueError(
                f"rule {rule!r} takes {takes} options, slots and numbers, got {options}, {slots} "
                f"and {numbers}"
            )
        self.rule, self.options, self.slots, self.counter = rule, options, slots, counter
        self.numbers, self.lr = numbers, options.index("lr") if "lr" in options else -1
        self.changed = slots + (() if counter is None else (counter,)) + numbers


# What `LastUpdate` tells, from a path that makes no objects.
cdef struct Done:
    int what
    double lr, norm, rate
    bint has_norm

cdef enum:
    NOTHING
    APPLIED
    SKIPPED


cdef class OnKernels(Locked):
    """The base of the optimizers on kernels."""

    cdef Kernel kernel
    cdef Groups groups
    cdef bint loaded        # its state lies anywhere, not beside the parameters
    cdef Done coming
    cdef Done done
    cdef object coming_key  # the first with a gradient that is not finite
    cdef object done_key

    def __cinit__(self, *args, **kwargs):
        self.kernel = type(self)._kernel
        self.groups = Groups()

    def _use(self, Kernel kernel):
        """Take another variant of the rule."""
        self.kernel, self.groups.known = kernel, False

    def _was_loaded(self):
        """Have the next update look where the state lies, and what the options are."""
        self.loaded, self.groups.known = True, False

    def _options_changed(self):
        """Have the next update look what the options are."""
        self.groups.known = False

    @property
    def last(self):
        """What the last update did: a `LastUpdate`, or None before the first one."""
        if self.done.what == NOTHING:
            return None
        return self._last_update(
            self.done.what == APPLIED, self.done.lr,
            self.done.norm if self.done.has_norm else None, self.done.rate, self.done_key,
        )

    def update(self, params, grads):
        """Take one step: change every parameter by its gradient.

        `zdlfast.Optimizer.update` says what is taken, returned and raised.
        """
        acquire(self, True)
        try:
            batch = self.update_by_kernels(params, grads)
            if batch is None or batch is False:
                return batch
            return self._update_rest(params, grads, batch)
        finally:
            zdl_lock_release(&self.lock)

    cdef object update_by_kernels(self, params, grads):
        """Do a whole update, if kernels take all of it.

        Return None, or False if it was skipped. Else return the entries, in a `Batch`; or
        NotImplemented if Python has to look them up. Nothing has changed then.
        """
        cdef const Rule *rule = &table[self.kernel.row]
        cdef double[MAX_NUMBERS] numbers
        cdef dict attributes = PyObject_GenericGetDict(self, NULL)
        cdef dict seen = as_seen(attributes)
        cdef PyObject *containers[MAX_ARRAYS]
        cdef PyObject *copies[MAX_ARRAYS]
        cdef PyObject **walked = containers
        cdef list kept
        cdef PyObject *found
        cdef Py_ssize_t at = 0, size, ready = 0
        cdef bint by_key = is_dict(<PyObject *>params), fresh = False
        cdef Entry[FEW] few
        cdef Entry *entries = few
        cdef Batch batch
        cdef object step
        cdef int i, gathered
        if not self.groups.known:
            self._check_ready()
            self.groups.learn(self, self.kernel.options, ())
        step = self.next_step(seen, &at, numbers)
        if step is NotImplemented:
            return NotImplemented
        containers[0], containers[1] = <PyObject *>params, <PyObject *>grads
        for i in range(rule.slots):
            containers[2 + i] = look_up(seen, <str>self.kernel.slots[i], &at)
        for i in range(2 + rule.slots):
            if i > 1 and containers[i] == Py_None:
                fresh = True
            elif containers[i] == NULL or not (
                is_dict(containers[i]) if by_key else is_list(containers[i])
            ):
                return NotImplemented
        for i in range(2, 2 + rule.slots if fresh else 2):
            containers[i] = NULL
        if ZDL_FREE_THREADED:
            kept = copy_all(containers, copies, 2 + rule.slots, by_key)
            walked = copies
        size = len(<object>walked[0])
        if size > FEW:
            entries = <Entry *>malloc(size * sizeof(Entry))
            if entries == NULL:
                raise MemoryError(f"no memory for an update of {size} parameters")
        try:
            if by_key:
                gathered = gather_dicts(
                    entries, &ready, walked, size, 2 + rule.slots, self.groups)
            else:
                gathered = gather_lists(
                    entries, &ready, walked, size, 2 + rule.slots, self.groups)
            if gathered == IRREGULAR:
                return NotImplemented
            if gathered == ALL_USUAL and not fresh and not self.loaded:
                if self.groups.asks() and self.refuses(entries, ready, None):
                    return False
                run(entries, ready)
                # Past the checks of __setattr__, which cost more than a small update.
                if step is not None:
                    attributes[self.kernel.counter] = step
                for i in range(rule.numbers):
                    attributes[self.kernel.numbers[i]] = numbers[i]
                self.was_applied()
                return None
            # To make an object may collect garbage, whose finalizers are Python code.
            hold(entries, ready)
            for i in range(2, 2 + rule.slots):
                Py_XINCREF(containers[i])
            try:
                batch = Batch.__new__(Batch)
                batch.adopt(
                    self, by_key, containers, entries, ready, entries != few, numbers, step
                )
                ready, entries = 0, few         # these are the batch's now
            finally:
                for i in range(2, 2 + rule.slots):
                    Py_XDECREF(containers[i])
                let_go(entries, ready)
        finally:
            free_owned(entries, ready)
            if entries != few:
                free(entries)
        batch.make_state()
        return batch.do_if_simple(params)

    cdef object next_step(self, dict attributes, Py_ssize_t *at, double *numbers):
        """Compute what is of the coming step; return its count, if steps are counted.

        NotImplemented if the options are not all floats, or the count is no number that fits.
        """
        cdef const Rule *rule = &table[self.kernel.row]
        cdef double[MAX_OPTIONS] options
        cdef PyObject *found
        cdef object step = None
        cdef double t = 0.0
        cdef int i
        for i in range(rule.options - self.groups.own_decay):
            found = look_up(attributes, <str>self.kernel.options[i], at)
            if found == NULL:
                return NotImplemented
            if is_float(found):
                options[i] = PyFloat_AsDouble(found)
            elif i == self.kernel.lr:
                options[i] = self._lr_now()     # a schedule
            else:
                return NotImplemented
        if self.kernel.counter is not None:
            found = look_up(attributes, self.kernel.counter, at)
            if found == NULL or not is_int(found):
                return NotImplemented
            step = <object>found + 1
            t = PyFloat_AsDouble(<PyObject *>step)
            if t == -1.0:
                PyErr_Clear()
                return NotImplemented
        for i in range(rule.numbers):
            found = look_up(attributes, <str>self.kernel.numbers[i], at)
            if found == NULL or not is_float(found):
                return NotImplemented
            numbers[i] = PyFloat_AsDouble(found)
        self.prepare(options, t, numbers)
        return step

    cdef int prepare(self, const double *options, double t, double *numbers) except -1:
        """Compute the numbers of step `t`."""
        cdef Kernel kernel = self.kernel
        self.groups.fill(self, &table[kernel.row], options, kernel.lr, t, numbers)
        self.groups.set_keys(t if kernel.counter is not None else <double>self._updates + 1.0)
        self.coming.what, self.coming.has_norm, self.coming.rate = APPLIED, False, 1.0
        self.coming_key = None
        self.coming.lr = options[kernel.lr] if kernel.lr >= 0 else 0.0
        return 0

    cdef bint refuses(self, Entry *entries, Py_ssize_t count, given) except -1:
        """Read all gradients; scale them by their norm, or skip the update, or raise.

        `given` is what was found already, if these are only a part of all gradients; or None.
        """
        cdef Reading reading
        cdef list nonfinite = []
        self.coming.has_norm = self.groups.clip_norm != INFINITY
        if given is not None:
            reading.norm, nonfinite = given.norm if self.coming.has_norm else 0.0, given.nonfinite
        else:
            read_gradients(entries, count, self.coming.has_norm, &reading)
            if reading.nonfinite >= 0:
                nonfinite = [key_of(&entries[reading.nonfinite], reading.nonfinite)]
        self.coming.norm = reading.norm
        if self.coming.has_norm:
            # As in book 2, common/util.py.
            self.coming.rate = self.groups.clip_norm / (reading.norm + 1e-6)
            if self.coming.rate < 1.0:
                self.groups.scale(self.coming.rate)
            else:
                self.coming.rate = 1.0
        if nonfinite:
            key = nonfinite[0]
            if self.groups.nonfinite == RAISE:
                raise FloatingPointError(
                    f"grads[{key!r}] holds NaN or infinity, expected finite numbers"
                )
            self.coming_key = key
            if self.groups.nonfinite == SKIP:
                self.coming.what, self.coming.rate = SKIPPED, 1.0
                self.done, self.done_key = self.coming, self.coming_key
                return True
        return False

    cdef void was_applied(self) noexcept:
        self.done, self.done_key = self.coming, self.coming_key
        self._updates += 1


# Without the GIL another thread may change a container, or an optimizer's attributes, in the
# middle of a walk, and free what was borrowed from it. So copies are walked, which no other
# thread knows and which keep what is in them; Python copies dicts and lists at one moment.

cdef inline dict as_seen(dict attributes):
    return attributes.copy() if ZDL_FREE_THREADED else attributes


cdef list copy_all(PyObject **containers, PyObject **copies, int count, bint by_key):
    """Fill in a copy of each container; return them all, which keeps them."""
    cdef list kept = []
    cdef int i
    for i in range(count):
        copies[i] = NULL
        if containers[i] != NULL:
            taken = (<dict>containers[i]).copy() if by_key else (<list>containers[i])[:]
            kept.append(taken)
            copies[i] = <PyObject *>taken
    return kept


cdef inline PyObject *look_up(dict attributes, str name, Py_ssize_t *at) except? NULL:
    """The value of an attribute, found fastest at place `at` of the instance's dict."""
    cdef PyObject *key
    cdef PyObject *value
    if PyDict_Next(<PyObject *>attributes, at, &key, &value) and key == <PyObject *>name:
        return value
    return PyDict_GetItemWithError(<PyObject *>attributes, <PyObject *>name)


# ------------------------------------------------------------------ containers -> entries

# Both fill in `entries` with borrowed references, and no Python code runs meanwhile that could
# change a container.

cdef enum:
    IRREGULAR       # Python has to look them up
    ALL_USUAL
    NOT_ALL_USUAL

cdef int gather_lists(
    Entry *entries, Py_ssize_t *ready, PyObject **containers, Py_ssize_t size, int count,
    Groups groups,
) except -1:
    cdef Py_ssize_t[MAX_ARRAYS] sizes
    cdef Entry *entry
    cdef bint usual = True
    cdef int i
    for i in range(1, count):
        sizes[i] = PyList_Size(containers[i]) if containers[i] != NULL else 0
    if sizes[1] < size:
        return IRREGULAR
    while ready[0] < size:
        entry = &entries[ready[0]]
        entry.key = NULL
        entry.values[0] = PyList_GetItem(containers[0], ready[0])
        for i in range(1, count):
            entry.values[i] = NULL
            if ready[0] < sizes[i]:
                entry.values[i] = PyList_GetItem(containers[i], ready[0])
        if not add_entry(entry, count, groups, ready[0]):
            return IRREGULAR
        # In a list, a frozen entry has state too.
        usual = usual and (entry.path == USUAL or (entry.path == FROZEN and has_state(entry)))
        ready[0] += 1
    return ALL_USUAL if usual else NOT_ALL_USUAL


cdef int gather_dicts(
    Entry *entries, Py_ssize_t *ready, PyObject **containers, Py_ssize_t size, int count,
    Groups groups,
) except -1:
    cdef Py_ssize_t[MAX_ARRAYS] position
    cdef Entry *entry
    cdef PyObject *key
    cdef PyObject *value
    cdef bint checked = False, usual = True
    cdef int i
    for i in range(count):
        position[i] = 0
    while PyDict_Next(containers[0], &position[0], &key, &value):
        if ready[0] == size or not is_usual(key):
            return IRREGULAR
        entry = &entries[ready[0]]
        entry.key, entry.values[0] = key, value
        # Dicts filled in the same order are walked in step, without a look-up.
        if not next_in_step(containers, position, count, key, entry.values):
            for i in range(1, count):
                if not checked and containers[i] != NULL and not has_usual_keys(containers[i]):
                    return IRREGULAR
            checked = True
            for i in range(1, count):
                entry.values[i] = NULL
                if containers[i] != NULL:
                    entry.values[i] = PyDict_GetItemWithError(containers[i], key)
            if entry.values[1] == NULL:
                return IRREGULAR
        if not add_entry(entry, count, groups, ready[0]):
            return IRREGULAR
        usual = usual and (entry.path == USUAL or entry.path == FROZEN)
        ready[0] += 1
    return (ALL_USUAL if usual else NOT_ALL_USUAL) if ready[0] == size else IRREGULAR


cdef inline bint add_entry(
    Entry *entry, int count, Groups groups, Py_ssize_t place
) except -1:
    """Classify an entry; say no if its options were not looked up yet."""
    entry.group = groups.of(entry.key, place)
    if entry.group == NULL:
        return False
    if entry.group.frozen:
        entry.count, entry.made, entry.path = count, False, FROZEN
        entry.strides, entry.coding = NULL, NULL
    else:
        classify(entry, count)
    return True


cdef inline bint is_usual(PyObject *key) noexcept:
    """Whether a key can be looked up without running Python code, which could change anything."""
    return is_str(key) or is_int(key)


cdef bint has_usual_keys(PyObject *mapping) noexcept:
    cdef Py_ssize_t at = 0
    cdef PyObject *key
    cdef PyObject *value
    while PyDict_Next(mapping, &at, &key, &value):
        if not is_usual(key):
            return False
    return True


cdef inline bint next_in_step(
    PyObject **containers, Py_ssize_t *position, int count, PyObject *key, PyObject **values
) noexcept:
    """Go on to the next entry of all dicts but the first; tell if each has this key."""
    cdef PyObject *other
    cdef bint same = True
    cdef int i
    for i in range(1, count):
        same = (
            containers[i] != NULL
            and PyDict_Next(containers[i], &position[i], &other, &values[i])
            and same
            and (
                other == key
                or (is_str(other) and is_str(key) and PyUnicode_Compare(other, key) == 0)
            )
        )
    return same


# ------------------------------------------------------------------ entries -> memory

cdef int run(Entry *entries, Py_ssize_t count, most=None, bint held=False) except -1:
    """Execute the entries that kernels take. If it raises, it has changed nothing.

    Parameters
    ----------
    most : callable, optional
        What gives the largest number of threads to take.
    held : bool
        Whether they hold their arrays, which are looked at again then.
    """
    cdef Job job
    job.entries, job.count = entries, count
    job.bytes = measure(entries, count)
    return with_threads(entries, count, job.bytes, execute_all, &job, most, held)


cdef int check_again(const Entry *entries, Py_ssize_t count) except -1:
    """Raise if Python code that ran since they were classified has taken memory away."""
    cdef PyArrayObject *array
    cdef Py_ssize_t k, n
    cdef int i, axis
    for k in range(count):
        if entries[k].path != USUAL and entries[k].path != FRESH:
            continue
        if entries[k].read != NULL:
            check_tensors_again(&entries[k])
            continue
        for i in range(entries[k].count):
            if entries[k].values[i] == NULL:
                continue
            array = memory_of(&entries[k], i)
            n = 1
            for axis in range(PyArray_NDIM(array)):
                n *= PyArray_DIM(array, axis)
            if format_of(&entries[k], i) != FULL:
                n = entries[k].n if is_whole(entries[k].coding, i, entries[k].n) else -1
            if PyArray_BYTES(array) != entries[k].data[i] or n != entries[k].n:
                raise RuntimeError("an array was resized or exchanged during an update")
    return 0


cdef int check_tensors_again(const Entry *entry) except -1:
    cdef Tensor tensor
    cdef Py_ssize_t n, expected
    cdef int i, axis
    for i in range(entry.count):
        n, expected = 1, entry.n if format_of(entry, i) == FULL else packed_bytes(entry.n)
        if entry.read(entry.values[i], &tensor) != 0:
            PyErr_Clear()
            n = -1
        for axis in range(tensor.ndim if n > 0 else 0):
            n *= tensor.shape[axis]
        if n != expected or <char *>tensor.data + tensor.byte_offset != entry.data[i]:
            raise RuntimeError("a tensor was resized or given other memory during a step")
    return 0


cdef void hold(Entry *entries, Py_ssize_t count) noexcept:
    cdef Py_ssize_t k
    cdef int i
    for k in range(count):
        Py_XINCREF(entries[k].key)
        for i in range(entries[k].count):
            Py_XINCREF(entries[k].values[i])


cdef void let_go(Entry *entries, Py_ssize_t count) noexcept:
    cdef Py_ssize_t k
    cdef int i
    for k in range(count):
        Py_XDECREF(entries[k].key)
        for i in range(entries[k].count):
            Py_XDECREF(entries[k].values[i])


cdef inline void free_owned(Entry *entries, Py_ssize_t count) noexcept:
    cdef Py_ssize_t k
    for k in range(count):
        free(entries[k].strides)
        free_coding(entries[k].coding)


# ------------------------------------------------------------------ an update that is not usual

cdef class Batch:
    """The entries of one update, for kernels and for NumPy.

    Parameters
    ----------
    optimizer : OnKernels
        Whose update it is.
    by_key : bool
        Whether the containers are mappings, not lists.
    containers : list
        Its state by slot: dicts or lists, or None before the first update.
    keys, params, grads : list
        What was looked up, one for each entry.
    state : list of list
        The same by slot; None where there is none yet.
    """

    cdef OnKernels optimizer
    cdef list containers
    cdef bint by_key
    cdef Entry *entries
    cdef Py_ssize_t size
    cdef int count
    cdef double[MAX_NUMBERS] numbers
    cdef object step
    cdef dict groups            # those of odd entries, as NumPy takes them

    def __init__(
        self, OnKernels optimizer, bint by_key, list containers, list keys, list params,
        list grads, list state,
    ):
        cdef Kernel kernel = optimizer.kernel
        cdef const Rule *rule = &table[kernel.row]
        cdef double[MAX_OPTIONS] options
        cdef double t = 0.0
        cdef Entry *entry
        cdef Py_ssize_t k
        cdef int i
        self.optimizer, self.by_key, self.containers = optimizer, by_key, containers
        self.groups = {}
        self.count = 2 + rule.slots
        if not optimizer.groups.known or optimizer.groups.place_of is not None:
            optimizer.groups.learn(optimizer, kernel.options, keys)
        for i in range(rule.options - optimizer.groups.own_decay):
            options[i] = (
                optimizer._lr_now() if i == kernel.lr else getattr(optimizer, kernel.options[i])
            )
        if kernel.counter is not None:
            self.step = getattr(optimizer, kernel.counter) + 1
            t = self.step
        for i in range(rule.numbers):
            self.numbers[i] = getattr(optimizer, kernel.numbers[i])
        optimizer.prepare(options, t, self.numbers)
        self.allocate(len(keys))
        for k in range(len(keys)):
            entry = &self.entries[k]
            entry.key = <PyObject *>keys[k] if by_key else NULL
            entry.values[0], entry.values[1] = <PyObject *>params[k], <PyObject *>grads[k]
            for i in range(rule.slots):
                entry.values[2 + i] = <PyObject *>(<list>state[i])[k]
                if entry.values[2 + i] == Py_None:
                    entry.values[2 + i] = NULL
            entry.count, entry.strides, entry.coding = self.count, NULL, NULL
            hold(entry, 1)
            self.size = k + 1
            add_entry(entry, self.count, optimizer.groups, k)
        self.make_state()

    cdef int adopt(
        self, OnKernels optimizer, bint by_key, PyObject **containers, Entry *entries,
        Py_ssize_t size, bint allocated, const double *numbers, object step,
    ) except -1:
        """Take over entries that were gathered, the references that they hold and their memory."""
        cdef int i
        self.optimizer, self.by_key, self.step, self.groups = optimizer, by_key, step, {}
        self.count = 2 + table[optimizer.kernel.row].slots
        self.containers = []
        for i in range(2, self.count):
            container = None
            if containers[i] != NULL:
                container = <object>containers[i]
            self.containers.append(container)
        memcpy(self.numbers, numbers, sizeof(self.numbers))
        if allocated:
            self.entries = entries
        else:
            self.allocate(size)
            memcpy(self.entries, entries, size * sizeof(Entry))
        self.size = size
        return 0

    def __dealloc__(self):
        let_go(self.entries, self.size)
        free_owned(self.entries, self.size)
        free(self.entries)

    cdef int allocate(self, Py_ssize_t size) except -1:
        self.entries = <Entry *>malloc(max(size, 1) * sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError(f"no memory for an update of {size} parameters")
        return 0

    cdef int make_state(self) except -1:
        """Make the state that entries for kernels lack; put loaded state beside its parameter."""
        cdef Entry *entry
        cdef Py_ssize_t k, fresh = 0, bytes = 0, used = 0
        cdef PyObject *memory = NULL
        cdef bint move = self.optimizer.loaded and not share_memory(self.entries, self.size)
        for k in range(self.size):
            entry = &self.entries[k]
            if entry.path == FRESH:
                check_again(entry, 1)
                bytes += (self.count - 2) * small_bytes(entry)
                fresh += 1
        if bytes > 0:
            memory = new_memory(bytes)
        try:
            for k in range(self.size if fresh or move else 0):
                entry = &self.entries[k]
                if entry.path == FRESH:
                    self.make_fresh(entry, memory, &used)
                elif entry.path == USUAL and move:
                    self.move_beside(entry)
        finally:
            Py_XDECREF(memory)
        # These last: they run Python code, which may resize arrays.
        for k in range(0 if self.by_key else self.size):
            if self.entries[k].path == FROZEN:
                self.make_frozen(&self.entries[k])
        return 0

    cdef int make_fresh(self, Entry *entry, PyObject *memory, Py_ssize_t *used) except -1:
        cdef Py_ssize_t bytes = small_bytes(entry)
        cdef int i
        for i in range(2, self.count):
            if wanted_format(entry, i) != FULL or format_of(entry, i) != FULL:
                self.make_encoded(entry, i)
            elif entry.values[i] != NULL:
                continue
            elif bytes > 0:
                entry.values[i] = zeros_in(memory, used[0], <PyArrayObject *>entry.values[0])
                used[0] += bytes
            else:
                entry.values[i] = zeros_beside(entry, i)
        free_coding(entry.coding)
        entry.coding = NULL
        classify(entry, self.count)
        entry.made = True
        return 0

    cdef int make_encoded(self, Entry *entry, int i) except -1:
        """Put state into the format that it has to have, or out of one."""
        cdef int wanted = wanted_format(entry, i)
        cdef object name = formats[wanted]
        cdef bint signed = self.optimizer.kernel.slots[i - 2] not in self.optimizer._positive
        cdef object state, param = <object>entry.values[0]
        if entry.values[i] == NULL:
            state = EncodedState.zeros(name, param.dtype, param.shape, signed)
        elif format_of(entry, i) == wanted:
            return 0
        else:
            state = in_format(<object>entry.values[i], name, signed, param)
        Py_XDECREF(entry.values[i])
        Py_INCREF(<PyObject *>state)
        entry.values[i] = <PyObject *>state
        return 0

    cdef int make_frozen(self, Entry *entry) except -1:
        """In a list a frozen entry has state too, to keep the place of those behind it."""
        from zdlfast._entries import frozen_state

        cdef int i
        for i in range(2, self.count):
            if entry.values[i] == NULL:
                zeros = frozen_state(<object>entry.values[0])
                Py_INCREF(<PyObject *>zeros)
                entry.values[i] = <PyObject *>zeros
                entry.made = True
        return 0

    cdef int move_beside(self, Entry *entry) except -1:
        cdef PyArrayObject *param = <PyArrayObject *>entry.values[0]
        cdef PyObject *moved
        cdef Py_ssize_t bytes = entry.n * itemsize(entry, 0)
        cdef int i
        if bytes < tuning.align_from or entry.strides != NULL or entry.coding != NULL:
            return 0
        check_again(entry, 1)
        for i in range(2, self.count):
            if to_its_place(entry, i, entry.values[i]) != 0:
                moved = zeros_beside(entry, i)
                memcpy(PyArray_BYTES(<PyArrayObject *>moved), entry.data[i], bytes)
                Py_DECREF(entry.values[i])
                entry.values[i] = moved
                entry.data[i] = PyArray_BYTES(<PyArrayObject *>moved)
                entry.made = True
        return 0

    cdef object do_if_simple(self, params):
        """Do the whole update, if nothing in it needs Python's checks; else return the batch.

        So it is if all is for kernels, but for simple entries that share no memory with others
        and that nothing but their rule changes.
        """
        cdef const Entry *entry
        cdef Rollback rollback
        cdef Py_ssize_t k
        cdef bint simple = False
        for k in range(self.size):
            entry = &self.entries[k]
            simple = simple or entry.path == SIMPLE
            if entry.path == ODD or (
                entry.path == SIMPLE and (entry.group.staged or entry.group.variant == SCALED)
            ):
                return self
        if not simple:
            return self.by_kernels()
        if self.optimizer.groups.asks() or odd_shares_memory(self.entries, self.size):
            return self
        rollback = Rollback()
        with rollback:
            self.run_simple(params, rollback)
            rollback.finish(self.finish, [])
        return None

    cdef int run_simple(self, params, Rollback rollback) except -1:
        """Give simple entries to the rule in Python, as `zdlfast._entries.run` does."""
        cdef int count = table[self.optimizer.kernel.row].count
        cdef Entry *entry
        cdef PyArrayObject *array
        cdef Py_ssize_t k
        cdef int i
        cdef bint in_place, as_views
        cdef list operands
        cdef tuple held, results
        for k in range(self.size):
            entry = &self.entries[k]
            if entry.path != SIMPLE:
                continue
            in_place = PyArray_Check(entry.values[0])
            as_views = in_place and PyArray_NDIM(<PyArrayObject *>entry.values[0]) == 0
            operands = []
            for i in range(self.count):
                operand = <object>entry.values[i]
                array = <PyArrayObject *>entry.values[i]
                if PyArray_Check(entry.values[i]):
                    if i != 1:
                        rollback.add_array(operand)
                    if as_views and PyArray_NDIM(array) == 0:   # see `_apply_0d` of _entries.py
                        operand = one_element(array)
                operands.append(operand)
            held = tuple(operands[2:self.count])
            for i in range(count):
                operands.append(entry.group.scalars[FIRST_SCALAR + i])
            results = self.optimizer._rule(*operands)
            if in_place:
                continue
            self.take_state(k, held, results[1:])
            rollback.add(params, key_of(entry, k), operands[0])
            params[key_of(entry, k)] = results[0]
        return 0

    cpdef bint refused(self, reading=None) except -1:
        """Read all gradients, if the options ask for it; whether the update is to be skipped.

        `reading` is what was found in them, if it is known.
        """
        if not self.optimizer.groups.asks():
            return False
        if self.optimizer.refuses(self.entries, self.size, reading):
            return True
        for group in self.groups.values():
            group.g_scale *= self.optimizer.coming.rate
        return False

    cpdef object by_kernels(self, agree=None, reading=None):
        """Do the whole update, if there are no odd entries: False if it is skipped."""
        if self.refused(reading):
            if agree is not None:
                agree()
            return False
        self.finish([], agree)
        return None

    def odd(self, bint everything=False) -> list:
        """What NumPy has to update, simple ones too, entry by entry: what `make_entry` takes.

        Parameters
        ----------
        everything : bool
            Leave all entries to NumPy.
        """
        cdef list found = [], state
        cdef Entry *entry
        cdef Py_ssize_t k
        cdef int i
        for k in range(self.size):
            entry = &self.entries[k]
            if entry.path == SIMPLE or (everything and entry.path != FROZEN):
                entry.path = ODD
            if entry.path == ODD:
                # No comprehension: without memory, Cython's gives up a reference too many.
                state = []
                for i in range(2, self.count):
                    held = None
                    if entry.values[i] != NULL:
                        held = <object>entry.values[i]
                    state.append(held)
                value, grad = <object>entry.values[0], <object>entry.values[1]
                group = self.group_of(entry)
                found.append((k, key_of(entry, k), value, grad, tuple(state), group))
        return found

    cdef object group_of(self, const Entry *entry):
        """The group of an entry as NumPy takes it, the same for all entries of it."""
        cdef OnKernels optimizer = self.optimizer
        cdef Py_ssize_t k = entry.group - optimizer.groups.array
        group = self.groups.get(k)
        if group is None:
            step = optimizer._updates + 1 if self.step is None else self.step
            group = self.groups[k] = optimizer.groups.for_numpy(
                optimizer, k, table[optimizer.kernel.row].count, step)
        return group

    def order_counts(self) -> bool:
        """Whether an odd entry may share memory with another one."""
        return odd_shares_memory(self.entries, self.size)

    cpdef finish(self, list odd, agree=None):
        """Run the kernels, then store state and count the step: all of it, or it raises.

        Parameters
        ----------
        odd : list
            The entries that NumPy has updated: each with its ``place``, with the state ``held``
            before and ``state`` now.
        agree : callable, optional
            Is called last before the kernels, which do not fail: what it raises undoes all.
        """
        cdef Kernel kernel = self.optimizer.kernel
        cdef tuple names = kernel.changed
        cdef list before = [], after = []
        cdef int i
        for done in odd:
            self.take_state(done.place, done.held, done.state)
        for i in range(self.count - 2):
            after.append(self.with_new_state(i))
        if kernel.counter is not None:
            after.append(self.step)
        for i in range(table[kernel.row].numbers):
            after.append(self.numbers[i])
        for name in names:
            before.append(PyObject_GenericGetAttr(self.optimizer, name))
        try:
            # First: where a class of the user's own has properties of these names, they may raise.
            for i in range(len(names)):
                PyObject_GenericSetAttr(self.optimizer, names[i], after[i])
            if agree is not None:
                agree()
            run(self.entries, self.size, None, True)
        except BaseException:
            for i in range(len(names)):
                try:
                    PyObject_GenericSetAttr(self.optimizer, names[i], before[i])
                except Exception:
                    pass
            raise
        self.optimizer.was_applied()
        self.optimizer.loaded = False

    cdef int take_state(self, Py_ssize_t place, tuple held, tuple state) except -1:
        """Put the new state of an odd entry in the place of the old one."""
        cdef Entry *entry = &self.entries[place]
        cdef int i
        for i in range(self.count - 2):
            if state[i] is not held[i]:
                Py_XDECREF(entry.values[2 + i])     # not the last one: `held` has it too
                entry.values[2 + i] = <PyObject *>state[i]
                Py_INCREF(entry.values[2 + i])
                entry.made = True
        return 0

    cdef object with_new_state(self, int i):
        """A slot's container: another one if it has not got all arrays already."""
        cdef Entry *entry
        cdef Py_ssize_t k
        cdef bint new = False
        container = self.containers[i]
        for k in range(self.size):
            entry = &self.entries[k]
            if not entry.made:
                continue
            if not new:
                new = True
                container = self.new_container(container)
            value = <object>entry.values[2 + i]
            if self.by_key:
                container[<object>entry.key] = value
            elif k < len(container):
                container[k] = value
            else:
                container.append(value)
        return self.new_container(container) if container is None else container

    cdef object new_container(self, container):
        if container is None:
            return {} if self.by_key else []
        return copy.copy(container)
