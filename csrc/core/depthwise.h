// Depthwise convolution over time in [samples, steps, dim]. Included inside a namespace, see isa_body.h.

// The taps of one vector of features, in registers. WIDTH 0 means any number of them, which stay in memory.
template <class T, int64_t WIDTH, class Where>
struct Taps {
  const DepthwiseArgs<T>& a;
  const T* from;
  Where where;
  Vec<T> kept[WIDTH ? WIDTH : 1];

  __attribute__((always_inline)) Taps(const DepthwiseArgs<T>& a, int64_t i, Where where)
      : a(a), from(a.taps + i), where(where) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < WIDTH; ++j) kept[j] = get(from + j * a.dim, where);
  }
  __attribute__((always_inline)) int64_t width() const { return WIDTH ? WIDTH : a.width; }
  __attribute__((always_inline)) Vec<T> operator[](int64_t j) const {
    if constexpr (WIDTH != 0)
      return kept[j];
    else
      return get(from + j * a.dim, where);
  }
};

// Calls f(t, all taps lie inside: Kind<1> or Kind<0>) for every step.
template <class T, class F>
static inline __attribute__((always_inline)) void over_steps(const DepthwiseArgs<T>& a, const F& f) {
  const int64_t right = a.reach() - a.left, from = a.left < a.steps ? a.left : a.steps;
  const int64_t to = a.steps - right > from ? a.steps - right : from;
  int64_t t = 0;
  for (; t < from; ++t) f(t, Kind<0>{});
  for (; t < to; ++t) f(t, Kind<1>{});
  for (; t < a.steps; ++t) f(t, Kind<0>{});
}

// Σ_j taps[j] · x[t - left + j · dilation], added to `sum`: rows outside are zero.
template <class T, int64_t WIDTH, class Where, class Inside>
static inline __attribute__((always_inline)) Vec<T> convolve(
    const Taps<T, WIDTH, Where>& taps, const T* x, int64_t t, Inside, Vec<T> sum) {
  const int64_t first = t - taps.a.left, dilation = taps.a.dilation, dim = taps.a.dim, steps = taps.a.steps;
#pragma GCC unroll 4
  for (int64_t j = 0; j < taps.width(); ++j) {
    const int64_t s = first + j * dilation;
    if (Inside::value || (s >= 0 && s < steps)) sum += get(x + s * dim, taps.where) * taps[j];
  }
  return sum;
}

template <class T, int64_t WIDTH>
static void depthwise_samples(const DepthwiseArgs<T>& a, int64_t begin, int64_t end) {
  const int64_t dim = a.dim;
  for (int64_t n = begin; n < end; ++n) {
    along<T>(dim, [&](int64_t i, auto where) {
      const T* x = a.x + n * a.steps * dim + i;
      T* out = a.out + n * a.steps * dim + i;
      const Taps<T, WIDTH, decltype(where)> taps(a, i, where);
      const Vec<T> bias = a.bias ? get(a.bias + i, where) : Vec<T>{};
      over_steps(a, [&](int64_t t, auto all) { put(out + t * dim, convolve(taps, x, t, all, bias), where); });
    });
  }
  if (a.activation == kNone) return;
  const int64_t first = begin * a.steps * dim, count = (end - begin) * a.steps * dim;
  with_activation(a.activation, [&](auto kind) {
    along<T>(count, [&](int64_t i, auto where) {
      T* at = a.out + first + i;
      put(at, activate<T>(decltype(kind)::value, get(at, where)), where);
    });
  });
}

