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

__device__ __forceinline__ Present present_slots(const AttentionInputs& in, int64_t b) {
  return {in.present + b * in.slots};
}

// Products of the present slots with the row `at` of `with` into shared memory, by a factor;
// `absent` at the other slots.
template <class Rows>
__device__ __forceinline__ void slot_products(const AttentionInputs& in, const RowPlace& at,
                                              const Planes& slots, const Planes& with,
                                              float factor, float absent, float* out) {
  const Present there = present_slots(in, at.b);
  for (int64_t m = lane(); m < in.slots; m += kWarp) out[m] = there(m) ? 0.f : absent;
  sync_warp();
  add_products<Rows>(plane(slots, at.b, at.group), 0, static_cast<int>(in.slots), there,
                     plane(with, at.b, at.head), static_cast<int>(at.token),
                     static_cast<int>(in.width), factor, out);
  sync_warp();
}

// Column by column, the sum of the present slots' rows by their weights.
template <class Rows>
__device__ __forceinline__ void store_sum(const AttentionInputs& in, const RowPlace& at,
                                          const Planes& slots, const float* weights, float factor,
                                          const OutputMatrix& out, int64_t row) {
  const Lanes lanes(in.width);
  const Matrix rows = plane(slots, at.b, at.group);
  for (int64_t strip = 0; strip < in.width; strip += lanes.strip()) {
    const int64_t d = strip + lanes.column;
    float total[kRun] = {};
    add_weighted<Rows>(rows, 0, in.slots, present_slots(in, at.b), weights, lanes, d, in.width,
                       total);
    store_total<Rows>(out, row, d, in.width, lanes, factor, total);
  }
}

template <class Rows>
__global__ void __launch_bounds__(kThreads, blocks_for<Rows>(8))
    attention_kernel(AttentionInputs in, OutputMatrix mixed, float* normaliser) {
  MEMO_SHARED(float, shared);  // [warps][slots]
  const int64_t row = warp_index();
  if (row >= in.batch * in.heads * in.tokens) return;
  const RowPlace at = place_of(in, row);
  float* scores = shared + warp() * in.slots;
  slot_products<Rows>(in, at, in.key, in.query, static_cast<float>(in.scale), kMinusInfinity,
                      scores);
  const float total = log_sum_exp(scores, in.slots);
  if (lane() == 0) normaliser[row] = total;
  for (int64_t m = lane(); m < in.slots; m += kWarp) scores[m] = weight_of(scores[m], total);
  sync_warp();
  store_sum<Rows>(in, at, in.value, scores, tanh_gate(in.gate, at.head), mixed, row);
}

template <class Rows>
__global__ void __launch_bounds__(kThreads, blocks_for<Rows>(7))
    grad_query_kernel(AttentionInputs in, AttentionGradient given, OutputMatrix grad_query,
                      float* delta) {
  MEMO_SHARED(float, shared);  // [warps][2][slots]
  const int64_t row = warp_index();
  if (row >= in.batch * in.heads * in.tokens) return;
  const RowPlace at = place_of(in, row);
  float *weights = shared + warp() * 2 * in.slots, *slopes = weights + in.slots;
  const float scale = static_cast<float>(in.scale);
  slot_products<Rows>(in, at, in.key, in.query, scale, kMinusInfinity, weights);
  slot_products<Rows>(in, at, in.value, given.grad, 1.f, 0.f, slopes);
  const float normaliser = static_cast<const float*>(given.normaliser)[row];
  float mean = 0;  // until the barrier a lane reads only what it wrote itself
  for (int64_t m = lane(); m < in.slots; m += kWarp) {
    weights[m] = weight_of(weights[m], normaliser);
    mean += weights[m] * slopes[m];
  }
  mean = warp_sum(mean);
  if (lane() == 0) delta[row] = mean;
  for (int64_t m = lane(); m < in.slots; m += kWarp) weights[m] *= slopes[m] - mean;
  sync_warp();
  store_sum<Rows>(in, at, in.key, weights, scale * tanh_gate(in.gate, at.head), grad_query, row);
}

struct SlotPlace {
  int64_t b, group, m;
};

