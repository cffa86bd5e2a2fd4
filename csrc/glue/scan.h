// The selective scan and its gradients on tensors, time in the second dimension.
#pragma once

#include "common.h"
#include "storage.h"

namespace foreblocks {

struct ScanInputs {
  Tensor u, delta, a, b, c;
  std::optional<Tensor> skip, z, delta_bias;
  bool softplus;

  int64_t batch() const { return u.size(0); }
};

// [dim, states] as [states, dim], or back.
template <class T>
void turn(const T* from, int64_t rows, int64_t columns, T* to) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
}

// What one sample needs beside the tensors.
template <class T>
struct ScanSpaces {
  explicit ScanSpaces(int64_t vectors) : scratch(vectors) {}
  Scratch<T> scratch;
  Space<T> u, delta, z, b, c, grad, out, grad_u, grad_delta, grad_z, grad_b, grad_c;
};

// The series u, delta, z, B and C may be stored in half precision; A, D, the bias and all states are not.
template <class S>
struct ScanData {
  using T = Compute<S>;
  Rows<S> u, delta, z, b, c;
  Values<T> skip, delta_bias;
  std::vector<T> rates;
  Source<S> grad;
  Sink<S> out, grad_u, grad_delta, grad_z, grad_b, grad_c;
  ScanArgs<T> all{};

  explicit ScanData(const ScanInputs& g)
      : u(g.u), delta(g.delta), z(g.z), b(g.b), c(g.c), skip(g.skip), delta_bias(g.delta_bias) {
    check(g);
    all.u_stride = u.stride();
    all.delta_stride = delta.stride();
    all.z_stride = z.stride();
    all.b_stride = b.stride();
    all.c_stride = c.stride();
    all.skip = skip.data();
    all.delta_bias = delta_bias.data();
    const Tensor a = packed(g.a);
    rates.resize(all.dim * all.states);
    turn(in<T>(a), all.dim, all.states, rates.data());
    all.a = rates.data();
    all.softplus = g.softplus;
  }
  ScanData(const ScanData&) = delete;

  // The arguments for sample n, which is number 0 in them.
  ScanArgs<T> at(int64_t n, ScanSpaces<T>& spaces) const {
    ScanArgs<T> a = all;
    const int64_t row = n * a.steps, first = row * a.dim, size = a.steps * a.dim;
    const int64_t side_row = row * a.groups, side_rows = a.steps * a.groups;
    a.u = u.at(row, a.steps, spaces.u);
    a.delta = delta.at(row, a.steps, spaces.delta);
    a.z = z.at(row, a.steps, spaces.z);
    a.b = b.at(side_row, side_rows, spaces.b);
    a.c = c.at(side_row, side_rows, spaces.c);
    if (a.chunks) a.chunks += n * a.kept_count() * a.states * a.dim;
    if (a.last) a.last += n * a.states * a.dim;
    a.grad = grad.at(first, size, spaces.grad);
    a.out = out.at(first, size, spaces.out);
    a.grad_u = grad_u.at(first, size, spaces.grad_u);
    a.grad_delta = grad_delta.at(first, size, spaces.grad_delta);
    a.grad_z = grad_z.at(first, size, spaces.grad_z);
    a.grad_b = grad_b.at(side_row * a.states, side_rows * a.states, spaces.grad_b);
    a.grad_c = grad_c.at(side_row * a.states, side_rows * a.states, spaces.grad_c);
    return a;
  }

  void done(const ScanArgs<T>& a, int64_t n) const {
    const int64_t size = a.steps * a.dim, side = a.steps * a.groups * a.states;
    out.done(n * size, size, a.out);
    grad_u.done(n * size, size, a.grad_u);
    grad_delta.done(n * size, size, a.grad_delta);
    grad_z.done(n * size, size, a.grad_z);
    grad_b.done(n * side, side, a.grad_b);
    grad_c.done(n * side, side, a.grad_c);
  }

 private:
  void check(const ScanInputs& g) {
    STD_TORCH_CHECK(g.u.dim() == 3 && g.a.dim() == 2 && g.b.dim() == 4 && g.c.dim() == 4, "selective_scan: u [B, L, D], A [D, N], B and C [B, L, G, N].");
    all.steps = g.u.size(1);
    all.dim = g.u.size(2);
    all.states = g.a.size(1);
    all.groups = g.b.size(2);
    const int64_t rows = g.u.size(0) * all.steps;
    STD_TORCH_CHECK(g.delta.numel() == g.u.numel() && (!g.z || g.z->numel() == g.u.numel()), "selective_scan: delta or z differs from u in size.");
    STD_TORCH_CHECK(g.a.size(0) == all.dim && all.groups > 0 && all.dim % all.groups == 0, "selective_scan: A is not [D, N], or G does not divide D.");
    for (const Tensor* each : {&g.b, &g.c})
      STD_TORCH_CHECK(each->numel() == rows * all.groups * all.states && each->size(2) == all.groups, "selective_scan: B or C is not [B, L, G, N].");
    for (const auto* each : {&g.skip, &g.delta_bias})
      STD_TORCH_CHECK(!*each || (*each)->numel() == all.dim, "selective_scan: D or delta_bias is not [D].");
    for (const Tensor* each : {&g.delta, &g.b, &g.c}) check_same("selective_scan", "an argument", *each, g.u);
    if (g.z) check_same("selective_scan", "z", *g.z, g.u);
    const ScalarType wide = compute_dtype(g.u);
    STD_TORCH_CHECK(
        g.a.scalar_type() == wide && (!g.skip || g.skip->scalar_type() == wide) && (!g.delta_bias || g.delta_bias->scalar_type() == wide),
        "selective_scan: A, D or delta_bias has another dtype.");
  }
};

