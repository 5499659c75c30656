// memory_attention_decode on the CPU: bound by reading keys and values, so each is read once for
// all tokens of its row of the batch. First the scores, a task per run of slots; then the
// result, a task per run of columns. No sum depends on the number of threads.
#include "cpu/memory_attention.h"

#include "cpu/attention_row.h"

namespace memo::cpu {

namespace {

constexpr int64_t kColumns = 256;

// Rows of x over their root mean squares, [batch, tokens, width].
template <class Real>
std::vector<Real> normalised(const DecodeInputs& in) {
  std::vector<Real> normed(in.batch * in.tokens * in.width);
  for (int64_t row = 0; row < in.batch * in.tokens; ++row) {
    Real* out = normed.data() + row * in.width;
    const Real* x =
        load(plane(in.x, 0, row / in.tokens), row % in.tokens, 0, in.width, out);
    const Real mean = dot(x, x, in.width) / static_cast<Real>(in.width);
    const Real factor = Real(1) / std::sqrt(mean + static_cast<Real>(in.eps));
    for (int64_t i = 0; i < in.width; ++i) out[i] = x[i] * factor;
  }
  return normed;
}

template <class Real>
void score(const DecodeInputs& in, const std::vector<Real>& normed, const Threads& threads) {
  Real* scores = static_cast<Real*>(in.scores);
  threads.split(in.batch * in.heads * in.slots, 4, [&](int64_t begin, int64_t end) {
    std::vector<Real> buffer(in.width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slot = task % in.slots, head = task / in.slots % in.heads;
      const int64_t b = task / in.slots / in.heads;
      const bool present = in.present[b * in.slots + slot];
      const Real* key = present ? load(plane(in.keys, b, head), slot, 0, in.width, buffer.data())
                                : nullptr;
      for (int64_t t = 0; t < in.tokens; ++t)
        scores[in.score_of(b, t, head) + slot] =
            present ? dot(normed.data() + (b * in.tokens + t) * in.width, key, in.width)
                    : -kInfinity<Real>;
    }
  });
}

// Scores to gated weights, in place.
template <class Real>
void weigh(const DecodeInputs& in) {
  for (int64_t row = 0; row < in.batch * in.tokens * in.heads; ++row) {
    Real* scores = static_cast<Real*>(in.scores) + row * in.slots;
    to_weights(scores, in.slots, log_sum_exp(scores, in.slots));
    const Real gate = std::tanh(static_cast<const Real*>(in.gate)[row % in.heads]);
    for (int64_t m = 0; m < in.slots; ++m) scores[m] *= gate;
  }
}

}  // namespace

template <class Real>
void memory_attention_decode(const DecodeInputs& in, const OutputMatrix& out,
                             const Threads& threads) {
  score(in, normalised<Real>(in), threads);
  weigh<Real>(in);
  const Real* weights = static_cast<const Real*>(in.scores);
  const int64_t runs = (in.width + kColumns - 1) / kColumns;
  threads.split(in.batch * runs, 1, [&](int64_t begin, int64_t end) {
    std::vector<Real> sums(in.tokens * kColumns);
    Real buffer[kColumns];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / runs, first = task % runs * kColumns;
      const int64_t count = std::min(kColumns, in.width - first);
      for (int64_t t = 0; t < in.tokens; ++t)
        std::copy_n(load(plane(in.x, 0, b), t, first, count, buffer), count,
                    sums.data() + t * kColumns);
      for (int64_t head = 0; head < in.heads; ++head)
        for (int64_t m = 0; m < in.slots; ++m) {
          if (!in.present[b * in.slots + m]) continue;
          const Real* value = load(plane(in.values, b, head), m, first, count, buffer);
          for (int64_t t = 0; t < in.tokens; ++t)
            add_scaled(sums.data() + t * kColumns, weights[in.score_of(b, t, head) + m], value,
                       count);
        }
      for (int64_t t = 0; t < in.tokens; ++t)
        store(out, (b * in.tokens + t) * in.width + first, sums.data() + t * kColumns, count);
    }
  });
}

template void memory_attention_decode<float>(const DecodeInputs&, const OutputMatrix&,
                                             const Threads&);
template void memory_attention_decode<double>(const DecodeInputs&, const OutputMatrix&,
                                              const Threads&);

}  // namespace memo::cpu
