// Softmax attention on tensors. Shapes are checked in Python too; here only what would read out of bounds.
#pragma once

#include "common.h"

namespace foreblocks {

// The tensor, or a copy, so that the numbers of a row lie side by side.
inline Tensor with_rows(const Tensor& x) { return x.size(2) == 1 || x.stride(2) == 1 ? x : packed(x); }

// Numbers of `bounds` as T, with room behind them for a whole vector.
template <class T>
std::vector<T> bounds_of(const std::optional<Tensor>& bounds) {
  if (!bounds) return {};
  const Tensor kept = packed(*bounds);
  std::vector<T> result(kept.numel() + 16, T(0));
  const int64_t* from = static_cast<const int64_t*>(kept.data_ptr());
  std::transform(from, from + kept.numel(), result.begin(), [](int64_t v) { return static_cast<T>(v); });
  return result;
}

inline void check_attention(
    const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& first, const std::optional<Tensor>& last,
    int64_t heads, bool rotary) {
  check_same("softmax_attention", "k", k, q);
  check_same("softmax_attention", "v", v, q);
  STD_TORCH_CHECK(
      q.dim() == 3 && k.dim() == 3 && v.dim() == 3 && heads > 0 && q.size(2) % heads == 0, "softmax_attention: q, k, v are not [N, T, D] of whole heads.");
  for (int64_t d = 0; d < 3; ++d)
    STD_TORCH_CHECK(k.size(d) == v.size(d) && (d == 1 || k.size(d) == q.size(d)), "softmax_attention: q, k and v differ in shape.");
  STD_TORCH_CHECK(!rotary || k.size(1) == q.size(1), "softmax_attention: rotary needs as many keys as queries.");
  STD_TORCH_CHECK(first.has_value() == last.has_value(), "softmax_attention: first and last come together.");
  for (const std::optional<Tensor>& bound : {first, last})
    STD_TORCH_CHECK(
        !bound || (bound->scalar_type() == ScalarType::Long && bound->is_cpu() && bound->numel() == q.size(1)), "softmax_attention: a bound is not [T] of int64.");
}

// What forward and backward share: the arguments, and what they point to.
template <class T>
struct Attention {
  Tensor q, k, v;
  std::vector<T> first, last, turns;
  AttentionArgs<T> args{};

  Attention(
      const Tensor& queries, const Tensor& keys, const Tensor& values, const std::optional<Tensor>& from,
      const std::optional<Tensor>& to, int64_t heads, double scale, bool rotary)
      : q(with_rows(queries)), k(with_rows(keys)), v(with_rows(values)), first(bounds_of<T>(from)), last(bounds_of<T>(to)) {
    AttentionArgs<T>& a = args;
    a.q = in<T>(q), a.k = in<T>(k), a.v = in<T>(v);
    a.q_sample = q.stride(0), a.k_sample = k.stride(0), a.v_sample = v.stride(0);
    a.q_step = q.stride(1), a.k_step = k.stride(1), a.v_step = v.stride(1);
    a.heads = heads, a.width = q.size(2) / heads, a.queries = q.size(1), a.keys = k.size(1);
    a.scale = scale;
    if (from) {
      const auto inside = [&](T bound) { return bound >= T(0) && bound <= static_cast<T>(a.keys); };
      STD_TORCH_CHECK(std::all_of(first.begin(), first.end(), inside) && std::all_of(last.begin(), last.end(), inside), "softmax_attention: a bound is out of range.");
      a.first = first.data(), a.last = last.data();
    }
    if (rotary && a.width > 1) {
      turns.resize((a.queries + 16) * a.width / 2 * 2);
      active().of<T>().attention_turns(a.queries, a.width / 2, turns.data());
      a.turns = turns.data();
    }
  }

  // Calls f(scratch, begin, end) for blocks of samples × heads.
  template <class F>
  void blocks(const F& f) const {
    const int64_t work = std::max<int64_t>(1, args.queries * args.keys * args.width);
    for_blocks_with(
        q.size(0) * args.heads, std::max<int64_t>(1, 8 * kBlock / work),
        [&] { return Scratch<T>(active().of<T>().attention_vectors(args)); },
        [&](Scratch<T>& scratch, int64_t, int64_t begin, int64_t end) { f(scratch.data(), begin, end); });
  }
};

inline std::tuple<Tensor, Tensor> attention_forward(
    Tensor q, Tensor k, Tensor v, std::optional<Tensor> first, std::optional<Tensor> last, int64_t heads, double scale,
    bool rotary) {
  check_attention(q, k, v, first, last, heads, rotary);
  return by_dtype("softmax_attention", q, [&](auto* null) -> std::tuple<Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    Attention<T> whole(q, k, v, first, last, heads, scale, rotary);
    Tensor result = blank(q, q.sizes());
    Tensor stats = blank(q, {q.size(0), heads, 2, q.size(1)});
    whole.args.out = out<T>(result);
    whole.args.stats = out<T>(stats);
    whole.blocks([&](T* scratch, int64_t begin, int64_t end) {
      active().of<T>().attention_forward(whole.args, scratch, begin, end);
    });
    return {result, stats};
  });
}

// Gradients of q, and of k and v; `needs` has bit 0 for the first and bit 1 for the two others.
inline std::tuple<Tensor, Tensor, Tensor> attention_backward(
    Tensor grad, Tensor q, Tensor k, Tensor v, std::optional<Tensor> first, std::optional<Tensor> last, Tensor stats,
    int64_t heads, double scale, bool rotary, int64_t needs) {
  check_attention(q, k, v, first, last, heads, rotary);
  check_same("softmax_attention_backward", "grad", grad, q);
  check_same("softmax_attention_backward", "stats", stats, q);
  STD_TORCH_CHECK(
      grad.numel() == q.numel() && stats.numel() == 2 * q.size(0) * heads * q.size(1), "softmax_attention_backward: grad or stats has another size.");
  return by_dtype("softmax_attention_backward", q, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    Attention<T> whole(q, k, v, first, last, heads, scale, rotary);
    const Tensor given = packed(grad), kept = packed(stats);
    const auto like = [](const Tensor& x, bool wanted) { return wanted ? blank(x, x.sizes()) : nothing(x); };
    Tensor by_q = like(q, needs & 1), by_k = like(k, needs & 2), by_v = like(v, needs & 2);
    AttentionArgs<T>& a = whole.args;
    a.grad = in<T>(given);
    a.stats = out<T>(kept);
    a.grad_q = needs & 1 ? out<T>(by_q) : nullptr;
    a.grad_k = needs & 2 ? out<T>(by_k) : nullptr;
    a.grad_v = needs & 2 ? out<T>(by_v) : nullptr;
    whole.blocks([&](T* scratch, int64_t begin, int64_t end) {
      active().of<T>().attention_backward(a, scratch, begin, end);
    });
    return {by_q, by_k, by_v};
  });
}

}  // namespace foreblocks
