// Linear maps over time and over features, and dense convolutions, as small products in [N, T, D].
#pragma once

#include "common.h"
#include "steps.h"

namespace foreblocks {

// Samples of one block of a product: more of them share one partial gradient of the weight.
inline int64_t product_samples(int64_t steps, int64_t dim) { return 4 * samples_of(steps, dim); }

// Room for one sample of `count` values, zeros before and after it: they stay when the next sample comes. Without zeros there
// is none, unless `always`.
template <class T>
class Padded {
 public:
  Padded(int64_t count, int64_t before, int64_t after, bool always)
      : count_(count), before_(before), space_(always || before + after > 0 ? before + count + after : 0, T(0)) {}

  T* centre() { return space_.data() + before_; }

  // A copy of the sample, or the sample itself where there is no room.
  const T* of(const T* from) {
    if (space_.empty()) return from;
    std::copy_n(from, count_, centre());
    return centre();
  }

 private:
  int64_t count_, before_;
  std::vector<T> space_;
};

// An activation behind a product, sample by sample. For the gradient ReLU keeps its result, the others what they are given.
struct Epilogue {
  int64_t activation;
  Tensor kept;  // backward only

  explicit Epilogue(int64_t code) : activation(code) {
    STD_TORCH_CHECK(code >= kNone && code <= kSilu, "an activation has an unknown code.");
  }

  Epilogue(int64_t code, const std::optional<Tensor>& given, const Tensor& grad) : Epilogue(code) {
    if (code == kNone) return;
    STD_TORCH_CHECK(given && given->numel() == grad.numel(), "kept is not of the size of grad.");
    check_same("an activation", "kept", *given, grad);
    kept = packed(*given);
  }

  // A result, and room for what is kept of it: empty unless `keep`.
  std::tuple<Tensor, Tensor> fresh(const Tensor& x, std::initializer_list<int64_t> sizes, bool keep) const {
    STD_TORCH_CHECK(!keep || activation != kNone, "without an activation there is nothing to keep.");
    return {blank(x, sizes), keep ? blank(x, sizes) : nothing(x)};
  }

  template <class T>
  void forward(const T* from, T* to, int64_t count) const {
    if (activation != kNone) active().of<T>().activation_forward(activation, from, to, count);
  }

  // The gradient before the activation, of the sample that begins at `first`.
  template <class T>
  const T* backward(const T* grad, int64_t first, int64_t count, Padded<T>& room) const {
    if (activation == kNone) return room.of(grad + first);
    active().of<T>().activation_backward(activation, grad + first, in<T>(kept) + first, room.centre(), count);
    return room.centre();
  }
};

inline void check_time_linear(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(
      x.dim() == 3 && weight.dim() == 2 && weight.size(1) == x.size(1), "time_linear: x is not [N, T, D], or weight not [O, T].");
  check_same("time_linear", "weight", weight, x);
}

inline std::tuple<Tensor, Tensor> time_linear_forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t activation, bool keep) {
  check_time_linear(x, weight);
  const Tensor data = packed(x), w = packed(weight);
  if (bias) bias = packed(*bias);
  const int64_t batch = x.size(0), steps = x.size(1), dim = x.size(2), made = w.size(0);
  STD_TORCH_CHECK(!bias || bias->numel() == made, "time_linear: bias is not [O].");
  const Epilogue epilogue(activation);
  return by_dtype("time_linear", x, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const auto results = epilogue.fresh(x, {batch, made, dim}, keep);
    T *to = out<T>(std::get<0>(results)), *inputs = keep ? out<T>(std::get<1>(results)) : to;
    for_blocks(batch, product_samples(std::max(steps, made), dim), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        T* values = inputs + n * made * dim;
        Product<T> p{in<T>(w), steps, 1, in<T>(data) + n * steps * dim, dim, values, dim, made, steps, dim, 1};
        p.by_row = bias ? in<T>(*bias) : nullptr;
        active().of<T>().product(p);
        epilogue.forward(values, to + n * made * dim, made * dim);
      }
    });
    return results;
  });
}

