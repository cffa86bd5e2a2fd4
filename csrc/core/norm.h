// Norm over the features of a row with everything an op does around it, in one pass. Included inside a namespace.

// The value before the norm, s = residual + before(x) · sigmoid(gate) · scale.
template <class T, class Where>
static inline Vec<T> branch_sum(
    const NormArgs<T>& a, const T* x, const T* gate, const T* residual, const T* scale, int64_t i, Where where) {
  Vec<T> s = activate<T>(a.before, get(x + i, where));
  if (gate) s *= vsigmoid<T>(get(gate + i, where));
  if (scale) s *= get(scale + i, where);
  if (residual) s += get(residual + i, where);
  return s;
}

template <class T>
static void norm_forward(const NormArgs<T>& a, int64_t begin, int64_t end) {
  const T share = T(1) / static_cast<T>(a.dim);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = a.x + row * a.x_stride;
    const T* gate = a.gate ? a.gate + row * a.gate_stride : nullptr;
    const T* residual = a.residual ? a.residual + row * a.residual_stride : nullptr;
    const T* scale = a.scale ? a.scale + (a.first_row + row) / a.steps * a.dim : nullptr;
    T* out = a.out + row * a.dim;
    Vec<T> squares = {}, total = {};
    along<T>(a.dim, [&](int64_t i, auto where) {
      const Vec<T> s = branch_sum<T>(a, x, gate, residual, scale, i, where);
      put(out + i, s, where);
      squares += s * s;
      total += s;
    });
    T mean = 0;
    if (a.centre) {  // a second look at the row: the difference of squares would lose digits
      mean = lane_sum<T>(total) * share;
      squares = Vec<T>{};
      along<T>(a.dim, [&](int64_t i, auto where) {
        const Vec<T> off = get(out + i, where) - mean;
        if constexpr (std::is_same_v<decltype(where), Part>) {
          T lanes[kLanes<T>] = {};
          store_part(lanes, off * off, where.count);
          squares += load(lanes);
        } else {
          squares += off * off;
        }
      });
    }
    const T inverse = T(1) / root(lane_sum<T>(squares) * share + static_cast<T>(a.eps));
    a.stats[2 * row] = mean;
    a.stats[2 * row + 1] = inverse;
    along<T>(a.dim, [&](int64_t i, auto where) {
      Vec<T> y = (get(out + i, where) - mean) * inverse * get(a.weight + i, where);
      if (a.bias) y += get(a.bias + i, where);
      put(out + i, activate<T>(a.after, y), where);
    });
  }
}

// Adds to `sums`, [2, dim]: the gradients of weight and bias. `scratch` holds five rows.
template <class T>
static void norm_backward(const NormArgs<T>& a, T* sums, T* scratch, int64_t begin, int64_t end) {
  const T share = T(1) / static_cast<T>(a.dim);
  T *normal = scratch, *toward = scratch + a.dim, *by_weight = sums, *by_bias = sums + a.dim;
  T *values = scratch + 2 * a.dim, *slopes = scratch + 3 * a.dim, *opened = scratch + 4 * a.dim;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = a.x + row * a.x_stride;
    const T* gate = a.gate ? a.gate + row * a.gate_stride : nullptr;
    const T* residual = a.residual ? a.residual + row * a.residual_stride : nullptr;
    const T* scale = a.scale ? a.scale + (a.first_row + row) / a.steps * a.dim : nullptr;
    const T* grad = a.grad + row * a.dim;
    const T mean = a.stats[2 * row], inverse = a.stats[2 * row + 1];
    Vec<T> product = {}, total = {};
    along<T>(a.dim, [&](int64_t i, auto where) {
      Vec<T> slope;
      Vec<T> s = activate<T>(a.before, get(x + i, where), slope);
      if (a.before != kNone) put(slopes + i, slope, where);
      if (gate) {  // kept, so that no exponential is computed twice
        const Vec<T> open = vsigmoid<T>(get(gate + i, where));
        put(values + i, s, where);
        put(opened + i, open, where);
        s *= open;
      }
      if (scale) s *= get(scale + i, where);
      if (residual) s += get(residual + i, where);
      const Vec<T> n = (s - mean) * inverse;
      const Vec<T> w = get(a.weight + i, where);
      Vec<T> g = get(grad + i, where);
      if (a.after != kNone) {
        Vec<T> outer, y = n * w;
        if (a.bias) y += get(a.bias + i, where);
        activate<T>(a.after, y, outer);
        g *= outer;
      }
      put(by_weight + i, get(by_weight + i, where) + g * n, where);
      put(by_bias + i, get(by_bias + i, where) + g, where);
      g *= w;
      put(normal + i, n, where);
      put(toward + i, g, where);
      product += g * n;  // lanes behind the row hold g = 0
      total += g;
    });
    const T along_n = lane_sum<T>(product) * share, along_one = a.centre ? lane_sum<T>(total) * share : T(0);
    along<T>(a.dim, [&](int64_t i, auto where) {
      Vec<T> g = (get(toward + i, where) - along_one - get(normal + i, where) * along_n) * inverse;
      if (a.grad_residual) put(a.grad_residual + row * a.dim + i, g, where);
      if (!a.grad_x && !a.grad_gate) return;
      if (scale) g *= get(scale + i, where);
      if (gate) {
        const Vec<T> open = get(opened + i, where);
        if (a.grad_gate)
          put(a.grad_gate + row * a.dim + i, g * get(values + i, where) * open * (T(1) - open), where);
        g *= open;
      }
      if (!a.grad_x) return;
      put(a.grad_x + row * a.dim + i, a.before == kNone ? g : g * get(slopes + i, where), where);
    });
  }
}
