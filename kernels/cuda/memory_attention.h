// Launchers of the CUDA kernels of memory_attention. Each returns a cudaError_t; none waits.
#pragma once
#include "memo/memory_attention.h"

namespace memo::cuda {

// `normaliser`, `delta`: float [batch, heads, tokens].
int memory_attention(const AttentionInputs&, const OutputMatrix& mixed, void* normaliser);
int memory_attention_grad_query(const AttentionInputs&, const AttentionGradient&,
                                const OutputMatrix& grad_query, void* delta);
int memory_attention_grad_memory(const AttentionInputs&, const AttentionGradient&,
                                 const void* delta, const OutputMatrix& grad_key,
                                 const OutputMatrix& grad_value);
int memory_attention_decode(const DecodeInputs&, const OutputMatrix& out);

const char* error_text(int error);

}  // namespace memo::cuda
