// memory_attention_decode on the GPU: bound by reading keys and values once. Two kernels, so that
// even one token of one question fills the GPU without partial results in memory: a block a slot and
// head for the scores, then a block a strip of 32 columns for the result, which turns the few scores
// of its token into weights by itself and shares the slots of all heads out among its warps.
#include "cuda/attention_row.h"
#include "cuda/memory_attention.h"

namespace memo::cuda {

// A run of the residual stream, which may have another dtype than the slots.
template <class Rows>
__device__ __forceinline__ void load_stream(const Matrix& x, int64_t token, int64_t column,
                                            int64_t width, float (&out)[kRun]) {
  const bool there = column < width;
  if constexpr (std::is_same_v<Rows, AnyRows>) {
    AnyRows::unpack(AnyRows::load_if(there, x, token, column, width), out);
  } else if (x.dtype == Dtype::f32) {
    Float32Rows::unpack(Float32Rows::load_if(there, x, token, column, width), out);
  } else {
    unpack_run(Float16Rows::load_if(there, x, token, column, width).words[0], x.dtype, out);
  }
}

// The sum of one number of each thread of the block, in the block's first thread.
__device__ __forceinline__ float block_sum(float value, float* parts) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_sum(value);
  if (lane() == 0) parts[warp()] = value;
  sync_block();
  float total = 0;
  for (int w = 0; threadIdx.x == 0 && w < warps; ++w) total += parts[w];
  return total;
}

// The product of a token with a slot, over the token's root mean square; by a block.
template <class Rows>
__global__ void __launch_bounds__(kThreads, blocks_for<Rows>(8))
    scores_kernel(DecodeInputs in) {
  MEMO_SHARED(float, parts);  // [2][warps]
  const int64_t unit = blockIdx.x;
  const int64_t slot = unit % in.slots, head = unit / in.slots % in.heads;
  const int64_t token = unit / in.slots / in.heads % in.tokens;
  const int64_t b = unit / in.slots / in.heads / in.tokens;
  const bool present = in.present[b * in.slots + slot];
  const Matrix x = plane(in.x, 0, b), keys = plane(in.keys, b, head);
  const int64_t step = static_cast<int64_t>(blockDim.x) * kRun;
  float squares = 0, total = 0;
  for (int64_t first = threadIdx.x * kRun; present && first < in.width;
       first += step * Rows::kAhead) {
    typename Rows::Run runs[Rows::kAhead];
#pragma unroll
    for (int a = 0; a < Rows::kAhead; ++a) {
      const int64_t d = first + a * step;
      runs[a] = Rows::load_if(d < in.width, keys, slot, d, in.width);
    }
#pragma unroll
    for (int a = 0; a < Rows::kAhead; ++a) {
      const int64_t d = first + a * step;
      float key[kRun], value[kRun];
      load_stream<Rows>(x, token, d, in.width, value);
      Rows::unpack(runs[a], key);
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        squares = fmaf(value[k], value[k], squares);
        total = fmaf(value[k], key[k], total);
      }
    }
  }
  squares = block_sum(squares, parts);
  total = block_sum(total, parts + blockDim.x / kWarp);
  if (threadIdx.x != 0) return;
  const float mean = squares / static_cast<float>(in.width);
  static_cast<float*>(in.scores)[unit] =
      present ? total / sqrtf(mean + static_cast<float>(in.eps)) : kMinusInfinity;
}

constexpr int kValueWarps = 16;             // at most, of a block of values_kernel
constexpr int kBeside = 4;                  // lanes on a row
constexpr int kColumns = kBeside * kRun;    // of a block
constexpr int kValueRows = kWarp / kBeside;  // that a warp reads at a time

// Shared memory of a block: sums [warps][kColumns], weights [heads][slots], presence [slots].
struct ValueMemory {
  float *sums, *weights;
  bool* present;

  __device__ __forceinline__ ValueMemory(const DecodeInputs& in, float* shared) : sums(shared) {
    weights = sums + blockDim.x / kWarp * kColumns;
    present = reinterpret_cast<bool*>(weights + in.heads * in.slots);
  }
};

// Weights of the slots of all heads, by the scores of a token.
__device__ __forceinline__ void weigh_slots(const DecodeInputs& in, int64_t b, int64_t token,
                                            const ValueMemory& memory) {
  const float* scores = static_cast<const float*>(in.scores) + in.score_of(b, token, 0);
  for (int64_t m = threadIdx.x; m < in.slots; m += blockDim.x)
    memory.present[m] = in.present[b * in.slots + m];
  for (int64_t head = warp(); head < in.heads; head += blockDim.x / kWarp) {
    const float* mine = scores + head * in.slots;
    const float total = log_sum_exp(mine, in.slots), gate = tanh_gate(in.gate, head);
    for (int64_t m = lane(); m < in.slots; m += kWarp)
      memory.weights[head * in.slots + m] = gate * weight_of(mine[m], total);
  }
  sync_block();
}

