/* Refuses a compiler whose floating-point arithmetic is not IEEE 754's, each operation rounded
 * to its own type: the results would have other bits. The engine and all kernels include this. */

#ifndef ZDLFAST_FLOAT_H
#define ZDLFAST_FLOAT_H

#include <float.h>

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) \
    || defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) \
    || defined(_M_FP_FAST) || defined(_M_FP_CONTRACT)
#error "zdlfast computes the bits that NumPy computes: build it without -ffast-math and its parts"
#endif

/* 16 widens _Float16 alone, which is used nowhere. */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "zdlfast computes the bits that NumPy computes: floats must not be widened, as x87 does"
#endif

#endif
