// Depthwise convolution over time in [samples, steps, dim]. Included inside a namespace, see isa_body.h.

// Σ_j taps[j] · row(t - left + j · dilation): rows outside are zero. WIDTH 0 means any number of taps.
template <class T, int64_t WIDTH, class Where>
static inline Vec<T> convolve(const DepthwiseArgs<T>& a, const T* x, const T* taps, int64_t t, Where where) {
  const int64_t width = WIDTH ? WIDTH : a.width, first = t - a.left;
  Vec<T> sum = {};
  if (first >= 0 && first + (width - 1) * a.dilation < a.steps) {
#pragma GCC unroll 8
    for (int64_t j = 0; j < width; ++j)
      sum += get(x + (first + j * a.dilation) * a.dim, where) * get(taps + j * a.dim, where);
    return sum;
  }
  for (int64_t j = 0; j < width; ++j) {
    const int64_t s = first + j * a.dilation;
    if (s >= 0 && s < a.steps) sum += get(x + s * a.dim, where) * get(taps + j * a.dim, where);
  }
  return sum;
}

// The adjoint: Σ_j taps[j] · g(t + left - j · dilation), g of contiguous vectors.
template <class T, int64_t WIDTH, class Where>
static inline Vec<T> convolve_back(
    const DepthwiseArgs<T>& a, const T* g, const T* taps, int64_t t, Where where) {
  const int64_t width = WIDTH ? WIDTH : a.width, first = t + a.left;
  Vec<T> sum = {};
  if (first < a.steps && first - (width - 1) * a.dilation >= 0) {
#pragma GCC unroll 8
    for (int64_t j = 0; j < width; ++j) sum += load(g + (first - j * a.dilation) * kLanes<T>) * get(taps + j * a.dim, where);
    return sum;
  }
  for (int64_t j = 0; j < width; ++j) {
    const int64_t s = first - j * a.dilation;
    if (s >= 0 && s < a.steps) sum += load(g + s * kLanes<T>) * get(taps + j * a.dim, where);
  }
  return sum;
}

template <class T, int64_t WIDTH>
static void depthwise_samples(const DepthwiseArgs<T>& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const T* x = a.x + n * a.steps * a.dim;
    T* out = a.out + n * a.steps * a.dim;
    along<T>(a.dim, [&](int64_t i, auto where) {
      const Vec<T> bias = a.bias ? get(a.bias + i, where) : Vec<T>{};
      for (int64_t t = 0; t < a.steps; ++t) {
        const Vec<T> y = bias + convolve<T, WIDTH>(a, x + i, a.taps + i, t, where);
        put(out + t * a.dim + i, activate<T>(a.activation, y), where);
      }
    });
  }
}

// Adds to `sums`, [width + 1, dim]: the gradients of the taps and the bias. `scratch` holds `steps` vectors.
template <class T, int64_t WIDTH>
static void depthwise_samples_backward(
    const DepthwiseArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  const int64_t width = WIDTH ? WIDTH : a.width;
  for (int64_t n = begin; n < end; ++n) {
    const T* x = a.x + n * a.steps * a.dim;
    const T* grad = a.grad + n * a.steps * a.dim;
    along<T>(a.dim, [&](int64_t i, auto where) {
      const Vec<T> bias = a.bias ? get(a.bias + i, where) : Vec<T>{};
      Vec<T> by_bias = {};
      for (int64_t t = 0; t < a.steps; ++t) {
        Vec<T> g = get(grad + t * a.dim + i, where), slope;
        if (a.activation != kNone) {
          activate<T>(a.activation, bias + convolve<T, WIDTH>(a, x + i, a.taps + i, t, where), slope);
          g *= slope;
        }
        store(scratch + t * kLanes<T>, g);
        by_bias += g;
      }
      T* last = sums + width * a.dim + i;
      put(last, get(last, where) + by_bias, where);
      for (int64_t j = 0; j < width; ++j) {
        const int64_t shift = j * a.dilation - a.left;  // g[t] meets x[t + shift]
        const int64_t from = shift < 0 ? -shift : 0, to = shift > 0 ? a.steps - shift : a.steps;
        Vec<T> even = {}, odd = {};
        int64_t t = from;
        for (; t + 1 < to; t += 2) {
          even += load(scratch + t * kLanes<T>) * get(x + (t + shift) * a.dim + i, where);
          odd += load(scratch + (t + 1) * kLanes<T>) * get(x + (t + 1 + shift) * a.dim + i, where);
        }
        if (t < to) even += load(scratch + t * kLanes<T>) * get(x + (t + shift) * a.dim + i, where);
        put(sums + j * a.dim + i, get(sums + j * a.dim + i, where) + (even + odd), where);
      }
      if (!a.grad_x) return;
      T* grad_x = a.grad_x + n * a.steps * a.dim + i;
      for (int64_t t = 0; t < a.steps; ++t)
        put(grad_x + t * a.dim, convolve_back<T, WIDTH>(a, scratch, a.taps + i, t, where), where);
    });
  }
}

template <class F>
static inline void with_width(int64_t width, const F& f) {
  switch (width) {
    case 2: return f(std::integral_constant<int64_t, 2>{});
    case 3: return f(std::integral_constant<int64_t, 3>{});
    case 4: return f(std::integral_constant<int64_t, 4>{});
    default: return f(std::integral_constant<int64_t, 0>{});
  }
}

template <class T>
static void depthwise_forward(const DepthwiseArgs<T>& a, int64_t begin, int64_t end) {
  with_width(a.width, [&](auto width) {
    depthwise_samples<T, decltype(width)::value>(a, begin, end);
  });
}

template <class T>
static void depthwise_backward(const DepthwiseArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  with_width(a.width, [&](auto width) {
    depthwise_samples_backward<T, decltype(width)::value>(a, sums, scratch, begin, end);
  });
}
