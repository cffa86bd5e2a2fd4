// The selective scan on a GPU, time in the second dimension: what forward and backward share.
//
// A block of threads takes some channels of one group of one sample. A channel's states are spread over `lanes` threads of a
// warp, kOwn each, in registers. Steps come kStage at a time through shared memory, with the next ones loaded by all
// threads together; missing steps have a step size of zero, which leaves the state as it is.
#pragma once

#include "device.cuh"

namespace foreblocks::cuda {

constexpr int kScanThreads = 128, kOwn = 4, kStage = 8;
constexpr int kChunk = 32;        // steps between two kept states, as in kernels/scan.py
constexpr int kMostStates = 64;   // of a channel
constexpr int kStagesOfChunk = kChunk / kStage;

template <class T>
struct ScanArgs {
  const T *u, *delta, *a, *b, *c, *skip, *z, *bias;
  int64_t u_stride, delta_stride, z_stride, b_stride, c_stride;  // elements from one row to the next
  int64_t batch, steps;
  int dim, states, groups, lanes;
  bool softplus;
  T* chunks;  // [batch, chunks, states, dim]: written forward (or null), read backward
  // Forward.
  T *out, *last;
  // Backward. Sums over samples or blocks of channels are finished afterwards.
  const T* grad;
  T *by_u, *by_delta, *by_z;     // like u
  T *by_a, *by_skip, *by_bias;   // [batch, ...]
  T *by_b, *by_c;                // [tiles, batch, steps, groups, states]

  __host__ __device__ int channels() const { return kScanThreads / lanes; }  // of one block
  __host__ __device__ int width() const { return dim / groups; }
  __host__ __device__ int tiles() const { return (width() + channels() - 1) / channels(); }
  __host__ __device__ int64_t chunk_count() const { return (steps + kChunk - 1) / kChunk; }
  __host__ dim3 grid() const { return dim3(static_cast<unsigned>(batch), static_cast<unsigned>(groups * tiles())); }
};

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float log_one_plus(float x) { return log1pf(x); }
__device__ __forceinline__ double log_one_plus(double x) { return log1p(x); }
__device__ __forceinline__ float minus_expm1(float x) { return -expm1f(x); }
__device__ __forceinline__ double minus_expm1(double x) { return -expm1(x); }

template <class T>
__device__ __forceinline__ T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

template <class T>
__device__ __forceinline__ T softplus_of(T x) {
  // Not fmax, which would lose a NaN.
  return (x < T(0) ? T(0) : x) + log_one_plus(exponential(x < T(0) ? x : -x));
}

// Where this thread works.
template <class T>
struct Place {
  int64_t sample;
  int group, tile, slot, lane, channel;
  bool there;

  __device__ explicit Place(const ScanArgs<T>& s)
      : sample(blockIdx.x),
        group(blockIdx.y / s.tiles()),
        tile(blockIdx.y % s.tiles()),
        slot(threadIdx.x / s.lanes),
        lane(threadIdx.x % s.lanes),
        channel(tile * s.channels() + slot),
        there(channel < s.width()) {
    channel += group * s.width();
  }

  __device__ int state(int k) const { return lane * kOwn + k; }
};

// Copies kStage rows of `count` elements, zeros where a step or an element is missing.
template <class T>
__device__ void stage_rows(T* to, const T* from, int64_t stride, int count, int wanted, int have) {
  for (int i = threadIdx.x; i < kStage * count; i += kScanThreads) {
    const int t = i / count, j = i % count;
    to[i] = t < have && j < wanted ? from[t * stride + j] : T(0);
  }
}

// Copies step sizes, after bias and softplus.
template <class T>
__device__ void stage_delta(const ScanArgs<T>& s, T* to, int64_t row, int first, int count, int wanted, int have) {
  for (int i = threadIdx.x; i < kStage * count; i += kScanThreads) {
    const int t = i / count, j = i % count;
    T value = T(0);
    if (t < have && j < wanted) {
      value = s.delta[(row + t) * s.delta_stride + first + j];
      if (s.bias) value += s.bias[first + j];
      if (s.softplus) value = softplus_of(value);
    }
    to[i] = value;
  }
}

template <class T>
__device__ __forceinline__ void load_rates(const ScanArgs<T>& s, const Place<T>& p, T* rate) {
#pragma unroll
  for (int k = 0; k < kOwn; ++k)
    rate[k] = p.there && p.state(k) < s.states ? s.a[static_cast<int64_t>(p.channel) * s.states + p.state(k)] : T(0);
}

}  // namespace foreblocks::cuda
