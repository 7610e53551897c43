// Scalars, 2x2 blocks and reflections of three rows, as the eigen-solvers of this room take them on a CPU and
// on a GPU.
#pragma once

#if defined(__CUDACC__)
#define EIGSVC_HOST_DEVICE __host__ __device__ __forceinline__
#else
#include <cmath>
#define EIGSVC_HOST_DEVICE inline
#endif

namespace eigsvc::kernels {

template <typename T>
struct Machine;
template <>
struct Machine<float> {
  static constexpr float kEpsilon = 1.1920929e-07f, kTiny = 1.17549435e-38f;
  static constexpr float kRootOfTiny = 0x1p-63f;
};
template <>
struct Machine<double> {
  static constexpr double kEpsilon = 2.220446049250313e-16, kTiny = 2.2250738585072014e-308;
  static constexpr double kRootOfTiny = 0x1p-511;
};

// Standard library names, which nvcc maps to the device's.
template <typename T>
EIGSVC_HOST_DEVICE T Abs(T x) {
  return x < 0 ? -x : x;
}
template <typename T>
EIGSVC_HOST_DEVICE T Largest(T a, T b) {
  return a > b ? a : b;
}
template <typename T>
EIGSVC_HOST_DEVICE T CopySign(T magnitude, T sign) {
  return sign < 0 ? -Abs(magnitude) : Abs(magnitude);
}
EIGSVC_HOST_DEVICE float Root(float x) { return sqrtf(x); }
EIGSVC_HOST_DEVICE double Root(double x) { return sqrt(x); }
#if defined(__CUDA_ARCH__)
__device__ __forceinline__ float InverseRoot(float x) { return rsqrtf(x); }
__device__ __forceinline__ double InverseRoot(double x) { return rsqrt(x); }
__device__ __forceinline__ float Fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double Fused(double a, double b, double c) { return fma(a, b, c); }
#endif

// Maps x to (beta, 0, 0): the reflection I - t·v vᵀ, v[0] = 1, whose first row is negated. So it is near the
// identity where x is near that already, and what converged early is not rounded anew by each later sweep:
// half the backward error at order 128. Its first diagonal element is 1 + diagonal, t1 = t·v1, t2 = t·v2.
template <typename T>
struct alignas(16) Rotation3 {
  T v1, v2, t1, t2, diagonal, beta;

  // To a pair or a triple of one column. All are read first: for all the compiler knows they are one.
  EIGSVC_HOST_DEVICE void Apply(T& a0, T& a1) const {
    const T x0 = a0, x1 = a1;
    const T turned = x0 + (t1 * x1 + diagonal * x0);
    a0 = turned;
    a1 = x1 - v1 * (x0 + turned);
  }
  EIGSVC_HOST_DEVICE void Apply(T& a0, T& a1, T& a2) const {
    const T x0 = a0, x1 = a1, x2 = a2;
    const T turned = x0 + (t1 * x1 + t2 * x2 + diagonal * x0), sum = x0 + turned;
    a0 = turned;
    a1 = x1 - v1 * sum;
    a2 = x2 - v2 * sum;
  }
};

template <typename T>
EIGSVC_HOST_DEVICE Rotation3<T> MakeRotation(T x0, T x1, T x2) {
  T unit = 1, rest = x1 * x1 + x2 * x2, all = x0 * x0 + rest;
  if (all < Machine<T>::kTiny / Machine<T>::kEpsilon) {  // squares lose digits: the same with longer ones
    constexpr T kUp = 1 / Machine<T>::kRootOfTiny;
    unit = Machine<T>::kRootOfTiny;
    x0 *= kUp;
    x1 *= kUp;
    x2 *= kUp;
    rest = x1 * x1 + x2 * x2;
    all = x0 * x0 + rest;
  }
  if (rest == 0) return {0, 0, 0, 0, 0, x0 * unit};
#if defined(__CUDA_ARCH__)
  // What a root takes, a thread has to wait for, and for a quotient as long again: one root of all, inverse.
  const T inverse = InverseRoot(all);
  T length = all * inverse;
  length = Fused(inverse / 2, Fused(-length, length, all), length);
#else
  const T length = Root(all);
#endif
  const T scale = CopySign(1 / (Abs(x0) + length), x0), v1 = x1 * scale, v2 = x2 * scale;
  // t = 2/vᵀv, of v as it is rounded: what a reflection lacks of being orthogonal adds up over the sweeps.
  const T square = v1 * v1 + v2 * v2;
#if defined(__CUDA_ARCH__)
  // 1 + |x0|/length but for rounding, and a step of Newton's from there.
  const T near = Fused(Abs(x0), inverse, T(1)), t = Fused(near, Fused(-(1 + square) / 2, near, T(1)), near);
#else
  const T t = 2 / (1 + square);
#endif
  return {v1, v2, t * v1, t * v2, -t * square, CopySign(length * unit, x0)};
}

// Eigenvalues of [[a, b], [c, d]].
template <typename T>
EIGSVC_HOST_DEVICE void TwoByTwo(T a, T b, T c, T d, T& real1, T& imag1, T& real2, T& imag2) {
  const T scale = Largest(Largest(Abs(a), Abs(b)), Largest(Abs(c), Abs(d)));
  real1 = a;
  imag1 = imag2 = 0;
  real2 = d;
  if (scale < Machine<T>::kTiny) return;
  const T inverse = 1 / scale, half = (a * inverse - d * inverse) / 2,
          product = (b * inverse) * (c * inverse);
  const T discriminant = half * half + product;
  if (discriminant >= 0) {
    const T z = half + CopySign(Root(discriminant), half);
    real1 = d + z * scale;
    real2 = z == 0 ? d : d - product / z * scale;
  } else {
    real1 = real2 = d + half * scale;
    imag1 = Root(-discriminant) * scale;
    imag2 = -imag1;
  }
}

}  // namespace eigsvc::kernels
