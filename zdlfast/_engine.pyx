# cython: language_level=3, boundscheck=False, wraparound=False, autotestdict=False
# cython: cdivision=True, binding=False, auto_pickle=False, embedsignature=False
# cython: freethreading_compatible=True
"""The engine: takes containers of arrays and runs a rule's loop over their memory.

It knows arrays and no formula. An update goes down through it, part by part:

_update.pxi     containers -> entries, each classified once; a whole update, or its usual part
_tensors.pxi    the tensors of another library -> entries; a whole step
_groups.pxi     what an update does to the entries that have the same options, in numbers
_gradients.pxi  what is asked of all gradients before an update
_entries.pxi    one parameter with its gradient and state: what it is, where its memory lies
_chunks.pxi     entries -> chunks of equal size -> threads
_blocks.pxi     a chunk -> a rule's loop: at once, or block by block through buffers
_formats.pxi    state in few bits, as an entry has it
_strided.pxi    how the blocks of an array that is not contiguous are copied in and out

Beside them: _lock.pxi, one thread at a time; _rollback.pxi, whole or not at all.
"""

import copy
import importlib
import sys

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport PyObject
from libc.math cimport INFINITY, fmod, isfinite, sqrt
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, llabs, malloc, realloc
from libc.string cimport memcpy, memset, strcmp

from zdlfast._kernels cimport (
    BFLOAT16,
    BLOCK,
    FIRST_SCALAR,
    FLUSH,
    FULL,
    G_SCALE,
    GRAD_DOUBLE,
    GROUP,
    GROUPS,
    MAX_ARRAYS,
    MAX_NUMBERS,
    MAX_OPTIONS,
    MAX_SCALARS,
    MAX_SLOTS,
    P_DECAY,
    PARAM_DOUBLE,
    SCALED,
    SIGNED_8BIT,
    SUMMED,
    UNSIGNED_8BIT,
    Kernels,
    Loop,
    Rule,
)

from zdlfast._encoded import EncodedState, encoding_of, in_format
from zdlfast._gradients import add_squares
from zdlfast._groups import Group as GroupForNumPy
from zdlfast._groups import With
from zdlfast._threads import get_num_threads
from zdlfast._validation import is_finite

cnp.import_array()

# With Intel's CPUs prefetching gains a tenth where memory limits; AMD's never gain, and lose up
# to half of their speed within the cache.
if zdl_is_intel():
    tuning.fetch_from = 1048576

cdef extern from "_float.h":
    pass

cdef extern from "_cpu.h":
    const char *ZDL_COMPILER
    bint zdl_has_avx2()
    bint zdl_has_avx512()
    bint zdl_is_intel()
    void ZDL_PREFETCH(uintptr_t address) nogil

cdef extern from "_tuning.h":
    ctypedef struct Tuning "struct zdl_tuning":
        Py_ssize_t align_from
        Py_ssize_t fetch_from
        Py_ssize_t fetch_step
        Py_ssize_t fetch_ahead
        Py_ssize_t release_from
        Py_ssize_t help_from
        Py_ssize_t help_from_awake
        Py_ssize_t shortest_chunk
        Py_ssize_t longest_chunk
        double spin
    Tuning tuning "zdl_tuning"

# NumPy and Python declared over plain pointers: the engine borrows nearly all references,
# and Cython's own declarations would count each of them.
cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArrayObject
    ctypedef struct PyTypeObject:
        pass
    ctypedef struct PyArray_Descr:
        PyTypeObject *typeobj
    PyTypeObject PyArray_Type
    PyTypeObject PyDoubleArrType_Type, PyFloatArrType_Type       # np.float64, np.float32
    PyTypeObject PyHalfArrType_Type, PyLongDoubleArrType_Type
    enum: NPY_FLOAT, NPY_DOUBLE, NPY_LONGDOUBLE, NPY_HALF, NPY_UINT8, NPY_UINT16, NPY_USERDEF
    enum: NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE
    enum: NPY_KEEPORDER
    bint PyArray_Check(PyObject *value) nogil
    bint PyArray_CheckExact(PyObject *value) nogil
    bint PyArray_ISALIGNED(PyArrayObject *array) nogil
    bint PyArray_ISNOTSWAPPED(PyArrayObject *array) nogil
    int PyArray_FLAGS(PyArrayObject *array) nogil
    int PyArray_TYPE(PyArrayObject *array) nogil
    int PyArray_NDIM(PyArrayObject *array) nogil
    PyArray_Descr *PyArray_DESCR(PyArrayObject *array) nogil
    Py_ssize_t PyArray_ITEMSIZE(PyArrayObject *array) nogil
    Py_ssize_t PyArray_DIM(PyArrayObject *array, int axis) nogil
    Py_ssize_t PyArray_STRIDE(PyArrayObject *array, int axis) nogil
    Py_ssize_t *PyArray_DIMS(PyArrayObject *array) nogil
    Py_ssize_t *PyArray_STRIDES(PyArrayObject *array) nogil
    char *PyArray_BYTES(PyArrayObject *array) nogil
    PyArray_Descr *PyArray_DescrFromType(int kind)
    PyObject *PyArray_Zeros(
        int ndim, Py_ssize_t *shape, PyArray_Descr *dtype, int order
    ) except NULL
    PyObject *PyArray_NewLikeArray(
        PyArrayObject *prototype, int order, PyArray_Descr *dtype, int subclass
    ) except NULL
    PyObject *PyArray_NewFromDescr(
        PyTypeObject *kind, PyArray_Descr *dtype, int ndim, Py_ssize_t *shape,
        Py_ssize_t *strides, void *data, int flags, PyObject *owner
    ) except NULL
    PyObject *PyArray_NewCopy(PyArrayObject *array, int order) except NULL
    int PyArray_SetBaseObject(PyArrayObject *array, PyObject *base) except -1

