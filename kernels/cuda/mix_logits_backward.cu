// mix_logits on the GPU, backward: the formulas of cpu/mix_logits_backward.cpp.
#include "cuda/mix_logits.h"
#include "cuda/mix_sums.h"

namespace memo::cuda {

// log2 of a source's share and of the mixture to the share's part in the token's probability;
// 0 for a token that no source can emit.
__device__ __forceinline__ float posterior(float share, float mixed) {
  return mixed == kMinusInfinity ? 0.f : exp2_fast(share - mixed);
}

struct GradWeights {
  static constexpr int kBlocks = 2;  // three arrays of 32 numbers and the walk over a fourth
  Matrix grad;
  float* out;  // [rows, num_sources]

  __device__ __forceinline__ float of_source(const MixInputs& in, int64_t row, int64_t tile,
                                             int source, const float (&mixed)[kPerLane]) const {
    float shares[kPerLane], g[kPerLane], total = 0;
    log2_shares(in, row, tile, source, shares);
    load_tile(grad, row, tile, in.vocabulary, 0.f, g);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) total += g[i] * posterior(shares[i], mixed[i]);
    return warp_sum(total);
  }
  __device__ __forceinline__ void finish(const MixInputs& in, int64_t row, float total) const {
    if (lane() < in.num_sources) out[row * in.num_sources + lane()] = total;
  }
};

int mix_logits_grad_weights(const MixInputs& in, const Matrix& grad, void* out) {
  return launch_tile_sums(in, GradWeights{grad, static_cast<float*>(out)});
}

// Pushes at a token: the gradient of the full log-probs, or of one target.
struct PushAll {
  Matrix grad;
  __device__ __forceinline__ void operator()(const MixInputs& in, int64_t row, int64_t tile,
                                             const float (&shares)[kPerLane], float,
                                             float (&out)[kPerLane]) const {
    float mixed[kPerLane];
    log2_probs(in, row, tile, mixed);
    load_tile(grad, row, tile, in.vocabulary, 0.f, out);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) out[i] *= posterior(shares[i], mixed[i]);
  }
};
struct PushTarget {
  const int64_t* targets;
  __device__ __forceinline__ void operator()(const MixInputs&, int64_t row, int64_t tile,
                                             const float (&)[kPerLane], float total,
                                             float (&out)[kPerLane]) const {
    const int64_t target = targets[row] - tile * kTile;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) out[i] = token_of(i) == target ? total : 0.f;
  }
};

// (push(v) - p_s(v) T_s) / temperature_s; 0 in rows where the source has no weight.
template <class Push>
__global__ void __launch_bounds__(kThreads, kBlocks)
    grad_source_kernel(MixInputs in, Push push, const float* grad_weights, int source,
                       OutputMatrix out) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp();
  if (unit >= in.rows * in.tiles()) return;
  const int64_t row = unit / in.tiles(), tile = unit % in.tiles();
  float values[kPerLane];
  if (has_weight(in, row, source)) {
    const float total = grad_weights[row * in.num_sources + source];
    const float log2_weight = log_weight(in, row, source) * kLog2E;
    const float inverse_temperature = static_cast<float>(in.inverse_temperatures[source]);
    float shares[kPerLane];
    log2_shares(in, row, tile, source, shares);
    push(in, row, tile, shares, total, values);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      values[i] = inverse_temperature * (values[i] - exp2_fast(shares[i] - log2_weight) * total);
  } else {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) values[i] = 0.f;
  }
  store_tile(out, row, tile, in.vocabulary, values);
}

template <class Push>
int launch_grad_source(const MixInputs& in, const Push& push, const void* grad_weights, int source,
                       const OutputMatrix& out) {
  return launch(grad_source_kernel<Push>, blocks_for_tiles(in), kThreads, 0, in.stream, in, push,
                static_cast<const float*>(grad_weights), source, out);
}

int mix_logits_grad_source(const MixInputs& in, const Matrix& grad, const void* grad_weights,
                           int source, const OutputMatrix& out) {
  return launch_grad_source(in, PushAll{grad}, grad_weights, source, out);
}

int mix_logits_target_grad_source(const MixInputs& in, const int64_t* targets,
                                  const void* grad_weights, int source, const OutputMatrix& out) {
  return launch_grad_source(in, PushTarget{targets}, grad_weights, source, out);
}

}  // namespace memo::cuda
