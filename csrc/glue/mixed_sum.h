// mixed_sum and its gradients on tensors. Shapes are checked in Python too; here only what would read out of bounds.
#pragma once

#include "common.h"
#include "storage.h"

namespace foreblocks {

template <class S>
std::vector<Compute<S>> mixture_weights(const Tensor& weights, bool normalize, double& scale) {
  using T = Compute<S>;
  const Values<S> w(weights);
  std::vector<T> values(w.data(), w.data() + weights.numel());
  double total = 0.0;
  for (T value : values) total += static_cast<double>(value);
  scale = normalize ? 1.0 / total : 1.0;
  if (normalize)
    for (T& value : values) value = static_cast<T>(static_cast<double>(value) * scale);
  return values;
}

inline std::vector<Tensor> packed_list(const char* operation, const std::vector<Tensor>& xs, const Tensor& like) {
  std::vector<Tensor> result;
  result.reserve(xs.size());
  for (const Tensor& x : xs) {
    check_same(operation, "xs", x, like);
    STD_TORCH_CHECK(x.numel() == like.numel(), operation, ": xs differ in size.");
    result.push_back(packed(x));
  }
  return result;
}

// Elements of a block at a time: as float, half precision stays in the first cache.
template <class S>
inline constexpr int64_t kPart = kHalf<S> ? 1024 : kBlock;

// A list of tensors, of which the kernels read or write one part at a time.
template <class S>
class Parts {
 public:
  using T = Compute<S>;
  explicit Parts(const std::vector<S*>& data) : data_(data), here_(data.size()) {
    if constexpr (kHalf<S>) {
      T* room = space_.room(count() * kPart<S>);
      for (size_t k = 0; k < data.size(); ++k) here_[k] = room + k * kPart<S>;
    }
  }

  int64_t count() const { return static_cast<int64_t>(data_.size()); }

  // Where elements [first, ...) of each tensor are read or written.
  T* const* at(int64_t first) {
    if constexpr (!kHalf<S>)
      for (size_t k = 0; k < data_.size(); ++k) here_[k] = data_[k] + first;
    return here_.data();
  }

  const T* const* read(int64_t first, int64_t size) {
    if constexpr (kHalf<S>)
      for (size_t k = 0; k < data_.size(); ++k) conversion<S>().widen(data_[k] + first, here_[k], size);
    return at(first);
  }

  void done(int64_t first, int64_t size) {
    if constexpr (kHalf<S>)
      for (size_t k = 0; k < data_.size(); ++k) conversion<S>().narrow(here_[k], data_[k] + first, size);
  }

