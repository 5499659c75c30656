// Runs CUDA kernels on a CPU, for tests without a GPU. Every CUDA thread is a fiber; barriers and
// shuffles are real meetings of fibers. Blocks run one after the other.
//
// It finds wrong indices and reductions, divergent barriers (reported as a deadlock), missing
// barriers (with other orders of threads), misaligned 16-byte accesses, reads of uninitialised
// shared memory (it starts as NaN), and accesses out of bounds (with -fsanitize=address). It
// cannot see races finer than a barrier, launch limits, speed, or what inline PTX does.
//
// MEMO_EMULATION_ORDER = 0 (default), 1 reversed, 2 shuffled: order of threads and of blocks.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define MEMO_SHARED(T, name) T* name = reinterpret_cast<T*>(memo::emulation::machine().shared.data())

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace memo::emulation {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}

struct Barrier {
  int arrived = 0;
  long generation = 0;
};

struct Warp {
  Barrier barrier;
  uint64_t slots[2][32];  // two sets: a lane may be one shuffle ahead of another
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  dim3 thread;
  int parity = 0;
  bool done = false;
  const Barrier* waits_for = nullptr;
  long generation = 0;
};

struct Machine {
  dim3 block, grid, threads;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<char> shared;
  Barrier barrier;
  ucontext_t scheduler;
  Fiber* current = nullptr;
  std::function<void()> kernel;
};

inline Machine& machine() {
  static thread_local Machine m;
  return m;
}

inline void meet(Barrier& barrier, int expected) {
  Machine& m = machine();
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  m.current->waits_for = &barrier;
  m.current->generation = barrier.generation;
  swapcontext(&m.current->context, &m.scheduler);
}

inline Warp& my_warp() {
  Machine& m = machine();
  return m.warps[m.current->thread.x / 32];
}

template <class T>
T exchange(T value, int from_lane) {
  Fiber& me = *machine().current;
  uint64_t* slots = my_warp().slots[me.parity ^= 1];
  std::memcpy(&slots[me.thread.x % 32], &value, sizeof(T));
  meet(my_warp().barrier, 32);
  T result;
  std::memcpy(&result, &slots[from_lane], sizeof(T));
  return result;
}

inline void fiber_main() {
  Machine& m = machine();
  m.kernel();
  m.current->done = true;
  swapcontext(&m.current->context, &m.scheduler);
}

inline std::vector<int> order_of(size_t count) {
  static const char* named = std::getenv("MEMO_EMULATION_ORDER");
  const int kind = named ? std::atoi(named) : 0;
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (kind == 1) std::reverse(order.begin(), order.end());
  if (kind == 2) std::shuffle(order.begin(), order.end(), std::mt19937(1234));
  return order;
}

inline void start(Fiber& fiber, unsigned thread) {
  constexpr size_t kStack = 128 * 1024;
  if (!fiber.stack) fiber.stack = std::make_unique<char[]>(kStack);
  fiber.thread = dim3(thread);
  fiber.done = false;
  fiber.waits_for = nullptr;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStack;
  makecontext(&fiber.context, fiber_main, 0);
}

// One turn for every fiber that can go on. Returns how many are not done.
inline int turn(const std::vector<int>& order) {
  Machine& m = machine();
  bool moved = false;
  int left = 0;
  for (const int i : order) {
    Fiber& fiber = m.fibers[i];
    if (fiber.done) continue;
    ++left;
    if (fiber.waits_for && fiber.waits_for->generation == fiber.generation) continue;
    fiber.waits_for = nullptr;
    m.current = &fiber;
    swapcontext(&m.scheduler, &fiber.context);
    moved = true;
  }
  if (left && !moved) fail("deadlock: threads wait at a barrier that others never reach");
  return left;
}

inline int run(dim3 blocks, int threads, size_t shared, std::function<void()> kernel) {
  if (threads % 32 || threads > 1024) fail("block size must be a multiple of 32 up to 1024");
  if (shared > 227 * 1024) fail("more than 227 KiB of shared memory");
  Machine& m = machine();
  m.grid = blocks, m.threads = dim3(threads), m.kernel = std::move(kernel);
  m.fibers.resize(threads);
  m.warps.resize(threads / 32);
  const std::vector<int> order = order_of(threads);
  for (const int block : order_of(static_cast<size_t>(blocks.x) * blocks.y)) {
    m.block = dim3(block % blocks.x, block / blocks.x);
    m.shared.assign(shared, static_cast<char>(0xff));
    m.barrier = {};
    for (Warp& warp : m.warps) warp.barrier = {};
    for (int t = 0; t < threads; ++t) start(m.fibers[t], t);
    while (turn(order)) {
    }
  }
  return 0;
}

inline const void* aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16) fail("misaligned 16-byte access");
  return p;
}

}  // namespace memo::emulation

#define threadIdx (memo::emulation::machine().current->thread)
#define blockIdx (memo::emulation::machine().block)
#define blockDim (memo::emulation::machine().threads)
#define gridDim (memo::emulation::machine().grid)

namespace memo::device {

inline float exp2_fast(float x) { return std::exp2(x); }
inline float log2_fast(float x) { return std::log2(x); }

inline uint4 load16(const void* p) { return *static_cast<const uint4*>(emulation::aligned(p)); }
inline uint4 load16_if(bool there, const void* p) { return there ? load16(p) : uint4{}; }
inline void store16(void* p, uint4 v) {
  *static_cast<uint4*>(const_cast<void*>(emulation::aligned(p))) = v;
}

inline uint4 load16_fresh(const void* p) { return load16(p); }
inline float load_fresh(const float* p) { return *p; }

inline float bits_to_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t float_to_bits(float value) { return std::bit_cast<uint32_t>(value); }
inline float half_to_float(uint16_t h) { return static_cast<float>(std::bit_cast<_Float16>(h)); }
inline uint16_t float_to_half(float f) {
  return std::bit_cast<uint16_t>(static_cast<_Float16>(f));
}
inline uint16_t float_to_bfloat(float f) {
  const uint32_t bits = float_to_bits(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <class T>
T shuffle_xor(T value, int mask) {
  return emulation::exchange(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
template <class T>
T shuffle(T value, int lane) {
  return emulation::exchange(value, lane);
}
inline void sync_warp() { emulation::meet(emulation::my_warp().barrier, 32); }
inline void sync_block() {
  emulation::meet(emulation::machine().barrier, static_cast<int>(blockDim.x));
}
inline void fence() {}
inline uint32_t atomic_increment(uint32_t* p) { return (*p)++; }

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 blocks, int threads, size_t shared, void*,
           const Arguments&... arguments) {
  return emulation::run(blocks, threads, shared, [=] { kernel(arguments...); });
}

}  // namespace memo::device
