// norm_act and its gradients on tensors.
#pragma once

#include "common.h"
#include "rows.h"

namespace foreblocks {

struct NormInputs {
  Tensor x, weight;
  std::optional<Tensor> bias, residual, gate, scale;
  bool centre;
  double eps;
  int64_t before, after;
  Tensor kept[6];  // packed copies, alive while the kernel runs

  int64_t dim() const { return x.size(x.dim() - 1); }
  int64_t count() const { return dim() == 0 ? 0 : x.numel() / dim(); }
};

template <class T>
NormArgs<T> norm_args(NormInputs& g) {
  const int64_t dim = g.dim();
  STD_TORCH_CHECK(g.weight.numel() == dim, "norm_act: weight has another size than a row.");
  for (const auto* each : {&g.residual, &g.gate})
    STD_TORCH_CHECK(!*each || (*each)->numel() == g.x.numel(), "norm_act: residual or gate has another size than x.");
  STD_TORCH_CHECK(!g.bias || g.bias->numel() == dim, "norm_act: bias has another size than a row.");
  STD_TORCH_CHECK(!g.scale || (g.x.dim() == 3 && g.scale->numel() == g.x.size(0) * dim), "norm_act: scale is not [N, 1, D].");
  for (const auto* each : {&g.residual, &g.gate, &g.bias, &g.scale})
    if (*each) check_same("norm_act", "an argument", **each, g.x);
  NormArgs<T> a{};
  a.x = rows<T>(g.x, g.kept[0], a.x_stride);
  a.gate = rows<T>(g.gate, g.kept[1], a.gate_stride);
  a.residual = rows<T>(g.residual, g.kept[2], a.residual_stride);
  a.scale = whole<T>(g.scale, g.kept[3]);
  a.weight = whole<T>(g.weight, g.kept[4]);
  a.bias = whole<T>(g.bias, g.kept[5]);
  a.dim = dim;
  a.steps = g.x.dim() == 3 ? std::max<int64_t>(g.x.size(1), 1) : 1;
  a.centre = g.centre;
  a.eps = g.eps;
  a.before = g.before;
  a.after = g.after;
  return a;
}

inline std::tuple<Tensor, Tensor> norm_act_forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> residual, std::optional<Tensor> gate,
    std::optional<Tensor> scale, bool centre, double eps, int64_t before, int64_t after) {
  NormInputs g{x, weight, bias, residual, gate, scale, centre, eps, before, after};
  return by_dtype("norm_act", x, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    NormArgs<T> a = norm_args<T>(g);
    Tensor result = torch::stable::new_empty(x, x.sizes()), stats = torch::stable::new_empty(x, {g.count(), 2});
    a.out = out<T>(result);
    a.stats = out<T>(stats);
    for_blocks(g.count(), std::max<int64_t>(1, kBlock / std::max<int64_t>(a.dim, 1)), [&](int64_t, int64_t begin, int64_t end) {
      active().of<T>().norm_forward(a, begin, end);
    });
    return {result, stats};
  });
}

// `needs` has bit 0 for x, 1 for weight or bias, 2 for residual, 3 for gate; the others come back empty.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> norm_act_backward(
    Tensor grad, Tensor stats, Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> residual,
    std::optional<Tensor> gate, std::optional<Tensor> scale, bool centre, double eps, int64_t before, int64_t after,
    int64_t needs) {
  NormInputs g{x, weight, bias, residual, gate, scale, centre, eps, before, after};
  using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  return by_dtype("norm_act_backward", x, [&](auto* null) -> Result {
    using T = std::remove_pointer_t<decltype(null)>;
    NormArgs<T> a = norm_args<T>(g);
    check_same("norm_act_backward", "grad", grad, x);
    STD_TORCH_CHECK(grad.numel() == x.numel() && stats.numel() == 2 * g.count(), "norm_act_backward: grad or stats differ in size.");
    const Tensor given = packed(grad), kept = packed(stats);
    a.grad = in<T>(given);
    a.stats = out<T>(kept);
    const auto fresh = [&](bool want) { return want ? torch::stable::new_empty(x, x.sizes()) : nothing(x); };
    Tensor grad_x = fresh(needs & 1), grad_residual = fresh(needs & 4), grad_gate = fresh(needs & 8);
    a.grad_x = needs & 1 ? out<T>(grad_x) : nullptr;
    a.grad_residual = needs & 4 ? out<T>(grad_residual) : nullptr;
    a.grad_gate = needs & 8 ? out<T>(grad_gate) : nullptr;
    const int64_t size = std::max<int64_t>(1, kBlock / std::max<int64_t>(a.dim, 1)), pair = 2 * a.dim;
    std::vector<T> partial(block_count(g.count(), size) * pair, T(0));
    for_blocks(g.count(), size, [&](int64_t block, int64_t begin, int64_t end) {
      std::vector<T> scratch(5 * a.dim);
      active().of<T>().norm_backward(a, partial.data() + block * pair, scratch.data(), begin, end);
    });
    if (!(needs & 2)) return {grad_x, nothing(x), nothing(x), grad_residual, grad_gate};
    Tensor grad_weight = torch::stable::new_empty(weight, {a.dim}), grad_bias = torch::stable::new_empty(weight, {a.dim});
    std::vector<T> sums = join_blocks_of(partial, pair);
    std::copy(sums.begin(), sums.begin() + a.dim, out<T>(grad_weight));
    std::copy(sums.begin() + a.dim, sums.end(), out<T>(grad_bias));
    return {grad_x, grad_weight, bias ? grad_bias : nothing(x), grad_residual, grad_gate};
  });
}

}  // namespace foreblocks
