// memory_attention_decode on the GPU: bound by reading keys and values once. Two kernels, so that
// even one token of one question fills the GPU without partial results in memory: a warp a slot and
// head for the scores, then a block a run of columns for the result, which turns the few scores of
// its token into weights by itself.
#include "cuda/attention_row.h"
#include "cuda/memory_attention.h"

namespace memo::cuda {

constexpr int kColumns = kThreads;  // of a block: a thread a column

// The product of a token with a slot, over the token's root mean square; by a warp.
__global__ void __launch_bounds__(kThreads) scores_kernel(DecodeInputs in) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kAttentionWarps + warp();
  if (unit >= in.batch * in.tokens * in.heads * in.slots) return;
  const int64_t slot = unit % in.slots, head = unit / in.slots % in.heads;
  const int64_t token = unit / in.slots / in.heads % in.tokens;
  const int64_t b = unit / in.slots / in.heads / in.tokens;
  float score = kMinusInfinity;
  if (in.present[b * in.slots + slot]) {
    const Matrix x = plane(in.x, 0, b), keys = plane(in.keys, b, head);
    float squares = 0, total = 0;
    for (int64_t d = lane(); d < in.width; d += kWarp) {
      const float value = load_one(x, token, d);
      squares += value * value;
      total += value * load_one(keys, slot, d);
    }
    squares = warp_sum(squares), total = warp_sum(total);
    const float mean = squares / static_cast<float>(in.width);
    score = total / sqrtf(mean + static_cast<float>(in.eps));
  }
  if (lane() == 0) static_cast<float*>(in.scores)[unit] = score;
}

__global__ void __launch_bounds__(kThreads) values_kernel(DecodeInputs in, OutputMatrix out) {
  MEMO_SHARED(float, weights);  // [heads, slots]
  const int64_t runs = (in.width + kColumns - 1) / kColumns;
  const int64_t row = blockIdx.x / runs, column = blockIdx.x % runs * kColumns + threadIdx.x;
  const int64_t b = row / in.tokens, token = row % in.tokens;
  const float* scores = static_cast<const float*>(in.scores) + in.score_of(b, token, 0);
  for (int64_t head = warp(); head < in.heads; head += kAttentionWarps) {
    const float* mine = scores + head * in.slots;
    const float total = log_sum_exp(mine, in.slots), gate = tanh_gate(in.gate, head);
    for (int64_t m = lane(); m < in.slots; m += kWarp)
      weights[head * in.slots + m] = gate * weight_of(mine[m], total);
  }
  sync_block();
  if (column >= in.width) return;
  float sum = load_one(plane(in.x, 0, b), token, column);
  for (int64_t head = 0; head < in.heads; ++head) {
    const Matrix values = plane(in.values, b, head);
    for (int64_t m = 0; m < in.slots; ++m)
      if (in.present[b * in.slots + m])
        sum += weights[head * in.slots + m] * load_one(values, m, column);
  }
  store_one(out, row * in.width + column, sum);
}

int memory_attention_decode(const DecodeInputs& in, const OutputMatrix& out) {
  const int64_t rows = in.batch * in.tokens, units = rows * in.heads * in.slots;
  if (!rows || !in.width) return 0;
  if (units) {
    const int error =
        launch(scores_kernel, blocks_of_warps(units), kThreads, 0, in.stream, in);
    if (error) return error;
  }
  const int64_t runs = (in.width + kColumns - 1) / kColumns;
  return launch(values_kernel, dim3(static_cast<unsigned>(rows * runs)), kThreads,
                in.heads * in.slots * sizeof(float), in.stream, in, out);
}

}  // namespace memo::cuda