// Gradients of x, weight and bias; `needs` has bit 0 for x and bit 1 for the two others. The bias itself counts only for
// the second derivative.
inline std::tuple<Tensor, Tensor, Tensor> time_linear_backward(
    Tensor grad, std::optional<Tensor> kept, Tensor x, Tensor weight, std::optional<Tensor>, int64_t activation, int64_t needs) {
  check_time_linear(x, weight);
  check_same("time_linear_backward", "grad", grad, x);
  const Tensor data = packed(x), w = packed(weight), given = packed(grad);
  const int64_t batch = x.size(0), steps = x.size(1), dim = x.size(2), made = w.size(0);
  STD_TORCH_CHECK(grad.numel() == batch * made * dim, "time_linear_backward: grad is not [N, O, D].");
  const Epilogue epilogue(activation, kept, grad);
  return by_dtype("time_linear_backward", x, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const Kernels<T>& kernels = active().of<T>();
    Tensor grad_x = needs & 1 ? blank(x, x.sizes()) : nothing(x);
    const int64_t size = product_samples(std::max(steps, made), dim), each = needs & 2 ? made * (steps + 1) : 0;
    std::vector<T> partial(block_count(batch, size) * each, T(0));
    for_blocks(batch, size, [&](int64_t block, int64_t begin, int64_t end) {
      T* by_weight = partial.data() + block * each;
      std::vector<T> turned(needs & 2 ? steps * dim : 0);
      Padded<T> room(made * dim, 0, 0, activation != kNone);
      for (int64_t n = begin; n < end; ++n) {
        const T* g = epilogue.backward(in<T>(given), n * made * dim, made * dim, room);
        const T* from = in<T>(data) + n * steps * dim;
        if (needs & 1)
          kernels.product({in<T>(w), 1, steps, g, dim, out<T>(grad_x) + n * steps * dim, dim, steps, made, dim, 1});
        if (!(needs & 2)) continue;
        kernels.transpose(from, steps, dim, turned.data());
        kernels.product({g, dim, 1, turned.data(), steps, by_weight, steps, made, dim, steps, 1, 0, 0, true});
        T* by_bias = by_weight + made * steps;
        for (int64_t o = 0; o < made; ++o) {
          T total = 0;
          for (int64_t d = 0; d < dim; ++d) total += g[o * dim + d];
          by_bias[o] += total;
        }
      }
    });
    if (!(needs & 2)) return {grad_x, nothing(x), nothing(x)};
    const std::vector<T> sums = join_blocks_of(partial, each);
    Tensor grad_weight = blank(w, {made, steps}), grad_bias = blank(w, {made});
    std::copy_n(sums.begin(), made * steps, out<T>(grad_weight));
    std::copy_n(sums.begin() + made * steps, made, out<T>(grad_bias));
    return {grad_x, grad_weight, grad_bias};
  });
}

struct StepConv {
  int64_t batch, steps, in_dim, out_dim, width, dilation, left, reach;

  StepConv(const Tensor& x, const Tensor& weight, int64_t dilation_, int64_t left_)
      : batch(x.size(0)), steps(x.size(1)), in_dim(x.size(2)), out_dim(weight.size(0)), width(weight.size(2)),
        dilation(dilation_), left(left_), reach((weight.size(2) - 1) * dilation_) {
    STD_TORCH_CHECK(weight.size(1) == in_dim, "step_conv1d: weight is not [O, I, W].");
    STD_TORCH_CHECK(dilation > 0 && left >= 0 && left <= reach, "step_conv1d: dilation or left is out of range.");
    check_same("step_conv1d", "weight", weight, x);
  }

  // Causal, of as many features as it is given.
  StepConv(int64_t batch_, int64_t steps_, int64_t dim, int64_t width_, int64_t dilation_)
      : batch(batch_), steps(steps_), in_dim(dim), out_dim(dim), width(width_), dilation(dilation_),
        left((width_ - 1) * dilation_), reach(left) {}

  int64_t block() const { return product_samples(steps, std::max(in_dim, out_dim)); }
  int64_t in_size() const { return steps * in_dim; }
  int64_t out_size() const { return steps * out_dim; }

  // The first tap of the step t of x is at the step t - left.
  template <class T>
  Padded<T> room() const {
    return {in_size(), left * in_dim, (reach - left) * in_dim, false};
  }
};

// weight [O, I, W] as [W, I, O] (forward) or [W, O, I] (backward).
template <class T>
std::vector<T> by_tap(const T* weight, const StepConv& c, bool forward) {
  std::vector<T> result(c.width * c.in_dim * c.out_dim);
  for (int64_t o = 0; o < c.out_dim; ++o)
    for (int64_t i = 0; i < c.in_dim; ++i)
      for (int64_t j = 0; j < c.width; ++j)
        result[j * c.in_dim * c.out_dim + (forward ? i * c.out_dim + o : o * c.in_dim + i)] =
            weight[(o * c.in_dim + i) * c.width + j];
  return result;
}

