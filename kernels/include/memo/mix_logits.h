// mix_logits: the next-token distribution of a backbone mixed with those of its memories.
//
//   log p(v) = log sum_s exp(log_weight_s + log_softmax(logits_s / T_s)(v))
//
// Source 0 is the backbone, sources 1.. are memories. This header is all that a binding and the
// kernels share: plain structs, no torch and no CUDA types, so that nvcc never parses a torch
// header and the same structs drive the CPU kernels, the CUDA kernels and their emulation.
//
// Both implementations follow one plan. A row of V logits is cut into tiles of kTile tokens.
//   1. Statistics: every (row, source, tile) is read once and leaves its largest logit and its
//      sum of exponentials: 16 bytes for 1024 logits.
//   2. Everything that decoding asks for follows from those few numbers and a look at one or two
//      tiles: the log-prob of a target, the top-k (a tile whose upper bound is below the k-th
//      best is never read again), a sample (choose a tile by its mass, then a token inside it).
//      Only the full log-probs and the Jensen-Shannon divergence read all logits a second time.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define MEMO_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MEMO_HOST_DEVICE inline
#endif

namespace memo {

// Part of the definition of a sample (see random.h), hence the same on every device.
constexpr int64_t kTile = 1024;
constexpr int kMaxSources = 32;

enum class Dtype : int32_t { f32, f16, bf16, f64 };

// A [rows, vocabulary] matrix with any strides, in elements. Each may have its own dtype.
struct Matrix {
  const void* data = nullptr;
  int64_t row_stride = 0, token_stride = 0;
  Dtype dtype = Dtype::f32;
};

struct OutputMatrix {
  void* data = nullptr;  // contiguous
  Dtype dtype = Dtype::f32;
};

// What every op of the family reads. `real` is float, or double where a source is float64.
struct MixInputs {
  Matrix logits[kMaxSources];
  double inverse_temperatures[kMaxSources];
  int32_t num_sources = 0;
  int64_t rows = 0, vocabulary = 0;
  const void* log_weights = nullptr;  // real [rows, num_sources], contiguous
  // real [rows, num_sources, 2]: (largest logit, log2 of the sum of exponentials relative to it).
  // Written by the forward ops, read by the backward ones.
  void* normalisers = nullptr;
  void* workspace = nullptr;  // CUDA only: workspace_bytes of zeros, see cuda/mix_row.h
  void* stream = nullptr;     // CUDA only

  MEMO_HOST_DEVICE int64_t tiles() const { return (vocabulary + kTile - 1) / kTile; }
};

struct TargetOutputs {
  const int64_t* targets;  // [rows]; outside [0, vocabulary) means: none
  void* log_probs;         // real [rows]; 0 where there is no target
  void* posterior;         // real [rows, num_sources]: share of each source in p(target)
};

struct TopKOutputs {
  int64_t k;
  void* log_probs;  // real [rows, k], descending
  int64_t* tokens;  // [rows, k]; -1 where the row holds NaN
};

struct SampleOutputs {
  const int64_t* seeds;  // [rows]
  void* log_probs;       // real [rows]: of the sampled token
  int64_t* tokens;       // [rows]; -1 where the row holds NaN
};

struct FeatureOutputs {
  void* entropies;      // real [rows, num_sources], nats
  void* max_log_probs;  // real [rows, num_sources]
  int64_t* argmaxes;    // [rows, num_sources]; -1 where the row holds NaN
  void* divergence;     // real [rows]: Jensen-Shannon divergence under the weights, nats
};

}  // namespace memo