 private:
  const std::vector<S*>& data_;
  std::vector<T*> here_;
  Space<T> space_;
};

template <class S>
std::vector<S*> pointers(const std::vector<Tensor>& xs) {
  std::vector<S*> result;
  result.reserve(xs.size());
  for (const Tensor& x : xs) result.push_back(out<S>(x));
  return result;
}

// Calls f(first, size) for the parts of [begin, end).
template <class S, class F>
void for_parts(int64_t begin, int64_t end, const F& f) {
  for (int64_t first = begin; first < end; first += kPart<S>) f(first, std::min(kPart<S>, end - first));
}

inline std::tuple<Tensor, Tensor> mixed_sum_forward(
    std::vector<Tensor> xs, Tensor weights, bool normalize, bool squares) {
  STD_TORCH_CHECK(!xs.empty() && weights.numel() == static_cast<int64_t>(xs.size()), "mixed_sum: xs and weights differ in length.");
  check_same("mixed_sum", "weights", weights, xs[0]);
  const std::vector<Tensor> data = packed_list("mixed_sum", xs, xs[0]);
  return by_storage("mixed_sum", xs[0], [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const Kernels<T>& kernels = active().of<T>();
    const int64_t count = static_cast<int64_t>(data.size()), total = data[0].numel();
    double scale;
    const std::vector<T> w = mixture_weights<S>(weights, normalize, scale);
    Tensor result = blank(data[0], data[0].sizes());
    const Sink<S> sink(result);
    const std::vector<S*> pointed = pointers<S>(data);
    std::vector<double> partial(squares ? count * block_count(total, kBlock) : 0);
    for_blocks(total, kBlock, [&](int64_t block, int64_t begin, int64_t end) {
      Parts<S> parts(pointed);
      Space<T> space;
      std::vector<double> sums(squares ? count : 0);
      for_parts<S>(begin, end, [&](int64_t first, int64_t size) {
        const T* const* x = parts.read(first, size);
        T* to = sink.at(first, size, space);
        kernels.mixed_sum(x, w.data(), count, to, 0, size);
        sink.done(first, size, to);
        if (!squares) return;
        kernels.square_sums(x, count, sums.data(), 0, size);
        for (int64_t k = 0; k < count; ++k) partial[block * count + k] += sums[k];
      });
    });
    if (!squares) return {result, nothing(weights)};
    const std::vector<double> sums = join_blocks_of(partial, count);
    std::vector<T> means(count);
    for (int64_t k = 0; k < count; ++k) means[k] = static_cast<T>(sums[k] / static_cast<double>(total));
    return {result, tensor_of<S>(weights, means.data(), {count})};
  });
}

// Gradients for xs[k], k in `wanted`, and for the weights if xs is not empty.
inline std::tuple<std::vector<Tensor>, Tensor> mixed_sum_backward(
    Tensor grad, std::vector<Tensor> xs, Tensor weights, bool normalize, std::vector<int64_t> wanted) {
  check_same("mixed_sum_backward", "weights", weights, grad);
  const int64_t count = weights.numel();
  STD_TORCH_CHECK(xs.empty() || static_cast<int64_t>(xs.size()) == count, "mixed_sum_backward: xs and weights differ in length.");
  const Tensor g = packed(grad);
  const std::vector<Tensor> data = packed_list("mixed_sum_backward", xs, grad);
  return by_storage("mixed_sum_backward", grad, [&](auto* null) -> std::tuple<std::vector<Tensor>, Tensor> {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    const Kernels<T>& kernels = active().of<T>();
    double scale;
    const std::vector<T> w = mixture_weights<S>(weights, normalize, scale);
    std::vector<Tensor> grads;
    std::vector<T> chosen;
    for (int64_t k : wanted) {
      STD_TORCH_CHECK(k >= 0 && k < count, "mixed_sum_backward: wanted is out of range.");
      grads.push_back(blank(g, g.sizes()));
      chosen.push_back(w[k]);
    }
    const int64_t given = static_cast<int64_t>(data.size()), total = g.numel();
    const Source<S> source(g);
    const std::vector<S*> pointed = pointers<S>(data), made = pointers<S>(grads);
    std::vector<double> partial(given * block_count(total, kBlock));
    for_blocks(total, kBlock, [&](int64_t block, int64_t begin, int64_t end) {
      Parts<S> x(pointed), to(made);
      Space<T> space;
      std::vector<double> dots(given);
      for_parts<S>(begin, end, [&](int64_t first, int64_t size) {
        const T* from = source.at(first, size, space);
        kernels.scaled_copies(from, chosen.data(), to.at(first), to.count(), 0, size);
        to.done(first, size);
        if (!given) return;
        kernels.mixed_dots(from, x.read(first, size), given, dots.data(), 0, size);
        for (int64_t k = 0; k < given; ++k) partial[block * given + k] += dots[k];
      });
    });
    if (!given) return {grads, nothing(weights)};
    std::vector<double> dots = join_blocks_of(partial, given);
    double shared = 0.0;  // of w / Σ w: what every weight loses because the sum grows
    if (normalize)
      for (int64_t k = 0; k < count; ++k) shared += static_cast<double>(w[k]) * dots[k];
    std::vector<T> by_weight(count);
    for (int64_t k = 0; k < count; ++k) by_weight[k] = static_cast<T>((dots[k] - shared) * scale);
    return {grads, tensor_of<S>(weights, by_weight.data(), {count})};
  });
}

}  // namespace foreblocks
