// memory_attention on the GPU: see memo/memory_attention.h for the formulas.
//
// Forward and gradient of the query: a warp a row. Gradients of key and value: a warp a slot, which
// walks over the rows of its group in their order. Nothing is added by two warps, so the same
// inputs give the same bits.
#include "cuda/memory_attention.h"

#include "cuda/attention_row.h"

namespace memo::cuda {

struct RowPlace {
  int64_t b, head, token, group;
};

__device__ __forceinline__ RowPlace place_of(const AttentionInputs& in, int64_t row) {
  const int64_t head = row / in.tokens % in.heads;
  return {row / in.tokens / in.heads, head, row % in.tokens, in.group_of(head)};
}

__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * kAttentionWarps + warp();
}

// Shared memory of a row's warp: query and gradient [width], scores and slopes [slots].
__device__ __forceinline__ float* row_memory(const AttentionInputs& in, float* shared) {
  return shared + warp() * 2 * (in.width + in.slots);
}

// Scores of the present slots, -inf of the absent ones, into shared memory.
__device__ __forceinline__ void score_slots(const AttentionInputs& in, const RowPlace& at,
                                            const float* query, float* scores) {
  const Matrix keys = plane(in.key, at.b, at.group);
  const bool* present = in.present + at.b * in.slots;
  for (int64_t m = lane(); m < in.slots; m += kWarp)
    scores[m] = present[m] ? static_cast<float>(in.scale) * product(keys, m, query, in.width)
                           : kMinusInfinity;
}

// Column by column, the sum of the present slots' rows by their weights.
__device__ __forceinline__ void store_sum(const AttentionInputs& in, const RowPlace& at,
                                          const Matrix& rows, const float* weights, float factor,
                                          const OutputMatrix& out, int64_t row) {
  const bool* present = in.present + at.b * in.slots;
  for (int64_t d = lane(); d < in.width; d += kWarp) {
    float total = 0;
    for (int64_t m = 0; m < in.slots; ++m)
      if (present[m]) total += weights[m] * load_one(rows, m, d);
    store_one(out, row * in.width + d, factor * total);
  }
}

__global__ void __launch_bounds__(kThreads)
    attention_kernel(AttentionInputs in, OutputMatrix mixed, float* normaliser) {
  MEMO_SHARED(float, shared);
  const int64_t row = warp_index();
  if (row >= in.batch * in.heads * in.tokens) return;
  const RowPlace at = place_of(in, row);
  float *query = row_memory(in, shared), *scores = query + 2 * in.width;
  read_row(plane(in.query, at.b, at.head), at.token, in.width, query);
  sync_warp();
  score_slots(in, at, query, scores);
  sync_warp();
  const float total = log_sum_exp(scores, in.slots);
  if (lane() == 0) normaliser[row] = total;
  for (int64_t m = lane(); m < in.slots; m += kWarp) scores[m] = weight_of(scores[m], total);
  sync_warp();
  store_sum(in, at, plane(in.value, at.b, at.group), scores, tanh_gate(in.gate, at.head), mixed,
            row);
}

__global__ void __launch_bounds__(kThreads, 5)
    grad_query_kernel(AttentionInputs in, AttentionGradient given, OutputMatrix grad_query,
                      float* delta) {
  MEMO_SHARED(float, shared);
  const int64_t row = warp_index();
  if (row >= in.batch * in.heads * in.tokens) return;
  const RowPlace at = place_of(in, row);
  float *query = row_memory(in, shared), *grad = query + in.width;
  float *weights = grad + in.width, *slopes = weights + in.slots;
  read_row(plane(in.query, at.b, at.head), at.token, in.width, query);
  read_row(plane(given.grad, at.b, at.head), at.token, in.width, grad);
  sync_warp();
  score_slots(in, at, query, weights);
  const Matrix values = plane(in.value, at.b, at.group);
  const float normaliser = static_cast<const float*>(given.normaliser)[row];
  float mean = 0;  // until the barrier a lane reads only what it wrote itself
  for (int64_t m = lane(); m < in.slots; m += kWarp) {
    weights[m] = weight_of(weights[m], normaliser);
    slopes[m] = in.present[at.b * in.slots + m] ? product(values, m, grad, in.width) : 0.f;
    mean += weights[m] * slopes[m];
  }
  mean = warp_sum(mean);
  if (lane() == 0) delta[row] = mean;
  for (int64_t m = lane(); m < in.slots; m += kWarp) weights[m] *= slopes[m] - mean;
  sync_warp();
  const float factor = static_cast<float>(in.scale) * tanh_gate(in.gate, at.head);
  store_sum(in, at, plane(in.key, at.b, at.group), weights, factor, grad_query, row);
}