// The lane's sum over the rows that it reads, for 8 columns from d on.
template <class Rows>
__device__ __forceinline__ void add_values(const DecodeInputs& in, int64_t b, int64_t d,
                                           const ValueMemory& memory, float (&total)[kRun]) {
  constexpr int kAhead = Rows::kAhead + Rows::kAhead / 2;
  const int count = static_cast<int>(in.heads * in.slots), slots = static_cast<int>(in.slots);
  const int step = static_cast<int>(blockDim.x) / kBeside;
  for (int first = static_cast<int>(threadIdx.x) / kBeside; first < count;
       first += step * kAhead) {
    typename Rows::Run runs[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int i = first + a * step, head = i / slots, slot = i - head * slots;
      const bool kept = (i < count) & (d < in.width) & memory.present[slot];
      runs[a] = Rows::load_if(kept, plane(in.values, b, head), slot, d, in.width);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int i = first + a * step;
      const float weight = i < count ? memory.weights[i] : 0.f;  // 0 for an absent slot
      float x[kRun];
      Rows::unpack(runs[a], x);
#pragma unroll
      for (int k = 0; k < kRun; ++k) total[k] = fmaf(weight, x[k], total[k]);
    }
  }
}

template <class Rows>
__global__ void __launch_bounds__(kValueWarps * kWarp, 2)
    values_kernel(DecodeInputs in, OutputMatrix out) {
  MEMO_SHARED(float, shared);
  const ValueMemory memory(in, shared);
  const int64_t strips = (in.width + kColumns - 1) / kColumns;
  const int64_t row = blockIdx.x / strips, first = blockIdx.x % strips * kColumns;
  const int64_t b = row / in.tokens, token = row % in.tokens;
  weigh_slots(in, b, token, memory);
  float total[kRun] = {};
  add_values<Rows>(in, b, first + lane() % kBeside * kRun, memory, total);
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    for (int mask = kBeside; mask < kWarp; mask *= 2) total[k] += shuffle_xor(total[k], mask);
    if (lane() < kBeside) memory.sums[warp() * kColumns + lane() * kRun + k] = total[k];
  }
  sync_block();
  const int64_t column = first + threadIdx.x;
  if (threadIdx.x >= kColumns || column >= in.width) return;
  float sum = 0;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w)
    sum += memory.sums[w * kColumns + threadIdx.x];
  store_one(out, row * in.width + column, load_one(plane(in.x, 0, b), token, column) + sum);
}

// Warps of a block for `work` steps of a warp each, at most `most`.
static int threads_for(int64_t work, int64_t most) {
  return static_cast<int>(work < 1 ? 1 : work > most ? most : work) * kWarp;
}

static int launch_scores(const DecodeInputs& in) {
  const int64_t units = in.batch * in.tokens * in.heads * in.slots;
  if (!units) return 0;
  const int threads = threads_for((in.width + kWarp * kRun - 1) / (kWarp * kRun), kThreads / kWarp);
  const auto start = [&](auto format) {
    return launch(scores_kernel<decltype(format)>, dim3(static_cast<unsigned>(units)), threads,
                  2 * threads / kWarp * sizeof(float), in.stream, in);
  };
  return is_whole(in.x, in.width) ? launch_for_rows({in.keys}, in.width, start) : start(AnyRows{});
}

int memory_attention_decode(const DecodeInputs& in, const OutputMatrix& out) {
  if (!in.batch || !in.tokens || !in.width) return 0;
  if (const int error = launch_scores(in)) return error;
  const int64_t strips = (in.width + kColumns - 1) / kColumns, weights = in.heads * in.slots;
  const dim3 blocks(static_cast<unsigned>(in.batch * in.tokens * strips));
  const int threads = threads_for((weights + kValueRows - 1) / kValueRows, kValueWarps);
  const size_t bytes = (threads / kWarp * kColumns + weights) * sizeof(float) + in.slots;
  return launch_for_rows({in.values}, in.width, [&](auto format) {
    return launch(values_kernel<decltype(format)>, blocks, threads, bytes, in.stream, in, out);
  });
}

}  // namespace memo::cuda
