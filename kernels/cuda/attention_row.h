// What the CUDA kernels of memory_attention share: how a warp reads rows, and what it sums.
//
// A warp reads rows as runs of 8 numbers: some lanes stand side by side on a row, the others on the
// next rows (width 64: 8 lanes a row, 4 rows at a time). A kernel exists once for each format of
// rows: three read a run with 16-byte loads, several of them in flight; AnyRows reads number by
// number. All do the same arithmetic in the same order, so that strides and alignment change no bit.
#pragma once
#include <initializer_list>
#include <type_traits>

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
    static_cast<uint16_t*>(out.data)[at] = narrow(value, out.dtype);
  }
}

// ---- Formats of rows ------------------------------------------------------------------------

// Every run lies at a multiple of 16 bytes and inside its row (is_whole).
template <Dtype kDtype>
struct WholeRows {
  static constexpr int kLoads = kDtype == Dtype::f32 ? 2 : 1;  // of 16 bytes, for a run
  static constexpr int kAhead = 4 / kLoads;                    // runs read before the first is used

  struct Run {
    uint4 words[kLoads];
  };

  // A run, or zeros without a read.
  static __device__ __forceinline__ Run load_if(bool there, const Matrix& m, int64_t row,
                                                int64_t column, int64_t) {
    constexpr int kItem = kDtype == Dtype::f32 ? 4 : 2;
    const char* start = static_cast<const char*>(m.data) + (row * m.row_stride + column) * kItem;
    Run run;
#pragma unroll
    for (int w = 0; w < kLoads; ++w) run.words[w] = load16_if(there, start + 16 * w);
    return run;
  }

  static __device__ __forceinline__ void unpack(const Run& run, float (&x)[kRun]) {
    if constexpr (kDtype == Dtype::f32) {
      unpack_f32(run.words[0], x), unpack_f32(run.words[1], x + 4);
    } else {
      unpack_run(run.words[0], kDtype, x);
    }
  }

  static __device__ __forceinline__ void store(const OutputMatrix& out, int64_t at, int64_t,
                                               const float (&x)[kRun]) {
    store_run(static_cast<char*>(out.data) + at * item_size(kDtype), kDtype, 0, x);
  }
};

struct Float32Rows : WholeRows<Dtype::f32> {};
struct Float16Rows : WholeRows<Dtype::f16> {};
struct BFloat16Rows : WholeRows<Dtype::bf16> {};

// Any strides, any width, and a dtype of its own for each matrix.
struct AnyRows {
  static constexpr int kAhead = 1;

  struct Run {
    float numbers[kRun];
  };

  static __device__ __forceinline__ Run load_if(bool there, const Matrix& m, int64_t row,
                                                int64_t column, int64_t width) {
    const int64_t step = m.token_stride * item_size(m.dtype);
    const char* p = static_cast<const char*>(m.data) + row * m.row_stride * item_size(m.dtype) +
                    column * step;
    Run run;
#pragma unroll
    for (int i = 0; i < kRun; ++i, p += step)
      run.numbers[i] = there && column + i < width ? load_number(p, m.dtype) : 0.f;
    return run;
  }

  static __device__ __forceinline__ void unpack(const Run& run, float (&x)[kRun]) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) x[i] = run.numbers[i];
  }

  // The first `count` of the run's numbers.
  static __device__ __forceinline__ void store(const OutputMatrix& out, int64_t at, int64_t count,
                                               const float (&x)[kRun]) {
#pragma unroll
    for (int i = 0; i < kRun; ++i)
      if (i < count) store_one(out, at + i, x[i]);
  }
};

// Blocks a multiprocessor that a kernel is bounded to: 8 of them leave 64 registers a thread. The
// addresses of single numbers take more.
template <class Rows>
constexpr int blocks_for(int whole, int any = 4) {
  return std::is_same_v<Rows, AnyRows> ? any : whole;
}

inline bool is_whole(const Planes& planes, int64_t width) {
  bool whole = width % kRun == 0 && planes.strides[3] == 1;
  whole &= reinterpret_cast<uintptr_t>(planes.data) % 16 == 0;
  for (int i = 0; i < 3; ++i) whole &= planes.strides[i] * item_size(planes.dtype) % 16 == 0;
  return whole;
}

// Calls `launch` with the format in which all of `read` can be read.
template <class Launch>
int launch_for_rows(std::initializer_list<Planes> read, int64_t width, const Launch& launch) {
  const Dtype dtype = read.begin()->dtype;
  for (const Planes& planes : read)
    if (planes.dtype != dtype || !is_whole(planes, width)) return launch(AnyRows{});
  if (dtype == Dtype::f32) return launch(Float32Rows{});
  return dtype == Dtype::f16 ? launch(Float16Rows{}) : launch(BFloat16Rows{});
}

// ---- A warp over rows -------------------------------------------------------------------------

