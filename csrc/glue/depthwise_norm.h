// Depthwise convolution with the norm and the activations behind it: a sample never leaves the first cache in between.
#pragma once

#include "common.h"
#include "steps.h"

namespace foreblocks {

struct DepthwiseNorm {
  Tensor x, weight, scale;
  std::optional<Tensor> bias, offset;
  int64_t dilation, left;
  bool centre;
  double eps;
  int64_t before, after;

  void pack() {
    check_depthwise(x, weight, bias, dilation, left);
    x = packed(x);
    check_same("depthwise_norm", "scale", scale, x);
    if (offset) check_same("depthwise_norm", "offset", *offset, x);
    STD_TORCH_CHECK(scale.numel() == x.size(2) && (!offset || offset->numel() == x.size(2)), "depthwise_norm: the norm is not [D].");
  }
};

// The two stages of one sample, which meet in `middle` [steps, dim].
template <class S>
struct DepthwiseNormStages {
  using T = Compute<S>;
  std::vector<T> taps;
  Values<S> bias, scale, offset;
  DepthwiseArgs<T> convolution;
  NormArgs<T> norm{};
  int64_t each;

  explicit DepthwiseNormStages(const DepthwiseNorm& g)
      : taps(taps_by_step<S>(g.weight)), bias(g.bias), scale(g.scale), offset(g.offset),
        convolution(depthwise_args<T>(g.x, g.weight, taps, bias.data(), g.dilation, g.left, kNone)) {
    each = convolution.steps * convolution.dim;
    norm.weight = scale.data();
    norm.bias = offset.data();
    norm.x_stride = norm.dim = convolution.dim;
    norm.steps = convolution.steps;
    norm.centre = g.centre;
    norm.eps = g.eps;
    norm.before = g.before;
    norm.after = g.after;
  }
  DepthwiseNormStages(const DepthwiseNormStages&) = delete;
};

inline std::tuple<Tensor, Tensor> depthwise_norm_forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor scale, std::optional<Tensor> offset, int64_t dilation,
    int64_t left, bool centre, double eps, int64_t before, int64_t after) {
  DepthwiseNorm g{x, weight, scale, bias, offset, dilation, left, centre, eps, before, after};
  g.pack();
  return by_storage("depthwise_norm", x, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const DepthwiseNormStages<S> stages(g);
    const int64_t each = stages.each;
    Tensor result = blank(g.x, g.x.sizes());
    Tensor stats = blank(g.x, {x.size(0) * x.size(1), 2}, compute_dtype(x));
    const Source<S> source(g.x);
    const Sink<S> sink(result);
    for_blocks(x.size(0), samples_of(x.size(1), x.size(2)), [&](int64_t, int64_t begin, int64_t end) {
      std::vector<T> middle(each);
      Space<T> in_space, out_space;
      DepthwiseArgs<T> convolution = stages.convolution;
      NormArgs<T> norm = stages.norm;
      convolution.out = middle.data();
      norm.x = middle.data();
      for (int64_t n = begin; n < end; ++n) {
        convolution.x = source.at(n * each, each, in_space);
        norm.stats = out<T>(stats) + 2 * n * norm.steps;
        norm.out = sink.at(n * each, each, out_space);
        active().of<T>().depthwise_forward(convolution, 0, 1);
        active().of<T>().norm_forward(norm, 0, norm.steps);
        sink.done(n * each, each, norm.out);
      }
    });
    return {result, stats};
  });
}

using DepthwiseNormGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of x (empty unless `need_x`), weight, bias, scale and offset (empty without one).
inline DepthwiseNormGradients depthwise_norm_backward(
    Tensor grad, Tensor stats, Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor scale,
    std::optional<Tensor> offset, int64_t dilation, int64_t left, bool centre, double eps, int64_t before,
    int64_t after, bool need_x) {
  DepthwiseNorm g{x, weight, scale, bias, offset, dilation, left, centre, eps, before, after};
  g.pack();
  const Tensor given = packed(grad), kept = packed(stats);
  check_same("depthwise_norm_backward", "grad", grad, x);
  STD_TORCH_CHECK(grad.numel() == x.numel() && stats.numel() == 2 * x.size(0) * x.size(1), "depthwise_norm_backward: grad or stats differ in size.");
  STD_TORCH_CHECK(stats.scalar_type() == compute_dtype(x), "depthwise_norm_backward: stats has another dtype.");
  return by_storage("depthwise_norm_backward", x, [&](auto* null) -> DepthwiseNormGradients {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const Kernels<T>& kernels = active().of<T>();
    const DepthwiseNormStages<S> stages(g);
    const int64_t dim = stages.norm.dim, width = stages.convolution.width, size = samples_of(x.size(1), dim);
    const int64_t each = stages.each, sums_each = (width + 3) * dim;  // taps, bias; scale, offset
    Tensor grad_x = need_x ? blank(g.x, g.x.sizes()) : nothing(x);
    const Source<S> source(g.x), from(given);
    const Sink<S> sink = need_x ? Sink<S>(grad_x) : Sink<S>();
    std::vector<T> partial(block_count(x.size(0), size) * sums_each, T(0));
    for_blocks(x.size(0), size, [&](int64_t block, int64_t begin, int64_t end) {
      std::vector<T> middle(each), toward(each), row(5 * kNormRows * dim);
      Scratch<T> scratch(stages.norm.steps + stages.convolution.reach());
      Space<T> x_space, g_space, to_space;
      DepthwiseArgs<T> convolution = stages.convolution;
      NormArgs<T> norm = stages.norm;
      T* sums = partial.data() + block * sums_each;
      convolution.out = middle.data();
      convolution.grad = toward.data();
      norm.x = middle.data();
      norm.grad_x = toward.data();
      for (int64_t n = begin; n < end; ++n) {
        convolution.x = source.at(n * each, each, x_space);
        kernels.depthwise_forward(convolution, 0, 1);
        norm.stats = out<T>(kept) + 2 * n * norm.steps;
        norm.grad = from.at(n * each, each, g_space);
        kernels.norm_backward(norm, sums + (width + 1) * dim, row.data(), 0, norm.steps);
        convolution.grad_x = sink.at(n * each, each, to_space);
        kernels.depthwise_backward(convolution, sums, scratch.data(), 0, 1);
        sink.done(n * each, each, convolution.grad_x);
      }
    });
    const std::vector<T> sums = join_blocks_of(partial, sums_each);
    const auto row = [&](bool want, int64_t which) {
      return want ? tensor_of<S>(g.weight, sums.data() + (width + which) * dim, {dim}) : nothing(x);
    };
    return {grad_x, taps_by_channel<S>(g.weight, sums.data()), row(g.bias.has_value(), 0), row(true, 1), row(g.offset.has_value(), 2)};
  });
}

}  // namespace foreblocks
