// spectral_map and its gradients on tensors [N, T, D].
#pragma once

#include "products.h"

namespace foreblocks {

// The inputs, packed, with their sizes checked.
struct SpectrumInputs {
  Tensor x, forth, back, real, imag, weight, bias_real, bias_imag;
  int64_t batch, steps, dim, modes, made;

  SpectrumInputs(
      const Tensor& x_, const Tensor& forth_, const Tensor& back_, const Tensor& real_, const Tensor& imag_,
      const Tensor& weight_, const Tensor& bias_real_, const Tensor& bias_imag_)
      : x(packed(x_)), forth(packed(forth_)), back(packed(back_)), real(packed(real_)), imag(packed(imag_)),
        weight(packed(weight_)), bias_real(packed(bias_real_)), bias_imag(packed(bias_imag_)) {
    check_steps("spectral_map", x);
    STD_TORCH_CHECK(back.dim() == 2 && real.dim() == 2, "spectral_map: back or filter_real is not a matrix.");
    batch = x.size(0), steps = x.size(1), dim = x.size(2), modes = real.size(0), made = back.size(0);
    const auto sized = [&](const char* name, const Tensor& each, int64_t size) {
      check_same("spectral_map", name, each, x);
      STD_TORCH_CHECK(each.numel() == size, "spectral_map: ", name, " has another size.");
    };
    sized("forth", forth, 2 * modes * steps);
    sized("back", back, made * 2 * modes);
    sized("filter_real", real, modes * dim);
    sized("filter_imag", imag, modes * dim);
    sized("weight", weight, 2 * dim * dim);
    sized("bias_real", bias_real, dim);
    sized("bias_imag", bias_imag, dim);
  }

  Tensor spectra() const { return blank(x, {batch, modes, 2 * dim}); }
  int64_t block() const { return product_samples(std::max(steps, made), dim); }
};

// The complex map, weight [2 D, D], as the real one [[R, -I], [I, R]] or that turned, and behind it both biases.
template <class T>
std::vector<T> real_map(const SpectrumInputs& g, bool turned) {
  const T* parts = in<T>(g.weight);
  const int64_t dim = g.dim, row = 2 * dim, down = turned ? 1 : row, across = turned ? row : 1;
  std::vector<T> map(row * (row + 1));
  for (int64_t o = 0; o < dim; ++o)
    for (int64_t i = 0; i < dim; ++i) {
      const T re = parts[o * dim + i], im = parts[(dim + o) * dim + i];
      map[o * down + i * across] = map[(dim + o) * down + (dim + i) * across] = re;
      map[(dim + o) * down + i * across] = im;
      map[o * down + (dim + i) * across] = -im;
    }
  std::copy_n(in<T>(g.bias_real), dim, map.data() + row * row);
  std::copy_n(in<T>(g.bias_imag), dim, map.data() + row * row + dim);
  return map;
}

// All but the data that one of the passes adds.
template <class T>
SpectrumArgs<T> spectrum_args(const SpectrumInputs& g, const std::vector<T>& map) {
  SpectrumArgs<T> a{};
  a.x = in<T>(g.x);
  a.forth = in<T>(g.forth);
  a.back = in<T>(g.back);
  a.real = in<T>(g.real);
  a.imag = in<T>(g.imag);
  a.map = map.data();
  a.bias = map.data() + 4 * g.dim * g.dim;
  a.steps = g.steps;
  a.dim = g.dim;
  a.modes = g.modes;
  a.made = g.made;
  return a;
}

// Calls f(scratch, block, begin, end) for blocks of samples.
template <class T, class F>
void spectrum_blocks(const SpectrumInputs& g, const SpectrumArgs<T>& a, const F& f) {
  const int64_t bytes = 3 * a.together() * a.spectrum_size() * static_cast<int64_t>(sizeof(T));
  for_blocks_with(
      g.batch, g.block(), [&] { return Scratch<T>(bytes / 64 + 1); },
      [&](Scratch<T>& scratch, int64_t block, int64_t begin, int64_t end) { f(scratch.data(), block, begin, end); });
}

// The result, and for the backward pass the spectra before the filter and before GELU, which are empty unless `keep`.
inline std::tuple<Tensor, Tensor, Tensor> spectrum_forward(
    Tensor x, Tensor forth, Tensor back, Tensor real, Tensor imag, Tensor weight, Tensor bias_real, Tensor bias_imag,
    bool keep) {
  const SpectrumInputs g(x, forth, back, real, imag, weight, bias_real, bias_imag);
  return by_dtype("spectral_map", x, [&](auto* null) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = std::remove_pointer_t<decltype(null)>;
    const std::vector<T> map = real_map<T>(g, true);
    SpectrumArgs<T> a = spectrum_args<T>(g, map);
    Tensor result = blank(x, {g.batch, g.made, g.dim});
    Tensor spectrum = keep ? g.spectra() : nothing(x), hidden = keep ? g.spectra() : nothing(x);
    a.out = out<T>(result);
    a.spectrum = keep ? out<T>(spectrum) : nullptr;
    a.hidden = keep ? out<T>(hidden) : nullptr;
    spectrum_blocks<T>(g, a, [&](T* scratch, int64_t, int64_t begin, int64_t end) {
      active().of<T>().spectrum_forward(a, scratch, begin, end);
    });
    return {result, spectrum, hidden};
  });
}

