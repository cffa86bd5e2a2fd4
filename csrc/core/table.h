// What one instruction set offers: plain function pointers, filled in by isa_body.h. No torch header is needed here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "args.h"

// The levels are chosen by a target pragma, which this compiler must know.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOREBLOCKS_X86_LEVELS 1
#endif

namespace foreblocks {

// One entry per kernel. A kernel works on one block of its range and touches nothing outside of it, so the caller may
// hand blocks to any number of threads and still get the same bits.
template <class T>
struct Kernels {
  // out[i] = Σ_k w[k] · xs[k][i] for i in [begin, end).
  void (*mixed_sum)(const T* const* xs, const T* w, int64_t count, T* out, int64_t begin, int64_t end);
  // sums[k] = Σ_i xs[k][i]².
  void (*square_sums)(const T* const* xs, int64_t count, double* sums, int64_t begin, int64_t end);
  // dots[k] = Σ_i g[i] · xs[k][i].
  void (*mixed_dots)(const T* g, const T* const* xs, int64_t count, double* dots, int64_t begin, int64_t end);
  // outs[k][i] = w[k] · g[i].
  void (*scaled_copies)(const T* g, const T* w, T* const* outs, int64_t count, int64_t begin, int64_t end);
  // sums: Σ|w·g|, Σ w·g, Σ g², Σ|g|.
  void (*saliency)(const T* w, const T* g, double* sums, int64_t begin, int64_t end);
  // Rows [begin, end). Backward adds to sums [2, dim], the gradients of weight and bias; scratch holds
  // 5 · kNormRows rows.
  void (*norm_forward)(const NormArgs<T>& a, int64_t begin, int64_t end);
  void (*norm_backward)(const NormArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end);
  // Samples [begin, end). Backward adds to sums [width + 1, dim], the gradients of taps and bias; scratch holds
  // a vector for each step and for (width - 1) · dilation more.
  void (*depthwise_forward)(const DepthwiseArgs<T>& a, int64_t begin, int64_t end);
  void (*depthwise_backward)(const DepthwiseArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end);
  // Samples [begin, end); scratch holds 2 · `width` vectors.
  void (*average_forward)(const AverageArgs<T>& a, T* scratch, int64_t begin, int64_t end);
  void (*average_backward)(const AverageArgs<T>& a, T* scratch, int64_t begin, int64_t end);
  // Samples [begin, end).
  void (*wavelet_split)(const WaveletArgs<T>& a, int64_t begin, int64_t end);
  void (*wavelet_merge)(const WaveletArgs<T>& a, int64_t begin, int64_t end);
  // Samples × heads [begin, end); scratch holds attention_vectors() vectors. The turns of `steps` steps are twice `half`
  // vectors for each vector of steps.
  int64_t (*attention_vectors)(const AttentionArgs<T>& a);
  void (*attention_turns)(int64_t steps, int64_t half, T* to);
  void (*attention_forward)(const AttentionArgs<T>& a, T* scratch, int64_t begin, int64_t end);
  void (*attention_backward)(const AttentionArgs<T>& a, T* scratch, int64_t begin, int64_t end);
  void (*product)(const Product<T>& p);
  void (*transpose)(const T* from, int64_t rows, int64_t columns, T* to);
  // to[i] = activation(from[i]), and to[i] = grad[i] · slope(kept[i]); ReLU may have kept its result.
  void (*activation_forward)(int64_t kind, const T* from, T* to, int64_t count);
  void (*activation_backward)(int64_t kind, const T* grad, const T* kept, T* to, int64_t count);
  // Rows [gate, value] of x, each `width` wide; `to` has the layout of x.
  void (*gated_forward)(int64_t kind, const T* x, T* out, int64_t width, int64_t rows);
  void (*gated_backward)(int64_t kind, const T* grad, const T* x, T* to, int64_t width, int64_t rows);
  // Samples [begin, end); scratch holds 3 · together() spectra. Backward adds to sums, which may be null.
  void (*spectrum_forward)(const SpectrumArgs<T>& a, T* scratch, int64_t begin, int64_t end);
  void (*spectrum_backward)(const SpectrumArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end);
  // Samples [begin, end). Forward: scratch holds `states` vectors. Backward: scan_vectors() of them, and it adds to
  // sums [states + 2, dim], the gradients of a, skip and delta_bias.
  void (*scan_forward)(const ScanArgs<T>& a, T* scratch, int64_t begin, int64_t end);
  void (*scan_backward)(const ScanArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end);
};

// Between what is stored in half precision and float.
template <class S>
struct Conversion {
  void (*widen)(const S* from, float* to, int64_t count);
  void (*narrow)(const float* from, S* to, int64_t count);
};

struct Table {
  const char* isa;
  Kernels<float> f32;
  Kernels<double> f64;
  Conversion<BFloat16> bf16;
  Conversion<Float16> f16;

  template <class T>
  const Kernels<T>& of() const;
};

template <>
inline const Kernels<float>& Table::of<float>() const {
  return f32;
}
template <>
inline const Kernels<double>& Table::of<double>() const {
  return f64;
}

const Table& table_plain();
#if defined(FOREBLOCKS_X86_LEVELS)
const Table& table_v3();
const Table& table_v4();
#endif

// The table chosen at load; never null after the module was imported.
const Table& active();

}  // namespace foreblocks
