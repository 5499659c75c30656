// One row of the mixture on the GPU: what cpu/mix_row.h is on the CPU. Logarithms are to base 2.
#pragma once
#include "cuda/mix_tile.h"

namespace memo::cuda {

struct alignas(16) TileStatistics {
  float max;       // of the raw logits, NaN ignored
  float sum;       // of 2^t with t = (logit - max) * scale
  float weighted;  // of t 2^t, for entropies
  float unused;
};

// Best token of a tile not yet taken, or an upper bound while the tile has not been read.
struct Leader {
  float value;
  int token;
};
constexpr int kIsBound = -1, kIsEmpty = -2;

// MixInputs::workspace, which the binding hands over filled with zeros.
struct Workspace {
  TileStatistics* statistics;  // [rows][num_sources][tiles]
  Leader* leaders;             // [rows][tiles]
  float* partials;             // [rows][tiles][num_sources]
  uint32_t* arrived;           // [rows]: warps that are done with their tile; 0 between kernels

  __host__ __device__ explicit Workspace(const MixInputs& in) {
    const int64_t tiles = in.rows * in.tiles();
    statistics = static_cast<TileStatistics*>(in.workspace);
    leaders = reinterpret_cast<Leader*>(statistics + tiles * in.num_sources);
    partials = reinterpret_cast<float*>(leaders + tiles);
    arrived = reinterpret_cast<uint32_t*>(partials + tiles * in.num_sources);
  }
};

__device__ __forceinline__ float log_weight(const MixInputs& in, int64_t row, int source) {
  return static_cast<const float*>(in.log_weights)[row * in.num_sources + source];
}
__device__ __forceinline__ float* normaliser(const MixInputs& in, int64_t row, int source) {
  return static_cast<float*>(in.normalisers) + 2 * (row * in.num_sources + source);
}
__device__ __forceinline__ float scale(const MixInputs& in, int source) {
  return static_cast<float>(in.inverse_temperatures[source]) * kLog2E;
}
__device__ __forceinline__ bool has_weight(const MixInputs& in, int64_t row, int source) {
  return log_weight(in, row, source) != kMinusInfinity;
}

// log2(weight * probability) of a logit under one source; -inf for a source without weight.
struct Share {
  float center, scale, offset;
  __device__ __forceinline__ float operator()(float logit) const {
    return (logit - center) * scale + offset;
  }
};
__device__ __forceinline__ Share share_of(const MixInputs& in, int64_t row, int source) {
  const float* its = normaliser(in, row, source);
  const float offset = log_weight(in, row, source) * kLog2E - its[1];
  return {its[0], scale(in, source), offset < -kMinusInfinity ? offset : nan_value()};
}

// A source of weight > 0 is NaN: see the rules in memo_dist/fusion/ops/mix.py.
__device__ __forceinline__ bool row_is_nan(const MixInputs& in, int64_t row) {
  bool found = false;
  for (int s = 0; s < in.num_sources; ++s)
    found |= has_weight(in, row, s) && is_nan(share_of(in, row, s).offset);
  return found;
}

__device__ __forceinline__ TileStatistics statistics_of(const MixInputs& in, int64_t row,
                                                        int source, int64_t tile) {
  const int64_t at = (row * in.num_sources + source) * in.tiles() + tile;
  const uint4 v = load16_fresh(Workspace(in).statistics + at);
  return {bits_to_float(v.x), bits_to_float(v.y), bits_to_float(v.z), 0.f};
}

// log2 of the shares of one source, and of the mixed probabilities, for the lane's tokens.
__device__ __forceinline__ void log2_shares(const MixInputs& in, int64_t row, int64_t tile,
                                            int source, float (&out)[kPerLane]) {
  load_tile(in.logits[source], row, tile, in.vocabulary, kMinusInfinity, out);
  const Share share = share_of(in, row, source);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) out[i] = share(out[i]);
}
__device__ __forceinline__ void log2_probs(const MixInputs& in, int64_t row, int64_t tile,
                                           float (&out)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) out[i] = kMinusInfinity;
  for (int s = 0; s < in.num_sources; ++s) {
    if (!has_weight(in, row, s)) continue;
    float shares[kPerLane];
    log2_shares(in, row, tile, s, shares);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) out[i] = log2_add(out[i], shares[i]);
  }
}

// log2 of the mixed probabilities of one of the lane's runs in a tile.
__device__ __forceinline__ void log2_probs_of_run(const MixInputs& in, int64_t row, int64_t tile,
                                                  int run, float (&out)[kRun]) {
#pragma unroll
  for (int i = 0; i < kRun; ++i) out[i] = kMinusInfinity;
  for (int s = 0; s < in.num_sources; ++s) {
    if (!has_weight(in, row, s)) continue;
    float x[kRun];
    load_run(in.logits[s], row, tile * kTile + token_of(run * kRun), in.vocabulary, kMinusInfinity,
             x);
    const Share share = share_of(in, row, s);
#pragma unroll
    for (int i = 0; i < kRun; ++i) out[i] = log2_add(out[i], share(x[i]));
  }
}

// True in the warp that arrives last of all that work on the row; it sees what they wrote before.
__device__ __forceinline__ bool arrives_last(const MixInputs& in, int64_t row, int64_t warps) {
  uint32_t* arrived = Workspace(in).arrived + row;
  uint32_t before = 0;
  sync_warp();
  if (lane() == 0) {
    fence();
    before = atomic_increment(arrived);
  }
  if (shuffle(before, 0) + 1 != static_cast<uint32_t>(warps)) return false;
  if (lane() == 0) *arrived = 0;
  fence();
  return true;
}

}  // namespace memo::cuda