cdef extern from "Python.h":
    bint is_dict "PyDict_CheckExact"(PyObject *value)
    bint is_list "PyList_CheckExact"(PyObject *value)
    bint is_str "PyUnicode_CheckExact"(PyObject *value)
    bint is_int "PyLong_CheckExact"(PyObject *value)
    bint is_float "PyFloat_CheckExact"(PyObject *value)
    bint PyDict_Next(PyObject *mapping, Py_ssize_t *at, PyObject **key, PyObject **value)
    int PyUnicode_Compare(PyObject *a, PyObject *b)
    dict PyObject_GenericGetDict(object instance, void *context)
    int PyObject_SetItem(object container, object key, object value) except -1
    PyObject *PyDict_GetItemWithError(PyObject *mapping, PyObject *key) except? NULL
    PyObject *PyList_GetItem(PyObject *items, Py_ssize_t index) except NULL
    Py_ssize_t PyList_Size(PyObject *items) except -1
    object PyObject_GenericGetAttr(object instance, object name)
    int PyObject_GenericSetAttr(object instance, object name, object value) except -1
    double PyFloat_AsDouble(PyObject *value)
    void PyErr_Clear()
    PyObject *Py_None
    void *Py_TYPE(PyObject *value)
    PyObject *PyType_GetName(PyTypeObject *kind)
    int PyUnicode_CompareWithASCIIString(PyObject *text, const char *other)
    void Py_INCREF(PyObject *value)
    void Py_DECREF(PyObject *value)
    void Py_XINCREF(PyObject *value)
    void Py_XDECREF(PyObject *value)

# Without the GIL other threads run Python code at any time, not only where the engine lets them.
cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    enum { ZDL_FREE_THREADED = 1 };
    #else
    enum { ZDL_FREE_THREADED = 0 };
    #endif
    """
    enum: ZDL_FREE_THREADED

# How a tensor of another library is read.
cdef extern from "_dlpack.h":
    enum: ZDL_DLPACK_MAJOR, ZDL_DLPACK_CPU
    enum: ZDL_DLPACK_UINT, ZDL_DLPACK_FLOAT, ZDL_DLPACK_BFLOAT
    ctypedef struct Tensor "struct zdl_tensor":
        void *data
        int device_type
        int ndim
        unsigned char code
        unsigned char bits
        unsigned short lanes
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef int (*ReadTensor "zdl_read_tensor")(PyObject *value, Tensor *tensor)
    ctypedef struct Exchange "struct zdl_exchange":
        uint32_t major
        Exchange *previous
        ReadTensor read

cdef enum:
    FEW = 16                # entries that fit on the stack
    CACHE_LINE = 64         # bytes, and the widest instruction

# What nearly every array has; others of the same type are told apart more slowly.
cdef PyArray_Descr *float32 = PyArray_DescrFromType(NPY_FLOAT)
cdef PyArray_Descr *float64 = PyArray_DescrFromType(NPY_DOUBLE)
cdef void *memmap_type = <PyObject *>np.memmap
cdef int bfloat16_type = -1     # the number that NumPy has for it, once it was met


# ------------------------------------------------------------------ instruction sets

cdef const Kernels *kernels = NULL
cdef const Rule *table = NULL       # of these
cdef const Rule *avx2_table = NULL      # the same, built for AVX2 at most
cdef str table_name = None


def available() -> list[str]:
    """The instruction sets that this CPU has, narrowest first."""
    names = ["baseline"]
    if zdl_has_avx2():
        names.append("avx2")
    if zdl_has_avx512():
        names.append("avx512")
    return names


def use(str simd) -> None:
    """From now on take the kernels that were built for this instruction set."""
    global kernels, table, avx2_table, table_name
    if simd not in available():
        raise ValueError(f"no kernels for {simd!r} on this machine, only {available()}")
    found, avx2 = kernels_of(simd), kernels_of("avx2" if simd == "avx512" else simd)
    kernels, table, avx2_table = found, &found.rules[0], &avx2.rules[0]
    table_name = simd


cdef const Kernels *kernels_of(str simd) except NULL:
    module = importlib.import_module(f"zdlfast._kernels_{simd}")
    return <const Kernels *>PyCapsule_GetPointer(module.table, b"zdlfast.kernels")


def in_use() -> str | None:
    """The instruction set whose kernels are used."""
    return table_name


def compiler() -> str:
    """Name and version of the compiler that built the engine."""
    return (<bytes>ZDL_COMPILER).decode().strip()


def get_tuning() -> dict[str, float]:
    """The numbers of _tuning.h, by name."""
    return tuning


def set_tuning(dict values) -> None:
    """Use other numbers from now on: all of them, as `get_tuning` returns them."""
    global tuning
    tuning = values


include "_strided.pxi"
include "_groups.pxi"
include "_formats.pxi"
include "_entries.pxi"
include "_blocks.pxi"
include "_chunks.pxi"
include "_lock.pxi"
include "_rollback.pxi"
include "_gradients.pxi"
include "_update.pxi"
include "_tensors.pxi"
