// The few primitives that the CUDA kernels are written in. The same .cu files build with nvcc for
// a GPU and, with -DMEMO_EMULATION, as C++ for the tests on a CPU (emulation/cuda_emulation.h).
#pragma once
#include <cstdint>

#ifdef MEMO_EMULATION
#include "emulation/cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// Dynamic shared memory of a block, as an array of T.
#define MEMO_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char memo_shared_[]; \
  T* name = reinterpret_cast<T*>(memo_shared_)

namespace memo::device {

using Stream = cudaStream_t;

// MUFU instructions; relative error 2^-22. Subnormal inputs and results count as 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 16 bytes at once, at an address that is a multiple of 16.
__device__ __forceinline__ uint4 load16(const void* p) {
  return __ldg(static_cast<const uint4*>(p));
}
// The same, or zeros without a read. A predicate where C++ would branch: a branch for each load
// would wait for it before the next.
__device__ __forceinline__ uint4 load16_if(bool there, const void* p) {
  uint4 v;
  asm("{\n\t.reg .pred there;\n\t"
      "setp.ne.s32 there, %4, 0;\n\t"
      "mov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\tmov.b32 %2, 0;\n\tmov.b32 %3, 0;\n\t"
      "@there ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%5];\n\t}"
      : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
      : "r"(static_cast<int>(there)), "l"(p));
  return v;
}
__device__ __forceinline__ void store16(void* p, uint4 v) { __stcs(static_cast<uint4*>(p), v); }

__device__ __forceinline__ float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t float_to_bits(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float half_to_float(uint16_t h) {
  return __half2float(__ushort_as_half(h));
}
__device__ __forceinline__ uint16_t float_to_half(float f) {
  return __half_as_ushort(__float2half_rn(f));
}
__device__ __forceinline__ uint16_t float_to_bfloat(float f) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ void sync_block() { __syncthreads(); }

// Reads that see what other blocks of the same kernel wrote before a fence: past the L1 cache.
__device__ __forceinline__ uint4 load16_fresh(const void* p) {
  return __ldcg(static_cast<const uint4*>(p));
}
__device__ __forceinline__ float load_fresh(const float* p) { return __ldcg(p); }

// Makes this thread's writes to global memory visible to the whole device.
__device__ __forceinline__ void fence() { __threadfence(); }
__device__ __forceinline__ uint32_t atomic_increment(uint32_t* p) { return atomicAdd(p, 1u); }

// Returns a cudaError_t. More than 48 KiB of shared memory has to be asked for.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 blocks, int threads, size_t shared, void* stream,
           const Arguments&... arguments) {
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
        static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  kernel<<<blocks, threads, shared, static_cast<Stream>(stream)>>>(arguments...);
  return cudaGetLastError();
}

}  // namespace memo::device
#endif

namespace memo::device {

constexpr int kWarp = 32;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

// Reductions over a warp, in a fixed order: every lane gets the same bits on every run.
__device__ __forceinline__ float warp_sum(float value) {
  for (int mask = kWarp / 2; mask; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {  // NaN is ignored
  for (int mask = kWarp / 2; mask; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

// A value and where it stands. Larger values come first, then smaller indices; -1 is no choice.
struct Choice {
  float value;
  int index;
  __device__ __forceinline__ bool comes_before(const Choice& other) const {
    if (index < 0 || other.index < 0) return index >= 0;
    return value > other.value || (value == other.value && index < other.index);
  }
};
__device__ __forceinline__ Choice warp_first(Choice choice) {
  for (int mask = kWarp / 2; mask; mask /= 2) {
    const Choice other{shuffle_xor(choice.value, mask), shuffle_xor(choice.index, mask)};
    if (other.comes_before(choice)) choice = other;
  }
  return choice;
}

}  // namespace memo::device
