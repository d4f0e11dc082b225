/* The arithmetic that the promise of equal bits needs: refused at build time where it is missing. */

#ifndef ZDLFAST_FLOAT_H
#define ZDLFAST_FLOAT_H

#include <float.h>

#if defined(__FAST_MATH__)
#error "zdlfast cannot be built with -ffast-math: it changes results"
#endif
/* The x87 unit computes in 80 bits: other results. Build with SSE2 (-msse2 -mfpmath=sse). (16 is 0
 * but for _Float16, which is used nowhere.) */
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "zdlfast needs a compiler that rounds every operation to its type (FLT_EVAL_METHOD 0)"
#endif

#endif