inline std::tuple<Tensor, Tensor> step_conv_forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t dilation, int64_t left, int64_t activation, bool keep) {
  STD_TORCH_CHECK(x.dim() == 3 && weight.dim() == 3, "step_conv1d: x is not [N, T, I], or weight not [O, I, W].");
  const StepConv c(x, weight, dilation, left);
  const Tensor data = packed(x), w = packed(weight);
  if (bias) bias = packed(*bias);
  STD_TORCH_CHECK(!bias || bias->numel() == c.out_dim, "step_conv1d: bias is not [O].");
  const Epilogue epilogue(activation);
  return by_dtype("step_conv1d", x, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const auto results = epilogue.fresh(x, {c.batch, c.steps, c.out_dim}, keep);
    T *to = out<T>(std::get<0>(results)), *inputs = keep ? out<T>(std::get<1>(results)) : to;
    const std::vector<T> taps = by_tap(in<T>(w), c, true);
    for_blocks(c.batch, c.block(), [&](int64_t, int64_t begin, int64_t end) {
      Padded<T> room = c.room<T>();
      const int64_t each = c.out_size();
      for (int64_t n = begin; n < end; ++n) {
        const T* from = room.of(in<T>(data) + n * c.in_size()) - c.left * c.in_dim;
        Product<T> p{from, c.in_dim, 1, taps.data(), c.out_dim, inputs + n * each, c.out_dim};
        p.rows = c.steps;
        p.inner = c.in_dim;
        p.columns = c.out_dim;
        p.taps = c.width;
        p.a_tap = c.dilation * c.in_dim;
        p.b_tap = c.in_dim * c.out_dim;
        p.by_column = bias ? in<T>(*bias) : nullptr;
        active().of<T>().product(p);
        epilogue.forward(inputs + n * each, to + n * each, each);
      }
    });
    return results;
  });
}

// Adds the gradients of weight, as [W, O, I], and bias of one sample to `sums`.
template <class T>
void step_conv_by_weight(const StepConv& c, const T* g, const T* from, T* sums) {
  const Kernels<T>& kernels = active().of<T>();
  for (int64_t j = 0; j < c.width; ++j)
    kernels.product({g, 1, c.out_dim, from + j * c.dilation * c.in_dim, c.in_dim, sums + j * c.out_dim * c.in_dim,
                     c.in_dim, c.out_dim, c.steps, c.in_dim, 1, 0, 0, true});
  T* by_bias = sums + c.width * c.out_dim * c.in_dim;
  for (int64_t t = 0; t < c.steps; ++t)
    for (int64_t o = 0; o < c.out_dim; ++o) by_bias[o] += g[t * c.out_dim + o];
}

// As time_linear_backward.
inline std::tuple<Tensor, Tensor, Tensor> step_conv_backward(
    Tensor grad, std::optional<Tensor> kept, Tensor x, Tensor weight, std::optional<Tensor>, int64_t dilation, int64_t left,
    int64_t activation, int64_t needs) {
  STD_TORCH_CHECK(x.dim() == 3 && weight.dim() == 3, "step_conv1d_backward: x is not [N, T, I], or weight not [O, I, W].");
  const StepConv c(x, weight, dilation, left);
  check_same("step_conv1d_backward", "grad", grad, x);
  const Tensor data = packed(x), w = packed(weight), given = packed(grad);
  STD_TORCH_CHECK(grad.numel() == c.batch * c.steps * c.out_dim, "step_conv1d_backward: grad is not [N, T, O].");
  const Epilogue epilogue(activation, kept, grad);
  return by_dtype("step_conv1d_backward", x, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    Tensor grad_x = needs & 1 ? blank(x, x.sizes()) : nothing(x);
    const std::vector<T> taps = needs & 1 ? by_tap(in<T>(w), c, false) : std::vector<T>();
    const int64_t plane = c.out_dim * c.in_dim, each = needs & 2 ? c.width * plane + c.out_dim : 0;
    std::vector<T> partial(block_count(c.batch, c.block()) * each, T(0));
    for_blocks(c.batch, c.block(), [&](int64_t block, int64_t begin, int64_t end) {
      Padded<T> room = c.room<T>();
      Padded<T> grad_room(c.out_size(), (c.reach - c.left) * c.out_dim, c.left * c.out_dim, activation != kNone);
      for (int64_t n = begin; n < end; ++n) {
        const T* g = epilogue.backward(in<T>(given), n * c.out_size(), c.out_size(), grad_room);
        if (needs & 2) {
          const T* from = room.of(in<T>(data) + n * c.in_size()) - c.left * c.in_dim;
          step_conv_by_weight(c, g, from, partial.data() + block * each);
        }
        if (!(needs & 1)) continue;
        // Tap j of the step t of x met the gradient of the step t + left - j · dilation.
        active().of<T>().product({g + c.left * c.out_dim, c.out_dim, 1, taps.data(), c.in_dim,
                                  out<T>(grad_x) + n * c.in_size(), c.in_dim, c.steps, c.out_dim, c.in_dim,
                                  c.width, -c.dilation * c.out_dim, plane});
      }
    });
    if (!(needs & 2)) return {grad_x, nothing(x), nothing(x)};
    const std::vector<T> sums = join_blocks_of(partial, each);
    Tensor grad_weight = blank(w, w.sizes()), grad_bias = blank(w, {c.out_dim});
    for (int64_t k = 0; k < plane; ++k)
      for (int64_t j = 0; j < c.width; ++j) out<T>(grad_weight)[k * c.width + j] = sums[j * plane + k];
    std::copy(sums.end() - c.out_dim, sums.end(), out<T>(grad_bias));
    return {grad_x, grad_weight, grad_bias};
  });
}

}  // namespace foreblocks
