// memory_attention on the CPU: see memo/memory_attention.h for the formulas.
//
// A task is a run of tokens of one head (forward, gradient of the query) or a run of slots of one
// group (gradients of key and value): nothing is written by two tasks, and every sum has one order,
// so the number of threads changes no bit.
#include "cpu/memory_attention.h"

#include "cpu/attention_row.h"

namespace memo::cpu {

namespace {

constexpr int64_t kTokens = 32;  // of a task: a head's slots are read once for so many
constexpr int64_t kSlots = 32;   // of a task

template <class Real>
Real gate_of(const AttentionInputs& in, int64_t head) {
  return std::tanh(static_cast<const Real*>(in.gate)[head]);
}

// Keys and values of one (batch row, head), kept while tasks stay with it.
template <class Real>
class HeadSlots {
 public:
  explicit HeadSlots(const AttentionInputs& in)
      : keys(in.slots, in.width), values(in.slots, in.width), in_(in) {}

  void read(int64_t b, int64_t head) {
    const int64_t group = in_.group_of(head);
    if (b == b_ && group == group_) return;
    b_ = b, group_ = group, present = in_.present + b * in_.slots;
    keys.read(plane(in_.key, b, group), present, 0, in_.slots);
    values.read(plane(in_.value, b, group), present, 0, in_.slots);
  }

  // scale q . k_m, -inf where absent.
  void scores(const Real* query, Real* out) const {
    keys.products(query, static_cast<Real>(in_.scale), out);
    for (int64_t m = 0; m < in_.slots; ++m) out[m] = present[m] ? out[m] : -kInfinity<Real>;
  }

  SlotRows<Real> keys, values;
  const bool* present = nullptr;

 private:
  const AttentionInputs& in_;
  int64_t b_ = -1, group_ = -1;
};

// Calls body(slots, b, head, token) for every row, in tasks of up to kTokens of one head.
template <class Real, class Body>
void for_each_row(const AttentionInputs& in, const Threads& threads, const Body& body) {
  const int64_t runs = (in.tokens + kTokens - 1) / kTokens;
  threads.split(in.batch * in.heads * runs, 1, [&](int64_t begin, int64_t end) {
    HeadSlots<Real> slots(in);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / runs / in.heads, head = task / runs % in.heads;
      const int64_t first = task % runs * kTokens;
      slots.read(b, head);
      for (int64_t t = first; t < std::min(first + kTokens, in.tokens); ++t)
        body(slots, b, head, t);
    }
  });
}

}  // namespace

template <class Real>
void memory_attention(const AttentionInputs& in, const OutputMatrix& mixed, void* normaliser,
                      const Threads& threads) {
  for_each_row<Real>(in, threads, [&](const HeadSlots<Real>& slots, int64_t b, int64_t head,
                                      int64_t token) {
    std::vector<Real> buffer(in.width), weights(in.slots), sum(in.width, Real(0));
    const int64_t row = in.row_of(b, head, token);
    slots.scores(load(plane(in.query, b, head), token, 0, in.width, buffer.data()),
                 weights.data());
    const Real total = log_sum_exp(weights.data(), in.slots);
    static_cast<Real*>(normaliser)[row] = total;
    to_weights(weights.data(), in.slots, total);
    const Real gate = gate_of<Real>(in, head);
    for (int64_t m = 0; m < in.slots; ++m)
      if (slots.present[m]) add_scaled(sum.data(), gate * weights[m], slots.values.row(m), in.width);
    store(mixed, row * in.width, sum.data(), in.width);
  });
}

