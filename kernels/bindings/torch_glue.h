// What every binding needs: tensors to the kernels' plain structs. Only LibTorch's stable ABI is
// used (torch/csrc/stable), so one library serves torch 2.10 and every later version.
#pragma once
#ifndef TORCH_TARGET_VERSION
#error "compile with -DTORCH_TARGET_VERSION=0x020a000000000000 (torch 2.10)"
#endif
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <vector>

#include "memo/mix_logits.h"

namespace memo {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Double: return Dtype::f64;
    default: STD_TORCH_CHECK(false, "memo: dtype must be float32, float16, bfloat16 or float64");
  }
}

inline Matrix matrix_of(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), dtype_of(t.scalar_type())};
}

inline OutputMatrix output_of(const Tensor& t) {
  return {t.mutable_data_ptr(), dtype_of(t.scalar_type())};
}

inline Tensor empty(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_empty(like, shape, type);
}

inline Tensor zeros(const Tensor& like, int64_t bytes) {
  return torch::stable::new_zeros(like, {bytes}, ScalarType::Byte);
}

}  // namespace memo
