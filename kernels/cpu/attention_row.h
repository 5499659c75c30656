// What the CPU kernels of memory_attention share: slots of one group as arrays in the cache, and
// loops over them that compilers vectorise.
#pragma once
#include <vector>

#include "cpu/tiles.h"
#include "cpu/vector_math.h"
#include "memo/memory_attention.h"

namespace memo::cpu {

inline Matrix plane(const Planes& planes, int64_t first, int64_t second) {
  const int64_t at = planes.start_of(first, second) * item_size(planes.dtype);
  return {static_cast<const char*>(planes.data) + at, planes.strides[2], planes.strides[3],
          planes.dtype};
}

template <class Real>
void add_scaled(Real* out, Real factor, const Real* values, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] += factor * values[i];
}

// out += sum_r factors[r] rows[r], four rows at a time: a quarter of the traffic of `out`.
template <class Real>
void add_rows(Real* out, const Real* factors, const Real* rows, int64_t num_rows, int64_t count) {
  int64_t r = 0;
  for (; r + 4 <= num_rows; r += 4) {
    const Real a = factors[r], b = factors[r + 1], c = factors[r + 2], d = factors[r + 3];
    const Real *x = rows + r * count, *y = x + count, *z = y + count, *w = z + count;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] += a * x[i] + b * y[i] + (c * z[i] + d * w[i]);
  }
  for (; r < num_rows; ++r) add_scaled(out, factors[r], rows + r * count, count);
}

template <class Real>
Real dot(const Real* a, const Real* b, int64_t count) {
  Real total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

// exp(scores - normaliser) in place; 0 in a row without slots, whose normaliser is -inf.
template <class Real>
void to_weights(Real* scores, int64_t count, Real normaliser) {
  const Real center = normaliser == -kInfinity<Real> ? Real(0) : normaliser;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) scores[i] = fast_exp2((scores[i] - center) * kLog2E<Real>);
}

// Natural log of the sum of exponentials; -inf where there is nothing, NaN where there is a NaN.
template <class Real>
Real log_sum_exp(const Real* scores, int64_t count) {
  Real largest = -kInfinity<Real>, total = 0;
  for (int64_t i = 0; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
  const Real center = largest == -kInfinity<Real> ? Real(0) : largest;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += fast_exp2((scores[i] - center) * kLog2E<Real>);
  return center + std::log(total);
}

// Slots [first, first + count) of one plane of keys or values, as Real; absent ones are 0.
template <class Real>
class SlotRows {
 public:
  SlotRows(int64_t most, int64_t width) : width_(width), rows_(most * width), columns_(most * width) {}

  // `present`: of the slots of this batch row.
  void read(const Matrix& matrix, const bool* present, int64_t first, int64_t count) {
    count_ = count;
    for (int64_t m = 0; m < count; ++m) {
      Real* row = rows_.data() + m * width_;
      if (!present[first + m]) {
        std::fill_n(row, width_, Real(0));
      } else if (const Real* from = load(matrix, first + m, 0, width_, row); from != row) {
        std::copy_n(from, width_, row);
      }
      for (int64_t d = 0; d < width_; ++d) columns_[d * count + m] = row[d];
    }
  }

  // out [width] += the sum of the slots by their weights.
  void add_sum(const Real* weights, Real* out) const {
    add_rows(out, weights, rows_.data(), count_, width_);
  }

  // The products of one vector of `width` with every slot.
  void products(const Real* vector, Real* out) const {
    std::fill_n(out, count_, Real(0));
    add_rows(out, vector, columns_.data(), width_, count_);
  }

 private:
  int64_t width_, count_ = 0;
  std::vector<Real> rows_, columns_;  // [slots, width] and its transpose
};

}  // namespace memo::cpu
