// Causal convolutions one behind the other, each added to what it was given: a sample goes through all of them while it lies in
// the second cache.
#pragma once

#include "common.h"
#include "products.h"

namespace foreblocks {

// y_0 = x, y_1 = relu(x + relu(conv_0 x)), y_{k+1} = y_k + relu(conv_k y_k); the result is the last convolution itself.
struct ResidualConvs {
  int64_t batch, steps, dim, count, width;
  Tensor x, weight, bias;  // packed

  ResidualConvs(const Tensor& x_, const Tensor& weight_, const Tensor& bias_) {
    check_steps("residual_convs", x_);
    STD_TORCH_CHECK(weight_.dim() == 4 && bias_.dim() == 2, "residual_convs: weight is not [K, D, D, W], or bias not [K, D].");
    batch = x_.size(0), steps = x_.size(1), dim = x_.size(2), count = weight_.size(0), width = weight_.size(3);
    STD_TORCH_CHECK(
        count > 0 && width > 0 && weight_.size(1) == dim && weight_.size(2) == dim && bias_.size(0) == count && bias_.size(1) == dim,
        "residual_convs: weight or bias has another size.");
    check_same("residual_convs", "weight", weight_, x_);
    check_same("residual_convs", "bias", bias_, x_);
    x = packed(x_), weight = packed(weight_), bias = packed(bias_);
  }

  StepConv conv(int64_t k) const { return {batch, steps, dim, width, int64_t(1) << k}; }
  int64_t size() const { return steps * dim; }
  int64_t taps() const { return width * dim * dim; }
  int64_t before() const { return conv(count - 1).left * dim; }
  int64_t block() const { return product_samples(steps, dim); }

  // Of each sample the inner y_k, and behind them the activated convolutions that they were made of.
  int64_t kept() const { return 2 * (count - 1) * size(); }
  Tensor fresh_kept(bool keep) const {
    return keep ? blank(x, {batch, 2, count - 1, steps, dim}) : nothing(x);
  }

