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
    x = packed(x);
    scale = packed(scale);
    if (bias) bias = packed(*bias);
    if (offset) offset = packed(*offset);
    check_same("depthwise_norm", "scale", scale, x);
    STD_TORCH_CHECK(scale.numel() == x.size(2) && (!offset || offset->numel() == x.size(2)), "depthwise_norm: the norm is not [D].");
  }
};

// The two stages of one sample, which meet in `middle` [steps, dim].
template <class T>
struct DepthwiseNormStages {
  DepthwiseArgs<T> convolution;
  NormArgs<T> norm;
  int64_t each;

  DepthwiseNormStages(const DepthwiseNorm& g, const std::vector<T>& taps)
      : convolution(depthwise_args<T>(g.x, g.weight, g.bias, taps, g.dilation, g.left, kNone)), norm{} {
    each = convolution.steps * convolution.dim;
    norm.weight = in<T>(g.scale);
    norm.bias = g.offset ? in<T>(*g.offset) : nullptr;
    norm.x_stride = norm.dim = convolution.dim;
    norm.steps = convolution.steps;
    norm.centre = g.centre;
    norm.eps = g.eps;
    norm.before = g.before;
    norm.after = g.after;
  }

  // Point both at sample n of the tensors.
  void at(int64_t n, const T* x, T* middle, T* stats) {
    convolution.x = x + n * each;
    convolution.out = middle;
    norm.x = middle;
    norm.stats = stats + 2 * n * norm.steps;
  }
};

inline std::tuple<Tensor, Tensor> depthwise_norm_forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor scale, std::optional<Tensor> offset, int64_t dilation,
    int64_t left, bool centre, double eps, int64_t before, int64_t after) {
  DepthwiseNorm g{x, weight, scale, bias, offset, dilation, left, centre, eps, before, after};
  g.pack();
  return by_dtype("depthwise_norm", x, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const std::vector<T> taps = taps_by_step<T>(weight);
    const DepthwiseNormStages<T> stages(g, taps);
    Tensor result = torch::stable::new_empty(g.x, g.x.sizes());
    Tensor stats = torch::stable::new_empty(g.x, {x.size(0) * x.size(1), 2});
    for_blocks(x.size(0), samples_of(x.size(1), x.size(2)), [&](int64_t, int64_t begin, int64_t end) {
      std::vector<T> middle(stages.each);
      DepthwiseNormStages<T> s = stages;
      for (int64_t n = begin; n < end; ++n) {
        s.at(n, in<T>(g.x), middle.data(), out<T>(stats));
        s.norm.out = out<T>(result) + n * s.each;
        active().of<T>().depthwise_forward(s.convolution, 0, 1);
        active().of<T>().norm_forward(s.norm, 0, s.norm.steps);
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
  return by_dtype("depthwise_norm_backward", x, [&](auto* null) -> DepthwiseNormGradients {
    using T = std::remove_pointer_t<decltype(null)>;
    const Kernels<T>& kernels = active().of<T>();
    const std::vector<T> taps = taps_by_step<T>(weight);
    const DepthwiseNormStages<T> stages(g, taps);
    const int64_t dim = stages.norm.dim, width = stages.convolution.width, size = samples_of(x.size(1), dim);
    const int64_t each = (width + 3) * dim;  // taps, bias; scale, offset
    Tensor grad_x = need_x ? torch::stable::new_empty(g.x, g.x.sizes()) : nothing(x);
    std::vector<T> partial(block_count(x.size(0), size) * each, T(0));
    for_blocks(x.size(0), size, [&](int64_t block, int64_t begin, int64_t end) {
      std::vector<T> middle(stages.each), toward(stages.each), row(5 * dim);
      Scratch<T> scratch(stages.norm.steps);
      DepthwiseNormStages<T> s = stages;
      T* sums = partial.data() + block * each;
      for (int64_t n = begin; n < end; ++n) {
        s.at(n, in<T>(g.x), middle.data(), out<T>(kept));
        kernels.depthwise_forward(s.convolution, 0, 1);
        s.norm.grad = in<T>(given) + n * s.each;
        s.norm.grad_x = toward.data();
        kernels.norm_backward(s.norm, sums + (width + 1) * dim, row.data(), 0, s.norm.steps);
        s.convolution.grad = toward.data();
        s.convolution.grad_x = need_x ? out<T>(grad_x) + n * s.each : nullptr;
        kernels.depthwise_backward(s.convolution, sums, scratch.data(), 0, 1);
      }
    });
    const std::vector<T> sums = join_blocks_of(partial, each);
    Tensor grad_weight = torch::stable::new_empty(g.weight, {dim, width});
    for (int64_t d = 0; d < dim; ++d)
      for (int64_t j = 0; j < width; ++j) out<T>(grad_weight)[d * width + j] = sums[j * dim + d];
    const auto row = [&](bool want, int64_t which) {
      if (!want) return nothing(x);
      Tensor result = torch::stable::new_empty(g.x, {dim});
      std::copy_n(sums.begin() + (width + which) * dim, dim, out<T>(result));
      return result;
    };
    return {grad_x, grad_weight, row(g.bias.has_value(), 0), row(true, 1), row(g.offset.has_value(), 2)};
  });
}

}  // namespace foreblocks
