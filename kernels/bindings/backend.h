// One binding source, compiled for one of three backends:
//   (nothing)                        CPU kernels, for CPU tensors
//   MEMO_CUDA                        CUDA kernels, for CUDA tensors
//   MEMO_CUDA and MEMO_EMULATION     CUDA kernels under emulation, for CPU tensors, in the
//                                    namespace torch.ops.memo_emulation that only tests define
#pragma once
#include "bindings/torch_glue.h"

#ifdef MEMO_EMULATION
#define MEMO_NAMESPACE memo_emulation
#define MEMO_KEY CPU
#elif defined(MEMO_CUDA)
#define MEMO_NAMESPACE memo
#define MEMO_KEY CUDA
#else
#define MEMO_NAMESPACE memo
#define MEMO_KEY CPU
#endif

#ifndef MEMO_CUDA

#include "cpu/threads.h"

namespace memo {

inline void run_on_torch_threads(int64_t items, int64_t smallest_share, const Range& body) {
  torch::stable::parallel_for(0, items, smallest_share, body);
}

inline Threads torch_threads() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()), &run_on_torch_threads};
}

}  // namespace memo

#elif !defined(MEMO_EMULATION)

// Lives in libtorch_cuda. Weak, so that the library loads under a CPU-only torch too, which is
// how the tests check it on a machine without a GPU.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t,
                                                                                    void**);
namespace memo {

// Makes the tensor's device current as long as it lives, and knows torch's stream there.
struct OnDevice {
  explicit OnDevice(const Tensor& t) : guard(t.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream, "memo: this torch has no CUDA");
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  }
  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
};

}  // namespace memo

#else

namespace memo {
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  void* stream = nullptr;
};
}  // namespace memo

#endif
