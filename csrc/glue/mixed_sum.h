// mixed_sum and its gradients on tensors. Shapes are checked in Python too; here only what would read out of bounds.
#pragma once

#include "common.h"

namespace foreblocks {

template <class T>
std::vector<T> mixture_weights(const Tensor& weights, bool normalize, double& scale) {
  const Tensor w = packed(weights);
  std::vector<T> values(in<T>(w), in<T>(w) + w.numel());
  double total = 0.0;
  for (T value : values) total += static_cast<double>(value);
  scale = normalize ? 1.0 / total : 1.0;
  if (normalize)
    for (T& value : values) value = static_cast<T>(static_cast<double>(value) * scale);
  return values;
}

inline std::vector<Tensor> packed_list(const char* operation, const std::vector<Tensor>& xs, const Tensor& like) {
  std::vector<Tensor> result;
  result.reserve(xs.size());
  for (const Tensor& x : xs) {
    check_same(operation, "xs", x, like);
    STD_TORCH_CHECK(x.numel() == like.numel(), operation, ": xs differ in size.");
    result.push_back(packed(x));
  }
  return result;
}

template <class T>
std::vector<const T*> pointers(const std::vector<Tensor>& xs) {
  std::vector<const T*> result;
  result.reserve(xs.size());
  for (const Tensor& x : xs) result.push_back(in<T>(x));
  return result;
}

inline std::tuple<Tensor, Tensor> mixed_sum_forward(
    std::vector<Tensor> xs, Tensor weights, bool normalize, bool squares) {
  STD_TORCH_CHECK(!xs.empty() && weights.numel() == static_cast<int64_t>(xs.size()), "mixed_sum: xs and weights differ in length.");
  check_same("mixed_sum", "weights", weights, xs[0]);
  const std::vector<Tensor> data = packed_list("mixed_sum", xs, xs[0]);
  return by_dtype("mixed_sum", xs[0], [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const Kernels<T>& kernels = active().of<T>();
    const int64_t count = static_cast<int64_t>(data.size()), total = data[0].numel();
    double scale;
    const std::vector<T> w = mixture_weights<T>(weights, normalize, scale);
    const std::vector<const T*> x = pointers<T>(data);
    Tensor result = torch::stable::new_empty(data[0], data[0].sizes());
    std::vector<double> partial(squares ? count * block_count(total, kBlock) : 0);
    T* to = out<T>(result);
    for_blocks(total, kBlock, [&](int64_t block, int64_t begin, int64_t end) {
      kernels.mixed_sum(x.data(), w.data(), count, to, begin, end);
      if (squares) kernels.square_sums(x.data(), count, partial.data() + block * count, begin, end);
    });
    if (!squares) return {result, nothing(weights)};
    Tensor means = torch::stable::new_empty(weights, {count});
    const std::vector<double> sums = join_blocks_of(partial, count);
    for (int64_t k = 0; k < count; ++k) out<T>(means)[k] = static_cast<T>(sums[k] / static_cast<double>(total));
    return {result, means};
  });
}

// Gradients for xs[k], k in `wanted`, and for the weights if xs is not empty.
inline std::tuple<std::vector<Tensor>, Tensor> mixed_sum_backward(
    Tensor grad, std::vector<Tensor> xs, Tensor weights, bool normalize, std::vector<int64_t> wanted) {
  check_same("mixed_sum_backward", "weights", weights, grad);
  const int64_t count = weights.numel();
  STD_TORCH_CHECK(xs.empty() || static_cast<int64_t>(xs.size()) == count, "mixed_sum_backward: xs and weights differ in length.");
  const Tensor g = packed(grad);
  const std::vector<Tensor> data = packed_list("mixed_sum_backward", xs, grad);
  return by_dtype("mixed_sum_backward", grad, [&](auto* null) -> std::tuple<std::vector<Tensor>, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const Kernels<T>& kernels = active().of<T>();
    double scale;
    const std::vector<T> w = mixture_weights<T>(weights, normalize, scale);
    std::vector<Tensor> grads;
    std::vector<T*> to;
    std::vector<T> chosen;
    for (int64_t k : wanted) {
      STD_TORCH_CHECK(k >= 0 && k < count, "mixed_sum_backward: wanted is out of range.");
      grads.push_back(torch::stable::new_empty(g, g.sizes()));
      to.push_back(out<T>(grads.back()));
      chosen.push_back(w[k]);
    }
    const std::vector<const T*> x = pointers<T>(data);
    const int64_t given = static_cast<int64_t>(x.size()), total = g.numel();
    std::vector<double> partial(given * block_count(total, kBlock));
    for_blocks(total, kBlock, [&](int64_t block, int64_t begin, int64_t end) {
      kernels.scaled_copies(in<T>(g), chosen.data(), to.data(), static_cast<int64_t>(to.size()), begin, end);
      if (given) kernels.mixed_dots(in<T>(g), x.data(), given, partial.data() + block * given, begin, end);
    });
    if (!given) return {grads, nothing(weights)};
    std::vector<double> dots = join_blocks_of(partial, given);
    double shared = 0.0;  // of w / Σ w: what every weight loses because the sum grows
    if (normalize)
      for (int64_t k = 0; k < count; ++k) shared += static_cast<double>(w[k]) * dots[k];
    Tensor grad_weights = torch::stable::new_empty(weights, {count});
    for (int64_t k = 0; k < count; ++k) out<T>(grad_weights)[k] = static_cast<T>((dots[k] - shared) * scale);
    return {grads, grad_weights};
  });
}

}  // namespace foreblocks
