// The product of the two halves of a row, one of them activated.
#pragma once

#include "common.h"
#include "storage.h"

namespace foreblocks {

// Half the last dimension of x, which is [..., 2 W].
inline int64_t gated_width(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() > 0 && x.size(x.dim() - 1) % 2 == 0, "gated_act: x is not [..., 2 W].");
  return x.size(x.dim() - 1) / 2;
}

// Calls f(first row, rows) for blocks of them; a row is `width` values and never none.
template <class F>
void for_gated_rows(const Tensor& x, int64_t width, const F& f) {
  if (width == 0) return;
  const int64_t size = std::max<int64_t>(1, kBlock / (2 * width));
  for_blocks(x.numel() / (2 * width), size, [&](int64_t, int64_t begin, int64_t end) { f(begin, end - begin); });
}

inline Tensor gated_forward(Tensor x, int64_t activation) {
  const int64_t width = gated_width(x);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = width;
  const Tensor data = packed(x);
  return by_storage("gated_act", x, [&](auto* null) {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    Tensor result = blank(x, sizes);
    const Source<S> source(data);
    const Sink<S> sink(result);
    for_gated_rows(x, width, [&](int64_t first, int64_t rows) {
      Space<T> in_space, out_space;
      T* to = sink.at(first * width, rows * width, out_space);
      active().of<T>().gated_forward(activation, source.at(2 * first * width, 2 * rows * width, in_space), to, width, rows);
      sink.done(first * width, rows * width, to);
    });
    return result;
  });
}

inline Tensor gated_backward(Tensor grad, Tensor x, int64_t activation) {
  const int64_t width = gated_width(x);
  check_same("gated_act_backward", "grad", grad, x);
  STD_TORCH_CHECK(2 * grad.numel() == x.numel(), "gated_act_backward: grad is not [..., W].");
  const Tensor data = packed(x), given = packed(grad);
  return by_storage("gated_act_backward", x, [&](auto* null) {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    Tensor result = blank(x, x.sizes());
    const Source<S> source(data), toward(given);
    const Sink<S> sink(result);
    for_gated_rows(x, width, [&](int64_t first, int64_t rows) {
      Space<T> x_space, g_space, to_space;
      const int64_t at = 2 * first * width, count = 2 * rows * width;
      const T* g = toward.at(first * width, rows * width, g_space);
      T* to = sink.at(at, count, to_space);
      active().of<T>().gated_backward(activation, g, source.at(at, count, x_space), to, width, rows);
      sink.done(at, count, to);
    });
    return result;
  });
}

}  // namespace foreblocks
