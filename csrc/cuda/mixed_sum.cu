// mixed_sum and its gradients on tensors.
#include "common.cuh"
#include "mixed_sum.cuh"

namespace foreblocks::cuda {

static std::vector<Tensor> packed_list(const char* operation, const std::vector<Tensor>& xs, const Tensor& like) {
  STD_TORCH_CHECK(static_cast<int>(xs.size()) <= kMost, operation, " takes up to 128 tensors.");
  std::vector<Tensor> result;
  for (const Tensor& x : xs) {
    check_same(operation, "xs", x, like);
    STD_TORCH_CHECK(x.numel() == like.numel(), operation, ": xs differ in size.");
    result.push_back(packed(x));
  }
  return result;
}

template <class T>
Addresses<const T> addresses(const std::vector<Tensor>& xs) {
  Addresses<const T> result{};
  for (size_t k = 0; k < xs.size(); ++k) result.at[k] = in<T>(xs[k]);
  return result;
}

std::tuple<Tensor, Tensor> mixed_sum_forward(std::vector<Tensor> xs, Tensor weights, bool normalize, bool squares) {
  STD_TORCH_CHECK(!xs.empty() && weights.numel() == static_cast<int64_t>(xs.size()), "mixed_sum: xs and weights differ in length.");
  check_same("mixed_sum", "weights", weights, xs[0]);
  const torch::stable::accelerator::DeviceGuard guard(xs[0].get_device_index());
  const std::vector<Tensor> data = packed_list("mixed_sum", xs, xs[0]);
  const Tensor w = packed(weights);
  const cudaStream_t stream = stream_of(w);
  return by_dtype("mixed_sum", w, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const int count = static_cast<int>(data.size());
    const int64_t total = data[0].numel(), blocks = parts(total, kTile);
    Tensor result = torch::stable::new_empty(data[0], data[0].sizes());
    Tensor partial = squares ? torch::stable::new_empty(w, {count, blocks}) : nothing(w);
    if (blocks > 0) {
      mix<T><<<blocks, kThreads, 0, stream>>>(
          addresses<T>(data), in<T>(w), count, normalize, total, out<T>(result), squares ? out<T>(partial) : nullptr);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    if (!squares) return {result, nothing(w)};
    Tensor means = torch::stable::new_empty(w, {count}), wide = torch::stable::new_empty(w, {count}, ScalarType::Double);
    join<T><<<count, kThreads, 0, stream>>>(in<T>(partial), blocks, static_cast<double>(total), out<double>(wide));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    round_to<T><<<1, kThreads, 0, stream>>>(in<double>(wide), count, out<T>(means));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return {result, means};
  });
}

// Gradients for xs[k], k in `wanted`, and for the weights if xs is not empty.
std::tuple<std::vector<Tensor>, Tensor> mixed_sum_backward(
    Tensor grad, std::vector<Tensor> xs, Tensor weights, bool normalize, std::vector<int64_t> wanted) {
  check_same("mixed_sum_backward", "weights", weights, grad);
  const int64_t count = weights.numel();
  STD_TORCH_CHECK(count <= kMost, "mixed_sum_backward takes up to 128 tensors.");
  STD_TORCH_CHECK(xs.empty() || static_cast<int64_t>(xs.size()) == count, "mixed_sum_backward: xs and weights differ in length.");
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  const Tensor g = packed(grad), w = packed(weights);
  const std::vector<Tensor> data = packed_list("mixed_sum_backward", xs, grad);
  const cudaStream_t stream = stream_of(g);
  return by_dtype("mixed_sum_backward", g, [&](auto* null) -> std::tuple<std::vector<Tensor>, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const int64_t total = g.numel(), blocks = parts(total, kTile);
    std::vector<Tensor> grads;
    Addresses<T> to{};
    for (int64_t k : wanted) {
      STD_TORCH_CHECK(k >= 0 && k < count, "mixed_sum_backward: wanted is out of range.");
      grads.push_back(torch::stable::new_empty(g, g.sizes()));
      to.at[k] = out<T>(grads.back());
    }
    const bool given = !data.empty();
    Tensor partial = given ? torch::stable::new_empty(w, {count, blocks}) : nothing(w);
    if (blocks > 0) {
      mix_backward<T><<<blocks, kThreads, 0, stream>>>(
          in<T>(g), addresses<T>(data), to, in<T>(w), static_cast<int>(count), normalize, total,
          given ? out<T>(partial) : nullptr);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    if (!given) return {grads, nothing(w)};
    Tensor grad_weights = torch::stable::new_empty(w, {count}), dots = torch::stable::new_empty(w, {count}, ScalarType::Double);
    join<T><<<count, kThreads, 0, stream>>>(in<T>(partial), blocks, 1.0, out<double>(dots));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    weight_grads<T><<<1, kThreads, 0, stream>>>(
        in<double>(dots), in<T>(w), static_cast<int>(count), normalize, out<T>(grad_weights));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return {grads, grad_weights};
  });
}

}  // namespace foreblocks::cuda

STABLE_TORCH_LIBRARY_IMPL(foreblocks_darts, CUDA, m) {
  m.impl("mixed_sum", TORCH_BOX(&foreblocks::cuda::mixed_sum_forward));
  m.impl("mixed_sum_backward", TORCH_BOX(&foreblocks::cuda::mixed_sum_backward));
}
