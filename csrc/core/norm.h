// Norm over the features of a row with everything an op does around it. kNormRows rows go through each stage together;
// they stay in the first cache in between. Included inside a namespace.

// sums[r] = Σ_i term(r, i) over a row, for ROWS rows.
template <class T, int64_t ROWS, class Term>
static inline __attribute__((always_inline)) void row_sums(int64_t dim, T* sums, const Term& term) {
  Vec<T> lanes[ROWS] = {};
  along<T>(dim, [&](int64_t i, auto where) {
#pragma GCC unroll 8
    for (int64_t r = 0; r < ROWS; ++r) lanes[r] += term(r, i, where);
  });
#pragma GCC unroll 8
  for (int64_t r = 0; r < ROWS; ++r) sums[r] = lane_sum<T>(lanes[r]);
}

// The value before the norm, s = residual + before(x) · sigmoid(gate) · scale, of one row.
template <class T>
static inline void branch_row(const NormArgs<T>& a, int64_t row, T* s) {
  const T* x = a.x + row * a.x_stride;
  const T* gate = a.gate ? a.gate + row * a.gate_stride : nullptr;
  const T* residual = a.residual ? a.residual + row * a.residual_stride : nullptr;
  const T* scale = a.scale ? a.scale + (a.first_row + row) / a.steps * a.dim : nullptr;
  with_activation(a.before, [&](auto kind) {
    along<T>(a.dim, [&](int64_t i, auto where) {
      Vec<T> v = activate<T>(decltype(kind)::value, get(x + i, where));
      if (gate) v *= vsigmoid<T>(get(gate + i, where));
      if (scale) v *= get(scale + i, where);
      if (residual) v += get(residual + i, where);
      put(s + i, v, where);
    });
  });
}

template <class T, int64_t ROWS>
static void norm_rows(const NormArgs<T>& a, int64_t row) {
  const int64_t dim = a.dim;
  const T share = T(1) / static_cast<T>(dim);
  const T *weight = a.weight, *bias = a.bias;
  T* out = a.out + row * dim;
  for (int64_t r = 0; r < ROWS; ++r) branch_row(a, row + r, out + r * dim);
  T mean[ROWS] = {}, inverse[ROWS];
  if (a.centre) {
    row_sums<T, ROWS>(dim, mean, [&](int64_t r, int64_t i, auto where) { return get(out + r * dim + i, where); });
    for (int64_t r = 0; r < ROWS; ++r) mean[r] *= share;
  }
  // After the mean is known: the difference of squares would lose digits.
  row_sums<T, ROWS>(dim, inverse, [&](int64_t r, int64_t i, auto where) {
    const Vec<T> off = inside<T>(get(out + r * dim + i, where) - mean[r], where);
    return off * off;
  });
  for (int64_t r = 0; r < ROWS; ++r) inverse[r] = T(1) / root(inverse[r] * share + static_cast<T>(a.eps));
  for (int64_t r = 0; r < ROWS; ++r) {
    a.stats[2 * (row + r)] = mean[r];
    a.stats[2 * (row + r) + 1] = inverse[r];
  }
  with_activation(a.after, [&](auto kind) {
    along<T>(dim, [&](int64_t i, auto where) {
      const Vec<T> w = get(weight + i, where), b = bias ? get(bias + i, where) : Vec<T>{};
#pragma GCC unroll 8
      for (int64_t r = 0; r < ROWS; ++r) {
        const Vec<T> y = (get(out + r * dim + i, where) - mean[r]) * inverse[r] * w + b;
        put(out + r * dim + i, activate<T>(decltype(kind)::value, y), where);
      }
    });
  });
}

template <class T>
static void norm_forward(const NormArgs<T>& a, int64_t begin, int64_t end) {
  int64_t row = begin;
  for (; row + kNormRows <= end; row += kNormRows) norm_rows<T, kNormRows>(a, row);
  for (; row < end; ++row) norm_rows<T, 1>(a, row);
}

// Rows of the backward pass, one behind the other: what a later stage needs again.
template <class T>
struct NormScratch {
  T *normal, *toward, *values, *slopes, *opened;

  NormScratch(T* space, int64_t size)
      : normal(space), toward(space + size), values(space + 2 * size), slopes(space + 3 * size), opened(space + 4 * size) {}
};

