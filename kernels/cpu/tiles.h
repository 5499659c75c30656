// Reading and writing runs of up to kTile numbers: any dtype and stride becomes a plain array of
// `Real` in the first-level cache, so that the arithmetic is written once.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "memo/mix_logits.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace memo {

inline float from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t to_bf16(float value) {  // round to nearest, ties to even
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded);
}

inline float from_f16(uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
inline uint16_t to_f16(float value) {
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}

// Half precision takes intrinsics: compilers do not vectorise _Float16 on AVX2.
inline void from_f16(const uint16_t* source, int64_t count, float* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(packed));
  }
#endif
  for (; i < count; ++i) out[i] = from_f16(source[i]);
}

inline void to_f16(const float* source, int64_t count, uint16_t* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i packed = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), packed);
  }
#endif
  for (; i < count; ++i) out[i] = to_f16(source[i]);
}

inline int64_t item_size(Dtype dtype) {
  return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2;
}

template <class Real>
Real load_one(const Matrix& matrix, int64_t row, int64_t token) {
  const int64_t at = row * matrix.row_stride + token * matrix.token_stride;
  switch (matrix.dtype) {
    case Dtype::f32: return static_cast<const float*>(matrix.data)[at];
    case Dtype::f64: return static_cast<Real>(static_cast<const double*>(matrix.data)[at]);
    case Dtype::f16: return from_f16(static_cast<const uint16_t*>(matrix.data)[at]);
    default: return from_bf16(static_cast<const uint16_t*>(matrix.data)[at]);
  }
}

// `count` numbers of one row from `first` on. Returns `buffer`, or the matrix's own memory where
// that is already an array of Real.
template <class Real>
const Real* load(const Matrix& matrix, int64_t row, int64_t first, int64_t count, Real* buffer) {
  constexpr Dtype own = std::is_same_v<Real, float> ? Dtype::f32 : Dtype::f64;
  const int64_t at = row * matrix.row_stride + first * matrix.token_stride;
  const bool dense = matrix.token_stride == 1;
  if (dense && matrix.dtype == own) return static_cast<const Real*>(matrix.data) + at;
  if constexpr (std::is_same_v<Real, float>) {
    const uint16_t* halves = static_cast<const uint16_t*>(matrix.data) + at;
    if (dense && matrix.dtype == Dtype::f16) return from_f16(halves, count, buffer), buffer;
    if (dense && matrix.dtype == Dtype::bf16) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) buffer[i] = from_bf16(halves[i]);
      return buffer;
    }
  }
  for (int64_t i = 0; i < count; ++i) buffer[i] = load_one<Real>(matrix, row, first + i);
  return buffer;
}

// Writes `count` numbers to `out` from element `at` on, rounding to its dtype.
template <class Real>
void store(const OutputMatrix& out, int64_t at, const Real* values, int64_t count) {
  if constexpr (std::is_same_v<Real, double>) {
    if (out.dtype == Dtype::f64) {
      std::copy_n(values, count, static_cast<double*>(out.data) + at);
      return;
    }
    float narrowed[kTile];
    for (int64_t i = 0; i < count; ++i) narrowed[i] = static_cast<float>(values[i]);
    store<float>(out, at, narrowed, count);
  } else if (out.dtype == Dtype::f32) {
    std::copy_n(values, count, static_cast<float*>(out.data) + at);
  } else if (out.dtype == Dtype::f64) {
    std::copy_n(values, count, static_cast<double*>(out.data) + at);
  } else {
    uint16_t* halves = static_cast<uint16_t*>(out.data) + at;
    if (out.dtype == Dtype::f16) return to_f16(values, count, halves);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) halves[i] = to_bf16(values[i]);
  }
}

}  // namespace memo
