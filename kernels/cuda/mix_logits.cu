// mix_logits on the GPU, forward: see memo/mix_logits.h for the formula and the plan.
//
// One kernel gives targets and samples: a warp per (row, source, tile) reads its tile once, and the
// last warp of a row goes on with the row's few statistics. Many warps share even a single row (149
// tiles for 152 K tokens), so that B = 1 fills the GPU. Top-k takes a second kernel, a block per row,
// and so do the full log-probs, a warp per (row, tile), whose reads of a small batch come from the
// L2 cache.
#include "cuda/mix_logits.h"

#include "cuda/mix_sums.h"
#include "memo/random.h"

namespace memo::cuda {

// ---- First kernel: statistics of every tile, then the end of each row -------------------------

template <bool kEntropy>
__device__ __forceinline__ TileStatistics statistics_of_lanes(const float (&x)[kPerLane],
                                                              float scale) {
  float max = kMinusInfinity;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) max = fmaxf(max, x[i]);
  max = warp_max(max);
  const float center = max == kMinusInfinity ? 0.f : max;  // a fully masked tile sums to 0
  float sum = 0, weighted = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float t = (x[i] - center) * scale, power = exp2_fast(t);
    sum += power;
    if constexpr (kEntropy) weighted += fmaxf(t, -1e30f) * power;  // -inf * 0 would be NaN
  }
  return {max, warp_sum(sum), kEntropy ? warp_sum(weighted) : 0.f, 0.f};
}

// Normaliser of one source of a row, from the statistics of its tiles.
__device__ __forceinline__ void combine(const MixInputs& in, int64_t row, int source) {
  float max = kMinusInfinity, sum = 0;
  const bool active = has_weight(in, row, source);
  for (int64_t t = lane(); active && t < in.tiles(); t += kWarp)
    max = fmaxf(max, statistics_of(in, row, source, t).max);
  max = warp_max(max);
  for (int64_t t = lane(); active && t < in.tiles(); t += kWarp) {
    const TileStatistics its = statistics_of(in, row, source, t);
    sum += its.sum * exp2_fast((its.max - max) * scale(in, source));
  }
  sum = warp_sum(sum);
  if (lane() != 0) return;
  normaliser(in, row, source)[0] = active ? max : 0.f;
  normaliser(in, row, source)[1] = active ? log2f(sum) : 0.f;
}

// `Finish` ends a row: a warp calls it once the row's normalisers are there.
template <class Finish>
__global__ void __launch_bounds__(kThreads, kBlocks) statistics_kernel(MixInputs in, Finish finish) {
  const int64_t per_row = in.num_sources * in.tiles();
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp();
  if (unit >= in.rows * per_row) return;
  const int64_t row = unit / per_row, tile = unit % in.tiles();
  const int source = static_cast<int>(unit % per_row / in.tiles());
  if (has_weight(in, row, source)) {
    float x[kPerLane];
    load_tile(in.logits[source], row, tile, in.vocabulary, kMinusInfinity, x);
    const TileStatistics its = statistics_of_lanes<Finish::kEntropy>(x, scale(in, source));
    if (lane() == 0) Workspace(in).statistics[unit] = its;
  }
  if (!arrives_last(in, row, per_row)) return;
  for (int s = 0; s < in.num_sources; ++s) combine(in, row, s);
  sync_warp();
  finish(in, row);
}

template <class Finish>
int launch_statistics(const MixInputs& in, const Finish& finish) {
  const int64_t units = in.rows * in.num_sources * in.tiles();
  const int64_t per_block = kThreads / kWarp;
  const dim3 blocks(static_cast<unsigned>((units + per_block - 1) / per_block));
  return launch(statistics_kernel<Finish>, blocks, kThreads, 0, in.stream, in, finish);
}

// ---- Full log-probs -------------------------------------------------------------------------

struct NothingMore {
  static constexpr bool kEntropy = false;
  __device__ void operator()(const MixInputs&, int64_t) const {}
};

__global__ void __launch_bounds__(kThreads, kBlocks) log_probs_kernel(MixInputs in, OutputMatrix out) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp();
  if (unit >= in.rows * in.tiles()) return;
  const int64_t row = unit / in.tiles(), tile = unit % in.tiles();
  float mixed[kPerLane];
  log2_probs(in, row, tile, mixed);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) mixed[i] *= kLn2;
  store_tile(out, row, tile, in.vocabulary, mixed);
}

