// exp2 and log2 as short straight-line code, so that compilers vectorise the loops around them.
// Each has a double overload from the C library, which the float64 gradient checks run on.
// Never compile this with -ffast-math: masked tokens have logit -inf and must stay so.
//
// Polynomials: minimax fits (Lawson's algorithm) on the stated interval; the stated errors were
// measured over 200,000 points in float32 arithmetic.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace memo {

template <class Real>
constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
template <class Real>
constexpr Real kNaN = std::numeric_limits<Real>::quiet_NaN();
template <class Real>
constexpr Real kLog2E = static_cast<Real>(1.4426950408889634);
template <class Real>
constexpr Real kLn2 = static_cast<Real>(0.6931471805599453);

// 2^t for t < 128; exactly 0 below -126.5, exactly 1 at 0, NaN for NaN. Relative error 1.9e-7.
inline float fast_exp2(float t) {
  t = t < -127.f ? -127.f : t;  // written so that NaN passes
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits of the sum.
  const float shifted = t + 12582912.f;
  const float r = t - (shifted - 12582912.f);  // in [-1/2, 1/2]
  float p = 1.326472690e-03f;
  p = p * r + 9.671512661e-03f;
  p = p * r + 5.550733744e-02f;
  p = p * r + 2.402224208e-01f;
  p = p * r + 6.931469776e-01f;
  p = p * r + 1.f;
  // The exponent field of 2^n is n + 127, which is 0 (that is: 0.0) for n = -127.
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u;
  return p * std::bit_cast<float>(power);
}
inline double fast_exp2(double t) { return std::exp2(t); }

// log2(1 + y) for y in [0, 1]. Absolute error 1.9e-7.
inline float fast_log2_1p(float y) {
  float p = -9.309150313e-03f;
  p = p * y + 5.205894942e-02f;
  p = p * y + -1.375212693e-01f;
  p = p * y + 2.418647125e-01f;
  p = p * y + -3.473010569e-01f;
  p = p * y + 4.786836922e-01f;
  p = p * y + -7.211658051e-01f;
  p = p * y + 1.442689881e+00f;
  return p * y;
}
inline double fast_log2_1p(double y) { return std::log1p(y) * kLog2E<double>; }

// log2 of a normal positive number. Relative error 3e-7, also next to 1: the mantissa is taken in
// [sqrt(1/2), sqrt(2)), so that the result is not a difference of two larger numbers there.
inline float fast_log2(float x) {
  const uint32_t from_root_half = std::bit_cast<uint32_t>(x) - 0x3f3504f3u;
  const int32_t exponent = static_cast<int32_t>(from_root_half) >> 23;
  const uint32_t mantissa = (from_root_half & 0x007fffffu) + 0x3f3504f3u;
  const float y = std::bit_cast<float>(mantissa) - 1.f;
  float p = 1.292626372e-01f;
  p = p * y + -2.089330581e-01f;
  p = p * y + 2.152125165e-01f;
  p = p * y + -2.386758040e-01f;
  p = p * y + 2.879390807e-01f;
  p = p * y + -3.607162580e-01f;
  p = p * y + 4.809102801e-01f;
  p = p * y + -7.213471994e-01f;
  p = p * y + 1.442695005e+00f;
  return static_cast<float>(exponent) + p * y;
}

// log2(2^a + 2^b); -inf where both are -inf, NaN where one is NaN.
template <class Real>
inline Real log2_add(Real a, Real b) {
  const Real high = a > b ? a : b, low = a > b ? b : a;
  const Real center = high == -kInfinity<Real> ? Real(0) : high;  // -inf - -inf would be NaN
  return high + fast_log2_1p(fast_exp2(low - center));
}

}  // namespace memo
