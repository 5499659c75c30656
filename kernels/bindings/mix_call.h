// The arguments that all ops of the mix_logits family share, checked and as a MixInputs.
#pragma once
#include <memory>

#include "bindings/backend.h"
#ifdef MEMO_CUDA
#include "cuda/mix_logits.h"
#endif

namespace memo {

class MixCall {
 public:
  // `given` holds the normalisers of a forward call; without it they are made here.
  MixCall(const std::vector<Tensor>& logits, const Tensor& log_weights,
          const std::vector<double>& temperatures, const Tensor* given = nullptr)
      : like_(logits.at(0)),
#ifdef MEMO_CUDA
        device_(like_),
#endif
        real_(log_weights.scalar_type()) {
    const int64_t sources = static_cast<int64_t>(logits.size());
    STD_TORCH_CHECK(sources <= kMaxSources, "memo: at most ", kMaxSources, " sources");
    STD_TORCH_CHECK(real_ == ScalarType::Float || real_ == ScalarType::Double,
                    "memo: log_weights must be float32 or float64");
    in.num_sources = static_cast<int32_t>(sources);
    in.rows = like_.size(0), in.vocabulary = like_.size(1);
    for (int64_t s = 0; s < sources; ++s) add(static_cast<int>(s), logits[s], temperatures.at(s));
    in.log_weights = reals(log_weights);
    normalisers = given ? keep(*given) : empty({in.rows, sources, 2}, real_);
    in.normalisers = const_cast<void*>(normalisers.const_data_ptr());
#ifdef MEMO_CUDA
    STD_TORCH_CHECK(real_ == ScalarType::Float, "memo: float64 is for the CPU only");
    in.workspace = keep(zeros(like_, cuda::workspace_bytes(in))).mutable_data_ptr();
    in.stream = device_.stream;
#endif
  }

  int64_t rows() const { return in.rows; }
  int64_t vocabulary() const { return in.vocabulary; }
  ScalarType real() const { return real_; }

  Tensor empty(std::vector<int64_t> shape, ScalarType type) const {
    return memo::empty(like_, std::move(shape), type);
  }
  Tensor empty(std::vector<int64_t> shape) const { return empty(std::move(shape), real_); }
  Tensor empty_like_weights() const { return empty({in.rows, in.num_sources}); }

  // Pointers into contiguous copies where needed; the copies live as long as the call.
  const void* reals(const Tensor& t) {
    STD_TORCH_CHECK(t.scalar_type() == real_, "memo: a small argument has another dtype than log_weights");
    return keep(t).const_data_ptr();
  }
  const int64_t* integers(const Tensor& t) {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long, "memo: targets and seeds must be int64");
    return keep(t).const_data_ptr<int64_t>();
  }

  MixInputs in;
  Tensor normalisers;

 private:
  void add(int source, const Tensor& logits, double temperature) {
    STD_TORCH_CHECK(logits.dim() == 2 && logits.size(0) == in.rows && logits.size(1) == in.vocabulary,
                    "memo: logits of all sources must be [rows, vocabulary] of one shape");
    in.logits[source] = matrix_of(logits);
    in.inverse_temperatures[source] = 1 / temperature;
  }
  const Tensor& keep(const Tensor& t) {
    kept_.push_back(torch::stable::contiguous(t));
    return kept_.back();
  }

  Tensor like_;
#ifdef MEMO_CUDA
  OnDevice device_;
#endif
  ScalarType real_;
  std::vector<Tensor> kept_;
};

}  // namespace memo