  template <class T>
  std::vector<T> turned(bool forward) const {
    std::vector<T> all;
    all.reserve(count * taps());
    for (int64_t k = 0; k < count; ++k) {
      const std::vector<T> one = by_tap(in<T>(weight) + k * taps(), conv(k), forward);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }
};

inline std::tuple<Tensor, Tensor> residual_forward(Tensor x, Tensor weight, Tensor bias, bool keep) {
  const ResidualConvs c(x, weight, bias);
  return by_dtype("residual_convs", x, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    Tensor result = blank(x, x.sizes()), kept = c.fresh_kept(keep);
    const std::vector<T> turned = c.turned<T>(true);
    const int64_t size = c.size(), inner = c.count - 1;
    for_blocks(c.batch, c.block(), [&](int64_t, int64_t begin, int64_t end) {
      Padded<T> room(size, c.before(), 0, true);
      std::vector<T> scratch(keep ? 0 : size);
      T* y = room.centre();
      for (int64_t n = begin; n < end; ++n) {
        room.of(in<T>(c.x) + n * size);
        for (int64_t k = 0; k <= inner; ++k) {
          const StepConv conv = c.conv(k);
          T* ys = keep ? out<T>(kept) + n * c.kept() + k * size : nullptr;
          T* r = k == inner ? out<T>(result) + n * size : keep ? ys + inner * size : scratch.data();
          Product<T> p{y - conv.left * c.dim, c.dim, 1, turned.data() + k * c.taps(), c.dim, r, c.dim, c.steps, c.dim, c.dim,
                       c.width, conv.dilation * c.dim, c.dim * c.dim};
          p.by_column = in<T>(c.bias) + k * c.dim;
          active().of<T>().product(p);
          if (k == inner) break;
          active().of<T>().activation_forward(kRelu, r, r, size);
          for (int64_t i = 0; i < size; ++i) y[i] += r[i];
          if (k == 0) active().of<T>().activation_forward(kRelu, y, y, size);
          if (keep) std::copy_n(y, size, ys);
        }
      }
    });
    return {result, kept};
  });
}

// The gradient of one sample. `sums` has the gradients of each convolution one behind the other, null if nobody needs them.
template <class T>
void residual_sample(
    const ResidualConvs& c, const T* x, const T* kept, const T* turned, T* sums, Padded<T>& room, Padded<T>& gradient, T* toward,
    T* scratch, bool by_x) {
  const int64_t size = c.size(), inner = c.count - 1, each = c.taps() + c.dim;
  T* g = gradient.centre();
  for (int64_t k = inner; k >= 0; --k) {
    const StepConv conv = c.conv(k);
    if (sums) {
      const T* from = room.of(k ? kept + (k - 1) * size : x);
      step_conv_by_weight(conv, g, from - conv.left * c.dim, sums + k * each);
    }
    if (k == 0 && !by_x) return;
    active().of<T>().product({g + conv.left * c.dim, c.dim, 1, turned + k * c.taps(), c.dim, k == inner ? toward : scratch, c.dim,
                              c.steps, c.dim, c.dim, c.width, -conv.dilation * c.dim, c.dim * c.dim});
    if (k != inner)
      for (int64_t i = 0; i < size; ++i) toward[i] += scratch[i];
    if (k == 0) return;
    const T *y = kept + (k - 1) * size, *r = y + inner * size;
    if (k == 1) active().of<T>().activation_backward(kRelu, toward, y, toward, size);
    active().of<T>().activation_backward(kRelu, toward, r, g, size);
  }
}

// Gradients of x, weight and bias; `needs` has bit 0 for x and bit 1 for the two others.
inline std::tuple<Tensor, Tensor, Tensor> residual_backward(
    Tensor grad, Tensor kept, Tensor x, Tensor weight, Tensor bias, int64_t needs) {
  const ResidualConvs c(x, weight, bias);
  check_same("residual_convs_backward", "grad", grad, x);
  check_same("residual_convs_backward", "kept", kept, x);
  STD_TORCH_CHECK(
      grad.numel() == x.numel() && kept.numel() == c.batch * c.kept(), "residual_convs_backward: grad or kept has another size.");
  const Tensor given = packed(grad), inner = packed(kept);
  return by_dtype("residual_convs_backward", x, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    Tensor grad_x = needs & 1 ? blank(x, x.sizes()) : nothing(x);
    const std::vector<T> turned = c.turned<T>(false);
    const int64_t size = c.size(), one = c.taps() + c.dim, each = needs & 2 ? c.count * one : 0;
    std::vector<T> partial(block_count(c.batch, c.block()) * each, T(0));
    for_blocks(c.batch, c.block(), [&](int64_t block, int64_t begin, int64_t end) {
      Padded<T> room(size, c.before(), 0, true), gradient(size, 0, c.before(), true);
      std::vector<T> spare(needs & 1 ? 0 : size), scratch(size);
      T* sums = each ? partial.data() + block * each : nullptr;
      for (int64_t n = begin; n < end; ++n) {
        gradient.of(in<T>(given) + n * size);
        T* toward = needs & 1 ? out<T>(grad_x) + n * size : spare.data();
        residual_sample<T>(
            c, in<T>(c.x) + n * size, in<T>(inner) + n * c.kept(), turned.data(), sums, room, gradient, toward, scratch.data(),
            needs & 1);
      }
    });
    if (!each) return {grad_x, nothing(x), nothing(x)};
    const std::vector<T> sums = join_blocks_of(partial, each);
    Tensor by_weight = blank(x, weight.sizes()), by_bias = blank(x, bias.sizes());
    const int64_t plane = c.dim * c.dim;
    for (int64_t k = 0; k < c.count; ++k) {
      for (int64_t i = 0; i < plane; ++i)
        for (int64_t j = 0; j < c.width; ++j)
          out<T>(by_weight)[k * c.taps() + i * c.width + j] = sums[k * one + j * plane + i];
      std::copy_n(sums.begin() + k * one + c.taps(), c.dim, out<T>(by_bias) + k * c.dim);
    }
    return {grad_x, by_weight, by_bias};
  });
}

}  // namespace foreblocks
