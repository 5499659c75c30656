// torch.ops.memo.mix_logits* for CPU tensors. Schemas, fake kernels, autograd and the checks of
// arguments live in memo_dist/fusion/ops: the ops exist with or without this library.
#include <tuple>

#include "bindings/mix_inputs.h"
#include "cpu/mix_logits.h"

namespace memo {
namespace {

void run_on_torch_threads(int64_t items, int64_t smallest_share, const Range& body) {
  torch::stable::parallel_for(0, items, smallest_share, body);
}

Threads torch_threads() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()), &run_on_torch_threads};
}

// Calls kernel<float> or kernel<double>.
#define MEMO_DISPATCH(call, kernel, ...)                                 \
  (call.real() == ScalarType::Double ? cpu::kernel<double>(__VA_ARGS__) \
                                     : cpu::kernel<float>(__VA_ARGS__))

std::tuple<Tensor, Tensor> mix_logits(std::vector<Tensor> logits, Tensor log_weights,
                                      std::vector<double> temperatures, ScalarType dtype) {
  MixCall call(logits, log_weights, temperatures);
  Tensor log_probs = call.empty({call.rows(), call.vocabulary()}, dtype);
  MEMO_DISPATCH(call, mix_logits, call.in, output_of(log_probs), torch_threads());
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
  MEMO_DISPATCH(call, mix_logits_target, call.in, out, torch_threads());
  return {log_probs, posterior, call.normalisers};
}

std::tuple<Tensor, Tensor> mix_logits_topk(std::vector<Tensor> logits, Tensor log_weights,
                                           std::vector<double> temperatures, int64_t k) {
  MixCall call(logits, log_weights, temperatures);
  Tensor log_probs = call.empty({call.rows(), k});
  Tensor tokens = call.empty({call.rows(), k}, ScalarType::Long);
  const TopKOutputs out{k, log_probs.mutable_data_ptr(), tokens.mutable_data_ptr<int64_t>()};
  MEMO_DISPATCH(call, mix_logits_topk, call.in, out, torch_threads());
  return {log_probs, tokens};
}

std::tuple<Tensor, Tensor> mix_logits_sample(std::vector<Tensor> logits, Tensor log_weights,
                                             std::vector<double> temperatures, Tensor seeds) {
  MixCall call(logits, log_weights, temperatures);
  Tensor log_probs = call.empty({call.rows()});
  Tensor tokens = call.empty({call.rows()}, ScalarType::Long);
  const SampleOutputs out{call.integers(seeds), log_probs.mutable_data_ptr(),
                          tokens.mutable_data_ptr<int64_t>()};
  MEMO_DISPATCH(call, mix_logits_sample, call.in, out, torch_threads());
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
  MEMO_DISPATCH(call, mix_logits_features, call.in, out, torch_threads());
  return {entropies, max_log_probs, argmaxes, divergence};
}

Tensor mix_logits_grad_weights(Tensor grad, std::vector<Tensor> logits, Tensor log_weights,
                               std::vector<double> temperatures, Tensor normalisers) {
  MixCall call(logits, log_weights, temperatures, &normalisers);
  Tensor out = call.empty_like_weights();
  MEMO_DISPATCH(call, mix_logits_grad_weights, call.in, matrix_of(grad), out.mutable_data_ptr(),
                torch_threads());
  return out;
}

Tensor mix_logits_grad_source(Tensor grad, Tensor grad_weights, std::vector<Tensor> logits,
                              Tensor log_weights, std::vector<double> temperatures,
                              Tensor normalisers, int64_t source) {
  MixCall call(logits, log_weights, temperatures, &normalisers);
  Tensor out = call.empty({call.rows(), call.vocabulary()}, logits[source].scalar_type());
  MEMO_DISPATCH(call, mix_logits_grad_source, call.in, matrix_of(grad), call.reals(grad_weights),
                static_cast<int>(source), output_of(out), torch_threads());
  return out;
}

Tensor mix_logits_target_grad_source(Tensor grad_weights, std::vector<Tensor> logits,
                                     Tensor log_weights, std::vector<double> temperatures,
                                     Tensor targets, Tensor normalisers, int64_t source) {
  MixCall call(logits, log_weights, temperatures, &normalisers);
  Tensor out = call.empty({call.rows(), call.vocabulary()}, logits[source].scalar_type());
  MEMO_DISPATCH(call, mix_logits_target_grad_source, call.in, call.integers(targets),
                call.reals(grad_weights), static_cast<int>(source), output_of(out),
                torch_threads());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(memo, CPU, m) {
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
