// The gradients of the scan. For every chunk, last first: walk forward from the kept state to know the state at the start
// of every stage, then take the stages in reverse, each computed once more with all its states in registers.
#pragma once

#include "scan.cuh"

namespace foreblocks::cuda {

constexpr int kWarps = kScanThreads / kWarp;

template <class T>
struct BackwardSpace {
  T *u, *delta, *z, *grad, *b, *c, *by_b, *by_c;
  T* start;  // [stages, kOwn, threads]: the state at the start of every stage; each thread reads what it wrote

  __device__ BackwardSpace(unsigned char* space, int many, int padded) {
    u = reinterpret_cast<T*>(space);
    delta = u + kStage * many;
    z = delta + kStage * many;
    grad = z + kStage * many;
    b = grad + kStage * many;
    c = b + kStage * padded;
    by_b = c + kStage * padded;  // [warps, stage, padded]
    by_c = by_b + kWarps * kStage * padded;
    start = by_c + kWarps * kStage * padded + threadIdx.x;
  }
};

inline size_t backward_values(int channels, int padded) {
  return kStage * (4 * channels + (2 + 2 * kWarps) * padded) + kStagesOfChunk * kOwn * kScanThreads;
}

template <class T>
__global__ void __launch_bounds__(kScanThreads) scan_backward_kernel(ScanArgs<T> s) {
  unsigned char* const space = shared_space();
  const Place<T> p(s);
  const int many = s.channels(), padded = s.lanes * kOwn, warp = threadIdx.x / kWarp;
  const BackwardSpace<T> m(space, many, padded);
  const int first = p.group * s.width() + p.tile * many, wanted = min(many, s.width() - p.tile * many);
  const bool speaks = threadIdx.x % kWarp < s.lanes;  // the first channel of a warp hands in its sums
  T rate[kOwn], carry[kOwn] = {}, sum_a[kOwn] = {}, sum_skip = T(0), sum_bias = T(0);
  load_rates(s, p, rate);
  const T skip = s.skip && p.there ? s.skip[p.channel] : T(0);
  for (int64_t chunk = s.chunk_count() - 1; chunk >= 0; --chunk) {
    T h[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; ++k)
      h[k] = p.there && p.state(k) < s.states
          ? s.chunks[((p.sample * s.chunk_count() + chunk) * s.states + p.state(k)) * s.dim + p.channel] : T(0);
    for (int stage = 0; stage < kStagesOfChunk; ++stage) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) m.start[(stage * kOwn + k) * kScanThreads] = h[k];
      if (stage + 1 == kStagesOfChunk) break;
      const int64_t t0 = chunk * kChunk + stage * kStage;
      const int have = static_cast<int>(max(int64_t(0), min(static_cast<int64_t>(kStage), s.steps - t0)));
      const int64_t row = p.sample * s.steps + t0, side = row * s.groups + p.group;
      __syncthreads();
      stage_rows(m.u, s.u + row * s.u_stride + first, s.u_stride, many, wanted, have);
      stage_delta(s, m.delta, row, first, many, wanted, have);
      stage_rows(m.b, s.b + side * s.b_stride, s.b_stride * s.groups, padded, s.states, have);
      __syncthreads();
#pragma unroll
      for (int t = 0; t < kStage; ++t) {
        const T x = m.u[t * many + p.slot], step = m.delta[t * many + p.slot], scaled = step * T(1.4426950408889634);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) h[k] = power_of_two(scaled * rate[k]) * h[k] + step * x * m.b[t * padded + p.state(k)];
      }
    }
    for (int stage = kStagesOfChunk - 1; stage >= 0; --stage) {
      const int64_t t0 = chunk * kChunk + stage * kStage;
      const int have = static_cast<int>(max(int64_t(0), min(static_cast<int64_t>(kStage), s.steps - t0)));
      if (have == 0) continue;  // the same for all threads
      const int64_t row = p.sample * s.steps + t0, side = row * s.groups + p.group;
      __syncthreads();
      stage_rows(m.u, s.u + row * s.u_stride + first, s.u_stride, many, wanted, have);
      stage_delta(s, m.delta, row, first, many, wanted, have);
      stage_rows(m.grad, s.grad + row * s.dim + first, s.dim, many, wanted, have);
      if (s.z) stage_rows(m.z, s.z + row * s.z_stride + first, s.z_stride, many, wanted, have);
      stage_rows(m.b, s.b + side * s.b_stride, s.b_stride * s.groups, padded, s.states, have);
      stage_rows(m.c, s.c + side * s.c_stride, s.c_stride * s.groups, padded, s.states, have);
      __syncthreads();
      T before[kStage + 1][kOwn];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) before[0][k] = m.start[(stage * kOwn + k) * kScanThreads];