// The gradients of the taps: sums[j] += Σ_t g[t] · x[t - left + j · dilation].
template <class T, int64_t WIDTH, class Where>
static inline __attribute__((always_inline)) void by_taps(
    const Taps<T, WIDTH, Where>& taps, const T* g, const T* x, T* sums) {
  const auto& a = taps.a;
  const int64_t dim = a.dim, width = taps.width();
  if constexpr (WIDTH == 0) {
    for (int64_t j = 0; j < width; ++j) {
      const int64_t shift = j * a.dilation - a.left;  // g[t] meets x[t + shift]
      const int64_t from = shift < 0 ? -shift : 0, to = shift > 0 ? a.steps - shift : a.steps;
      Vec<T> even = {}, odd = {};
      int64_t t = from;
      for (; t + 1 < to; t += 2) {
        even += load(g + t * kLanes<T>) * get(x + (t + shift) * dim, taps.where);
        odd += load(g + (t + 1) * kLanes<T>) * get(x + (t + 1 + shift) * dim, taps.where);
      }
      if (t < to) even += load(g + t * kLanes<T>) * get(x + (t + shift) * dim, taps.where);
      put(sums + j * dim, get(sums + j * dim, taps.where) + (even + odd), taps.where);
    }
  } else {
    Vec<T> found[WIDTH];
#pragma GCC unroll 4
    for (int64_t j = 0; j < WIDTH; ++j) found[j] = get(sums + j * dim, taps.where);
    const int64_t left = a.left, dilation = a.dilation, steps = a.steps;
    over_steps(a, [&](int64_t t, auto all) {
      const Vec<T> now = load(g + t * kLanes<T>);
#pragma GCC unroll 4
      for (int64_t j = 0; j < WIDTH; ++j) {
        const int64_t s = t - left + j * dilation;
        if (decltype(all)::value || (s >= 0 && s < steps)) found[j] += now * get(x + s * dim, taps.where);
      }
    });
#pragma GCC unroll 4
    for (int64_t j = 0; j < WIDTH; ++j) put(sums + j * dim, found[j], taps.where);
  }
}

// Adds to `sums`, [width + 1, dim]: the gradients of the taps and the bias. `scratch` holds steps + reach() vectors.
template <class T, int64_t WIDTH>
static void depthwise_samples_backward(
    const DepthwiseArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  const int64_t dim = a.dim, steps = a.steps, reach = a.reach(), before = reach - a.left;
  T* g = scratch + before * kLanes<T>;  // zeros around it stand for the steps outside
  for (int64_t t = -before; t < 0; ++t) store(g + t * kLanes<T>, Vec<T>{});
  for (int64_t t = steps; t < steps + a.left; ++t) store(g + t * kLanes<T>, Vec<T>{});
  for (int64_t n = begin; n < end; ++n) {
    along<T>(dim, [&](int64_t i, auto where) {
      const T* x = a.x + n * steps * dim + i;
      const T* grad = a.grad + n * steps * dim + i;
      const Taps<T, WIDTH, decltype(where)> taps(a, i, where);
      const Vec<T> bias = a.bias ? get(a.bias + i, where) : Vec<T>{};
      Vec<T> by_bias = {};
      if (a.activation != kNone)
        over_steps(a, [&](int64_t t, auto all) { store(g + t * kLanes<T>, convolve(taps, x, t, all, bias)); });
      with_activation(a.activation, [&](auto kind) {
        for (int64_t t = 0; t < steps; ++t) {
          Vec<T> now = get(grad + t * dim, where);
          if (decltype(kind)::value != kNone)
            now *= activation_slope<T>(decltype(kind)::value, load(g + t * kLanes<T>));
          store(g + t * kLanes<T>, now);
          by_bias += now;
        }
      });
      T* last = sums + a.width * dim + i;
      put(last, get(last, where) + by_bias, where);
      by_taps(taps, g, x, sums + i);
      if (!a.grad_x) return;
      T* grad_x = a.grad_x + n * steps * dim + i;
      const int64_t step = a.dilation * kLanes<T>;
      const T* from = g + a.left * kLanes<T>;
      for (int64_t t = 0; t < steps; ++t, from += kLanes<T>) {
        Vec<T> sum = {};
#pragma GCC unroll 4
        for (int64_t j = 0; j < taps.width(); ++j) sum += load(from - j * step) * taps[j];
        put(grad_x + t * dim, sum, where);
      }
    });
  }
}

template <class F>
static inline void with_width(int64_t width, const F& f) {
  switch (width) {
    case 2: return f(Kind<2>{});
    case 3: return f(Kind<3>{});
    case 4: return f(Kind<4>{});
    default: return f(Kind<0>{});
  }
}

template <class T>
static void depthwise_forward(const DepthwiseArgs<T>& a, int64_t begin, int64_t end) {
  with_width(a.width, [&](auto width) { depthwise_samples<T, decltype(width)::value>(a, begin, end); });
}

template <class T>
static void depthwise_backward(const DepthwiseArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  with_width(a.width, [&](auto width) {
    depthwise_samples_backward<T, decltype(width)::value>(a, sums, scratch, begin, end);
  });
}
