#include "kernels/math.h"

#include "kernels/simd.h"

namespace grouper::kernels {

float Exp(float x) { return Exp(Vec<float>::Broadcast(x))[0]; }
float Log(float x) { return Log(Vec<float>::Broadcast(x))[0]; }
float Log1p(float x) { return Log1p(Vec<float>::Broadcast(x))[0]; }
float Sigmoid(float x) { return Sigmoid(Vec<float>::Broadcast(x))[0]; }
float Silu(float x) { return Silu(Vec<float>::Broadcast(x))[0]; }

}  // namespace grouper::kernels
