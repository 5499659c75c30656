// torch.ops.memo.mix_logits*. Schemas, fake kernels, autograd and the checks of arguments live in
// memo_dist/fusion/ops: the ops exist with or without this library.
#include <tuple>

#include "bindings/mix_call.h"
#ifdef MEMO_CUDA
#include "cuda/mix_logits.h"
#else
#include "cpu/mix_logits.h"
#endif

namespace memo {
namespace {

// Calls the backend's kernel with the call's inputs and the given further arguments.
#ifdef MEMO_CUDA
#define MEMO_RUN(call, kernel, ...)                                              \
  do {                                                                           \
    const int error = call.rows() ? cuda::kernel(call.in, __VA_ARGS__) : 0;      \
    STD_TORCH_CHECK(error == 0, "memo: " #kernel ": ", cuda::error_text(error)); \
  } while (false)
#else
#define MEMO_RUN(call, kernel, ...)                                    \
  (call.real() == ScalarType::Double                                   \
       ? cpu::kernel<double>(call.in, __VA_ARGS__, torch_threads())    \
       : cpu::kernel<float>(call.in, __VA_ARGS__, torch_threads()))
#endif

std::tuple<Tensor, Tensor> mix_logits(std::vector<Tensor> logits, Tensor log_weights,
                                      std::vector<double> temperatures, ScalarType dtype) {
  MixCall call(logits, log_weights, temperatures);
  Tensor log_probs = call.empty({call.rows(), call.vocabulary()}, dtype);
  MEMO_RUN(call, mix_logits, output_of(log_probs));
  return {log_probs, call.normalisers};
}

std::tuple<Tensor, Tensor, Tensor> mix_logits_target(std::vector<Tensor> logits,
                                                     Tensor log_weights,
                                                     std::vector<double> temperatures,
                                                     Tensor targets) {
  MixCall call(logits, log_weights, temperatures);
  Tensor log_probs = call.empty({call.rows()}), posterior = call.empty_like_weights();
  const TargetOutputs out{call.integers(targets), log_probs.mutable_data_ptr(),
                          posterior.mutable_data_ptr()};
  MEMO_RUN(call, mix_logits_target, out);
  return {log_probs, posterior, call.normalisers};
}

std::tuple<Tensor, Tensor> mix_logits_topk(std::vector<Tensor> logits, Tensor log_weights,
                                           std::vector<double> temperatures, int64_t k) {
  MixCall call(logits, log_weights, temperatures);
  Tensor log_probs = call.empty({call.rows(), k});
  Tensor tokens = call.empty({call.rows(), k}, ScalarType::Long);
  const TopKOutputs out{k, log_probs.mutable_data_ptr(), tokens.mutable_data_ptr<int64_t>()};
  MEMO_RUN(call, mix_logits_topk, out);
  return {log_probs, tokens};
}

std::tuple<Tensor, Tensor> mix_logits_sample(std::vector<Tensor> logits, Tensor log_weights,
                                             std::vector<double> temperatures, Tensor seeds) {
  MixCall call(logits, log_weights, temperatures);
  Tensor log_probs = call.empty({call.rows()});
  Tensor tokens = call.empty({call.rows()}, ScalarType::Long);
  const SampleOutputs out{call.integers(seeds), log_probs.mutable_data_ptr(),
                          tokens.mutable_data_ptr<int64_t>()};
  MEMO_RUN(call, mix_logits_sample, out);
  return {log_probs, tokens};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mix_logits_features(std::vector<Tensor> logits,
                                                               Tensor log_weights,
                                                               std::vector<double> temperatures) {
  MixCall call(logits, log_weights, temperatures);
  Tensor entropies = call.empty_like_weights(), max_log_probs = call.empty_like_weights();
  Tensor argmaxes = call.empty({call.rows(), call.in.num_sources}, ScalarType::Long);
  Tensor divergence = call.empty({call.rows()});
  const FeatureOutputs out{entropies.mutable_data_ptr(), max_log_probs.mutable_data_ptr(),
                           argmaxes.mutable_data_ptr<int64_t>(), divergence.mutable_data_ptr()};
  MEMO_RUN(call, mix_logits_features, out);
  return {entropies, max_log_probs, argmaxes, divergence};
}

Tensor mix_logits_grad_weights(Tensor grad, std::vector<Tensor> logits, Tensor log_weights,
                               std::vector<double> temperatures, Tensor normalisers) {
  MixCall call(logits, log_weights, temperatures, &normalisers);
  Tensor out = call.empty_like_weights();
  MEMO_RUN(call, mix_logits_grad_weights, matrix_of(grad), out.mutable_data_ptr());
  return out;
}

Tensor mix_logits_grad_source(Tensor grad, Tensor grad_weights, std::vector<Tensor> logits,
                              Tensor log_weights, std::vector<double> temperatures,
                              Tensor normalisers, int64_t source) {
  MixCall call(logits, log_weights, temperatures, &normalisers);
  Tensor out = call.empty({call.rows(), call.vocabulary()}, logits[source].scalar_type());
  MEMO_RUN(call, mix_logits_grad_source, matrix_of(grad), call.reals(grad_weights),
                static_cast<int>(source), output_of(out));
  return out;
}

Tensor mix_logits_target_grad_source(Tensor grad_weights, std::vector<Tensor> logits,
                                     Tensor log_weights, std::vector<double> temperatures,
                                     Tensor targets, Tensor normalisers, int64_t source) {
  MixCall call(logits, log_weights, temperatures, &normalisers);
  Tensor out = call.empty({call.rows(), call.vocabulary()}, logits[source].scalar_type());
  MEMO_RUN(call, mix_logits_target_grad_source, call.integers(targets),
                call.reals(grad_weights), static_cast<int>(source), output_of(out));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(MEMO_NAMESPACE, MEMO_KEY, m) {
  m.impl("mix_logits", TORCH_BOX(&mix_logits));
  m.impl("mix_logits_target", TORCH_BOX(&mix_logits_target));
  m.impl("mix_logits_topk", TORCH_BOX(&mix_logits_topk));
  m.impl("mix_logits_sample", TORCH_BOX(&mix_logits_sample));
  m.impl("mix_logits_features", TORCH_BOX(&mix_logits_features));
  m.impl("mix_logits_grad_weights", TORCH_BOX(&mix_logits_grad_weights));
  m.impl("mix_logits_grad_source", TORCH_BOX(&mix_logits_grad_source));
  m.impl("mix_logits_target_grad_source", TORCH_BOX(&mix_logits_target_grad_source));
}

}  // namespace memo