// s of one row into m.normal, the factors of its gradient into the others.
template <class T>
static void branch_row_kept(const NormArgs<T>& a, int64_t row, int64_t at, const NormScratch<T>& m) {
  const T* x = a.x + row * a.x_stride;
  const T* gate = a.gate ? a.gate + row * a.gate_stride : nullptr;
  const T* residual = a.residual ? a.residual + row * a.residual_stride : nullptr;
  const T* scale = a.scale ? a.scale + (a.first_row + row) / a.steps * a.dim : nullptr;
  with_activation(a.before, [&](auto kind) {
    along<T>(a.dim, [&](int64_t i, auto where) {
      const Vec<T> v = get(x + i, where);
      Vec<T> s = activate<T>(decltype(kind)::value, v);
      if (decltype(kind)::value != kNone) put(m.slopes + at + i, activation_slope<T>(decltype(kind)::value, v), where);
      if (gate) {  // kept, so that no exponential is computed twice
        const Vec<T> open = vsigmoid<T>(get(gate + i, where));
        put(m.values + at + i, s, where);
        put(m.opened + at + i, open, where);
        s *= open;
      }
      if (scale) s *= get(scale + i, where);
      if (residual) s += get(residual + i, where);
      put(m.normal + at + i, s, where);
    });
  });
}

// The gradient `g` of s of one row, taken on to x, gate and residual.
template <class T>
static void branch_row_backward(const NormArgs<T>& a, int64_t row, int64_t at, const NormScratch<T>& m) {
  const T* scale = a.scale ? a.scale + (a.first_row + row) / a.steps * a.dim : nullptr;
  along<T>(a.dim, [&](int64_t i, auto where) {
    Vec<T> g = get(m.toward + at + i, where);
    if (a.grad_residual) put(a.grad_residual + row * a.dim + i, g, where);
    if (!a.grad_x && !a.grad_gate) return;
    if (scale) g *= get(scale + i, where);
    if (a.gate) {
      const Vec<T> open = get(m.opened + at + i, where);
      if (a.grad_gate) put(a.grad_gate + row * a.dim + i, g * get(m.values + at + i, where) * open * (T(1) - open), where);
      g *= open;
    }
    if (!a.grad_x) return;
    put(a.grad_x + row * a.dim + i, a.before == kNone ? g : g * get(m.slopes + at + i, where), where);
  });
}

template <class T, int64_t ROWS>
static void norm_rows_backward(const NormArgs<T>& a, int64_t row, T* sums, const NormScratch<T>& m) {
  const int64_t dim = a.dim;
  const T share = T(1) / static_cast<T>(dim);
  const T *grad = a.grad + row * dim, *weight = a.weight, *bias = a.bias;
  const bool centre = a.centre;
  T *normal = m.normal, *toward = m.toward;
  for (int64_t r = 0; r < ROWS; ++r) branch_row_kept(a, row + r, r * dim, m);
  T mean[ROWS], inverse[ROWS], along_n[ROWS], along_one[ROWS] = {};
  for (int64_t r = 0; r < ROWS; ++r) {
    mean[r] = a.stats[2 * (row + r)];
    inverse[r] = a.stats[2 * (row + r) + 1];
  }
  with_activation(a.after, [&](auto kind) {
    along<T>(dim, [&](int64_t i, auto where) {
      const Vec<T> w = get(weight + i, where), b = bias ? get(bias + i, where) : Vec<T>{};
      Vec<T> by_weight = get(sums + i, where), by_bias = get(sums + dim + i, where);
#pragma GCC unroll 8
      for (int64_t r = 0; r < ROWS; ++r) {
        const Vec<T> n = (get(normal + r * dim + i, where) - mean[r]) * inverse[r];
        Vec<T> g = get(grad + r * dim + i, where);
        if (decltype(kind)::value != kNone) g *= activation_slope<T>(decltype(kind)::value, n * w + b);
        by_weight += g * n;
        by_bias += g;
        put(normal + r * dim + i, n, where);
        put(toward + r * dim + i, g * w, where);
      }
      put(sums + i, by_weight, where);
      put(sums + dim + i, by_bias, where);
    });
  });
  row_sums<T, ROWS>(dim, along_n, [&](int64_t r, int64_t i, auto where) {
    return get(toward + r * dim + i, where) * get(normal + r * dim + i, where);
  });
  if (centre)
    row_sums<T, ROWS>(dim, along_one, [&](int64_t r, int64_t i, auto where) { return get(toward + r * dim + i, where); });
  for (int64_t r = 0; r < ROWS; ++r) {
    const T by_n = along_n[r] * share, by_one = along_one[r] * share;
    along<T>(dim, [&](int64_t i, auto where) {
      T* at = toward + r * dim + i;
      put(at, (get(at, where) - by_one - get(normal + r * dim + i, where) * by_n) * inverse[r], where);
    });
    branch_row_backward(a, row + r, r * dim, m);
  }
}

// Adds to `sums`, [2, dim]: the gradients of weight and bias. `scratch` holds 5 · kNormRows rows.
template <class T>
static void norm_backward(const NormArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  const NormScratch<T> m(scratch, kNormRows * a.dim);
  int64_t row = begin;
  for (; row + kNormRows <= end; row += kNormRows) norm_rows_backward<T, kNormRows>(a, row, sums, m);
  for (; row < end; ++row) norm_rows_backward<T, 1>(a, row, sums, m);
}
