// Arguments of the kernels that have many: pointers are to contiguous data unless a stride stands beside them, a null
// pointer means "not given" or "not wanted".
#pragma once

#include <cstdint>

namespace foreblocks {

enum Activation : int64_t { kNone = 0, kRelu = 1, kGelu = 2, kSilu = 3 };

// y = after(norm(residual + before(x) · sigmoid(gate) · scale) · weight + bias) on rows of `dim` features.
template <class T>
struct NormArgs {
  const T* x;
  const T* gate;
  const T* residual;
  const T* scale;  // [samples, dim], shared by the `steps` rows of a sample
  const T* weight;
  const T* bias;
  int64_t x_stride, gate_stride, residual_stride;  // elements from one row to the next
  int64_t dim, steps;
  bool centre;  // LayerNorm instead of RMSNorm
  double eps;
  int64_t before, after;
  T* stats;  // [rows, 2]: mean and 1 / deviation; written forward, read backward
  T* out;
  // Backward only.
  const T* grad;
  T *grad_x, *grad_gate, *grad_residual;
};

// Depthwise convolution over time: y[t] = activation(bias + Σ_j taps[j] · x[t - left + j · dilation]), zeros outside.
template <class T>
struct DepthwiseArgs {
  const T* x;     // [samples, steps, dim]
  const T* taps;  // [width, dim]
  const T* bias;
  int64_t steps, dim, width, dilation, left;
  int64_t activation;
  T* out;
  // Backward only.
  const T* grad;
  T* grad_x;
};

// Moving average of `width` steps; `left` of them lie before the current one.
template <class T>
struct AverageArgs {
  const T* x;
  int64_t steps, dim, width, left;
  T* out;
};

}  // namespace foreblocks
