// One level of a wavelet transform over time in [samples, steps, dim], and its adjoint. Included inside a namespace.

// low[m] = Σ_j taps[j] · x[2m + j - (width - 2)], high alike, from one look at x. WIDTH 0 means any number of taps.
template <class T, int64_t WIDTH>
static void split_samples(const WaveletArgs<T>& a, int64_t begin, int64_t end) {
  const int64_t width = WIDTH ? WIDTH : a.width;
  for (int64_t n = begin; n < end; ++n) {
    along<T>(a.dim, [&](int64_t i, auto where) {
      const T* x = a.x + n * a.steps * a.dim + i;
      T *to_low = a.to_low + n * a.halves * a.dim + i, *to_high = a.to_high + n * a.halves * a.dim + i;
      for (int64_t m = 0; m < a.halves; ++m) {
        const int64_t first = 2 * m - (width - 2);
        Vec<T> low = {}, high = {};
        const auto add = [&](int64_t j, int64_t t) {
          const Vec<T> value = get(x + t * a.dim, where);
          low += value * a.taps[j];
          high += value * a.taps[width + j];
        };
        if (first >= 0 && first + width <= a.steps) {
#pragma GCC unroll 8
          for (int64_t j = 0; j < width; ++j) add(j, first + j);
        } else {
          for (int64_t j = 0; j < width; ++j) {
            const int64_t t = first + j, inside = t < 0 ? 0 : t < a.steps ? t : a.steps - 1;
            if (a.edges || t == inside) add(j, inside);
          }
        }
        put(to_low + m * a.dim, low, where);
        put(to_high + m * a.dim, high, where);
      }
    });
  }
}

// x[t] = Σ_m (taps[j] · low[m] + taps[width + j] · high[m]) with j = t + width - 2 - 2m; with `edges`, what falls
// before the first and behind the last step is added to them.
template <class T, int64_t WIDTH>
static void merge_samples(const WaveletArgs<T>& a, int64_t begin, int64_t end) {
  const int64_t width = WIDTH ? WIDTH : a.width;
  for (int64_t n = begin; n < end; ++n) {
    along<T>(a.dim, [&](int64_t i, auto where) {
      const T *low = a.low + n * a.halves * a.dim + i, *high = a.high + n * a.halves * a.dim + i;
      T* x = a.to_x + n * a.steps * a.dim + i;
      const auto value = [&](int64_t t) {
        Vec<T> sum = {};
        int64_t j = (t + width) & 1, m = (t + width - 2 - j) / 2;
#pragma GCC unroll 4
        for (; j < width; j += 2, --m) {
          if (m < 0 || m >= a.halves) continue;
          sum += get(low + m * a.dim, where) * a.taps[j];
          sum += get(high + m * a.dim, where) * a.taps[width + j];
        }
        return sum;
      };
      for (int64_t t = 0; t < a.steps; ++t) {
        Vec<T> sum = value(t);
        if (a.edges && t == 0)
          for (int64_t p = 2 - width; p < 0; ++p) sum += value(p);
        if (a.edges && t == a.steps - 1)
          for (int64_t p = a.steps; p < 2 * a.halves; ++p) sum += value(p);
        put(x + t * a.dim, sum, where);
      }
    });
  }
}

template <class T>
static void wavelet_split(const WaveletArgs<T>& a, int64_t begin, int64_t end) {
  return a.width == 4 ? split_samples<T, 4>(a, begin, end) : split_samples<T, 0>(a, begin, end);
}

template <class T>
static void wavelet_merge(const WaveletArgs<T>& a, int64_t begin, int64_t end) {
  return a.width == 4 ? merge_samples<T, 4>(a, begin, end) : merge_samples<T, 0>(a, begin, end);
}
