// Enough of CUDA to run the kernels of csrc/cuda on a CPU: the threads of a block are fibers, taken in turn, which give
// way where they wait for each other. Slow; for tests only.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
// Fibers of one block share the process; blocks run one after the other.
#define __shared__ static

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct Emulated {
  static constexpr int kWarp = 32, kMost = 1024;
  ucontext_t scheduler;
  std::vector<ucontext_t> fibers;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<bool> done;
  std::function<void()> body;
  int current = 0, threads = 0, arrived = 0;
  int64_t phase = 0;
  int64_t warp_phase[kMost / kWarp];
  int warp_arrived[kMost / kWarp];
  double slots[2][kMost];
  std::vector<unsigned char> dynamic;
};

inline Emulated emulated;
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline unsigned char* shared_space() { return emulated.dynamic.data(); }

inline void give_way() { swapcontext(&emulated.fibers[emulated.current], &emulated.scheduler); }

inline void __syncthreads() {
  const int64_t phase = emulated.phase;
  if (++emulated.arrived == emulated.threads) {
    emulated.arrived = 0;
    ++emulated.phase;
  }
  while (emulated.phase == phase) give_way();
}

// Two sets of slots in turn: a lane may be one exchange ahead of another, never two.
template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  const int thread = emulated.current, warp = thread / Emulated::kWarp;
  const int64_t phase = emulated.warp_phase[warp];
  double* slots = emulated.slots[phase % 2];
  slots[thread] = static_cast<double>(value);
  if (++emulated.warp_arrived[warp] == Emulated::kWarp) {
    emulated.warp_arrived[warp] = 0;
    ++emulated.warp_phase[warp];
  }
  while (emulated.warp_phase[warp] == phase) give_way();
  return static_cast<T>(slots[thread ^ offset]);
}

inline void run_fiber() {
  emulated.body();
  emulated.done[emulated.current] = true;
  give_way();
}

template <class Body>
void launch(dim3 grid, int threads, size_t bytes, const Body& body) {
  Emulated& e = emulated;
  e.threads = threads;
  e.body = body;
  e.fibers.resize(threads);
  while (static_cast<int>(e.stacks.size()) < threads) e.stacks.emplace_back(new char[1 << 16]);
  gridDim = grid;
  blockDim = dim3(threads);
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y);
      e.dynamic.assign(bytes, 0xff);  // NaN: nothing may be read before it is written
      e.done.assign(threads, false);
      e.arrived = 0;
      std::memset(e.warp_phase, 0, sizeof e.warp_phase);
      std::memset(e.warp_arrived, 0, sizeof e.warp_arrived);
      for (int t = 0; t < threads; ++t) {
        getcontext(&e.fibers[t]);
        e.fibers[t].uc_stack.ss_sp = e.stacks[t].get();
        e.fibers[t].uc_stack.ss_size = 1 << 16;
        e.fibers[t].uc_link = nullptr;
        makecontext(&e.fibers[t], run_fiber, 0);
      }
      for (int left = threads; left > 0;) {
        left = 0;
        for (int t = 0; t < threads; ++t) {
          if (e.done[t]) continue;
          e.current = t;
          threadIdx = dim3(t);
          swapcontext(&e.scheduler, &e.fibers[t]);
          if (!e.done[t]) ++left;
        }
      }
    }
}
