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
constexpr int64_t kBlock = 8;    // tokens that are added to the slots' gradients together

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
    keys.products(query, out);
    const Real scale = static_cast<Real>(in_.scale);
    for (int64_t m = 0; m < in_.slots; ++m)
      out[m] = present[m] ? scale * out[m] : -kInfinity<Real>;
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

// Gradients of a run of slots of one group, collected over the rows that read them, a few tokens
// at a time.
template <class Real>
class SlotSums {
 public:
  explicit SlotSums(const AttentionInputs& in)
      : in_(in), keys_(kSlots, in.width), values_(kSlots, in.width), to_keys_(kSlots * in.width),
        to_values_(kSlots * in.width), queries_(kBlock * in.width), grads_(kBlock * in.width) {}

  void start(int64_t b, int64_t group, int64_t first, int64_t count) {
    b_ = b, count_ = count, present_ = in_.present + b * in_.slots + first;
    at_ = ((b * in_.groups + group) * in_.slots + first) * in_.width;
    keys_.read(plane(in_.key, b, group), in_.present + b * in_.slots, first, count);
    values_.read(plane(in_.value, b, group), in_.present + b * in_.slots, first, count);
    std::fill(to_keys_.begin(), to_keys_.end(), Real(0));
    std::fill(to_values_.begin(), to_values_.end(), Real(0));
  }

  void add(const AttentionGradient& given, const Real* delta, int64_t head, int64_t first,
           int64_t tokens) {
    const Real gate = gate_of<Real>(in_, head), scale = static_cast<Real>(in_.scale);
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t row = in_.row_of(b_, head, first + i), width = in_.width;
      const Real* query = keep(plane(in_.query, b_, head), first + i, &queries_[i * width]);
      const Real* grad = keep(plane(given.grad, b_, head), first + i, &grads_[i * width]);
      Real weights[kSlots], slopes[kSlots];
      keys_.products(query, weights);
      for (int64_t m = 0; m < count_; ++m) weights[m] *= scale;
      to_weights(weights, count_, static_cast<const Real*>(given.normaliser)[row]);
      values_.products(grad, slopes);
      for (int64_t m = 0; m < count_; ++m) {
        const Real weight = present_[m] ? gate * weights[m] : Real(0);
        weights_[m][i] = weight;
        pushes_[m][i] = present_[m] ? scale * weight * (slopes[m] - delta[row]) : Real(0);
      }
    }
    for (int64_t m = 0; m < count_; ++m) {
      if (!present_[m]) continue;
      add_rows(&to_keys_[m * in_.width], pushes_[m], queries_.data(), tokens, in_.width);
      add_rows(&to_values_[m * in_.width], weights_[m], grads_.data(), tokens, in_.width);
    }
  }

  void write(const OutputMatrix& grad_key, const OutputMatrix& grad_value) const {
    for (int64_t m = 0; m < count_; ++m) {
      store(grad_key, at_ + m * in_.width, &to_keys_[m * in_.width], in_.width);
      store(grad_value, at_ + m * in_.width, &to_values_[m * in_.width], in_.width);
    }
  }

 private:
  const Real* keep(const Matrix& matrix, int64_t token, Real* buffer) const {
    const Real* from = load(matrix, token, 0, in_.width, buffer);
    if (from != buffer) std::copy_n(from, in_.width, buffer);
    return buffer;
  }

  const AttentionInputs& in_;
  SlotRows<Real> keys_, values_;
  std::vector<Real> to_keys_, to_values_, queries_, grads_;
  Real weights_[kSlots][kBlock], pushes_[kSlots][kBlock];
  const bool* present_ = nullptr;
  int64_t b_ = 0, count_ = 0, at_ = 0;
};

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
    for (Real& weight : weights) weight *= gate;
    slots.values.add_sum(weights.data(), sum.data());
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
    slots.values.products(grad, slopes.data());
    const Real mean = dot(weights.data(), slopes.data(), in.slots);
    static_cast<Real*>(delta)[row] = mean;
    const Real factor = static_cast<Real>(in.scale) * gate_of<Real>(in, head);
    for (int64_t m = 0; m < in.slots; ++m) weights[m] *= factor * (slopes[m] - mean);
    slots.keys.add_sum(weights.data(), sum.data());
    store(grad_query, row * in.width, sum.data(), in.width);
  });
}

template <class Real>
void memory_attention_grad_memory(const AttentionInputs& in, const AttentionGradient& given,
                                  const void* delta, const OutputMatrix& grad_key,
                                  const OutputMatrix& grad_value, const Threads& threads) {
  const int64_t runs = (in.slots + kSlots - 1) / kSlots, shared = in.heads / in.groups;
  threads.split(in.batch * in.groups * runs, 1, [&](int64_t begin, int64_t end) {
    SlotSums<Real> sums(in);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / runs / in.groups, group = task / runs % in.groups;
      const int64_t first = task % runs * kSlots;
      sums.start(b, group, first, std::min(kSlots, in.slots - first));
      for (int64_t head = group * shared; head < (group + 1) * shared; ++head)
        for (int64_t t = 0; t < in.tokens; t += kBlock)
          sums.add(given, static_cast<const Real*>(delta), head, t,
                   std::min(kBlock, in.tokens - t));
      sums.write(grad_key, grad_value);
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
