// The weighted sum of K arrays, its squares, and its two gradients. Included inside a namespace, see isa_body.h.

// Arrays that are read together; more would run out of registers on the oldest instruction set.
constexpr int64_t kGroup = 8;
// Elements that stay in the first cache while the K arrays pass by.
constexpr int64_t kTile = 1024;

template <class T, int64_t K, bool ADD>
static void sum_group(const T* const* xs, const T* w, T* out, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + kLanes<T> <= end; i += kLanes<T>) {
    Vec<T> total = ADD ? load(out + i) + load(xs[0] + i) * w[0] : load(xs[0] + i) * w[0];
#pragma GCC unroll 8
    for (int64_t k = 1; k < K; ++k) total += load(xs[k] + i) * w[k];
    store(out + i, total);
  }
  for (; i < end; ++i) {
    T total = ADD ? out[i] + xs[0][i] * w[0] : xs[0][i] * w[0];
    for (int64_t k = 1; k < K; ++k) total += xs[k][i] * w[k];
    out[i] = total;
  }
}

template <class T, bool ADD>
static void sum_some(const T* const* xs, const T* w, int64_t count, T* out, int64_t begin, int64_t end) {
  switch (count) {
    case 1: return sum_group<T, 1, ADD>(xs, w, out, begin, end);
    case 2: return sum_group<T, 2, ADD>(xs, w, out, begin, end);
    case 3: return sum_group<T, 3, ADD>(xs, w, out, begin, end);
    case 4: return sum_group<T, 4, ADD>(xs, w, out, begin, end);
    case 5: return sum_group<T, 5, ADD>(xs, w, out, begin, end);
    case 6: return sum_group<T, 6, ADD>(xs, w, out, begin, end);
    case 7: return sum_group<T, 7, ADD>(xs, w, out, begin, end);
    default: return sum_group<T, 8, ADD>(xs, w, out, begin, end);
  }
}

template <class T>
static void mixed_sum(const T* const* xs, const T* w, int64_t count, T* out, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += kTile) {
    const int64_t stop = at + kTile < end ? at + kTile : end;
    for (int64_t k = 0; k < count; k += kGroup) {
      const int64_t some = count - k < kGroup ? count - k : kGroup;
      if (k == 0)
        sum_some<T, false>(xs, w, some, out, at, stop);
      else
        sum_some<T, true>(xs + k, w + k, some, out, at, stop);
    }
  }
}

// Σ a[i]·b[i], in four running sums of vectors that are joined in a fixed order.
template <class T>
static T dot(const T* a, const T* b, int64_t begin, int64_t end) {
  Vec<T> sums[4] = {};
  int64_t i = begin;
  for (; i + 4 * kLanes<T> <= end; i += 4 * kLanes<T>)
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) sums[j] += load(a + i + j * kLanes<T>) * load(b + i + j * kLanes<T>);
  T rest = 0;
  for (; i < end; ++i) rest += a[i] * b[i];
  return lane_sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

// Adds Σ g[i]·xs[k][i] to dots[k]: all K arrays side by side, so that the next lines of each are under way.
template <class T, int64_t K>
static void dots_group(const T* g, const T* const* xs, double* dots, int64_t begin, int64_t end) {
  Vec<T> sums[K] = {};
  int64_t i = begin;
  for (; i + kLanes<T> <= end; i += kLanes<T>) {
    const Vec<T> here = load(g + i);
#pragma GCC unroll 8
    for (int64_t k = 0; k < K; ++k) sums[k] += here * load(xs[k] + i);
  }
  for (int64_t k = 0; k < K; ++k) {
    T rest = 0;
    for (int64_t j = i; j < end; ++j) rest += g[j] * xs[k][j];
    dots[k] += static_cast<double>(lane_sum<T>(sums[k]) + rest);
  }
}

template <class T>
static void mixed_dots(const T* g, const T* const* xs, int64_t count, double* dots, int64_t begin, int64_t end) {
  for (int64_t k = 0; k < count; ++k) dots[k] = 0.0;
  for (int64_t at = begin; at < end; at += kTile) {
    const int64_t stop = at + kTile < end ? at + kTile : end;
    int64_t k = 0;
    for (; k + kGroup <= count; k += kGroup) dots_group<T, kGroup>(g, xs + k, dots + k, at, stop);
    if (count - k >= 4) {
      dots_group<T, 4>(g, xs + k, dots + k, at, stop);
      k += 4;
    }
    for (; k < count; ++k) dots[k] += static_cast<double>(dot(g, xs[k], at, stop));
  }
}

template <class T>
static void square_sums(const T* const* xs, int64_t count, double* sums, int64_t begin, int64_t end) {
  for (int64_t k = 0; k < count; ++k) {
    sums[k] = 0.0;
    for (int64_t at = begin; at < end; at += kTile) {
      const int64_t stop = at + kTile < end ? at + kTile : end;
      sums[k] += static_cast<double>(dot(xs[k], xs[k], at, stop));
    }
  }
}

template <class T, int64_t K>
static void copies_group(const T* g, const T* w, T* const* outs, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + kLanes<T> <= end; i += kLanes<T>) {
    const Vec<T> here = load(g + i);
#pragma GCC unroll 8
    for (int64_t k = 0; k < K; ++k) store(outs[k] + i, here * w[k]);
  }
  for (; i < end; ++i)
    for (int64_t k = 0; k < K; ++k) outs[k][i] = g[i] * w[k];
}

template <class T>
static void scaled_copies(const T* g, const T* w, T* const* outs, int64_t count, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += kTile) {
    const int64_t stop = at + kTile < end ? at + kTile : end;
    int64_t k = 0;
    for (; k + kGroup <= count; k += kGroup) copies_group<T, kGroup>(g, w + k, outs + k, at, stop);
    if (count - k >= 4) {
      copies_group<T, 4>(g, w + k, outs + k, at, stop);
      k += 4;
    }
    for (; k < count; ++k) copies_group<T, 1>(g, w + k, outs + k, at, stop);
  }
}
