// Operations over time in [N, T, D]: depthwise convolution and moving average.
#pragma once

#include "common.h"

namespace foreblocks {

// Samples in one block: about kBlock elements, whatever the number of threads.
inline int64_t samples_of(int64_t steps, int64_t dim) { return std::max<int64_t>(1, kBlock / std::max<int64_t>(1, steps * dim)); }

inline void check_steps(const char* operation, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 3 && x.size(1) > 0, operation, ": x is not [N, T, D] with T of 1 or more.");
}

// taps [D, W] as [W, D].
template <class T>
std::vector<T> taps_by_step(const Tensor& weight) {
  const Tensor w = packed(weight);
  const int64_t dim = w.size(0), width = w.size(1);
  std::vector<T> result(dim * width);
  for (int64_t d = 0; d < dim; ++d)
    for (int64_t j = 0; j < width; ++j) result[j * dim + d] = in<T>(w)[d * width + j];
  return result;
}

template <class T>
DepthwiseArgs<T> depthwise_args(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const std::vector<T>& taps,
    int64_t dilation, int64_t left, int64_t activation) {
  check_steps("depthwise_conv1d", x);
  check_same("depthwise_conv1d", "weight", weight, x);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) == x.size(2), "depthwise_conv1d: weight is not [D, W].");
  STD_TORCH_CHECK(!bias || bias->numel() == x.size(2), "depthwise_conv1d: bias is not [D].");
  STD_TORCH_CHECK(dilation > 0 && left >= 0, "depthwise_conv1d: dilation or left is out of range.");
  DepthwiseArgs<T> a{};
  a.x = in<T>(x);
  a.taps = taps.data();
  a.bias = bias ? in<T>(*bias) : nullptr;
  a.steps = x.size(1);
  a.dim = x.size(2);
  a.width = weight.size(1);
  a.dilation = dilation;
  a.left = left;
  a.activation = activation;
  return a;
}

inline Tensor depthwise_forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t dilation, int64_t left, int64_t activation) {
  const Tensor data = packed(x);
  if (bias) bias = packed(*bias);
  return by_dtype("depthwise_conv1d", x, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const std::vector<T> taps = taps_by_step<T>(weight);
    DepthwiseArgs<T> a = depthwise_args<T>(data, weight, bias, taps, dilation, left, activation);
    Tensor result = torch::stable::new_empty(data, data.sizes());
    a.out = out<T>(result);
    for_blocks(x.size(0), samples_of(a.steps, a.dim), [&](int64_t, int64_t begin, int64_t end) {
      active().of<T>().depthwise_forward(a, begin, end);
    });
    return result;
  });
}

// Gradients of x (empty unless `need_x`), weight and bias (empty without one).
inline std::tuple<Tensor, Tensor, Tensor> depthwise_backward(
    Tensor grad, Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t dilation, int64_t left,
    int64_t activation, bool need_x) {
  const Tensor data = packed(x), given = packed(grad);
  if (bias) bias = packed(*bias);
  check_same("depthwise_conv1d_backward", "grad", grad, x);
  STD_TORCH_CHECK(grad.numel() == x.numel(), "depthwise_conv1d_backward: grad has another size than x.");
  return by_dtype("depthwise_conv1d_backward", x, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const std::vector<T> taps = taps_by_step<T>(weight);
    DepthwiseArgs<T> a = depthwise_args<T>(data, weight, bias, taps, dilation, left, activation);
    Tensor grad_x = need_x ? torch::stable::new_empty(data, data.sizes()) : nothing(x);
    a.grad = in<T>(given);
    a.grad_x = need_x ? out<T>(grad_x) : nullptr;
    const int64_t size = samples_of(a.steps, a.dim), each = (a.width + 1) * a.dim;
    std::vector<T> partial(block_count(x.size(0), size) * each, T(0));
    for_blocks(x.size(0), size, [&](int64_t block, int64_t begin, int64_t end) {
      Scratch<T> scratch(a.steps);
      active().of<T>().depthwise_backward(a, partial.data() + block * each, scratch.data(), begin, end);
    });
    const std::vector<T> sums = join_blocks_of(partial, each);
    Tensor grad_weight = torch::stable::new_empty(weight, {a.dim, a.width});
    for (int64_t d = 0; d < a.dim; ++d)
      for (int64_t j = 0; j < a.width; ++j) out<T>(grad_weight)[d * a.width + j] = sums[j * a.dim + d];
    if (!bias) return {grad_x, grad_weight, nothing(x)};
    Tensor grad_bias = torch::stable::new_empty(weight, {a.dim});
    std::copy(sums.end() - a.dim, sums.end(), out<T>(grad_bias));
    return {grad_x, grad_weight, grad_bias};
  });
}

// The average, or its adjoint.
inline Tensor average(const Tensor& x, int64_t width, int64_t left, bool adjoint) {
  check_steps("moving_average", x);
  STD_TORCH_CHECK(width > 0 && left >= 0 && left < width, "moving_average: width or left is out of range.");
  const Tensor data = packed(x);
  return by_dtype("moving_average", x, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    Tensor result = torch::stable::new_empty(data, data.sizes());
    const AverageArgs<T> a{in<T>(data), x.size(1), x.size(2), width, left, out<T>(result)};
    for_blocks(x.size(0), samples_of(a.steps, a.dim), [&](int64_t, int64_t begin, int64_t end) {
      Scratch<T> scratch(width);
      const Kernels<T>& kernels = active().of<T>();
      (adjoint ? kernels.average_backward : kernels.average_forward)(a, scratch.data(), begin, end);
    });
    return result;
  });
}

inline Tensor average_forward(Tensor x, int64_t width, int64_t left) { return average(x, width, left, false); }
inline Tensor average_backward(Tensor grad, int64_t width, int64_t left) { return average(grad, width, left, true); }

}  // namespace foreblocks
