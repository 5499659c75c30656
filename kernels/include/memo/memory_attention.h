// memory_attention: T tokens of a backbone attend to M slots of a memory, head h through a gate.
//
//   mixed_h = tanh(gate_h) softmax(scale q_h k^T) v          over the present slots
//
// The forward op keeps the log-sum-exp of each row; from it the backward ops compute the softmax's
// weights again instead of reading [T, M] of them. With g the gradient of the result,
// w the weights and delta = sum_m w_m (g . v_m):
//
//   d q   = scale tanh(gate) sum_m w_m (g . v_m - delta) k_m     d gate = delta (1 - tanh^2)
//   d k_m = scale tanh(gate) sum_rows w_m (g . v_m - delta) q    d v_m = tanh(gate) sum_rows w_m g
//
// memory_attention_decode is the form for generation, with the projections multiplied into the
// slots (keys and values are as wide as the residual stream):
//
//   x + sum_h tanh(gate_h) softmax(keys_h . n) values_h,    n = x / sqrt(mean(x^2) + eps)
//
// An absent slot is not read; a row without slots is 0 (or x) with gradient 0.
#pragma once
#include "memo/mix_logits.h"

namespace memo {

// [first, second, rows, width] with any strides, in elements.
struct Planes {
  const void* data = nullptr;
  int64_t strides[4] = {0, 0, 0, 0};
  Dtype dtype = Dtype::f32;

  MEMO_HOST_DEVICE int64_t start_of(int64_t first, int64_t second) const {
    return first * strides[0] + second * strides[1];
  }
};

// `real` is float, or double where the tensors are float64.
struct AttentionInputs {
  Planes query;                   // [batch, heads, tokens, width]
  Planes key, value;              // [batch, groups, slots, width]
  const void* gate = nullptr;     // real [heads], before tanh
  const bool* present = nullptr;  // [batch, slots]
  double scale = 1;
  int64_t batch = 0, heads = 0, groups = 0, tokens = 0, slots = 0, width = 0;
  void* stream = nullptr;  // CUDA only

  MEMO_HOST_DEVICE int64_t group_of(int64_t head) const { return head / (heads / groups); }
  MEMO_HOST_DEVICE int64_t row_of(int64_t b, int64_t head, int64_t token) const {
    return (b * heads + head) * tokens + token;
  }
};

struct AttentionGradient {
  Planes grad;             // [batch, heads, tokens, width]
  const void* normaliser;  // real [batch, heads, tokens], the forward's
};

struct DecodeInputs {
  Planes x;                       // [1, batch, tokens, width]
  Planes keys, values;            // [batch, heads, slots, width]
  const void* gate = nullptr;     // real [heads], before tanh
  const bool* present = nullptr;  // [batch, slots]
  double eps = 0;
  int64_t batch = 0, heads = 0, tokens = 0, slots = 0, width = 0;
  void* scores = nullptr;  // real [batch, tokens, heads, slots]: room for the kernels
  void* stream = nullptr;  // CUDA only

  MEMO_HOST_DEVICE int64_t score_of(int64_t b, int64_t token, int64_t head) const {
    return ((b * tokens + token) * heads + head) * slots;
  }
};

}  // namespace memo
