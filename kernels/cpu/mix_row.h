// One row of the mixture on the CPU: statistics of its tiles, normalisers of its sources, and the
// mixed log-probs of any tile. All logarithms are to base 2 until a result is written.
//
// Numerics. The largest logit is subtracted *before* scaling by log2(e) / T: logits up to the
// largest float stay finite, and large ones keep their digits. A source with log weight -inf is
// never read, so its NaNs do not count; any other NaN, +inf, or source whose logits are all -inf
// makes the whole row NaN, as log_softmax does.
#pragma once
#include <vector>

#include "cpu/threads.h"
#include "cpu/tiles.h"
#include "cpu/vector_math.h"

namespace memo {

template <class Real>
struct TileStatistics {
  Real max;       // of the raw logits, NaN ignored
  Real sum;       // of 2^t with t = (logit - max) * scale; NaN if a logit is NaN or +inf
  Real weighted;  // of t 2^t, for entropies
};

template <class Real>
Real largest(const Real* x, int64_t count) {
  Real max = -kInfinity<Real>;
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < count; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

template <class Real, bool kEntropy>
TileStatistics<Real> tile_statistics(const Real* x, int64_t count, Real scale) {
  const Real max = largest(x, count);
  const Real center = max == -kInfinity<Real> ? Real(0) : max;  // a fully masked tile sums to 0
  Real sum = 0, weighted = 0;
#pragma omp simd reduction(+ : sum, weighted)
  for (int64_t i = 0; i < count; ++i) {
    Real t = (x[i] - center) * scale;
    const Real power = fast_exp2(t);
    sum += power;
    if constexpr (kEntropy) {
      t = t < Real(-1e30) ? Real(-1e30) : t;  // -inf * 0 would be NaN
      weighted += t * power;
    }
  }
  return {max, sum, weighted};
}

template <class Real>
class Row {
 public:
  explicit Row(const MixInputs& inputs)
      : in_(inputs), tiles_(inputs.tiles()), statistics_(inputs.num_sources * tiles_) {}

  // Reads all logits of a row once and leaves its normalisers. The order of every sum is fixed:
  // results do not depend on the number of threads.
  template <bool kEntropy = false>
  void read(int64_t row, const Threads& threads) {
    row_ = row;
    constexpr int64_t kSmallestShare = 8;  // tiles: some tens of microseconds
    threads.split(in_.num_sources * tiles_, kSmallestShare, [this](int64_t begin, int64_t end) {
      Real buffer[kTile];
      for (int64_t unit = begin; unit < end; ++unit) {
        const int source = static_cast<int>(unit / tiles_);
        if (log_weight(source) == -kInfinity<Real>) continue;
        const int64_t tile = unit % tiles_;
        const Real* x = load(in_.logits[source], row_, tile * kTile, tile_size(tile), buffer);
        statistics_[unit] = tile_statistics<Real, kEntropy>(x, tile_size(tile), scale(source));
      }
    });
    for (int s = 0; s < in_.num_sources; ++s) combine(s);
    gather_sources();
  }

  // Takes the normalisers of a row from an earlier read.
  void reuse(int64_t row) {
    row_ = row;
    gather_sources();
  }

  // log2 of the mixed probabilities of one tile.
  void log2_probs(int64_t tile, Real* out) const {
    const int64_t count = tile_size(tile);
    std::fill_n(out, count, -kInfinity<Real>);
    bool first = true;
    for (const Source& source : sources_) {
      Real buffer[kTile];
      const Real* x = load(in_.logits[source.index], row_, tile * kTile, count, buffer);
      if (first) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) out[i] = source.log2_share(x[i]);
      } else {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) out[i] = log2_add(out[i], source.log2_share(x[i]));
      }
      first = false;
    }
  }

  // log2 of weight * probability of every token of a tile under one source of weight > 0.
  void log2_shares(int source, int64_t tile, Real* out) const {
    const Source& from = *find(source);
    const int64_t count = tile_size(tile);
    Real buffer[kTile];
    const Real* x = load(in_.logits[source], row_, tile * kTile, count, buffer);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = from.log2_share(x[i]);
  }

  Real log2_share(int source, int64_t token) const {
    const Source* from = find(source);
    if (!from) return -kInfinity<Real>;
    return from->log2_share(load_one<Real>(in_.logits[source], row_, token));
  }

  // No token of the tile has a larger log2 probability. The margin covers the rounding of
  // log2_add, which is not monotone in its last bits.
  Real upper_bound(int64_t tile) const {
    Real bound = -kInfinity<Real>;
    for (const Source& source : sources_)
      bound = log2_add(bound, source.log2_share(statistics(source.index, tile).max));
    return bound == -kInfinity<Real> ? bound : bound + Real(4e-6) * (1 + std::abs(bound));
  }

  // log2 of the probability of the tile as a whole.
  Real log2_mass(int64_t tile) const {
    Real mass = -kInfinity<Real>;
    for (const Source& source : sources_) {
      const TileStatistics<Real>& its = statistics(source.index, tile);
      if (its.sum > 0) mass = log2_add(mass, source.log2_share(its.max) + std::log2(its.sum));
    }
    return mass;
  }

  // Entropy of one source alone, in nats; only after read<true>.
  Real entropy(int source) const {
    const Real* normaliser = this->normaliser(source);
    Real weighted = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const TileStatistics<Real>& its = statistics(source, tile);
      const Real shift = (its.max - normaliser[0]) * scale(source);
      const Real factor = std::exp2(shift - normaliser[1]);
      if (factor > 0) weighted += factor * (its.weighted + shift * its.sum);
      if (factor != factor) return factor;
    }
    return (normaliser[1] - weighted) * kLn2<Real>;
  }

  // Some source of weight > 0 holds NaN, +inf or nothing but -inf, or a weight is NaN or +inf.
  bool is_nan() const {
    for (const Source& source : sources_)
      if (source.offset != source.offset) return true;
    return false;
  }

  int64_t row() const { return row_; }
  int64_t tiles() const { return tiles_; }
  int64_t tile_size(int64_t tile) const { return std::min(kTile, in_.vocabulary - tile * kTile); }
  const TileStatistics<Real>& statistics(int source, int64_t tile) const {
    return statistics_[source * tiles_ + tile];
  }
  Real* normaliser(int source) const {
    return static_cast<Real*>(in_.normalisers) + 2 * (row_ * in_.num_sources + source);
  }
  Real log_weight(int source) const {
    return static_cast<const Real*>(in_.log_weights)[row_ * in_.num_sources + source];
  }
  bool is_active(int source) const { return find(source) != nullptr; }

 private:
  struct Source {
    int index;
    Real center, scale, offset;
    Real log2_share(Real logit) const { return (logit - center) * scale + offset; }
  };

  Real scale(int source) const {
    return static_cast<Real>(in_.inverse_temperatures[source] * kLog2E<double>);
  }

  const Source* find(int source) const {
    for (const Source& candidate : sources_)
      if (candidate.index == source) return &candidate;
    return nullptr;
  }

  void combine(int source) {
    Real max = -kInfinity<Real>, sum = 0;
    const TileStatistics<Real>* tiles = &statistics_[source * tiles_];
    const bool active = log_weight(source) != -kInfinity<Real>;
    for (int64_t t = 0; active && t < tiles_; ++t) max = std::max(max, tiles[t].max);
    for (int64_t t = 0; active && t < tiles_; ++t)
      sum += tiles[t].sum * fast_exp2((tiles[t].max - max) * scale(source));
    normaliser(source)[0] = active ? max : Real(0);
    normaliser(source)[1] = active ? std::log2(sum) : Real(0);
  }

  void gather_sources() {
    sources_.clear();
    for (int s = 0; s < in_.num_sources; ++s) {
      if (log_weight(s) == -kInfinity<Real>) continue;
      const Real* its = normaliser(s);
      const Real offset = log_weight(s) * kLog2E<Real> - its[1];
      sources_.push_back({s, its[0], scale(s), offset < kInfinity<Real> ? offset : kNaN<Real>});
    }
  }

  const MixInputs& in_;
  int64_t row_ = 0, tiles_;
  std::vector<TileStatistics<Real>> statistics_;  // [num_sources][tiles]
  std::vector<Source> sources_;                   // those of weight > 0
};

// Calls work(row, threads) for every row: rows side by side where there are enough of them,
// otherwise one after the other with all threads on each.
template <class Real, class Work>
void for_each_row(const MixInputs& in, const Threads& threads, const Work& work) {
  const bool side_by_side = in.rows >= threads.count;
  const Threads inside = side_by_side ? Threads{1, nullptr} : threads;
  const Threads outside = side_by_side ? threads : Threads{1, nullptr};
  outside.split(in.rows, 1, [&](int64_t begin, int64_t end) {
    Row<Real> row(in);
    for (int64_t r = begin; r < end; ++r) work(row, r, inside);
  });
}

}  // namespace memo