template <class Real>
void memory_attention_grad_query(const AttentionInputs& in, const AttentionGradient& given,
                                 const OutputMatrix& grad_query, void* delta,
                                 const Threads& threads) {
  for_each_row<Real>(in, threads, [&](const HeadSlots<Real>& slots, int64_t b, int64_t head,
                                      int64_t token) {
    std::vector<Real> buffer(in.width), weights(in.slots), slopes(in.slots);
    std::vector<Real> sum(in.width, Real(0));
    const int64_t row = in.row_of(b, head, token);
    slots.scores(load(plane(in.query, b, head), token, 0, in.width, buffer.data()),
                 weights.data());
    to_weights(weights.data(), in.slots, static_cast<const Real*>(given.normaliser)[row]);
    const Real* grad = load(plane(given.grad, b, head), token, 0, in.width, buffer.data());
    slots.values.products(grad, Real(1), slopes.data());
    const Real mean = dot(weights.data(), slopes.data(), in.slots);
    static_cast<Real*>(delta)[row] = mean;
    const Real factor = static_cast<Real>(in.scale) * gate_of<Real>(in, head);
    for (int64_t m = 0; m < in.slots; ++m)
      if (slots.present[m])
        add_scaled(sum.data(), factor * weights[m] * (slopes[m] - mean), slots.keys.row(m),
                   in.width);
    store(grad_query, row * in.width, sum.data(), in.width);
  });
}

template <class Real>
void memory_attention_grad_memory(const AttentionInputs& in, const AttentionGradient& given,
                                  const void* delta, const OutputMatrix& grad_key,
                                  const OutputMatrix& grad_value, const Threads& threads) {
  const int64_t runs = (in.slots + kSlots - 1) / kSlots, shared = in.heads / in.groups;
  threads.split(in.batch * in.groups * runs, 1, [&](int64_t begin, int64_t end) {
    SlotRows<Real> keys(kSlots, in.width), values(kSlots, in.width);
    std::vector<Real> to_keys(kSlots * in.width), to_values(kSlots * in.width);
    std::vector<Real> query_buffer(in.width), grad_buffer(in.width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / runs / in.groups, group = task / runs % in.groups;
      const int64_t first = task % runs * kSlots, count = std::min(kSlots, in.slots - first);
      const bool* present = in.present + b * in.slots;
      keys.read(plane(in.key, b, group), present, first, count);
      values.read(plane(in.value, b, group), present, first, count);
      std::fill(to_keys.begin(), to_keys.end(), Real(0));
      std::fill(to_values.begin(), to_values.end(), Real(0));
      for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
        const Real gate = gate_of<Real>(in, head), factor = gate * static_cast<Real>(in.scale);
        const Matrix queries = plane(in.query, b, head), grads = plane(given.grad, b, head);
        for (int64_t t = 0; t < in.tokens; ++t) {
          const int64_t row = in.row_of(b, head, t);
          const Real* query = load(queries, t, 0, in.width, query_buffer.data());
          const Real* grad = load(grads, t, 0, in.width, grad_buffer.data());
          Real weights[kSlots], slopes[kSlots];
          keys.products(query, static_cast<Real>(in.scale), weights);
          to_weights(weights, count, static_cast<const Real*>(given.normaliser)[row]);
          values.products(grad, Real(1), slopes);
          const Real mean = static_cast<const Real*>(delta)[row];
          for (int64_t m = 0; m < count; ++m) {
            if (!present[first + m]) continue;
            add_scaled(to_keys.data() + m * in.width, factor * weights[m] * (slopes[m] - mean),
                       query, in.width);
            add_scaled(to_values.data() + m * in.width, gate * weights[m], grad, in.width);
          }
        }
      }
      const int64_t at = ((b * in.groups + group) * in.slots + first) * in.width;
      for (int64_t m = 0; m < count; ++m) {
        store(grad_key, at + m * in.width, to_keys.data() + m * in.width, in.width);
        store(grad_value, at + m * in.width, to_values.data() + m * in.width, in.width);
      }
    }
  });
}

#define MEMO_INSTANTIATE(Real)                                                                   \
  template void memory_attention<Real>(const AttentionInputs&, const OutputMatrix&, void*,       \
                                       const Threads&);                                          \
  template void memory_attention_grad_query<Real>(const AttentionInputs&,                        \
                                                  const AttentionGradient&, const OutputMatrix&, \
                                                  void*, const Threads&);                        \
  template void memory_attention_grad_memory<Real>(                                              \
      const AttentionInputs&, const AttentionGradient&, const void*, const OutputMatrix&,        \
      const OutputMatrix&, const Threads&);
MEMO_INSTANTIATE(float)
MEMO_INSTANTIATE(double)

}  // namespace memo::cpu