int mix_logits(const MixInputs& in, const OutputMatrix& out) {
  if (const int error = launch_statistics(in, NothingMore{})) return error;
  return launch(log_probs_kernel, blocks_for_tiles(in), kThreads, 0, in.stream, in, out);
}

// ---- Log-prob of a target: lane s looks at source s --------------------------------------------

static_assert(kMaxSources <= kWarp);

struct TargetFinish {
  static constexpr bool kEntropy = false;
  TargetOutputs out;

  __device__ void operator()(const MixInputs& in, int64_t row) const {
    const int64_t target = out.targets[row];
    const bool exists = target >= 0 && target < in.vocabulary;
    float share = kMinusInfinity;
    if (exists && lane() < in.num_sources && has_weight(in, row, lane()))
      share = share_of(in, row, lane())(load_one(in.logits[lane()], row, target));
    float total = share;
    for (int mask = kWarp / 2; mask; mask /= 2) total = log2_add(total, shuffle_xor(total, mask));
    const float base = total == kMinusInfinity ? 0.f : total;  // all shares are 0 then
    if (lane() < in.num_sources)
      static_cast<float*>(out.posterior)[row * in.num_sources + lane()] = exp2_fast(share - base);
    if (lane() == 0) static_cast<float*>(out.log_probs)[row] = exists ? total * kLn2 : 0.f;
  }
};

int mix_logits_target(const MixInputs& in, const TargetOutputs& out) {
  return launch_statistics(in, TargetFinish{out});
}

// ---- Top-k: the tournament of cpu/mix_logits.cpp, a kernel of its own with a block a row -------

// In the last warp of the first kernel the tournament would take three times the registers of the
// statistics, and with them the warps that hide the latency of reading all logits.
constexpr int kTopKWarps = kPerLane / kRun;  // one for each run of a lane in a leading tile
constexpr int kTopKBlocks = 8;               // a multiprocessor: at most 64 registers a thread

// No token of the tile has a larger log2 probability; the margin covers the rounding of log2_add.
__device__ __forceinline__ float upper_bound(const MixInputs& in, int64_t row, int64_t tile) {
  float bound = kMinusInfinity;
  for (int s = 0; s < in.num_sources; ++s)
    if (has_weight(in, row, s))
      bound = log2_add(bound, share_of(in, row, s)(statistics_of(in, row, s, tile).max));
  return bound == kMinusInfinity ? bound : bound + 4e-6f * (1 + fabsf(bound));
}

// The first choice of a block, in every thread of it.
__device__ __forceinline__ Choice block_first(const Choice& mine, Choice* of_warps) {
  const Choice first = warp_first(mine);
  sync_block();  // all have read the choices of the last call
  if (lane() == 0) of_warps[warp()] = first;
  sync_block();
  Choice best = of_warps[0];
  for (int w = 1; w < kTopKWarps; ++w)
    if (of_warps[w].comes_before(best)) best = of_warps[w];
  return best;
}

// The first token of a tile after `last`, larger log-probs first; index -1 if there is none.
__device__ __forceinline__ Choice first_after(const Choice& last, const MixInputs& in, int64_t row,
                                              int64_t tile, Choice* of_warps) {
  float mixed[kRun];
  log2_probs_of_run(in, row, tile, warp(), mixed);
  Choice best{kMinusInfinity, -1};
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const int token = static_cast<int>(tile * kTile) + token_of(warp() * kRun + i);
    const Choice candidate{mixed[i], token};
    const bool later = mixed[i] < last.value || (mixed[i] == last.value && token > last.index);
    if (later && token < in.vocabulary && candidate.comes_before(best)) best = candidate;
  }
  return block_first(best, of_warps);
}

// A thread keeps the leaders of its tiles: t % (threads of the block).
__device__ __forceinline__ Choice leading_tile(const Leader* leaders, int64_t tiles,
                                               Choice* of_warps) {
  Choice best{kMinusInfinity, -1};
  for (int64_t t = threadIdx.x; t < tiles; t += blockDim.x) {
    const Choice candidate{leaders[t].value, static_cast<int>(t)};
    if (leaders[t].token != kIsEmpty && candidate.comes_before(best)) best = candidate;
  }
  return block_first(best, of_warps);
}

