// What the kernels share: sums whose order never changes. Here and in the other .cuh of kernels stands no torch header, so
// that the tests can run them on a CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace foreblocks::cuda {

constexpr int kWarp = 32;

__host__ __device__ inline int64_t parts(int64_t total, int64_t size) { return (total + size - 1) / size; }

#if defined(__CUDACC__)
// The shared memory whose size the launch gives.
__device__ __forceinline__ unsigned char* shared_space() {
  extern __shared__ __align__(16) unsigned char space[];
  return space;
}
#endif

template <class T>
__device__ __forceinline__ T warp_sum(T value, int from = 1, int below = kWarp) {
  for (int offset = from; offset < below; offset *= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The sum over a block of up to 1,024 threads, in thread 0. `room` holds 32 values.
template <class T>
__device__ T block_sum(T value, T* room) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = warp_sum(value);
  __syncthreads();
  if (lane == 0) room[warp] = value;
  __syncthreads();
  value = threadIdx.x < blockDim.x / kWarp ? room[threadIdx.x] : T(0);
  return warp == 0 ? warp_sum(value) : value;
}

// to[i] = Σ_k from[k, i], k in order.
template <class T>
__global__ void sum_outer(const T* from, int64_t outer, int64_t inner, T* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= inner) return;
  T total = T(0);
  for (int64_t k = 0; k < outer; ++k) total += from[k * inner + i];
  to[i] = total;
}

}  // namespace foreblocks::cuda
