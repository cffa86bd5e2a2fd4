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

// One row of everything that is added up before the norm; null where nothing is given.
template <class T>
struct BranchRow {
  const T *x, *gate, *residual, *scale;

  __attribute__((always_inline)) BranchRow(const NormArgs<T>& a, int64_t row)
      : x(a.x + row * a.x_stride),
        gate(a.gate ? a.gate + row * a.gate_stride : nullptr),
        residual(a.residual ? a.residual + row * a.residual_stride : nullptr),
        scale(a.scale ? a.scale + (a.first_row + row) / a.steps * a.dim : nullptr) {}
};

// Whether the norm is taken of x itself, which then needs no copy.
template <class T>
static inline bool bare(const NormArgs<T>& a) {
  return a.before == kNone && !a.gate && !a.residual && !a.scale;
}

// The value before the norm, s = residual + before(x) · sigmoid(gate) · scale, of some rows.
template <class T, int64_t ROWS>
static void branch_rows(const NormArgs<T>& a, int64_t row, T* s) {
  const int64_t dim = a.dim;
  with_activation(a.before, [&](auto kind) {
    for (int64_t r = 0; r < ROWS; ++r) {
      const BranchRow<T> from(a, row + r);
      along<T>(dim, [&](int64_t i, auto where) {
        Vec<T> v = activate<T>(decltype(kind)::value, get(from.x + i, where));
        if (from.gate) v *= vsigmoid<T>(get(from.gate + i, where));
        if (from.scale) v *= get(from.scale + i, where);
        if (from.residual) v += get(from.residual + i, where);
        put(s + r * dim + i, v, where);
      });
    }
  });
}

template <class T, int64_t ROWS>
static void norm_rows(const NormArgs<T>& a, int64_t row) {
  const int64_t dim = a.dim;
  const T share = T(1) / static_cast<T>(dim);
  const T *weight = a.weight, *bias = a.bias;
  T* out = a.out + row * dim;
  const bool as_is = bare(a);
  if (!as_is) branch_rows<T, ROWS>(a, row, out);
  const T* s = as_is ? a.x + row * a.x_stride : out;
  const int64_t stride = as_is ? a.x_stride : dim;
  T mean[ROWS] = {}, inverse[ROWS];
  if (a.centre) {
    row_sums<T, ROWS>(dim, mean, [&](int64_t r, int64_t i, auto where) { return get(s + r * stride + i, where); });
    for (int64_t r = 0; r < ROWS; ++r) mean[r] *= share;
  }
  // After the mean is known: the difference of squares would lose digits.
  row_sums<T, ROWS>(dim, inverse, [&](int64_t r, int64_t i, auto where) {
    const Vec<T> off = inside<T>(get(s + r * stride + i, where) - mean[r], where);
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
        const Vec<T> y = (get(s + r * stride + i, where) - mean[r]) * inverse[r] * w + b;
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

// s of some rows into m.normal, the factors of its gradient into the others.
template <class T, int64_t ROWS>
static void branch_rows_kept(const NormArgs<T>& a, int64_t row, const NormScratch<T>& m) {
  const int64_t dim = a.dim;
  with_activation(a.before, [&](auto kind) {
    for (int64_t r = 0; r < ROWS; ++r) {
      const BranchRow<T> from(a, row + r);
      along<T>(dim, [&](int64_t i, auto where) {
        const int64_t at = r * dim + i;
        const Vec<T> v = get(from.x + i, where);
        Vec<T> s = activate<T>(decltype(kind)::value, v);
        if (decltype(kind)::value != kNone) put(m.slopes + at, activation_slope<T>(decltype(kind)::value, v), where);
        if (from.gate) {  // kept, so that no exponential is computed twice
          const Vec<T> open = vsigmoid<T>(get(from.gate + i, where));
          put(m.values + at, s, where);
          put(m.opened + at, open, where);
          s *= open;
        }
        if (from.scale) s *= get(from.scale + i, where);
        if (from.residual) s += get(from.residual + i, where);
        put(m.normal + at, s, where);
      });
    }
  });
}

// The gradient of s of some rows, m.toward, taken on to x, gate and residual.
template <class T, int64_t ROWS>
static void branch_rows_backward(const NormArgs<T>& a, int64_t row, const NormScratch<T>& m) {
  const int64_t dim = a.dim;
  const bool active = a.before != kNone;
  for (int64_t r = 0; r < ROWS; ++r) {
    const BranchRow<T> from(a, row + r);
    T* to_residual = a.grad_residual ? a.grad_residual + (row + r) * dim : nullptr;
    T* to_gate = a.grad_gate ? a.grad_gate + (row + r) * dim : nullptr;
    T* to_x = a.grad_x ? a.grad_x + (row + r) * dim : nullptr;
    along<T>(dim, [&](int64_t i, auto where) {
      const int64_t at = r * dim + i;
      Vec<T> g = get(m.toward + at, where);
      if (to_residual) put(to_residual + i, g, where);
      if (from.scale) g *= get(from.scale + i, where);
      if (from.gate) {
        const Vec<T> open = get(m.opened + at, where);
        if (to_gate) put(to_gate + i, g * get(m.values + at, where) * open * (T(1) - open), where);
        g *= open;
      }
      if (to_x) put(to_x + i, active ? g * get(m.slopes + at, where) : g, where);
    });
  }
}

template <class T, int64_t ROWS>
static void norm_rows_backward(const NormArgs<T>& a, int64_t row, T* sums, const NormScratch<T>& m) {
  const int64_t dim = a.dim;
  const T share = T(1) / static_cast<T>(dim);
  const T *grad = a.grad + row * dim, *weight = a.weight, *bias = a.bias;
  const bool centre = a.centre;
  T *normal = m.normal, *toward = m.toward;
  const bool as_is = bare(a);
  if (!as_is) branch_rows_kept<T, ROWS>(a, row, m);
  const T* s = as_is ? a.x + row * a.x_stride : normal;
  const int64_t stride = as_is ? a.x_stride : dim;
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
        const Vec<T> n = (get(s + r * stride + i, where) - mean[r]) * inverse[r];
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
  T* to = as_is && a.grad_x ? a.grad_x + row * dim : toward;
  for (int64_t r = 0; r < ROWS; ++r) {
    along_n[r] *= share;
    along_one[r] *= share;
  }
  along<T>(dim, [&](int64_t i, auto where) {
#pragma GCC unroll 8
    for (int64_t r = 0; r < ROWS; ++r) {
      const int64_t at = r * dim + i;
      const Vec<T> g = get(toward + at, where) - along_one[r] - get(normal + at, where) * along_n[r];
      put(to + at, g * inverse[r], where);
    }
  });
  if (!as_is) branch_rows_backward<T, ROWS>(a, row, m);
}

// Adds to `sums`, [2, dim]: the gradients of weight and bias. `scratch` holds 5 · kNormRows rows.
template <class T>
static void norm_backward(const NormArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  const NormScratch<T> m(scratch, kNormRows * a.dim);
  int64_t row = begin;
  for (; row + kNormRows <= end; row += kNormRows) norm_rows_backward<T, kNormRows>(a, row, sums, m);
  for (; row < end; ++row) norm_rows_backward<T, 1>(a, row, sums, m);
}