__device__ __forceinline__ Choice next_best(const Choice& last, const MixInputs& in, int64_t row,
                                            Leader* leaders, Choice* of_warps) {
  while (true) {
    const Choice leading = leading_tile(leaders, in.tiles(), of_warps);
    const int token = leaders[leading.index].token;
    sync_block();  // all have read the token before its owner changes it
    const bool mine = threadIdx.x == leading.index % blockDim.x;
    if (token != kIsBound) {
      if (mine) leaders[leading.index].token = kIsBound;  // its next best is at most as good
      return {leading.value, token};
    }
    const Choice found = first_after(last, in, row, leading.index, of_warps);
    if (mine) leaders[leading.index] = {found.value, found.index < 0 ? kIsEmpty : found.index};
  }
}

__global__ void __launch_bounds__(kTopKWarps * kWarp, kTopKBlocks)
    topk_kernel(MixInputs in, TopKOutputs out) {
  MEMO_SHARED(Choice, of_warps);  // [kTopKWarps]
  const int64_t row = blockIdx.x;
  const bool invalid = row_is_nan(in, row);
  Leader* leaders = Workspace(in).leaders + row * in.tiles();
  for (int64_t t = threadIdx.x; !invalid && t < in.tiles(); t += blockDim.x)
    leaders[t] = {upper_bound(in, row, t), kIsBound};
  Choice last{-kMinusInfinity, -1};
  for (int64_t i = 0; i < out.k; ++i) {
    last = invalid ? Choice{nan_value(), -1} : next_best(last, in, row, leaders, of_warps);
    if (threadIdx.x != 0) continue;
    static_cast<float*>(out.log_probs)[row * out.k + i] = last.value * kLn2;
    out.tokens[row * out.k + i] = last.index;
  }
}

int mix_logits_topk(const MixInputs& in, const TopKOutputs& out) {
  if (const int error = launch_statistics(in, NothingMore{})) return error;
  return launch(topk_kernel, dim3(static_cast<unsigned>(in.rows)), kTopKWarps * kWarp,
                kTopKWarps * sizeof(Choice), in.stream, in, out);
}

// ---- Sample: a tile by its mass, then a token of that tile -------------------------------------

// Standard Gumbel noise in units of log2. The inner logarithm is the exact one: next to u = 1,
// where the winners come from, the fast one has no correct digit.
__device__ __forceinline__ float gumbel(uint64_t seed, int64_t index, NoiseStream stream) {
  return -log2_fast(-logf(uniform(seed, static_cast<uint32_t>(index), stream)));
}

__device__ __forceinline__ float log2_mass(const MixInputs& in, int64_t row, int64_t tile) {
  float mass = kMinusInfinity;
  for (int s = 0; s < in.num_sources; ++s) {
    if (!has_weight(in, row, s)) continue;
    const TileStatistics its = statistics_of(in, row, s, tile);
    if (its.sum > 0) mass = log2_add(mass, share_of(in, row, s)(its.max) + log2_fast(its.sum));
  }
  return mass;
}

struct SampleFinish {
  static constexpr bool kEntropy = false;
  SampleOutputs out;

  __device__ __forceinline__ Choice tile_of(const MixInputs& in, int64_t row, uint64_t seed) const {
    Choice best{kMinusInfinity, -1};
    for (int64_t t = lane(); t < in.tiles(); t += kWarp) {
      const float score = log2_mass(in, row, t) + gumbel(seed, t, NoiseStream::tile);
      const Choice candidate{score, static_cast<int>(t)};
      if (candidate.comes_before(best)) best = candidate;
    }
    return warp_first(best);
  }

  __device__ void operator()(const MixInputs& in, int64_t row) const {
    const uint64_t seed = static_cast<uint64_t>(out.seeds[row]);
    const int64_t first = tile_of(in, row, seed).index * kTile;
    float mixed[kPerLane];
    log2_probs(in, row, first / kTile, mixed);
    Choice best{kMinusInfinity, -1};
    float log_prob = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int64_t token = first + token_of(i);
      const float score = mixed[i] + gumbel(seed, token, NoiseStream::token);
      const Choice candidate{score, static_cast<int>(token)};
      if (token < in.vocabulary && candidate.comes_before(best)) best = candidate, log_prob = mixed[i];
    }
    const Choice winner = warp_first(best);
    const bool invalid = row_is_nan(in, row);
    if (best.index != winner.index) return;  // only the winner's lane goes on
    static_cast<float*>(out.log_probs)[row] = invalid ? nan_value() : log_prob * kLn2;
    out.tokens[row] = invalid ? -1 : winner.index;
  }
};

