// Elementary functions of our own: the same bits on every machine, whatever its libm. Scalar forms here; the 8-lane forms that
// ops use are in simd.h and give the same bits per lane.
//
// Maximum error over all float inputs, measured by tests/kernels/math_test.cc: see each line. Double forms (for gradient
// checks) are std::exp and friends.
#pragma once

namespace grouper::kernels {

float Exp(float x);      // <= 2 ulp; overflow +inf above 88.73, 0 below -103.98; NaN stays NaN; Exp(-inf) = 0
float Log(float x);      // <= 2 ulp; Log(0) = -inf; x < 0: NaN
float Log1p(float x);    // <= 3 ulp for x > -1
float Sigmoid(float x);  // 1 / (1 + exp(-x)), <= 4 ulp, no overflow for any x
float Silu(float x);     // x * sigmoid(x)

}  // namespace grouper::kernels
