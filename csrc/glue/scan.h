// The selective scan and its gradients on tensors, time in the second dimension.
#pragma once

#include "common.h"
#include "rows.h"

namespace foreblocks {

struct ScanInputs {
  Tensor u, delta, a, b, c;
  std::optional<Tensor> skip, z, delta_bias;
  bool softplus;
  Tensor kept[8];  // packed copies, alive while the kernel runs
};

// [dim, states] as [states, dim], or back.
template <class T>
void turn(const T* from, int64_t rows, int64_t columns, T* to) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
}

template <class T>
ScanArgs<T> scan_args(ScanInputs& g, std::vector<T>& rates) {
  STD_TORCH_CHECK(g.u.dim() == 3 && g.a.dim() == 2 && g.b.dim() == 4 && g.c.dim() == 4, "selective_scan: u [B, L, D], A [D, N], B and C [B, L, G, N].");
  ScanArgs<T> a{};
  a.steps = g.u.size(1);
  a.dim = g.u.size(2);
  a.states = g.a.size(1);
  a.groups = g.b.size(2);
  const int64_t rows_of = g.u.size(0) * a.steps;
  STD_TORCH_CHECK(g.delta.numel() == g.u.numel() && (!g.z || g.z->numel() == g.u.numel()), "selective_scan: delta or z differs from u in size.");
  STD_TORCH_CHECK(g.a.size(0) == a.dim && a.groups > 0 && a.dim % a.groups == 0, "selective_scan: A is not [D, N], or G does not divide D.");
  for (const Tensor* each : {&g.b, &g.c})
    STD_TORCH_CHECK(each->numel() == rows_of * a.groups * a.states && each->size(2) == a.groups, "selective_scan: B or C is not [B, L, G, N].");
  for (const auto* each : {&g.skip, &g.delta_bias})
    STD_TORCH_CHECK(!*each || (*each)->numel() == a.dim, "selective_scan: D or delta_bias is not [D].");
  for (const Tensor* each : {&g.delta, &g.a, &g.b, &g.c}) check_same("selective_scan", "an argument", *each, g.u);
  for (const auto* each : {&g.skip, &g.z, &g.delta_bias})
    if (*each) check_same("selective_scan", "an argument", **each, g.u);
  a.u = rows<T>(g.u, g.kept[0], a.u_stride);
  a.delta = rows<T>(g.delta, g.kept[1], a.delta_stride);
  a.z = rows<T>(g.z, g.kept[2], a.z_stride);
  a.b = rows<T>(g.b, g.kept[3], a.b_stride);
  a.c = rows<T>(g.c, g.kept[4], a.c_stride);
  a.skip = whole<T>(g.skip, g.kept[5]);
  a.delta_bias = whole<T>(g.delta_bias, g.kept[6]);
  g.kept[7] = packed(g.a);
  rates.resize(a.dim * a.states);
  turn(in<T>(g.kept[7]), a.dim, a.states, rates.data());
  a.a = rates.data();
  a.softplus = g.softplus;
  return a;
}

// Output, last state [B, D, N], and with `keep` the states at the start of the chunks, [B, chunks, N, D].
inline std::tuple<Tensor, Tensor, Tensor> scan_forward(
    Tensor u, Tensor delta, Tensor a, Tensor b, Tensor c, std::optional<Tensor> skip, std::optional<Tensor> z,
    std::optional<Tensor> delta_bias, bool softplus, bool keep) {
  ScanInputs g{u, delta, a, b, c, skip, z, delta_bias, softplus};
  return by_dtype("selective_scan", u, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    std::vector<T> rates;
    ScanArgs<T> args = scan_args<T>(g, rates);
    const int64_t batch = u.size(0);
    Tensor y = torch::stable::new_empty(u, u.sizes());
    Tensor last = torch::stable::new_empty(u, {batch, args.states, args.dim});
    Tensor chunks = keep ? torch::stable::new_empty(u, {batch, args.chunk_count(), args.states, args.dim}) : nothing(u);
    args.out = out<T>(y);
    args.last = out<T>(last);
    args.chunks = keep ? out<T>(chunks) : nullptr;
    for_blocks(batch, 1, [&](int64_t, int64_t begin, int64_t end) {
      Scratch<T> scratch(args.states);
      active().of<T>().scan_forward(args, scratch.data(), begin, end);
    });
    return {y, packed(torch::stable::transpose(last, 1, 2)), chunks};
  });
}

using ScanGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients in the order of the inputs; of D, z and delta_bias empty where there is none.
inline ScanGradients scan_backward(
    Tensor grad, Tensor chunks, Tensor u, Tensor delta, Tensor a, Tensor b, Tensor c, std::optional<Tensor> skip,
    std::optional<Tensor> z, std::optional<Tensor> delta_bias, bool softplus) {
  ScanInputs g{u, delta, a, b, c, skip, z, delta_bias, softplus};
  return by_dtype("selective_scan_backward", u, [&](auto* null) -> ScanGradients {
    using T = std::remove_pointer_t<decltype(null)>;
    std::vector<T> rates;
    ScanArgs<T> args = scan_args<T>(g, rates);
    const int64_t batch = u.size(0), dim = args.dim, states = args.states;
    check_same("selective_scan_backward", "grad", grad, u);
    STD_TORCH_CHECK(
        grad.numel() == u.numel() && chunks.numel() == batch * args.chunk_count() * states * dim,
        "selective_scan_backward: grad or chunks differ in size; was the forward pass told to keep its states?");
    const Tensor given = packed(grad), kept = packed(chunks);
    Tensor by_u = torch::stable::new_empty(u, u.sizes()), by_delta = torch::stable::new_empty(u, u.sizes());
    Tensor by_z = z ? torch::stable::new_empty(u, u.sizes()) : nothing(u);
    Tensor by_b = torch::stable::new_empty(b, b.sizes()), by_c = torch::stable::new_empty(c, c.sizes());
    args.grad = in<T>(given);
    args.chunks = out<T>(kept);
    args.grad_u = out<T>(by_u);
    args.grad_delta = out<T>(by_delta);
    args.grad_z = z ? out<T>(by_z) : nullptr;
    args.grad_b = out<T>(by_b);
    args.grad_c = out<T>(by_c);
    const int64_t each = (states + 2) * dim;
    // Four chunks of vectors, one of outputs, and the carried gradients; of the narrowest vectors there are the most.
    const int64_t vectors = kScanChunk * (4 * states + 1) + states * (dim / 2 + args.groups + 1);
    std::vector<T> partial(batch * each, T(0));
    for_blocks(batch, 1, [&](int64_t block, int64_t begin, int64_t end) {
      Scratch<T> scratch(vectors);
      active().of<T>().scan_backward(args, partial.data() + block * each, scratch.data(), begin, end);
    });
    const std::vector<T> sums = join_blocks_of(partial, each);
    Tensor by_a = torch::stable::new_empty(a, a.sizes());
    turn(sums.data(), states, dim, out<T>(by_a));
    const auto row = [&](bool want, int64_t which) {
      if (!want) return nothing(u);
      Tensor result = torch::stable::new_empty(u, {dim});
      std::copy_n(sums.begin() + (states + which) * dim, dim, out<T>(result));
      return result;
    };
    return {by_u, by_delta, by_a, by_b, by_c, row(skip.has_value(), 0), by_z, row(delta_bias.has_value(), 1)};
  });
}

}  // namespace foreblocks
