// mix_logits on the CPU, backward.
//
// With q_s(v) = weight_s p_s(v) / p(v), the share of source s in token v, and g the gradient of
// the log-probs:
//   d / d log_weight_s = T_s = sum_v g(v) q_s(v)
//   d / d logits_s(v)  = (g(v) q_s(v) - p_s(v) T_s) / temperature_s
// A token that no source can emit (log-prob -inf) has no gradient; PyTorch's composition gives NaN.
#include "cpu/mix_logits.h"
#include "cpu/mix_row.h"

namespace memo::cpu {

namespace {

// g(v) q_s(v) for a tile, from log2 of the shares and of their sum over sources.
template <class Real>
void weigh_by_posterior(const Real* shares, const Real* mixed, const Real* grad, int64_t count,
                        Real* out) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Real posterior = fast_exp2(shares[i] - mixed[i]);
    out[i] = mixed[i] == -kInfinity<Real> ? Real(0) : grad[i] * posterior;
  }
}

template <class Real>
Real sum(const Real* values, int64_t count) {
  Real total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += values[i];
  return total;
}

template <class Real>
void fill_zero(const OutputMatrix& out, int64_t at, int64_t count) {
  std::memset(static_cast<char*>(out.data) + at * item_size(out.dtype), 0,
              count * item_size(out.dtype));
}

}  // namespace

template <class Real>
void mix_logits_grad_weights(const MixInputs& in, const Matrix& grad, void* out,
                             const Threads& threads) {
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads&) {
    row.reuse(r);
    Real* totals = static_cast<Real*>(out) + r * in.num_sources;
    std::fill_n(totals, in.num_sources, Real(0));
    for (int64_t tile = 0; tile < row.tiles(); ++tile) {
      Real mixed[kTile], shares[kTile], buffer[kTile];
      const int64_t count = row.tile_size(tile);
      row.log2_probs(tile, mixed);
      const Real* g = load(grad, r, tile * kTile, count, buffer);
      for (int s = 0; s < in.num_sources; ++s) {
        if (!row.is_active(s)) continue;
        row.log2_shares(s, tile, shares);
        weigh_by_posterior(shares, mixed, g, count, shares);
        totals[s] += sum(shares, count);
      }
    }
  });
}

template <class Real>
void mix_logits_grad_source(const MixInputs& in, const Matrix& grad, const void* grad_weights,
                            int source, const OutputMatrix& out, const Threads& threads) {
  const Real inverse_temperature = static_cast<Real>(in.inverse_temperatures[source]);
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads&) {
    row.reuse(r);
    if (!row.is_active(source)) return fill_zero<Real>(out, r * in.vocabulary, in.vocabulary);
    const Real total = static_cast<const Real*>(grad_weights)[r * in.num_sources + source];
    const Real log2_weight = row.log_weight(source) * kLog2E<Real>;
    for (int64_t tile = 0; tile < row.tiles(); ++tile) {
      Real mixed[kTile], shares[kTile], buffer[kTile], values[kTile];
      const int64_t count = row.tile_size(tile);
      row.log2_probs(tile, mixed);
      row.log2_shares(source, tile, shares);
      const Real* g = load(grad, r, tile * kTile, count, buffer);
      weigh_by_posterior(shares, mixed, g, count, values);
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const Real probability = fast_exp2(shares[i] - log2_weight);
        values[i] = inverse_temperature * (values[i] - probability * total);
      }
      store(out, r * in.vocabulary + tile * kTile, values, count);
    }
  });
}

template <class Real>
void mix_logits_target_grad_source(const MixInputs& in, const int64_t* targets,
                                   const void* grad_weights, int source, const OutputMatrix& out,
                                   const Threads& threads) {
  const Real inverse_temperature = static_cast<Real>(in.inverse_temperatures[source]);
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads&) {
    row.reuse(r);
    const Real total = static_cast<const Real*>(grad_weights)[r * in.num_sources + source];
    const Real push = inverse_temperature * total;
    if (!row.is_active(source)) return fill_zero<Real>(out, r * in.vocabulary, in.vocabulary);
    const Real log2_weight = row.log_weight(source) * kLog2E<Real>;
    for (int64_t tile = 0; tile < row.tiles(); ++tile) {
      Real values[kTile];
      const int64_t first = tile * kTile, count = row.tile_size(tile);
      row.log2_shares(source, tile, values);
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) values[i] = -push * fast_exp2(values[i] - log2_weight);
      if (targets[r] >= first && targets[r] < first + count) values[targets[r] - first] += push;
      store(out, r * in.vocabulary + first, values, count);
    }
  });
}

#define MEMO_INSTANTIATE(Real)                                                                  \
  template void mix_logits_grad_weights<Real>(const MixInputs&, const Matrix&, void*,           \
                                              const Threads&);                                  \
  template void mix_logits_grad_source<Real>(const MixInputs&, const Matrix&, const void*, int, \
                                             const OutputMatrix&, const Threads&);              \
  template void mix_logits_target_grad_source<Real>(const MixInputs&, const int64_t*,           \
                                                    const void*, int, const OutputMatrix&,      \
                                                    const Threads&);
MEMO_INSTANTIATE(float)
MEMO_INSTANTIATE(double)

}  // namespace memo::cpu
