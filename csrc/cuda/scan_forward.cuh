#pragma once

#include "scan.cuh"

namespace foreblocks::cuda {

template <class T>
__global__ void __launch_bounds__(kScanThreads) scan_forward_kernel(ScanArgs<T> s) {
  unsigned char* const space = shared_space();
  const Place<T> p(s);
  const int many = s.channels(), padded = s.lanes * kOwn;
  T* u = reinterpret_cast<T*>(space);
  T* delta = u + kStage * many;
  T* y = delta + kStage * many;
  T* b = y + kStage * many;
  T* c = b + kStage * padded;
  const int first = p.group * s.width() + p.tile * many, wanted = min(many, s.width() - p.tile * many);
  T rate[kOwn], h[kOwn] = {};
  load_rates(s, p, rate);
  const T skip = s.skip && p.there ? s.skip[p.channel] : T(0);
  for (int64_t t0 = 0; t0 < s.steps; t0 += kStage) {
    const int have = static_cast<int>(min(static_cast<int64_t>(kStage), s.steps - t0));
    const int64_t row = p.sample * s.steps + t0, side = row * s.groups + p.group;
    if (s.chunks && t0 % kChunk == 0 && p.there)
#pragma unroll
      for (int k = 0; k < kOwn; ++k)
        if (p.state(k) < s.states)
          s.chunks[((p.sample * s.chunk_count() + t0 / kChunk) * s.states + p.state(k)) * s.dim + p.channel] = h[k];
    __syncthreads();
    stage_rows(u, s.u + row * s.u_stride + first, s.u_stride, many, wanted, have);
    stage_delta(s, delta, row, first, many, wanted, have);
    stage_rows(b, s.b + side * s.b_stride, s.b_stride * s.groups, padded, s.states, have);
    stage_rows(c, s.c + side * s.c_stride, s.c_stride * s.groups, padded, s.states, have);
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kStage; ++t) {
      const T x = u[t * many + p.slot], step = delta[t * many + p.slot], scaled = step * T(1.4426950408889634);
      T sum = T(0);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        h[k] = power_of_two(scaled * rate[k]) * h[k] + step * x * b[t * padded + p.state(k)];
        sum += h[k] * c[t * padded + p.state(k)];
      }
      sum = warp_sum(sum, 1, s.lanes);
      if (p.lane == 0) y[t * many + p.slot] = sum + skip * x;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < have * many; i += kScanThreads) {
      const int t = i / many, j = i % many;
      if (j >= wanted) continue;
      T value = y[i];
      if (s.z) {
        const T gate = s.z[(row + t) * s.z_stride + first + j];
        value *= gate * sigmoid(gate);
      }
      s.out[(row + t) * s.dim + first + j] = value;
    }
  }
  if (!p.there) return;
#pragma unroll
  for (int k = 0; k < kOwn; ++k)
    if (p.state(k) < s.states) s.last[(p.sample * s.dim + p.channel) * s.states + p.state(k)] = h[k];
}

inline size_t forward_values(int channels, int padded) { return kStage * (3 * channels + 2 * padded); }

}  // namespace foreblocks::cuda
