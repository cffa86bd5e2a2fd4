// One level of a wavelet transform and its adjoint, each the gradient of the other, on tensors [N, T, D].
#pragma once

#include "steps.h"

namespace foreblocks {

inline void check_filters(const char* operation, const Tensor& filters, const Tensor& like) {
  check_same(operation, "filters", filters, like);
  STD_TORCH_CHECK(
      filters.dim() == 2 && filters.size(0) == 2 && filters.size(1) > 0 && filters.size(1) % 2 == 0,
      operation, ": filters is not [2, W] with an even W.");
}

inline std::tuple<Tensor, Tensor> wavelet_split(Tensor x, Tensor filters, bool edges) {
  check_steps("wavelet_split", x);
  check_filters("wavelet_split", filters, x);
  const Tensor data = packed(x);
  return by_storage("wavelet_split", x, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const Values<S> taps(filters);
    const int64_t width = filters.size(1), steps = x.size(1), dim = x.size(2), halves = (steps + width - 1) / 2;
    const WaveletArgs<T> all{taps.data(), width, steps, halves, dim, edges};
    Tensor low = blank(x, {x.size(0), halves, dim});
    Tensor high = blank(x, {x.size(0), halves, dim});
    const Source<S> source(data);
    const Sink<S> to_low(low), to_high(high);
    for_blocks(x.size(0), samples_of(steps, dim), [&](int64_t, int64_t begin, int64_t end) {
      Space<T> x_space, low_space, high_space;
      WaveletArgs<T> a = all;
      const int64_t first = begin * halves * dim, count = (end - begin) * halves * dim;
      a.x = source.at(begin * steps * dim, (end - begin) * steps * dim, x_space);
      a.to_low = to_low.at(first, count, low_space);
      a.to_high = to_high.at(first, count, high_space);
      active().of<T>().wavelet_split(a, 0, end - begin);
      to_low.done(first, count, a.to_low);
      to_high.done(first, count, a.to_high);
    });
    return {low, high};
  });
}

inline Tensor wavelet_merge(Tensor low, Tensor high, Tensor filters, int64_t steps, bool edges) {
  check_steps("wavelet_merge", low);
  check_same("wavelet_merge", "high", high, low);
  check_filters("wavelet_merge", filters, low);
  STD_TORCH_CHECK(high.numel() == low.numel(), "wavelet_merge: low and high differ in size.");
  STD_TORCH_CHECK(steps > 0 && (steps + filters.size(1) - 1) / 2 == low.size(1), "wavelet_merge: steps does not fit to low.");
  const Tensor from_low = packed(low), from_high = packed(high);
  return by_storage("wavelet_merge", low, [&](auto* null) {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const Values<S> taps(filters);
    const int64_t halves = low.size(1), dim = low.size(2);
    const WaveletArgs<T> all{taps.data(), filters.size(1), steps, halves, dim, edges};
    Tensor x = blank(low, {low.size(0), steps, dim});
    const Source<S> lows(from_low), highs(from_high);
    const Sink<S> sink(x);
    for_blocks(low.size(0), samples_of(steps, dim), [&](int64_t, int64_t begin, int64_t end) {
      Space<T> x_space, low_space, high_space;
      WaveletArgs<T> a = all;
      const int64_t first = begin * halves * dim, count = (end - begin) * halves * dim;
      a.low = lows.at(first, count, low_space);
      a.high = highs.at(first, count, high_space);
      a.to_x = sink.at(begin * steps * dim, (end - begin) * steps * dim, x_space);
      active().of<T>().wavelet_merge(a, 0, end - begin);
      sink.done(begin * steps * dim, (end - begin) * steps * dim, a.to_x);
    });
    return x;
  });
}

}  // namespace foreblocks