// For up to 32 tokens from `first` on: what the slot's key gets of each query, and its value of
// each gradient, into the warp's shared memory.
template <class Rows>
__device__ __forceinline__ void token_weights(const AttentionInputs& in,
                                              const AttentionGradient& given, const float* delta,
                                              const SlotPlace& at, int64_t head, int64_t first,
                                              int64_t count, float* pushes, float* weights) {
  const float gate = tanh_gate(in.gate, head), scale = static_cast<float>(in.scale);
  pushes[lane()] = weights[lane()] = 0.f;
  sync_warp();
  add_products<Rows>(plane(in.query, at.b, head), first, count, AllThere{},
                     plane(in.key, at.b, at.group), at.m, in.width, scale, pushes);
  add_products<Rows>(plane(given.grad, at.b, head), first, count, AllThere{},
                     plane(in.value, at.b, at.group), at.m, in.width, 1.f, weights);
  sync_warp();
  if (lane() < count) {
    const int64_t row = in.row_of(at.b, head, first + lane());
    const float slope = weights[lane()];
    const float weight =
        weight_of(pushes[lane()], static_cast<const float*>(given.normaliser)[row]);
    pushes[lane()] = gate * scale * weight * (slope - delta[row]);
    weights[lane()] = gate * weight;
  }
  sync_warp();
}

// A head of more than 256 columns is read in several strips, each of which computes the weights
// again: sums of all columns would not fit into registers.
template <class Rows>
__global__ void __launch_bounds__(kThreads, blocks_for<Rows>(4, 2))
    grad_memory_kernel(AttentionInputs in, AttentionGradient given, const float* delta,
                       OutputMatrix grad_key, OutputMatrix grad_value) {
  MEMO_SHARED(float, shared);  // [warps][2][kWarp]
  const int64_t slot = warp_index();
  if (slot >= in.batch * in.groups * in.slots) return;
  const SlotPlace at{slot / in.slots / in.groups, slot / in.slots % in.groups, slot % in.slots};
  const int64_t heads = in.heads / in.groups;
  const bool there = in.present[at.b * in.slots + at.m];
  float *pushes = shared + warp() * 2 * kWarp, *weights = pushes + kWarp;
  const Lanes lanes(in.width);
  for (int64_t strip = 0; strip < in.width; strip += lanes.strip()) {
    const int64_t d = strip + lanes.column;
    float to_key[kRun] = {}, to_value[kRun] = {};
    for (int64_t head = at.group * heads; there && head < (at.group + 1) * heads; ++head) {
      const Matrix queries = plane(in.query, at.b, head), grads = plane(given.grad, at.b, head);
      for (int64_t first = 0; first < in.tokens; first += kWarp) {
        const int64_t count = in.tokens - first < kWarp ? in.tokens - first : kWarp;
        token_weights<Rows>(in, given, delta, at, head, first, count, pushes, weights);
        add_weighted<Rows>(queries, first, count, AllThere{}, pushes, lanes, d, in.width, to_key);
        add_weighted<Rows>(grads, first, count, AllThere{}, weights, lanes, d, in.width, to_value);
        sync_warp();
      }
    }
    store_total<Rows>(grad_key, slot, d, in.width, lanes, 1.f, to_key);
    store_total<Rows>(grad_value, slot, d, in.width, lanes, 1.f, to_value);
  }
}

int memory_attention(const AttentionInputs& in, const OutputMatrix& mixed, void* normaliser) {
  const int64_t rows = in.batch * in.heads * in.tokens;
  if (!rows) return 0;
  const size_t bytes = kAttentionWarps * in.slots * sizeof(float);
  return launch_for_rows({in.query, in.key, in.value}, in.width, [&](auto format) {
    return launch(attention_kernel<decltype(format)>, blocks_of_warps(rows), kThreads, bytes,
                  in.stream, in, mixed, static_cast<float*>(normaliser));
  });
}

int memory_attention_grad_query(const AttentionInputs& in, const AttentionGradient& given,
                                const OutputMatrix& grad_query, void* delta) {
  const int64_t rows = in.batch * in.heads * in.tokens;
  if (!rows) return 0;
  const size_t bytes = kAttentionWarps * 2 * in.slots * sizeof(float);
  return launch_for_rows({in.query, in.key, in.value, given.grad}, in.width, [&](auto format) {
    return launch(grad_query_kernel<decltype(format)>, blocks_of_warps(rows), kThreads, bytes,
                  in.stream, in, given, grad_query, static_cast<float*>(delta));
  });
}

int memory_attention_grad_memory(const AttentionInputs& in, const AttentionGradient& given,
                                 const void* delta, const OutputMatrix& grad_key,
                                 const OutputMatrix& grad_value) {
  const int64_t slots = in.batch * in.groups * in.slots;
  if (!slots) return 0;
  const size_t bytes = kAttentionWarps * 2 * kWarp * sizeof(float);
  return launch_for_rows({in.query, in.key, in.value, given.grad}, in.width, [&](auto format) {
    return launch(grad_memory_kernel<decltype(format)>, blocks_of_warps(slots), kThreads, bytes,
                  in.stream, in, given, static_cast<const float*>(delta), grad_key, grad_value);
  });
}

}  // namespace memo::cuda
