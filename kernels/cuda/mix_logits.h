// Launchers of the CUDA kernels of mix_logits. Each returns a cudaError_t; none waits for the GPU.
#pragma once
#include "memo/mix_logits.h"

namespace memo::cuda {

// Scratch memory of the forward ops, for MixInputs::workspace: 16 bytes for each 1024 logits.
int64_t workspace_bytes(const MixInputs&);

int mix_logits(const MixInputs&, const OutputMatrix& log_probs);
int mix_logits_target(const MixInputs&, const TargetOutputs&);
int mix_logits_topk(const MixInputs&, const TopKOutputs&);
int mix_logits_sample(const MixInputs&, const SampleOutputs&);
int mix_logits_features(const MixInputs&, const FeatureOutputs&);

int mix_logits_grad_weights(const MixInputs&, const Matrix& grad, void* out);
int mix_logits_grad_source(const MixInputs&, const Matrix& grad, const void* grad_weights,
                           int source, const OutputMatrix& out);
int mix_logits_target_grad_source(const MixInputs&, const int64_t* targets,
                                  const void* grad_weights, int source, const OutputMatrix& out);

const char* error_text(int error);

}  // namespace memo::cuda