// Gradients of x and of the five parameters; `needs` has bit 0 for the first and bit 1 for the others.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> spectrum_backward(
    Tensor grad, Tensor spectrum, Tensor hidden, Tensor x, Tensor forth, Tensor back, Tensor real, Tensor imag,
    Tensor weight, Tensor bias_real, Tensor bias_imag, int64_t needs) {
  const SpectrumInputs g(x, forth, back, real, imag, weight, bias_real, bias_imag);
  const Tensor given = packed(grad), before = packed(spectrum), after = packed(hidden);
  for (const Tensor* each : {&grad, &spectrum, &hidden}) check_same("spectral_map_backward", "a tensor", *each, x);
  const int64_t dim = g.dim, row = 2 * dim, size = g.batch * g.modes * row;
  STD_TORCH_CHECK(
      grad.numel() == g.batch * g.made * dim && spectrum.numel() == size && hidden.numel() == size,
      "spectral_map_backward: grad, spectrum or hidden has another size.");
  using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
  return by_dtype("spectral_map_backward", x, [&](auto* null) -> Result {
    using T = std::remove_pointer_t<decltype(null)>;
    const std::vector<T> map = real_map<T>(g, false);
    SpectrumArgs<T> a = spectrum_args<T>(g, map);
    Tensor grad_x = needs & 1 ? blank(x, x.sizes()) : nothing(x);
    a.grad = in<T>(given);
    a.spectrum = out<T>(before);
    a.hidden = out<T>(after);
    a.grad_x = needs & 1 ? out<T>(grad_x) : nullptr;
    const int64_t each = needs & 2 ? a.sums_size() : 0;
    std::vector<T> partial(block_count(g.batch, g.block()) * each, T(0));
    spectrum_blocks<T>(g, a, [&](T* scratch, int64_t block, int64_t begin, int64_t end) {
      active().of<T>().spectrum_backward(a, each ? partial.data() + block * each : nullptr, scratch, begin, end);
    });
    if (!each) return {grad_x, nothing(x), nothing(x), nothing(x), nothing(x), nothing(x)};
    const std::vector<T> sums = join_blocks_of(partial, each);
    const T *by_filter = sums.data(), *by_bias = by_filter + 2 * g.modes * dim, *by_map = by_bias + row;
    Tensor by_weight = blank(x, {row, dim});
    for (int64_t o = 0; o < dim; ++o)
      for (int64_t i = 0; i < dim; ++i) {
        out<T>(by_weight)[o * dim + i] = by_map[o * row + i] + by_map[(dim + o) * row + dim + i];
        out<T>(by_weight)[(dim + o) * dim + i] = by_map[(dim + o) * row + i] - by_map[o * row + dim + i];
      }
    return {
        grad_x,
        tensor_of<T>(x, by_filter, {g.modes, dim}),
        tensor_of<T>(x, by_filter + g.modes * dim, {g.modes, dim}),
        by_weight,
        tensor_of<T>(x, by_bias, {dim}),
        tensor_of<T>(x, by_bias + dim, {dim}),
    };
  });
}

}  // namespace foreblocks
