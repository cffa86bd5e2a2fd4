// The selective scan and its gradients on tensors.
#include "common.cuh"
#include "scan_backward.cuh"
#include "scan_forward.cuh"

namespace foreblocks::cuda {

struct ScanInputs {
  Tensor u, delta, a, b, c;
  std::optional<Tensor> skip, z, bias;
};

// Packed copies alive while the kernels run.
struct Kept {
  std::vector<Tensor> tensors;

  template <class T>
  const T* whole(const std::optional<Tensor>& x) {
    if (!x) return nullptr;
    tensors.push_back(packed(*x));
    return in<T>(tensors.back());
  }

  // Rows of the last dimension at one stride, a view where the layout allows it.
  template <class T>
  const T* rows(const std::optional<Tensor>& given, int64_t& stride) {
    if (!given) return nullptr;
    const Tensor& x = *given;
    const int64_t last = x.dim() - 1;
    bool even = x.size(last) == 1 || x.stride(last) == 1;
    int64_t next = 0, found = x.size(last);
    for (int64_t d = last - 1; d >= 0 && even; --d) {
      if (x.size(d) == 1) continue;
      if (next == 0) found = x.stride(d);
      even = next == 0 || x.stride(d) == next;
      next = x.stride(d) * x.size(d);
    }
    tensors.push_back(even ? x : packed(x));
    stride = even ? found : x.size(last);
    return in<T>(tensors.back());
  }
};

template <class T>
ScanArgs<T> scan_args(const ScanInputs& g, bool softplus, Kept& kept) {
  STD_TORCH_CHECK(g.u.dim() == 3 && g.a.dim() == 2 && g.b.dim() == 4 && g.c.dim() == 4, "selective_scan: u [B, L, D], A [D, N], B and C [B, L, G, N].");
  ScanArgs<T> s{};
  s.batch = g.u.size(0);
  s.steps = g.u.size(1);
  s.dim = static_cast<int>(g.u.size(2));
  s.states = static_cast<int>(g.a.size(1));
  s.groups = static_cast<int>(g.b.size(2));
  STD_TORCH_CHECK(s.states > 0 && s.states <= kMostStates, "selective_scan: the CUDA form takes 1 to 64 states.");
  STD_TORCH_CHECK(g.a.size(0) == s.dim && s.groups > 0 && s.dim % s.groups == 0, "selective_scan: A is not [D, N], or G does not divide D.");
  STD_TORCH_CHECK(g.delta.numel() == g.u.numel() && (!g.z || g.z->numel() == g.u.numel()), "selective_scan: delta or z differs from u in size.");
  for (const Tensor* each : {&g.b, &g.c})
    STD_TORCH_CHECK(each->numel() == s.batch * s.steps * s.groups * s.states && each->size(2) == s.groups, "selective_scan: B or C is not [B, L, G, N].");
  for (const auto* each : {&g.skip, &g.bias})
    STD_TORCH_CHECK(!*each || (*each)->numel() == s.dim, "selective_scan: D or delta_bias is not [D].");
  for (const Tensor* each : {&g.delta, &g.a, &g.b, &g.c}) check_same("selective_scan", "an argument", *each, g.u);
  for (const auto* each : {&g.skip, &g.z, &g.bias})
    if (*each) check_same("selective_scan", "an argument", **each, g.u);
  s.lanes = 1;
  while (s.lanes * kOwn < s.states) s.lanes *= 2;
  s.u = kept.rows<T>(g.u, s.u_stride);
  s.delta = kept.rows<T>(g.delta, s.delta_stride);
  s.z = kept.rows<T>(g.z, s.z_stride);
  s.b = kept.rows<T>(g.b, s.b_stride);
  s.c = kept.rows<T>(g.c, s.c_stride);
  s.a = kept.whole<T>(g.a);
  s.skip = kept.whole<T>(g.skip);
  s.bias = kept.whole<T>(g.bias);
  s.softplus = softplus;
  STD_TORCH_CHECK(s.grid().y < 65536, "selective_scan: too many channels for one launch.");
  return s;
}

// A function and not a braced list at the call: nvcc 13 passes those on wrongly inside a lambda.
static Tensor fresh(const Tensor& like, std::initializer_list<int64_t> sizes) { return torch::stable::new_empty(like, sizes); }

// Output, last state [B, D, N], and with `keep` the states at the start of the chunks, [B, chunks, N, D].
std::tuple<Tensor, Tensor, Tensor> scan_forward(
    Tensor u, Tensor delta, Tensor a, Tensor b, Tensor c, std::optional<Tensor> skip, std::optional<Tensor> z,
    std::optional<Tensor> bias, bool softplus, bool keep) {
  const torch::stable::accelerator::DeviceGuard guard(u.get_device_index());
  return by_dtype("selective_scan", u, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    Kept kept;
    ScanArgs<T> s = scan_args<T>({u, delta, a, b, c, skip, z, bias}, softplus, kept);
    Tensor result = torch::stable::new_empty(u, u.sizes()), last = fresh(u, {s.batch, s.dim, s.states});
    Tensor chunks = keep ? fresh(u, {s.batch, s.chunk_count(), s.states, s.dim}) : nothing(u);
    s.out = out<T>(result);
    s.last = out<T>(last);
    s.chunks = keep ? out<T>(chunks) : nullptr;
    if (u.numel() > 0) {
      const size_t bytes = sizeof(T) * forward_values(s.channels(), s.lanes * kOwn);
      scan_forward_kernel<T><<<s.grid(), kScanThreads, bytes, stream_of(u)>>>(s);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    return {result, last, chunks};
  });
}

using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of the eight tensors; empty for those that are not given.
Eight scan_backward(
    Tensor grad, Tensor chunks, Tensor u, Tensor delta, Tensor a, Tensor b, Tensor c, std::optional<Tensor> skip,
    std::optional<Tensor> z, std::optional<Tensor> bias, bool softplus) {
  const torch::stable::accelerator::DeviceGuard guard(u.get_device_index());
  check_same("selective_scan_backward", "grad", grad, u);
  check_same("selective_scan_backward", "chunks", chunks, u);
  return by_dtype("selective_scan_backward", u, [&](auto* null) -> Eight {
    using T = std::remove_pointer_t<decltype(null)>;
    Kept kept;
    ScanArgs<T> s = scan_args<T>({u, delta, a, b, c, skip, z, bias}, softplus, kept);
    STD_TORCH_CHECK(grad.numel() == u.numel() && chunks.numel() == s.batch * s.chunk_count() * s.states * s.dim, "selective_scan_backward: grad or chunks differ in size.");
    Tensor by_u = torch::stable::new_empty(u, u.sizes()), by_delta = torch::stable::new_empty(u, u.sizes());
    Tensor by_z = z ? torch::stable::new_empty(u, u.sizes()) : nothing(u);
    Tensor a_parts = fresh(u, {s.batch, s.dim, s.states}), skip_parts = fresh(u, {s.batch, s.dim}), bias_parts = fresh(u, {s.batch, s.dim});
    Tensor b_parts = fresh(u, {s.tiles(), s.batch, s.steps, s.groups, s.states}), c_parts = fresh(u, {s.tiles(), s.batch, s.steps, s.groups, s.states});
    Tensor by_a = fresh(u, {s.dim, s.states}), by_b = fresh(u, {s.batch, s.steps, s.groups, s.states}), by_c = fresh(u, {s.batch, s.steps, s.groups, s.states});
    Tensor by_skip = skip ? fresh(u, {s.dim}) : nothing(u), by_bias = bias ? fresh(u, {s.dim}) : nothing(u);
    const cudaStream_t stream = stream_of(u);
    s.grad = kept.whole<T>(grad);
    kept.tensors.push_back(packed(chunks));
    s.chunks = out<T>(kept.tensors.back());
    s.by_u = out<T>(by_u);
    s.by_delta = out<T>(by_delta);
    s.by_z = z ? out<T>(by_z) : nullptr;
    s.by_a = out<T>(a_parts);
    s.by_skip = out<T>(skip_parts);
    s.by_bias = out<T>(bias_parts);
    s.by_b = out<T>(b_parts);
    s.by_c = out<T>(c_parts);
    if (u.numel() > 0) {
      const size_t bytes = sizeof(T) * backward_values(s.channels(), s.lanes * kOwn);
      // 53 KiB in double precision with many states; every supported device has 99 or more.
      STD_CUDA_CHECK(cudaFuncSetAttribute(
          scan_backward_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
      scan_backward_kernel<T><<<s.grid(), kScanThreads, bytes, stream>>>(s);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    sum_over_parts<T>(a_parts, s.batch, by_a, stream);
    sum_over_parts<T>(b_parts, s.tiles(), by_b, stream);
    sum_over_parts<T>(c_parts, s.tiles(), by_c, stream);
    if (skip) sum_over_parts<T>(skip_parts, s.batch, by_skip, stream);
    if (bias) sum_over_parts<T>(bias_parts, s.batch, by_bias, stream);
    return {by_u, by_delta, by_a, by_b, by_c, by_skip, by_z, by_bias};
  });
}

}  // namespace foreblocks::cuda

STABLE_TORCH_LIBRARY_IMPL(foreblocks_darts, CUDA, m) {
  m.impl("selective_scan", TORCH_BOX(&foreblocks::cuda::scan_forward));
  m.impl("selective_scan_backward", TORCH_BOX(&foreblocks::cuda::scan_backward));
}
