// mix_logits on the CPU, forward: see memo/mix_logits.h for the formula and the plan.
#include "cpu/mix_logits.h"

#include "cpu/mix_row.h"
#include "memo/random.h"

namespace memo::cpu {

// ---- Full log-probs -------------------------------------------------------------------------

template <class Real>
void mix_logits(const MixInputs& in, const OutputMatrix& out, const Threads& threads) {
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads& inside) {
    row.read(r, inside);
    inside.split(row.tiles(), 8, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        Real values[kTile];
        const int64_t count = row.tile_size(tile);
        row.log2_probs(tile, values);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) values[i] *= kLn2<Real>;
        store(out, r * in.vocabulary + tile * kTile, values, count);
      }
    });
  });
}

// ---- Log-prob of a target -------------------------------------------------------------------

template <class Real>
void mix_logits_target(const MixInputs& in, const TargetOutputs& out, const Threads& threads) {
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads& inside) {
    row.read(r, inside);
    const int64_t target = out.targets[r];
    const bool exists = target >= 0 && target < in.vocabulary;
    Real* posterior = static_cast<Real*>(out.posterior) + r * in.num_sources;
    Real total = -kInfinity<Real>;
    for (int s = 0; s < in.num_sources; ++s) {
      posterior[s] = exists ? row.log2_share(s, target) : -kInfinity<Real>;
      total = log2_add(total, posterior[s]);
    }
    const Real base = total == -kInfinity<Real> ? Real(0) : total;  // all shares are 0 then
    for (int s = 0; s < in.num_sources; ++s) posterior[s] = fast_exp2(posterior[s] - base);
    static_cast<Real*>(out.log_probs)[r] = exists ? total * kLn2<Real> : Real(0);
  });
}

// ---- Top-k ----------------------------------------------------------------------------------

namespace {

template <class Real>
struct Choice {
  Real value;
  int64_t token;
  // Larger values first, then smaller tokens.
  bool comes_before(const Choice& other) const {
    return value > other.value || (value == other.value && token < other.token);
  }
};

// The first element of `values` after `last` in the order of Choice; token -1 if there is none.
template <class Real>
Choice<Real> first_after(const Choice<Real>& last, const Real* values, int64_t count,
                         int64_t first_token) {
  Real best = -kInfinity<Real>;
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < count; ++i) {
    const bool later =
        values[i] < last.value || (values[i] == last.value && first_token + i > last.token);
    best = later && values[i] > best ? values[i] : best;
  }
  for (int64_t i = 0; i < count; ++i) {
    const Choice<Real> candidate{values[i], first_token + i};
    if (values[i] == best && last.comes_before(candidate)) return candidate;
  }
  return {-kInfinity<Real>, -1};
}

// A tournament of tiles. Each is known first by its upper bound; only when a bound leads is the
// tile read, and then it stands by its best token not yet taken. Peaked rows read one or two tiles.
template <class Real>
class Tournament {
 public:
  explicit Tournament(const Row<Real>& row) : row_(row), leaders_(row.tiles()) {
    for (int64_t t = 0; t < row.tiles(); ++t) leaders_[t] = {{row.upper_bound(t), -1}, true};
  }

  Choice<Real> next() {
    while (true) {
      const int64_t tile = leading_tile();
      Leader& leader = leaders_[tile];
      if (!leader.is_bound) {
        last_ = leader.choice;
        leader.is_bound = true;  // its next best is at most as good: read again if it leads
        return last_;
      }
      Real values[kTile];
      row_.log2_probs(tile, values);
      leader.choice = first_after(last_, values, row_.tile_size(tile), tile * kTile);
      leader.is_bound = false;
      leader.is_empty = leader.choice.token < 0;
    }
  }

 private:
  struct Leader {
    Choice<Real> choice;
    bool is_bound = true, is_empty = false;
  };

  int64_t leading_tile() const {
    int64_t best = -1;
    for (int64_t t = 0; t < row_.tiles(); ++t) {
      if (leaders_[t].is_empty) continue;
      if (best < 0 || leaders_[t].choice.value > leaders_[best].choice.value) best = t;
    }
    return best;
  }

  const Row<Real>& row_;
  std::vector<Leader> leaders_;
  Choice<Real> last_{kInfinity<Real>, -1};
};

}  // namespace

template <class Real>
void mix_logits_topk(const MixInputs& in, const TopKOutputs& out, const Threads& threads) {
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads& inside) {
    row.read(r, inside);
    Real* log_probs = static_cast<Real*>(out.log_probs) + r * out.k;
    int64_t* tokens = out.tokens + r * out.k;
    if (row.is_nan()) {
      std::fill_n(log_probs, out.k, kNaN<Real>);
      std::fill_n(tokens, out.k, -1);
      return;
    }
    Tournament<Real> tournament(row);
    for (int64_t i = 0; i < out.k; ++i) {
      const Choice<Real> choice = tournament.next();
      log_probs[i] = choice.value * kLn2<Real>;
      tokens[i] = choice.token;
    }
  });
}

// ---- Sample ---------------------------------------------------------------------------------

