// A warp holds a tile of 1024 logits in registers, 32 a lane. Every kernel of mix_logits is built
// from that: load a tile, do arithmetic on the lane's numbers, reduce over the warp. Warps never
// wait for each other: there is no shared memory and no block-wide barrier in this family.
#pragma once
#include "cuda/device.h"
#include "memo/mix_logits.h"

namespace memo::cuda {

using namespace memo::device;

constexpr int kPerLane = static_cast<int>(kTile) / kWarp;  // 32 tokens
constexpr int kRun = 8;                                    // consecutive tokens of a lane
constexpr int kThreads = 128;                              // four independent warps

// Kernels are bounded to three blocks a multiprocessor, 168 registers a thread: enough for three
// arrays of 32 numbers; without the bound ptxas computes addresses ahead until it has to spill.
constexpr int kBlocks = 3;

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kMinusInfinity = -__builtin_huge_valf();

// The token within its tile of a lane's i-th number: runs of 8 tokens, so that a lane reads 16
// bytes of 16-bit logits, or twice 16 bytes of float32 ones, whatever the other sources are.
__device__ __forceinline__ int token_of(int i) {
  return (i / kRun) * (kRun * kWarp) + lane() * kRun + i % kRun;
}

__device__ __forceinline__ float nan_value() { return bits_to_float(0x7fc00000u); }
__device__ __forceinline__ bool is_nan(float x) { return x != x; }

__host__ __device__ __forceinline__ int item_size(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

__device__ __forceinline__ float widen(uint16_t bits, Dtype dtype) {
  return dtype == Dtype::bf16 ? bits_to_float(static_cast<uint32_t>(bits) << 16)
                              : half_to_float(bits);
}

__device__ __forceinline__ float load_number(const char* p, Dtype dtype) {
  if (dtype == Dtype::f32) return *reinterpret_cast<const float*>(p);
  return widen(*reinterpret_cast<const uint16_t*>(p), dtype);
}
__device__ __forceinline__ float load_one(const Matrix& m, int64_t row, int64_t token) {
  const int64_t at = row * m.row_stride + token * m.token_stride;
  return load_number(static_cast<const char*>(m.data) + at * item_size(m.dtype), m.dtype);
}

// Runs of 8 tokens can be read with 16-byte loads.
__device__ __forceinline__ bool is_aligned(const void* start) {
  return reinterpret_cast<uintptr_t>(start) % 16 == 0;
}

__device__ __forceinline__ void unpack_f32(uint4 v, float* x) {
  x[0] = bits_to_float(v.x), x[1] = bits_to_float(v.y);
  x[2] = bits_to_float(v.z), x[3] = bits_to_float(v.w);
}

__device__ __forceinline__ void load_run_f32(const float* p, float* x) {
#pragma unroll
  for (int half = 0; half < 2; ++half) unpack_f32(load16(p + 4 * half), x + 4 * half);
}

__device__ __forceinline__ void unpack_run(uint4 v, Dtype dtype, float* x) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    x[2 * w] = widen(static_cast<uint16_t>(words[w]), dtype);
    x[2 * w + 1] = widen(static_cast<uint16_t>(words[w] >> 16), dtype);
  }
}

// The whole tile, 16 bytes at a time. All loads are issued before the first number is used.
__device__ __forceinline__ void load_whole(const char* start, Dtype dtype, float (&x)[kPerLane]) {
  constexpr int kRuns = kPerLane / kRun;
  if (dtype == Dtype::f32) {
#pragma unroll
    for (int r = 0; r < kRuns; ++r)
      load_run_f32(reinterpret_cast<const float*>(start) + token_of(r * kRun), x + r * kRun);
  } else {
    uint4 runs[kRuns];
#pragma unroll
    for (int r = 0; r < kRuns; ++r)
      runs[r] = load16(reinterpret_cast<const uint16_t*>(start) + token_of(r * kRun));
#pragma unroll
    for (int r = 0; r < kRuns; ++r) unpack_run(runs[r], dtype, x + r * kRun);
  }
}