int mix_logits_sample(const MixInputs& in, const SampleOutputs& out) {
  return launch_statistics(in, SampleFinish{out});
}

// ---- Features of the gate ---------------------------------------------------------------------

struct FeatureFinish {
  static constexpr bool kEntropy = true;
  FeatureOutputs out;

  __device__ __forceinline__ float entropy(const MixInputs& in, int64_t row, int source) const {
    const float* its = normaliser(in, row, source);
    float weighted = 0;
    for (int64_t t = lane(); t < in.tiles(); t += kWarp) {
      const TileStatistics tile = statistics_of(in, row, source, t);
      const float shift = (tile.max - its[0]) * scale(in, source);
      const float factor = exp2_fast(shift - its[1]);
      if (factor > 0) weighted += factor * (tile.weighted + shift * tile.sum);
    }
    return (its[1] - warp_sum(weighted)) * kLn2;
  }

  // The first token that has the row's largest logit.
  __device__ __forceinline__ int argmax(const MixInputs& in, int64_t row, int source) const {
    const float max = normaliser(in, row, source)[0];
    Choice first{0.f, -1};
    for (int64_t t = lane(); t < in.tiles(); t += kWarp) {
      const Choice candidate{0.f, static_cast<int>(t)};
      const bool holds = statistics_of(in, row, source, t).max == max;
      if (holds && candidate.comes_before(first)) first = candidate;
    }
    const int64_t tile = warp_first(first).index;
    float x[kPerLane];
    load_tile(in.logits[source], row, tile, in.vocabulary, kMinusInfinity, x);
    Choice found{0.f, -1};
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const Choice candidate{0.f, static_cast<int>(tile * kTile) + token_of(i)};
      if (x[i] == max && candidate.comes_before(found)) found = candidate;
    }
    return warp_first(found).index;
  }

  __device__ void operator()(const MixInputs& in, int64_t row) const {
    for (int s = 0; s < in.num_sources; ++s) {
      const float log2_sum = normaliser(in, row, s)[1];
      const bool invalid = !has_weight(in, row, s) || is_nan(log2_sum);
      const float found = invalid ? nan_value() : entropy(in, row, s);
      const int token = invalid ? -1 : argmax(in, row, s);
      const int64_t at = row * in.num_sources + s;
      if (lane() != 0) continue;
      static_cast<float*>(out.entropies)[at] = found;
      static_cast<float*>(out.max_log_probs)[at] = invalid ? nan_value() : -log2_sum * kLn2;
      out.argmaxes[at] = token;
    }
  }
};

// Second kernel: sum of share * log2(probability under the source / mixed probability).
struct Divergence {
  static constexpr int kBlocks = cuda::kBlocks;
  float* out;

  __device__ __forceinline__ float of_source(const MixInputs& in, int64_t row, int64_t tile,
                                             int source, const float (&mixed)[kPerLane]) const {
    float shares[kPerLane], total = 0;
    log2_shares(in, row, tile, source, shares);
    const float log2_weight = log_weight(in, row, source) * kLog2E;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const float share = exp2_fast(shares[i]);
      if (share != 0) total += share * (shares[i] - log2_weight - mixed[i]);
    }
    return warp_sum(total);
  }
  // `total` is the sum over the row's tokens for source lane().
  __device__ __forceinline__ void finish(const MixInputs& in, int64_t row, float total) const {
    total = warp_sum(total);
    const bool invalid = row_is_nan(in, row);
    if (lane() == 0) out[row] = invalid ? nan_value() : fmaxf(total, 0.f) * kLn2;
  }
};

int mix_logits_features(const MixInputs& in, const FeatureOutputs& out) {
  if (const int error = launch_statistics(in, FeatureFinish{out})) return error;
  return launch_tile_sums(in, Divergence{static_cast<float*>(out.divergence)});
}

int64_t workspace_bytes(const MixInputs& in) {
  const int64_t tiles = in.rows * in.tiles();
  const int64_t a_tile = in.num_sources * (sizeof(TileStatistics) + sizeof(float)) + sizeof(Leader);
  return tiles * a_tile + in.rows * static_cast<int64_t>(sizeof(uint32_t));
}

#ifdef MEMO_EMULATION
const char* error_text(int) { return "emulation"; }
#else
const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
#endif

}  // namespace memo::cuda
