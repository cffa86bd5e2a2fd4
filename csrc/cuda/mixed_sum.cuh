// Kernels of mixed_sum: one pass over all inputs, whose addresses travel as an argument.
#pragma once

#include "device.cuh"

namespace foreblocks::cuda {

constexpr int kMost = 128;  // inputs of one call
constexpr int kThreads = 256, kEach = 4;
constexpr int64_t kTile = kThreads * kEach;

template <class T>
struct Addresses {
  T* at[kMost];
};

template <class T>
__device__ T weight_scale(const T* weights, int count, bool normalize) {
  double total = 0.0;
  if (normalize)
    for (int k = 0; k < count; ++k) total += static_cast<double>(weights[k]);
  return normalize ? static_cast<T>(1.0 / total) : T(1);
}

// squares: null, or [count, blocks].
template <class T>
__global__ void mix(Addresses<const T> xs, const T* weights, int count, bool normalize, int64_t total, T* to, T* squares) {
  __shared__ T room[kWarp];
  const T scale = weight_scale(weights, count, normalize);
  const int64_t first = blockIdx.x * kTile + threadIdx.x;
  T sum[kEach] = {};
  for (int k = 0; k < count; ++k) {
    const T* x = xs.at[k];
    const T w = weights[k] * scale;
    T square = T(0);
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t i = first + j * kThreads;
      const T value = i < total ? x[i] : T(0);
      sum[j] += w * value;
      square += value * value;
    }
    if (squares == nullptr) continue;
    square = block_sum(square, room);
    if (threadIdx.x == 0) squares[static_cast<int64_t>(k) * gridDim.x + blockIdx.x] = square;
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (first + j * kThreads < total) to[first + j * kThreads] = sum[j];
}

// grads: null where not wanted; dots: null, or [count, blocks].
template <class T>
__global__ void mix_backward(
    const T* grad, Addresses<const T> xs, Addresses<T> grads, const T* weights, int count, bool normalize, int64_t total,
    T* dots) {
  __shared__ T room[kWarp];
  const T scale = weight_scale(weights, count, normalize);
  const int64_t first = blockIdx.x * kTile + threadIdx.x;
  T g[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) g[j] = first + j * kThreads < total ? grad[first + j * kThreads] : T(0);
  for (int k = 0; k < count; ++k) {
    if (grads.at[k] != nullptr) {
      const T w = weights[k] * scale;
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (first + j * kThreads < total) grads.at[k][first + j * kThreads] = w * g[j];
    }
    if (dots == nullptr) continue;
    T dot = T(0);
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (first + j * kThreads < total) dot += g[j] * xs.at[k][first + j * kThreads];
    dot = block_sum(dot, room);
    if (threadIdx.x == 0) dots[static_cast<int64_t>(k) * gridDim.x + blockIdx.x] = dot;
  }
}

// to[k] = Σ_block from[k, block] / divisor; one block of threads for each k.
template <class T>
__global__ void join(const T* from, int64_t blocks, double divisor, double* to) {
  __shared__ double room[kWarp];
  double total = 0.0;
  for (int64_t i = threadIdx.x; i < blocks; i += blockDim.x) total += from[blockIdx.x * blocks + i];
  total = block_sum(total, room);
  if (threadIdx.x == 0) to[blockIdx.x] = total / divisor;
}

template <class T>
__global__ void round_to(const double* from, int count, T* to) {
  for (int k = threadIdx.x; k < count; k += blockDim.x) to[k] = static_cast<T>(from[k]);
}

// Of w / Σ w: what every weight loses because the sum grows.
template <class T>
__global__ void weight_grads(const double* dots, const T* weights, int count, bool normalize, T* to) {
  double total = 0.0, shared = 0.0;
  for (int k = 0; k < count; ++k) {
    total += static_cast<double>(weights[k]);
    shared += static_cast<double>(weights[k]) * dots[k];
  }
  for (int k = threadIdx.x; k < count; k += blockDim.x)
    to[k] = static_cast<T>(normalize ? (dots[k] - shared / total) / total : dots[k]);
}

}  // namespace foreblocks::cuda