// One by one, for odd strides, odd addresses and the last tile. The pointer walks on from number
// to number: 32 addresses computed ahead would take more registers than the numbers themselves.
__device__ __forceinline__ void load_strided(const char* start, const Matrix& m, int64_t count,
                                             float missing, float (&x)[kPerLane]) {
  const int64_t step = m.token_stride * item_size(m.dtype);
  const char* p = start + lane() * kRun * step;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    x[i] = token_of(i) < count ? load_number(p, m.dtype) : missing;
    p += i % kRun == kRun - 1 ? (kRun * kWarp - kRun + 1) * step : step;
  }
}

// Where a tile's first number lies.
__device__ __forceinline__ const char* start_of(const Matrix& m, int64_t row, int64_t first) {
  return static_cast<const char*>(m.data) +
         (row * m.row_stride + first * m.token_stride) * item_size(m.dtype);
}

// 8 consecutive numbers of a row from `first` on; `missing` past the end of the row.
__device__ __forceinline__ void load_run(const Matrix& m, int64_t row, int64_t first,
                                         int64_t vocabulary, float missing, float (&x)[kRun]) {
  const char* p = start_of(m, row, first);
  if (m.token_stride == 1 && first + kRun <= vocabulary && is_aligned(p)) {
    if (m.dtype == Dtype::f32) return load_run_f32(reinterpret_cast<const float*>(p), x);
    return unpack_run(load16(p), m.dtype, x);
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i, p += m.token_stride * item_size(m.dtype))
    x[i] = first + i < vocabulary ? load_number(p, m.dtype) : missing;
}

// The lane's 32 numbers of a tile; `missing` past the end of the row.
__device__ __forceinline__ void load_tile(const Matrix& m, int64_t row, int64_t tile,
                                          int64_t vocabulary, float missing,
                                          float (&x)[kPerLane]) {
  const int64_t first = tile * kTile;
  const char* start = start_of(m, row, first);
  if (m.token_stride == 1 && first + kTile <= vocabulary && is_aligned(start))
    return load_whole(start, m.dtype, x);
  load_strided(start, m, vocabulary - first, missing, x);
}

__device__ __forceinline__ uint16_t narrow(float value, Dtype dtype) {
  return dtype == Dtype::bf16 ? float_to_bfloat(value) : float_to_half(value);
}

__device__ __forceinline__ void store_run(char* start, Dtype dtype, int token, const float* x) {
  if (dtype == Dtype::f32) {
    float* p = reinterpret_cast<float*>(start) + token;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* h = x + 4 * half;
      store16(p + 4 * half, uint4{float_to_bits(h[0]), float_to_bits(h[1]), float_to_bits(h[2]),
                                  float_to_bits(h[3])});
    }
    return;
  }
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w)
    words[w] = narrow(x[2 * w], dtype) | static_cast<uint32_t>(narrow(x[2 * w + 1], dtype)) << 16;
  store16(reinterpret_cast<uint16_t*>(start) + token, uint4{words[0], words[1], words[2], words[3]});
}

// Writes the lane's numbers to a contiguous [rows, vocabulary] matrix.
__device__ __forceinline__ void store_tile(const OutputMatrix& out, int64_t row, int64_t tile,
                                           int64_t vocabulary, const float (&x)[kPerLane]) {
  const int64_t first = tile * kTile, count = vocabulary - first;
  char* start = static_cast<char*>(out.data) +
                (row * vocabulary + first) * item_size(out.dtype);
  if (count >= kTile && is_aligned(start)) {
#pragma unroll
    for (int r = 0; r < kPerLane; r += kRun) store_run(start, out.dtype, token_of(r), x + r);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (token_of(i) >= count) continue;
    if (out.dtype == Dtype::f32)
      reinterpret_cast<float*>(start)[token_of(i)] = x[i];
    else
      reinterpret_cast<uint16_t*>(start)[token_of(i)] = narrow(x[i], out.dtype);
  }
}

// log2(2^a + 2^b); -inf where both are, NaN where one is NaN.
__device__ __forceinline__ float log2_add(float a, float b) {
  const float high = a > b ? a : b, low = a > b ? b : a;
  const float center = high == kMinusInfinity ? 0.f : high;
  return high + log2_fast(1.f + exp2_fast(low - center));
}

}  // namespace memo::cuda
