// The body of every instruction set: csrc/isa_*.cpp set the compiler's target, open a namespace and include this.
// All names are local to that namespace; only the table leaves it. Nothing here may use a template or an inline function of
// the standard library: the linker keeps one copy of those for all sets, and it could be the one for a newer processor.

// clang-format off
#include "simd.h"
#include "simd_math.h"
#include "half.h"
#include "mixed_sum.h"
#include "saliency.h"
#include "norm.h"
#include "depthwise.h"
#include "average.h"
#include "wavelet.h"
#include "scan.h"
#include "matrix.h"
#include "activation.h"
#include "spectrum.h"
#include "attention.h"
// clang-format on

template <class T>
static constexpr Kernels<T> kernels() {
  Kernels<T> k{};
  k.mixed_sum = mixed_sum<T>;
  k.square_sums = square_sums<T>;
  k.mixed_dots = mixed_dots<T>;
  k.scaled_copies = scaled_copies<T>;
  k.saliency = saliency<T>;
  k.norm_forward = norm_forward<T>;
  k.norm_backward = norm_backward<T>;
  k.depthwise_forward = depthwise_forward<T>;
  k.depthwise_backward = depthwise_backward<T>;
  k.average_forward = average_forward<T>;
  k.average_backward = average_backward<T>;
  k.wavelet_split = wavelet_split<T>;
  k.wavelet_merge = wavelet_merge<T>;
  k.attention_vectors = attention_vectors<T>;
  k.attention_turns = attention_turns<T>;
  k.attention_forward = attention_forward<T>;
  k.attention_backward = attention_backward<T>;
  k.product = product<T>;
  k.transpose = transpose<T>;
  k.activation_forward = activation_forward<T>;
  k.activation_backward = activation_backward<T>;
  k.gated_forward = gated_forward<T>;
  k.gated_backward = gated_backward<T>;
  k.spectrum_forward = spectrum_forward<T>;
  k.spectrum_backward = spectrum_backward<T>;
  k.scan_forward = scan_forward<T>;
  k.scan_backward = scan_backward<T>;
  return k;
}

static constexpr Table kTable{
    ISA_NAME,
    kernels<float>(),
    kernels<double>(),
    {widen<BFloat16>, narrow<BFloat16>},
    {widen<Float16>, narrow<Float16>},
};
