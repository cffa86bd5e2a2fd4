// Arguments of the kernels that have many: pointers are to contiguous data unless a stride stands beside them, a null
// pointer means "not given" or "not wanted".
#pragma once

#include <cstdint>

namespace foreblocks {

// Half precision, of which a kernel sees no more than the bits: see half.h.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

enum Activation : int64_t { kNone = 0, kRelu = 1, kGelu = 2, kSilu = 3 };

// Rows that the norm works on together, so that the latencies of their sums and roots overlap.
constexpr int64_t kNormRows = 8;

// y = after(norm(residual + before(x) · sigmoid(gate) · scale) · weight + bias) on rows of `dim` features.
template <class T>
struct NormArgs {
  const T* x;
  const T* gate;
  const T* residual;
  const T* scale;  // [samples, dim], shared by the `steps` rows of a sample
  int64_t first_row;  // of the tensor, where these begin
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

  __attribute__((always_inline)) int64_t reach() const { return (width - 1) * dilation; }
};

// Moving average of `width` steps; `left` of them lie before the current one.
template <class T>
struct AverageArgs {
  const T* x;
  int64_t steps, dim, width, left;
  T* out;
};

// One level of a wavelet transform, see wavelet.h: x [samples, steps, dim], low and high [samples, halves, dim].
template <class T>
struct WaveletArgs {
  const T* taps;  // [2, width]: low-pass, high-pass
  int64_t width, steps, halves, dim;
  bool edges;  // the series goes on with its first and last value, else with zeros
  const T *x, *low, *high;
  T *to_x, *to_low, *to_high;
};

// C[m, :] = start + Σ_tap Σ_k A[m, k] · B[k, :].
template <class T>
struct Product {
  const T* a;
  int64_t a_row, a_step;  // elements from one row m to the next, from one k to the next
  const T* b;
  int64_t b_row;
  T* c;
  int64_t c_row;
  int64_t rows, inner, columns;
  int64_t taps, a_tap, b_tap;  // the sum over taps moves A and B by these
  bool add;                    // start with what C holds; else with one of the next two, else with zero
  const T* by_column;
  const T* by_row;
};

// Rows that make a product over the features worth its while; two or four times as many win nothing.
constexpr int64_t kSpectrumRows = 96;

// A complex map on the frequencies of a series, see spectrum.h.
template <class T>
struct SpectrumArgs {
  const T* x;             // [samples, steps, dim]
  const T *forth, *back;  // [2 modes, steps] and [made, 2 modes]
  const T *real, *imag;   // [modes, dim]: the filter
  const T *map, *bias;    // [2 dim, 2 dim], turned for the forward pass, and [2 dim]
  int64_t steps, dim, modes, made;
  // [samples, modes, 2 dim]: before the filter, before GELU. Written forward, null if nobody needs them; read backward.
  T *spectrum, *hidden;
  T* out;  // [samples, made, dim]
  // Backward only.
  const T* grad;
  T* grad_x;

  __attribute__((always_inline)) int64_t spectrum_size() const { return 2 * modes * dim; }
  // Samples that go through each stage together.
  __attribute__((always_inline)) int64_t together() const { return modes > 0 && modes < kSpectrumRows ? kSpectrumRows / modes : 1; }
  // Gradients of the filter, [2, modes, dim], the bias, [2 dim], and the map, [2 dim, 2 dim].
  __attribute__((always_inline)) int64_t sums_size() const { return 2 * dim * (modes + 1 + 2 * dim); }
};

// Softmax attention, see attention.h. Steps between two rows, elements between two samples; heads lie side by side in a row.
template <class T>
struct AttentionArgs {
  const T *q, *k, *v;  // [samples, queries or keys, heads, width]
  int64_t q_sample, q_step, k_sample, k_step, v_sample, v_step;
  int64_t heads, width, queries, keys;
  double scale;  // of the queries
  const T *first, *last;  // [queries], and a vector more: query t sees keys first[t] to last[t] - 1; null for all
  const T* turns;         // of attention_turns, for queries and keys; null for none
  T* stats;               // [samples, heads, 2, queries]; written forward, read backward
  T* out;                 // [samples, queries, heads, width], as the gradients
  // Backward only; those of keys and values come together.
  const T* grad;
  T *grad_q, *grad_k, *grad_v;
};

// Steps between two states that the forward scan keeps. Long chunks keep little; backward walks one at a time in the
// second cache, and a power of two would map its arrays to the same lines.
constexpr int64_t kScanChunk = 96;

// The selective scan, see scan.h. Strides are from one row (of `dim` or `states` values) to the next.
template <class T>
struct ScanArgs {
  const T *u, *delta, *z;  // [batch, steps, dim]
  const T* a;              // [states, dim]
  const T *b, *c;          // [batch, steps, groups, states]
  const T *skip, *delta_bias;
  int64_t u_stride, delta_stride, z_stride, b_stride, c_stride;
  int64_t steps, dim, states, groups;
  bool softplus;
  T* out;
  T* last;    // [batch, states, dim]
  T* chunks;  // [batch, chunks - 1, states, dim]: where all but the first begin; null when no gradient is needed
  // Backward only.
  const T* grad;
  T *grad_u, *grad_delta, *grad_z, *grad_b, *grad_c;

  __attribute__((always_inline)) int64_t chunk_count() const { return (steps + kScanChunk - 1) / kScanChunk; }
  // Of the first chunk nothing is kept: its state is zero.
  __attribute__((always_inline)) int64_t kept_count() const { return (steps - 1) / kScanChunk; }
  __attribute__((always_inline)) int64_t longest_chunk() const { return steps < kScanChunk ? steps : kScanChunk; }
  __attribute__((always_inline)) int64_t chunk_steps(int64_t chunk) const {
    const int64_t left = steps - chunk * kScanChunk;
    return left < kScanChunk ? left : kScanChunk;
  }
};

}  // namespace foreblocks
