// norm_act and its gradients on tensors.
#pragma once

#include "common.h"
#include "storage.h"

namespace foreblocks {

struct NormInputs {
  Tensor x, weight;
  std::optional<Tensor> bias, residual, gate, scale;
  bool centre;
  double eps;
  int64_t before, after;

  int64_t dim() const { return x.size(x.dim() - 1); }
  int64_t count() const { return dim() == 0 ? 0 : x.numel() / dim(); }
  int64_t block() const { return std::max<int64_t>(1, kBlock / std::max<int64_t>(dim(), 1)); }
};

// What one block of rows needs beside the tensors.
template <class T>
struct NormSpaces {
  Space<T> x, gate, residual, grad, out, grad_x, grad_gate, grad_residual, rows;
};

template <class S>
struct NormData {
  using T = Compute<S>;
  Rows<S> x, gate, residual;
  Source<S> grad;
  Values<S> scale, weight, bias;
  Sink<S> out, grad_x, grad_gate, grad_residual;
  NormArgs<T> all{};

  explicit NormData(const NormInputs& g)
      : x(g.x), gate(g.gate), residual(g.residual), scale(g.scale), weight(g.weight), bias(g.bias) {
    const int64_t dim = g.dim();
    STD_TORCH_CHECK(g.weight.numel() == dim, "norm_act: weight has another size than a row.");
    for (const auto* each : {&g.residual, &g.gate})
      STD_TORCH_CHECK(!*each || (*each)->numel() == g.x.numel(), "norm_act: residual or gate has another size than x.");
    STD_TORCH_CHECK(!g.bias || g.bias->numel() == dim, "norm_act: bias has another size than a row.");
    STD_TORCH_CHECK(!g.scale || (g.x.dim() == 3 && g.scale->numel() == g.x.size(0) * dim), "norm_act: scale is not [N, 1, D].");
    check_same("norm_act", "weight", g.weight, g.x);
    for (const auto* each : {&g.residual, &g.gate, &g.bias, &g.scale})
      if (*each) check_same("norm_act", "an argument", **each, g.x);
    all.x_stride = x.stride();
    all.gate_stride = gate.stride();
    all.residual_stride = residual.stride();
    all.scale = scale.data();
    all.weight = weight.data();
    all.bias = bias.data();
    all.dim = dim;
    all.steps = g.x.dim() == 3 ? std::max<int64_t>(g.x.size(1), 1) : 1;
    all.centre = g.centre;
    all.eps = g.eps;
    all.before = g.before;
    all.after = g.after;
  }

  // The arguments for rows [begin, end), which count from 0 in them.
  NormArgs<T> at(int64_t begin, int64_t end, NormSpaces<T>& spaces) const {
    NormArgs<T> a = all;
    const int64_t count = end - begin, first = begin * a.dim, size = count * a.dim;
    a.x = x.at(begin, count, spaces.x);
    a.gate = gate.at(begin, count, spaces.gate);
    a.residual = residual.at(begin, count, spaces.residual);
    a.grad = grad.at(first, size, spaces.grad);
    a.first_row = begin;
    a.stats += 2 * begin;
    a.out = out.at(first, size, spaces.out);
    a.grad_x = grad_x.at(first, size, spaces.grad_x);
    a.grad_gate = grad_gate.at(first, size, spaces.grad_gate);
    a.grad_residual = grad_residual.at(first, size, spaces.grad_residual);
    return a;
  }

  void done(const NormArgs<T>& a, int64_t begin, int64_t end) const {
    const int64_t first = begin * a.dim, size = (end - begin) * a.dim;
    out.done(first, size, a.out);
    grad_x.done(first, size, a.grad_x);
    grad_gate.done(first, size, a.grad_gate);
    grad_residual.done(first, size, a.grad_residual);
  }
};

inline std::tuple<Tensor, Tensor> norm_act_forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> residual, std::optional<Tensor> gate,
    std::optional<Tensor> scale, bool centre, double eps, int64_t before, int64_t after) {
  const NormInputs g{x, weight, bias, residual, gate, scale, centre, eps, before, after};
  return by_storage("norm_act", x, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    NormData<S> data(g);
    Tensor result = blank(x, x.sizes());
    Tensor stats = blank(x, {g.count(), 2}, compute_dtype(x));
    data.out = Sink<S>(result);
    data.all.stats = out<T>(stats);
    for_blocks_with(g.count(), g.block(), [] { return NormSpaces<T>(); }, [&](auto& spaces, int64_t, int64_t begin, int64_t end) {
      const NormArgs<T> a = data.at(begin, end, spaces);
      active().of<T>().norm_forward(a, 0, end - begin);
      data.done(a, begin, end);
    });
    return {result, stats};
  });
}

// `needs` has bit 0 for x, 1 for weight or bias, 2 for residual, 3 for gate; the others come back empty.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> norm_act_backward(
    Tensor grad, Tensor stats, Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> residual,
    std::optional<Tensor> gate, std::optional<Tensor> scale, bool centre, double eps, int64_t before, int64_t after,
    int64_t needs) {
  const NormInputs g{x, weight, bias, residual, gate, scale, centre, eps, before, after};
  using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  return by_storage("norm_act_backward", x, [&](auto* null) -> Result {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    NormData<S> data(g);
    check_same("norm_act_backward", "grad", grad, x);
    STD_TORCH_CHECK(grad.numel() == x.numel() && stats.numel() == 2 * g.count(), "norm_act_backward: grad or stats differ in size.");
    STD_TORCH_CHECK(stats.scalar_type() == compute_dtype(x), "norm_act_backward: stats has another dtype.");
    const Tensor given = packed(grad), kept = packed(stats);
    data.grad = Source<S>(given);
    data.all.stats = out<T>(kept);
    const auto fresh = [&](bool want, Sink<S>& sink) {
      if (!want) return nothing(x);
      Tensor result = blank(x, x.sizes());
      sink = Sink<S>(result);
      return result;
    };
    Tensor grad_x = fresh(needs & 1, data.grad_x), grad_residual = fresh(needs & 4, data.grad_residual);
    Tensor grad_gate = fresh(needs & 8, data.grad_gate);
    const int64_t dim = g.dim(), pair = 2 * dim;
    std::vector<T> partial(block_count(g.count(), g.block()) * pair, T(0));
    for_blocks_with(g.count(), g.block(), [] { return NormSpaces<T>(); }, [&](auto& spaces, int64_t block, int64_t begin, int64_t end) {
      const NormArgs<T> a = data.at(begin, end, spaces);
      active().of<T>().norm_backward(a, partial.data() + block * pair, spaces.rows.room(5 * kNormRows * dim), 0, end - begin);
      data.done(a, begin, end);
    });
    if (!(needs & 2)) return {grad_x, nothing(x), nothing(x), grad_residual, grad_gate};
    const std::vector<T> sums = join_blocks_of(partial, pair);
    Tensor grad_bias = bias ? tensor_of<S>(weight, sums.data() + dim, {dim}) : nothing(x);
    return {grad_x, tensor_of<S>(weight, sums.data(), {dim}), grad_bias, grad_residual, grad_gate};
  });
}

}  // namespace foreblocks