// Shared memory of a slot's warp: key, value and both sums [width], pushes and weights [kWarp].
__device__ __forceinline__ int64_t slot_memory(const AttentionInputs& in) {
  return 4 * in.width + 2 * kWarp;
}

__global__ void __launch_bounds__(kThreads)
    grad_memory_kernel(AttentionInputs in, AttentionGradient given, const float* delta,
                       OutputMatrix grad_key, OutputMatrix grad_value) {
  MEMO_SHARED(float, shared);
  const int64_t slot = warp_index();
  if (slot >= in.batch * in.groups * in.slots) return;
  const int64_t m = slot % in.slots, group = slot / in.slots % in.groups;
  const int64_t b = slot / in.slots / in.groups, heads = in.heads / in.groups;
  float *key = shared + warp() * slot_memory(in), *value = key + in.width;
  float *to_key = value + in.width, *to_value = to_key + in.width;
  float *pushes = to_value + in.width, *weights = pushes + kWarp;
  const bool there = in.present[b * in.slots + m];
  for (int64_t d = lane(); d < in.width; d += kWarp) to_key[d] = to_value[d] = 0.f;
  if (there) {
    read_row(plane(in.key, b, group), m, in.width, key);
    read_row(plane(in.value, b, group), m, in.width, value);
  }
  sync_warp();
  for (int64_t head = group * heads; there && head < (group + 1) * heads; ++head) {
    const Matrix queries = plane(in.query, b, head), grads = plane(given.grad, b, head);
    const float gate = tanh_gate(in.gate, head), scale = static_cast<float>(in.scale);
    for (int64_t first = 0; first < in.tokens; first += kWarp) {
      const int64_t count = in.tokens - first < kWarp ? in.tokens - first : kWarp;
      if (lane() < count) {
        const int64_t token = first + lane(), row = in.row_of(b, head, token);
        const float score = scale * product(queries, token, key, in.width);
        const float weight =
            weight_of(score, static_cast<const float*>(given.normaliser)[row]);
        const float slope = product(grads, token, value, in.width);
        pushes[lane()] = gate * scale * weight * (slope - delta[row]);
        weights[lane()] = gate * weight;
      }
      sync_warp();
      for (int64_t d = lane(); d < in.width; d += kWarp)
        for (int64_t i = 0; i < count; ++i) {
          to_key[d] += pushes[i] * load_one(queries, first + i, d);
          to_value[d] += weights[i] * load_one(grads, first + i, d);
        }
      sync_warp();
    }
  }
  for (int64_t d = lane(); d < in.width; d += kWarp) {
    store_one(grad_key, slot * in.width + d, to_key[d]);
    store_one(grad_value, slot * in.width + d, to_value[d]);
  }
}

static size_t row_bytes(const AttentionInputs& in) {
  return kAttentionWarps * 2 * (in.width + in.slots) * sizeof(float);
}

int memory_attention(const AttentionInputs& in, const OutputMatrix& mixed, void* normaliser) {
  const int64_t rows = in.batch * in.heads * in.tokens;
  if (!rows) return 0;
  return launch(attention_kernel, blocks_of_warps(rows), kThreads, row_bytes(in), in.stream, in,
                mixed, static_cast<float*>(normaliser));
}

int memory_attention_grad_query(const AttentionInputs& in, const AttentionGradient& given,
                                const OutputMatrix& grad_query, void* delta) {
  const int64_t rows = in.batch * in.heads * in.tokens;
  if (!rows) return 0;
  return launch(grad_query_kernel, blocks_of_warps(rows), kThreads, row_bytes(in), in.stream, in,
                given, grad_query, static_cast<float*>(delta));
}

int memory_attention_grad_memory(const AttentionInputs& in, const AttentionGradient& given,
                                 const void* delta, const OutputMatrix& grad_key,
                                 const OutputMatrix& grad_value) {
  const int64_t slots = in.batch * in.groups * in.slots;
  if (!slots) return 0;
  const size_t bytes = kAttentionWarps * (4 * in.width + 2 * kWarp) * sizeof(float);
  return launch(grad_memory_kernel, blocks_of_warps(slots), kThreads, bytes, in.stream, in, given,
                static_cast<const float*>(delta), grad_key, grad_value);
}

}  // namespace memo::cuda
