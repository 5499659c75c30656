// The CPU kernels of mix_logits, instantiated for float and double.
#pragma once
#include "cpu/threads.h"
#include "memo/mix_logits.h"

namespace memo::cpu {

template <class Real>
void mix_logits(const MixInputs&, const OutputMatrix& log_probs, const Threads&);
template <class Real>
void mix_logits_target(const MixInputs&, const TargetOutputs&, const Threads&);
template <class Real>
void mix_logits_topk(const MixInputs&, const TopKOutputs&, const Threads&);
template <class Real>
void mix_logits_sample(const MixInputs&, const SampleOutputs&, const Threads&);
template <class Real>
void mix_logits_features(const MixInputs&, const FeatureOutputs&, const Threads&);

// Gradient of the log-probs with respect to the log weights: real [rows, num_sources].
template <class Real>
void mix_logits_grad_weights(const MixInputs&, const Matrix& grad, void* out, const Threads&);
// ... with respect to the logits of one source, given the gradient of the log weights.
template <class Real>
void mix_logits_grad_source(const MixInputs&, const Matrix& grad, const void* grad_weights,
                            int source, const OutputMatrix& out, const Threads&);
// The same for mix_logits_target, whose gradient arrives at one token of each row.
template <class Real>
void mix_logits_target_grad_source(const MixInputs&, const int64_t* targets,
                                   const void* grad_weights, int source, const OutputMatrix& out,
                                   const Threads&);

}  // namespace memo::cpu
