// The CPU kernels of memory_attention, instantiated for float and double.
#pragma once
#include "cpu/threads.h"
#include "memo/memory_attention.h"

namespace memo::cpu {

// `normaliser`, `delta`: real [batch, heads, tokens].
template <class Real>
void memory_attention(const AttentionInputs&, const OutputMatrix& mixed, void* normaliser,
                      const Threads&);
template <class Real>
void memory_attention_grad_query(const AttentionInputs&, const AttentionGradient&,
                                 const OutputMatrix& grad_query, void* delta, const Threads&);
template <class Real>
void memory_attention_grad_memory(const AttentionInputs&, const AttentionGradient&,
                                  const void* delta, const OutputMatrix& grad_key,
                                  const OutputMatrix& grad_value, const Threads&);
template <class Real>
void memory_attention_decode(const DecodeInputs&, const OutputMatrix& out, const Threads&);

}  // namespace memo::cpu
