// What the CUDA kernels of memory_attention share. A warp works on one row (or slot): its lanes
// first stand side by side over the slots (a product each), then over the width (a column each),
// with the numbers of the row in the warp's own part of shared memory in between.
#pragma once
#include "cuda/device.h"
#include "cuda/mix_tile.h"
#include "memo/memory_attention.h"

namespace memo::cuda {

constexpr int kAttentionWarps = kThreads / kWarp;

__device__ __forceinline__ Matrix plane(const Planes& planes, int64_t first, int64_t second) {
  const int64_t at = planes.start_of(first, second) * item_size(planes.dtype);
  return {static_cast<const char*>(planes.data) + at, planes.strides[2], planes.strides[3],
          planes.dtype};
}

__device__ __forceinline__ void store_one(const OutputMatrix& out, int64_t at, float value) {
  if (out.dtype == Dtype::f32) {
    static_cast<float*>(out.data)[at] = value;
  } else {
    static_cast<uint16_t*>(out.data)[at] =
        out.dtype == Dtype::f16 ? float_to_half(value) : float_to_bfloat(value);
  }
}

// One row into the warp's shared memory, all lanes together.
__device__ __forceinline__ void read_row(const Matrix& matrix, int64_t row, int64_t width,
                                         float* shared) {
  for (int64_t d = lane(); d < width; d += kWarp) shared[d] = load_one(matrix, row, d);
}

// The product of a row in memory with one in shared memory, by one lane.
__device__ __forceinline__ float product(const Matrix& matrix, int64_t row, const float* shared,
                                         int64_t width) {
  float total = 0;
  for (int64_t d = 0; d < width; ++d) total += load_one(matrix, row, d) * shared[d];
  return total;
}

__device__ __forceinline__ float weight_of(float score, float normaliser) {
  const float center = normaliser == kMinusInfinity ? 0.f : normaliser;
  return exp2_fast((score - center) * kLog2E);
}

// Log-sum-exp of `count` numbers in shared memory, by a warp; NaN where there is a NaN.
__device__ __forceinline__ float log_sum_exp(const float* scores, int64_t count) {
  float largest = kMinusInfinity, total = 0;
  for (int64_t m = lane(); m < count; m += kWarp) largest = fmaxf(largest, scores[m]);
  largest = warp_max(largest);
  const float center = largest == kMinusInfinity ? 0.f : largest;
  for (int64_t m = lane(); m < count; m += kWarp) total += weight_of(scores[m], center);
  return center + log2f(warp_sum(total)) * kLn2;
}

__device__ __forceinline__ float tanh_gate(const void* gate, int64_t head) {
  return tanhf(static_cast<const float*>(gate)[head]);
}

inline dim3 blocks_of_warps(int64_t warps) {
  return dim3(static_cast<unsigned>((warps + kAttentionWarps - 1) / kAttentionWarps));
}

}  // namespace memo::cuda