// Output, last state [B, D, N], and with `keep` the states at the start of the chunks but the first, [B, chunks - 1, N, D].
inline std::tuple<Tensor, Tensor, Tensor> scan_forward(
    Tensor u, Tensor delta, Tensor a, Tensor b, Tensor c, std::optional<Tensor> skip, std::optional<Tensor> z,
    std::optional<Tensor> delta_bias, bool softplus, bool keep) {
  const ScanInputs g{u, delta, a, b, c, skip, z, delta_bias, softplus};
  return by_storage("selective_scan", u, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    ScanData<S> data(g);
    const int64_t states = data.all.states, dim = data.all.dim;
    Tensor y = blank(u, u.sizes());
    Tensor last = blank(a, {g.batch(), states, dim});
    Tensor chunks = keep ? blank(a, {g.batch(), data.all.kept_count(), states, dim}) : nothing(a);
    data.out = Sink<S>(y);
    data.all.last = out<T>(last);
    data.all.chunks = keep ? out<T>(chunks) : nullptr;
    for_blocks_with(g.batch(), 1, [&] { return ScanSpaces<T>(states); }, [&](auto& spaces, int64_t, int64_t n, int64_t) {
      const ScanArgs<T> args = data.at(n, spaces);
      active().of<T>().scan_forward(args, spaces.scratch.data(), 0, 1);
      data.done(args, n);
    });
    return {y, packed(torch::stable::transpose(last, 1, 2)), chunks};
  });
}

using ScanGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients in the order of the inputs; of D, z and delta_bias empty where there is none.
inline ScanGradients scan_backward(
    Tensor grad, Tensor chunks, Tensor u, Tensor delta, Tensor a, Tensor b, Tensor c, std::optional<Tensor> skip,
    std::optional<Tensor> z, std::optional<Tensor> delta_bias, bool softplus) {
  const ScanInputs g{u, delta, a, b, c, skip, z, delta_bias, softplus};
  return by_storage("selective_scan_backward", u, [&](auto* null) -> ScanGradients {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    ScanData<S> data(g);
    const int64_t batch = g.batch(), dim = data.all.dim, states = data.all.states;
    check_same("selective_scan_backward", "grad", grad, u);
    STD_TORCH_CHECK(
        grad.numel() == u.numel() && chunks.numel() == batch * data.all.kept_count() * states * dim && chunks.scalar_type() == a.scalar_type(),
        "selective_scan_backward: grad or chunks differ in size or dtype; was the forward pass told to keep its states?");
    const Tensor given = packed(grad), kept = packed(chunks);
    data.grad = Source<S>(given);
    data.all.chunks = out<T>(kept);
    const auto fresh = [](const Tensor& like, Sink<S>& sink) {
      Tensor result = blank(like, like.sizes());
      sink = Sink<S>(result);
      return result;
    };
    Tensor by_u = fresh(u, data.grad_u), by_delta = fresh(delta, data.grad_delta);
    Tensor by_z = z ? fresh(*z, data.grad_z) : nothing(u);
    Tensor by_b = fresh(b, data.grad_b), by_c = fresh(c, data.grad_c);
    const int64_t each = (states + 2) * dim;
    // Four chunks of vectors, one of outputs, and the carried gradients; of the narrowest vectors there are the most.
    const int64_t vectors = data.all.longest_chunk() * (4 * states + 1) + states * (dim / 2 + data.all.groups + 1);
    std::vector<T> partial(batch * each, T(0));
    for_blocks_with(batch, 1, [&] { return ScanSpaces<T>(vectors); }, [&](auto& spaces, int64_t, int64_t n, int64_t) {
      const ScanArgs<T> args = data.at(n, spaces);
      active().of<T>().scan_backward(args, partial.data() + n * each, spaces.scratch.data(), 0, 1);
      data.done(args, n);
    });
    const std::vector<T> sums = join_blocks_of(partial, each);
    Tensor by_a = blank(a, a.sizes());
    turn(sums.data(), states, dim, out<T>(by_a));
    const auto row = [&](bool want, int64_t which) {
      return want ? tensor_of<T>(a, sums.data() + (states + which) * dim, {dim}) : nothing(a);
    };
    return {by_u, by_delta, by_a, by_b, by_c, row(skip.has_value(), 0), by_z, row(delta_bias.has_value(), 1)};
  });
}

}  // namespace foreblocks
