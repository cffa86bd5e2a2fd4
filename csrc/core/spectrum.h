// A learned complex map on the frequencies of a series, from transform to transform: some samples at a time go through
// all stages, so that what lies between stays in the second cache. Included inside a namespace, see isa_body.h.
//
// A row of a spectrum holds the real and behind it the imaginary parts of `dim` features. For the matrices of the transforms,
// whose rows for real and imaginary parts alternate, the same memory is [2 modes, dim].

// to = spectrum · filter, of some samples.
template <class T>
static void filter_forward(const SpectrumArgs<T>& a, const T* spectrum, int64_t samples, T* to) {
  const int64_t dim = a.dim;
  for (int64_t m = 0; m < a.modes; ++m)
    along<T>(dim, [&](int64_t i, auto where) {
      const Vec<T> fr = get(a.real + m * dim + i, where), fi = get(a.imag + m * dim + i, where);
      for (int64_t n = 0; n < samples; ++n) {
        const int64_t at = 2 * dim * (n * a.modes + m) + i;
        const Vec<T> re = get(spectrum + at, where), im = get(spectrum + at + dim, where);
        put(to + at, re * fr - im * fi, where);
        put(to + at + dim, im * fr + re * fi, where);
      }
    });
}

// Takes the gradient of the product, `toward`, to that of the spectrum; adds to `sums`, [2, modes, dim], unless it is null.
template <class T>
static void filter_backward(const SpectrumArgs<T>& a, const T* spectrum, int64_t samples, T* toward, T* sums) {
  const int64_t dim = a.dim;
  for (int64_t m = 0; m < a.modes; ++m)
    along<T>(dim, [&](int64_t i, auto where) {
      const Vec<T> fr = get(a.real + m * dim + i, where), fi = get(a.imag + m * dim + i, where);
      Vec<T> by_real{}, by_imag{};
      for (int64_t n = 0; n < samples; ++n) {
        const int64_t at = 2 * dim * (n * a.modes + m) + i;
        const Vec<T> re = get(spectrum + at, where), im = get(spectrum + at + dim, where);
        const Vec<T> gr = get(toward + at, where), gi = get(toward + at + dim, where);
        by_real += gr * re + gi * im;
        by_imag += gi * re - gr * im;
        put(toward + at, gr * fr + gi * fi, where);
        put(toward + at + dim, gi * fr - gr * fi, where);
      }
      if (!sums) return;
      T *to_real = sums + m * dim + i, *to_imag = to_real + a.modes * dim;
      put(to_real, get(to_real, where) + by_real, where);
      put(to_imag, get(to_imag, where) + by_imag, where);
    });
}

// Takes the gradient of GELU(hidden), `toward`, to that of `hidden`; adds its sum over the rows to `sums` unless that is null.
template <class T>
static void gelu_rows_backward(const T* hidden, int64_t rows, int64_t dim, T* toward, T* sums) {
  along<T>(dim, [&](int64_t i, auto where) {
    Vec<T> total{};
    for (int64_t r = 0; r < rows; ++r) {
      const Vec<T> g = get(toward + r * dim + i, where) * activation_slope<T>(kGelu, get(hidden + r * dim + i, where));
      put(toward + r * dim + i, g, where);
      total += g;
    }
    if (sums) put(sums + i, get(sums + i, where) + total, where);
  });
}

// Samples [begin, end); `scratch` holds 3 · together() spectra.
template <class T>
static void spectrum_forward(const SpectrumArgs<T>& a, T* scratch, int64_t begin, int64_t end) {
  const int64_t dim = a.dim, row = 2 * dim, waves = 2 * a.modes, each = a.spectrum_size(), step = a.together();
  for (int64_t n = begin; n < end; n += step) {
    const int64_t samples = end - n < step ? end - n : step;
    T* middle = scratch;
    T* spectrum = a.spectrum ? a.spectrum + n * each : scratch + step * each;
    T* hidden = a.hidden ? a.hidden + n * each : scratch + 2 * step * each;
    for (int64_t k = 0; k < samples; ++k)
      product<T>({a.forth, a.steps, 1, a.x + (n + k) * a.steps * dim, dim, spectrum + k * each, dim, waves, a.steps, dim, 1});
    filter_forward<T>(a, spectrum, samples, middle);
    product<T>({middle, row, 1, a.map, row, hidden, row, samples * a.modes, row, row, 1, 0, 0, false, a.bias});
    activation_forward<T>(kGelu, hidden, middle, samples * each);
    for (int64_t k = 0; k < samples; ++k)
      product<T>({a.back, waves, 1, middle + k * each, dim, a.out + (n + k) * a.made * dim, dim, a.made, waves, dim, 1});
  }
}

// Adds to `sums`, the gradients of filter, bias and map, see sums_size(); null if nobody needs them. `scratch` as above.
template <class T>
static void spectrum_backward(const SpectrumArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  const int64_t dim = a.dim, row = 2 * dim, waves = 2 * a.modes, each = a.spectrum_size(), step = a.together();
  T* by_bias = sums ? sums + waves * dim : nullptr;
  T *toward = scratch, *middle = toward + step * each;
  for (int64_t n = begin; n < end; n += step) {
    const int64_t samples = end - n < step ? end - n : step, rows = samples * a.modes;
    const T* spectrum = a.spectrum + n * each;
    for (int64_t k = 0; k < samples; ++k)
      product<T>({a.back, 1, waves, a.grad + (n + k) * a.made * dim, dim, toward + k * each, dim, waves, a.made, dim, 1});
    gelu_rows_backward<T>(a.hidden + n * each, rows, row, toward, by_bias);
    if (sums) {
      filter_forward<T>(a, spectrum, samples, middle);
      product<T>({toward, 1, row, middle, row, by_bias + row, row, row, rows, row, 1, 0, 0, true});
    }
    product<T>({toward, row, 1, a.map, row, middle, row, rows, row, row, 1});
    filter_backward<T>(a, spectrum, samples, middle, sums);
    if (!a.grad_x) continue;
    for (int64_t k = 0; k < samples; ++k)
      product<T>({a.forth, 1, a.steps, middle + k * each, dim, a.grad_x + (n + k) * a.steps * dim, dim, a.steps, waves, dim, 1});
  }
}
