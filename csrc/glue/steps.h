// Operations over time in [N, T, D]: depthwise convolution and moving average.
#pragma once

#include "common.h"
#include "storage.h"

namespace foreblocks {

// Samples in one block: about kBlock elements, whatever the number of threads.
inline int64_t samples_of(int64_t steps, int64_t dim) { return std::max<int64_t>(1, kBlock / std::max<int64_t>(1, steps * dim)); }

inline void check_steps(const char* operation, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 3 && x.size(1) > 0, operation, ": x is not [N, T, D] with T of 1 or more.");
}

// taps [D, W] as [W, D].
template <class S>
std::vector<Compute<S>> taps_by_step(const Tensor& weight) {
  const Values<S> values(weight);
  const Compute<S>* w = values.data();
  const int64_t dim = weight.size(0), width = weight.size(1);
  std::vector<Compute<S>> result(dim * width);
  for (int64_t d = 0; d < dim; ++d)
    for (int64_t j = 0; j < width; ++j) result[j * dim + d] = w[d * width + j];
  return result;
}

// The gradient of taps, [W, D], as that of a weight [D, W].
template <class S>
Tensor taps_by_channel(const Tensor& weight, const Compute<S>* by_step) {
  const int64_t dim = weight.size(0), width = weight.size(1);
  std::vector<Compute<S>> turned(dim * width);
  for (int64_t d = 0; d < dim; ++d)
    for (int64_t j = 0; j < width; ++j) turned[d * width + j] = by_step[j * dim + d];
  return tensor_of<S>(weight, turned.data(), {dim, width});
}

inline void check_depthwise(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t dilation, int64_t left) {
  check_steps("depthwise_conv1d", x);
  check_same("depthwise_conv1d", "weight", weight, x);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) == x.size(2) && weight.size(1) > 0, "depthwise_conv1d: weight is not [D, W] with W of 1 or more.");
  if (bias) check_same("depthwise_conv1d", "bias", *bias, x);
  STD_TORCH_CHECK(!bias || bias->numel() == x.size(2), "depthwise_conv1d: bias is not [D].");
  STD_TORCH_CHECK(
      dilation > 0 && left >= 0 && left <= (weight.size(1) - 1) * dilation, "depthwise_conv1d: dilation or left is out of range.");
}

// All but the data, which at() of its source gives a block at a time.
template <class T>
DepthwiseArgs<T> depthwise_args(
    const Tensor& x, const Tensor& weight, const std::vector<T>& taps, const T* offsets, int64_t dilation, int64_t left,
    int64_t activation) {
  DepthwiseArgs<T> a{};
  a.taps = taps.data();
  a.bias = offsets;
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
  check_depthwise(x, weight, bias, dilation, left);
  const Tensor data = packed(x);
  return by_storage("depthwise_conv1d", x, [&](auto* null) {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const std::vector<T> taps = taps_by_step<S>(weight);
    const Values<S> offsets(bias);
    const DepthwiseArgs<T> all = depthwise_args<T>(data, weight, taps, offsets.data(), dilation, left, activation);
    Tensor result = blank(data, data.sizes());
    const Source<S> source(data);
    const Sink<S> sink(result);
    const int64_t each = all.steps * all.dim;
    for_blocks(x.size(0), samples_of(all.steps, all.dim), [&](int64_t, int64_t begin, int64_t end) {
      Space<T> in_space, out_space;
      DepthwiseArgs<T> a = all;
      a.x = source.at(begin * each, (end - begin) * each, in_space);
      a.out = sink.at(begin * each, (end - begin) * each, out_space);
      active().of<T>().depthwise_forward(a, 0, end - begin);
      sink.done(begin * each, (end - begin) * each, a.out);
    });
    return result;
  });
}

// Gradients of x (empty unless `need_x`), weight and bias (empty without one).
inline std::tuple<Tensor, Tensor, Tensor> depthwise_backward(
    Tensor grad, Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t dilation, int64_t left,
    int64_t activation, bool need_x) {
  check_depthwise(x, weight, bias, dilation, left);
  const Tensor data = packed(x), given = packed(grad);
  check_same("depthwise_conv1d_backward", "grad", grad, x);
  STD_TORCH_CHECK(grad.numel() == x.numel(), "depthwise_conv1d_backward: grad has another size than x.");
  return by_storage("depthwise_conv1d_backward", x, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const std::vector<T> taps = taps_by_step<S>(weight);
    const Values<S> offsets(bias);
    const DepthwiseArgs<T> all = depthwise_args<T>(data, weight, taps, offsets.data(), dilation, left, activation);
    Tensor grad_x = need_x ? blank(data, data.sizes()) : nothing(x);
    const Source<S> source(data), toward(given);
    const Sink<S> sink = need_x ? Sink<S>(grad_x) : Sink<S>();
    const int64_t size = samples_of(all.steps, all.dim), sums_each = (all.width + 1) * all.dim;
    const int64_t each = all.steps * all.dim;
    std::vector<T> partial(block_count(x.size(0), size) * sums_each, T(0));
    for_blocks(x.size(0), size, [&](int64_t block, int64_t begin, int64_t end) {
      Scratch<T> scratch(all.steps + all.reach());
      Space<T> x_space, g_space, to_space;
      DepthwiseArgs<T> a = all;
      const int64_t first = begin * each, count = (end - begin) * each;
      a.x = source.at(first, count, x_space);
      a.grad = toward.at(first, count, g_space);
      a.grad_x = sink.at(first, count, to_space);
      active().of<T>().depthwise_backward(a, partial.data() + block * sums_each, scratch.data(), 0, end - begin);
      sink.done(first, count, a.grad_x);
    });
    const std::vector<T> sums = join_blocks_of(partial, sums_each);
    Tensor grad_bias = bias ? tensor_of<S>(weight, sums.data() + all.width * all.dim, {all.dim}) : nothing(x);
    return {grad_x, taps_by_channel<S>(weight, sums.data()), grad_bias};
  });
}

// The average, or its adjoint.
inline Tensor average(const Tensor& x, int64_t width, int64_t left, bool adjoint) {
  check_steps("moving_average", x);
  STD_TORCH_CHECK(width > 0 && left >= 0 && left < width, "moving_average: width or left is out of range.");
  const Tensor data = packed(x);
  return by_storage("moving_average", x, [&](auto* null) {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    Tensor result = blank(data, data.sizes());
    const Source<S> source(data);
    const Sink<S> sink(result);
    const int64_t steps = x.size(1), dim = x.size(2);
    for_blocks(x.size(0), samples_of(steps, dim), [&](int64_t, int64_t begin, int64_t end) {
      Scratch<T> scratch(2 * width);
      Space<T> in_space, out_space;
      const int64_t first = begin * steps * dim, count = (end - begin) * steps * dim;
      const AverageArgs<T> a{source.at(first, count, in_space), steps, dim, width, left, sink.at(first, count, out_space)};
      const Kernels<T>& kernels = active().of<T>();
      (adjoint ? kernels.average_backward : kernels.average_forward)(a, scratch.data(), 0, end - begin);
      sink.done(first, count, a.out);
    });
    return result;
  });
}

inline Tensor average_forward(Tensor x, int64_t width, int64_t left) { return average(x, width, left, false); }
inline Tensor average_backward(Tensor grad, int64_t width, int64_t left) { return average(grad, width, left, true); }

}  // namespace foreblocks
