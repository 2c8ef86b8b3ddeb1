// What the kernels share: vectors, and loops over the cores.

#ifndef NASJAX_KERNELS_COMMON_H_
#define NASJAX_KERNELS_COMMON_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace nasjax {

namespace ffi = xla::ffi;

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using U32 = ffi::Buffer<ffi::U32>;

#if defined(__AVX512F__)
constexpr int V = 16;
#else
constexpr int V = 8;
#endif
typedef float Vec __attribute__((vector_size(4 * V)));
typedef uint32_t Bits __attribute__((vector_size(4 * V)));
// For addresses that are only aligned to a float.
typedef float Unaligned
    __attribute__((vector_size(4 * V), aligned(4), may_alias));

// Runs work(0), ..., work(n - 1) on the caller and on the pool's threads.
// The caller waits for tasks that have begun, never for a free thread, so that
// programs that share a pool cannot wait for each other.
template <typename Work>
void ParallelFor(ffi::ThreadPool& pool, int64_t n, Work work) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    int64_t n;
    Work work;
    State(int64_t n, Work work) : n(n), work(std::move(work)) {}
    void Run() {
      for (int64_t i; (i = next.fetch_add(1)) < n;) {
        work(i);
        done.fetch_add(1);
      }
    }
  };
  auto state = std::make_shared<State>(n, std::move(work));
  int64_t helpers = std::min<int64_t>(pool.num_threads(), n) - 1;
  for (int64_t h = 0; h < helpers; ++h) {
    pool.Schedule([state] { state->Run(); });
  }
  state->Run();
  while (state->done.load() < n) std::this_thread::yield();
}

inline Vec Load(const float* from) {
  return *reinterpret_cast<const Unaligned*>(from);
}

inline void Store(float* to, Vec v) { *reinterpret_cast<Unaligned*>(to) = v; }

// The first `lanes` of a vector; the last groups need not fill one.
inline Vec Load(const float* from, int lanes) {
  if (lanes == V) return Load(from);
  Vec v = {};
  std::memcpy(&v, from, 4 * lanes);
  return v;
}

inline void Store(float* to, Vec v, int lanes) {
  if (lanes == V) return Store(to, v);
  std::memcpy(to, &v, 4 * lanes);
}

// Keeps a value in a register: compilers would rather read it from memory in
// each of the multiply-adds that use it, and loads are what limits those.
inline void Pin(Vec& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#else
  (void)v;
#endif
}

}  // namespace nasjax

#endif  // NASJAX_KERNELS_COMMON_H_
