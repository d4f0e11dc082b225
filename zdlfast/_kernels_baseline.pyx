# cython: language_level=3, cdivision=True, embedsignature=False
include "_kernels.pxi"