namespace {

// Standard Gumbel noise in units of log2: -log2(-ln u).
inline float gumbel(uint64_t seed, int64_t index, NoiseStream stream) {
  const float u = uniform(seed, static_cast<uint32_t>(index), stream);
  return -fast_log2(-fast_log2(u) * kLn2<float>);
}

template <class Real>
int64_t sample_tile(const Row<Real>& row, uint64_t seed) {
  int64_t best = 0;
  Real best_score = -kInfinity<Real>;
  for (int64_t tile = 0; tile < row.tiles(); ++tile) {
    const Real score = row.log2_mass(tile) + gumbel(seed, tile, NoiseStream::tile);
    if (score > best_score) best = tile, best_score = score;
  }
  return best;
}

template <class Real>
Choice<Real> sample_row(const Row<Real>& row, uint64_t seed) {
  const int64_t tile = sample_tile(row, seed), first = tile * kTile, count = row.tile_size(tile);
  Real values[kTile], scores[kTile];
  row.log2_probs(tile, values);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i)
    scores[i] = values[i] + gumbel(seed, first + i, NoiseStream::token);
  const int64_t at = std::max_element(scores, scores + count) - scores;
  return {values[at], first + at};
}

}  // namespace

template <class Real>
void mix_logits_sample(const MixInputs& in, const SampleOutputs& out, const Threads& threads) {
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads& inside) {
    row.read(r, inside);
    Choice<Real> choice{kNaN<Real>, -1};
    if (!row.is_nan()) choice = sample_row(row, static_cast<uint64_t>(out.seeds[r]));
    static_cast<Real*>(out.log_probs)[r] = choice.value * kLn2<Real>;
    out.tokens[r] = choice.token;
  });
}

// ---- Features of the gate -------------------------------------------------------------------

namespace {

template <class Real>
int64_t argmax_of_source(const MixInputs& in, const Row<Real>& row, int source) {
  const Real max = row.normaliser(source)[0];
  for (int64_t tile = 0; tile < row.tiles(); ++tile) {
    if (row.statistics(source, tile).max != max) continue;
    Real buffer[kTile];
    const Real* x =
        load(in.logits[source], row.row(), tile * kTile, row.tile_size(tile), buffer);
    return tile * kTile + (std::find(x, x + row.tile_size(tile), max) - x);
  }
  return -1;
}

// Sum over tokens and sources of share * log2(probability under the source / mixed probability):
// the Jensen-Shannon divergence where the weights sum to 1. A share of 0 adds 0.
template <class Real>
Real divergence_of_tile(const MixInputs& in, const Row<Real>& row, int64_t tile) {
  Real mixed[kTile], shares[kTile];
  row.log2_probs(tile, mixed);
  Real total = 0;
  for (int s = 0; s < in.num_sources; ++s) {
    if (!row.is_active(s)) continue;
    const Real log2_weight = row.log_weight(s) * kLog2E<Real>;
    row.log2_shares(s, tile, shares);
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < row.tile_size(tile); ++i) {
      const Real share = fast_exp2(shares[i]);
      const Real ratio = shares[i] - log2_weight - mixed[i];
      total += share == Real(0) ? Real(0) : share * ratio;
    }
  }
  return total;
}

}  // namespace

template <class Real>
void mix_logits_features(const MixInputs& in, const FeatureOutputs& out, const Threads& threads) {
  for_each_row<Real>(in, threads, [&](Row<Real>& row, int64_t r, const Threads& inside) {
    row.template read<true>(r, inside);
    for (int s = 0; s < in.num_sources; ++s) {
      const int64_t at = r * in.num_sources + s;
      const Real log2_sum = row.is_active(s) ? row.normaliser(s)[1] : kNaN<Real>;
      const bool is_nan = log2_sum != log2_sum;
      static_cast<Real*>(out.entropies)[at] = is_nan ? kNaN<Real> : row.entropy(s);
      static_cast<Real*>(out.max_log_probs)[at] = -log2_sum * kLn2<Real>;
      out.argmaxes[at] = is_nan ? -1 : argmax_of_source(in, row, s);
    }
    std::vector<Real> of_tiles(row.tiles());
    inside.split(row.tiles(), 8, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) of_tiles[t] = divergence_of_tile(in, row, t);
    });
    Real total = 0;
    for (const Real of_tile : of_tiles) total += of_tile;
    static_cast<Real*>(out.divergence)[r] =
        row.is_nan() ? kNaN<Real> : std::max(total, Real(0)) * kLn2<Real>;
  });
}

#define MEMO_INSTANTIATE(Real)                                                               \
  template void mix_logits<Real>(const MixInputs&, const OutputMatrix&, const Threads&);     \
  template void mix_logits_target<Real>(const MixInputs&, const TargetOutputs&,              \
                                        const Threads&);                                     \
  template void mix_logits_topk<Real>(const MixInputs&, const TopKOutputs&, const Threads&); \
  template void mix_logits_sample<Real>(const MixInputs&, const SampleOutputs&,              \
                                        const Threads&);                                     \
  template void mix_logits_features<Real>(const MixInputs&, const FeatureOutputs&, const Threads&);
MEMO_INSTANTIATE(float)
MEMO_INSTANTIATE(double)

}  // namespace memo::cpu
