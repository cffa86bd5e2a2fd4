// Moving average over time and its adjoint, in O(steps) whatever the width. Included inside a namespace, see isa_body.h.
//
// A running sum that adds and subtracts would drift, and one NaN would stay in it for ever. Instead the padded series is
// cut into pieces of `width` steps: a window covers the end of one piece and the start of the next, so its sum is a sum
// from the back of the first plus a sum from the front of the second.

// Vectors that are summed side by side: one alone would wait for each of its additions.
constexpr int64_t kAverageVectors = 2;
template <class T>
inline constexpr T kAverageZeros[kAverageVectors * kLanes<T>] = {};

// Calls write(i, v, Σ_{j < width} vector v of row(i + j)) for i in [0, count); `scratch` holds V · `width` vectors.
template <class T, int64_t V, class Where, class Row, class Write>
static inline __attribute__((always_inline)) void window_sums(
    int64_t count, int64_t width, T* scratch, Where where, const Row& row, const Write& write) {
  for (int64_t piece = 0; piece < count; piece += width) {
    Vec<T> sums[V] = {};
    for (int64_t j = width - 1; j >= 0; --j) {
      const T* from = row(piece + j);
#pragma GCC unroll 2
      for (int64_t v = 0; v < V; ++v) {
        sums[v] += get(from + v * kLanes<T>, where);
        store(scratch + (j * V + v) * kLanes<T>, sums[v]);
      }
    }
    const int64_t stop = piece + width < count ? width : count - piece;
    Vec<T> front[V] = {};
    for (int64_t j = 0; j < stop; ++j) {
      const T* from = row(piece + width + j);
#pragma GCC unroll 2
      for (int64_t v = 0; v < V; ++v) {
        write(piece + j, v, load(scratch + (j * V + v) * kLanes<T>) + front[v]);
        front[v] += get(from + v * kLanes<T>, where);
      }
    }
  }
}

// Calls f(first lane, Kind<vectors>, Whole or Part) along a row.
template <class T, class F>
static inline __attribute__((always_inline)) void along_several(int64_t dim, const F& f) {
  int64_t i = 0;
  for (; i + kAverageVectors * kLanes<T> <= dim; i += kAverageVectors * kLanes<T>) f(i, Kind<kAverageVectors>{}, Whole{});
  along<T>(dim - i, [&](int64_t j, auto where) { f(i + j, Kind<1>{}, where); });
}

template <class T>
static void average_forward(const AverageArgs<T>& a, T* scratch, int64_t begin, int64_t end) {
  const T share = T(1) / static_cast<T>(a.width);
  const int64_t steps = a.steps, dim = a.dim, left = a.left;
  for (int64_t n = begin; n < end; ++n) {
    along_several<T>(dim, [&](int64_t i, auto vectors, auto where) {
      const T* x = a.x + n * steps * dim + i;
      T* out = a.out + n * steps * dim + i;
      const auto row = [&](int64_t p) {
        const int64_t t = p - left;
        return x + (t < 0 ? 0 : t < steps ? t : steps - 1) * dim;
      };
      window_sums<T, decltype(vectors)::value>(steps, a.width, scratch, where, row, [&](int64_t t, int64_t v, Vec<T> sum) {
        put(out + t * dim + v * kLanes<T>, sum * share, where);
      });
    });
  }
}

// `x` is the gradient of the output, `out` that of the input: what falls on the padding belongs to the edge steps.
template <class T>
static void average_backward(const AverageArgs<T>& a, T* scratch, int64_t begin, int64_t end) {
  const T share = T(1) / static_cast<T>(a.width);
  const int64_t steps = a.steps, dim = a.dim, left = a.left, width = a.width;
  for (int64_t n = begin; n < end; ++n) {
    along_several<T>(dim, [&](int64_t i, auto vectors, auto where) {
      constexpr int64_t V = decltype(vectors)::value;
      const T* grad = a.x + n * steps * dim + i;
      T* out = a.out + n * steps * dim + i;
      const auto row = [&](int64_t p) {
        const int64_t t = p - width + 1;
        return t >= 0 && t < steps ? grad + t * dim : kAverageZeros<T>;
      };
      Vec<T> first[V] = {}, last[V] = {};
      window_sums<T, V>(steps + width - 1, width, scratch, where, row, [&](int64_t p, int64_t v, Vec<T> sum) {
        const int64_t t = p - left;
        if (t <= 0)
          first[v] += sum;
        else if (t >= steps - 1)
          last[v] += sum;
        else
          put(out + t * dim + v * kLanes<T>, sum * share, where);
      });
      for (int64_t v = 0; v < V; ++v) {
        T* to = out + v * kLanes<T>;
        put(to, (steps == 1 ? first[v] + last[v] : first[v]) * share, where);
        if (steps > 1) put(to + (steps - 1) * dim, last[v] * share, where);
      }
    });
  }
}
