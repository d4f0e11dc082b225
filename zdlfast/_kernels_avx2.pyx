# cython: language_level=3, cdivision=True, embedsignature=False
# cython: freethreading_compatible=True
include "_kernels.pxi"