#pragma unroll
      for (int t = 0; t < kStage; ++t) {
        const T x = m.u[t * many + p.slot], step = m.delta[t * many + p.slot], scaled = step * T(1.4426950408889634);
#pragma unroll
        for (int k = 0; k < kOwn; ++k)
          before[t + 1][k] = power_of_two(scaled * rate[k]) * before[t][k] + step * x * m.b[t * padded + p.state(k)];
      }
#pragma unroll
      for (int t = kStage - 1; t >= 0; --t) {
        const int at = t * many + p.slot;
        const T x = m.u[at], step = m.delta[at], scaled = step * T(1.4426950408889634);
        T g = m.grad[at];
        const int64_t to = (row + t) * s.dim + p.channel;
        const bool writes = p.lane == 0 && p.there && t < have;
        if (s.z) {
          T y = T(0);
#pragma unroll
          for (int k = 0; k < kOwn; ++k) y += before[t + 1][k] * m.c[t * padded + p.state(k)];
          y = warp_sum(y, 1, s.lanes) + skip * x;
          const T gate = m.z[at], opened = sigmoid(gate);
          if (writes) s.by_z[to] = g * y * opened * (T(1) + gate * (T(1) - opened));
          g *= gate * opened;
        }
        T by_drive = T(0), by_step = T(0);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          const int state = t * padded + p.state(k);
          carry[k] += g * m.c[state];
          const T by_b = warp_sum(carry[k] * step * x, s.lanes, kWarp);
          const T by_c = warp_sum(g * before[t + 1][k], s.lanes, kWarp);
          if (speaks) {
            m.by_b[warp * kStage * padded + state] = by_b;
            m.by_c[warp * kStage * padded + state] = by_c;
          }
          by_drive += carry[k] * m.b[state];
          carry[k] *= power_of_two(scaled * rate[k]);
          const T by_exponent = carry[k] * before[t][k];
          by_step += by_exponent * rate[k];
          sum_a[k] += by_exponent * step;
        }
        by_drive = warp_sum(by_drive, 1, s.lanes);
        by_step = warp_sum(by_step, 1, s.lanes) + by_drive * x;
        if (s.softplus) by_step *= minus_expm1(-step);  // sigmoid of the raw value, from its softplus
        sum_skip += g * x;
        if (t < have) sum_bias += by_step;
        if (!writes) continue;
        s.by_delta[to] = by_step;
        s.by_u[to] = by_drive * step + g * skip;
      }
      __syncthreads();
      for (int i = threadIdx.x; i < have * padded; i += kScanThreads) {
        const int t = i / padded, state = i % padded;
        if (state >= s.states) continue;
        T b = T(0), c = T(0);
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          b += m.by_b[w * kStage * padded + i];
          c += m.by_c[w * kStage * padded + i];
        }
        const int64_t place = (p.tile * s.batch * s.steps + row + t) * s.groups + p.group;
        s.by_b[place * s.states + state] = b;
        s.by_c[place * s.states + state] = c;
      }
    }
  }
  if (!p.there) return;
#pragma unroll
  for (int k = 0; k < kOwn; ++k)
    if (p.state(k) < s.states) s.by_a[(p.sample * s.dim + p.channel) * s.states + p.state(k)] = sum_a[k];
  if (p.lane != 0) return;
  s.by_skip[p.sample * s.dim + p.channel] = sum_skip;
  s.by_bias[p.sample * s.dim + p.channel] = sum_bias;
}

}  // namespace foreblocks::cuda