// Rows and columns are 32-bit numbers here: registers decide how many warps run at a time.
//
// Where a lane stands: its row among those of one step, and its first column in a strip.
struct Lanes {
  int beside;  // lanes on a row, a power of two
  int row;
  int column;

  __device__ __forceinline__ explicit Lanes(int width) : beside(1) {
    while (beside < kWarp && beside * kRun < width) beside *= 2;
    row = lane() / beside;
    column = lane() % beside * kRun;
  }
  __device__ __forceinline__ int rows() const { return kWarp / beside; }
  __device__ __forceinline__ int strip() const { return beside * kRun; }

  __device__ __forceinline__ float sum_of_row(float value) const {
    for (int mask = beside / 2; mask; mask /= 2) value += shuffle_xor(value, mask);
    return value;
  }
  __device__ __forceinline__ float sum_over_rows(float value) const {
    for (int mask = beside; mask < kWarp; mask *= 2) value += shuffle_xor(value, mask);
    return value;
  }
};

struct AllThere {
  __device__ __forceinline__ bool operator()(int) const { return true; }
};
struct Present {
  const bool* slots;
  __device__ __forceinline__ bool operator()(int m) const { return slots[m]; }
};

// Adds factor * (row first + i of `rows` times row `at` of `with`) to sums[i], which lies in shared
// memory, for every i < count that is there. The other rows are not read.
template <class Rows, class There>
__device__ __forceinline__ void add_products(const Matrix& rows, int first, int count,
                                             const There& there, const Matrix& with, int at,
                                             int width, float factor, float* sums) {
  const Lanes lanes(width);
  for (int strip = 0; strip < width; strip += lanes.strip()) {
    const int d = strip + lanes.column;
    float given[kRun];
    Rows::unpack(Rows::load_if(d < width, with, at, d, width), given);
    for (int start = 0; start < count; start += lanes.rows() * Rows::kAhead) {
      typename Rows::Run runs[Rows::kAhead];
      bool kept[Rows::kAhead];
#pragma unroll
      for (int a = 0; a < Rows::kAhead; ++a) {
        const int i = start + a * lanes.rows() + lanes.row;
        kept[a] = (i < count) & there(i < count ? i : 0);
        runs[a] = Rows::load_if(kept[a] & (d < width), rows, first + i, d, width);
      }
#pragma unroll
      for (int a = 0; a < Rows::kAhead; ++a) {
        float x[kRun], product = 0;
        Rows::unpack(runs[a], x);
#pragma unroll
        for (int k = 0; k < kRun; ++k) product = fmaf(x[k], given[k], product);
        product = lanes.sum_of_row(product);
        const int i = start + a * lanes.rows() + lanes.row;
        if (kept[a] && lanes.column == 0) sums[i] = fmaf(factor, product, sums[i]);
      }
    }
  }
}

// Adds weights[i] times the lane's run at column d of row first + i to `total`, for the lane's own
// rows among the `count` ones that are there.
template <class Rows, class There>
__device__ __forceinline__ void add_weighted(const Matrix& rows, int first, int count,
                                             const There& there, const float* weights,
                                             const Lanes& lanes, int d, int width,
                                             float (&total)[kRun]) {
  for (int i = lanes.row; i < count; i += lanes.rows() * Rows::kAhead) {
    typename Rows::Run runs[Rows::kAhead];
    float weight[Rows::kAhead];
#pragma unroll
    for (int a = 0; a < Rows::kAhead; ++a) {
      const int at = i + a * lanes.rows();
      const bool kept = (at < count) & there(at < count ? at : 0);
      weight[a] = kept ? weights[at] : 0.f;
      runs[a] = Rows::load_if(kept & (d < width), rows, first + at, d, width);
    }
#pragma unroll
    for (int a = 0; a < Rows::kAhead; ++a) {
      float x[kRun];
      Rows::unpack(runs[a], x);
#pragma unroll
      for (int k = 0; k < kRun; ++k) total[k] = fmaf(weight[a], x[k], total[k]);
    }
  }
}

// Stores factor * total, summed over the lanes that stand on the same columns.
template <class Rows>
__device__ __forceinline__ void store_total(const OutputMatrix& out, int64_t row, int d,
                                            int width, const Lanes& lanes, float factor,
                                            float (&total)[kRun]) {
#pragma unroll
  for (int k = 0; k < kRun; ++k) total[k] = factor * lanes.sum_over_rows(total[k]);
  if (lanes.row == 0 && d < width) Rows::store(out, row * width + d, width - d, total);
}

// ---- Softmax --------------------------------------------------------------------------------

__device__ __forceinline__ float weight_of(float score, float normaliser) {
  const float center = normaliser == kMinusInfinity ? 0.f : normaliser;
  return exp2_fast((score - center) * kLog2E);
}

// Log-sum-exp of `count` numbers, by a warp; NaN where there is a NaN.
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
