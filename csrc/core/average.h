// Moving average over time and its adjoint, in O(steps) whatever the width. Included inside a namespace, see isa_body.h.
//
// A running sum that adds and subtracts would drift, and one NaN would stay in it for ever. Instead the padded series is
// cut into pieces of `width` steps: a window covers the end of one piece and the start of the next, so its sum is a sum
// from the back of the first plus a sum from the front of the second.

// Calls write(i, Σ_{j < width} read(i + j)) for i in [0, count); `scratch` holds `width` vectors.
template <class T, class Read, class Write>
static inline __attribute__((always_inline)) void window_sums(
    int64_t count, int64_t width, T* scratch, const Read& read, const Write& write) {
  for (int64_t piece = 0; piece < count; piece += width) {
    Vec<T> sum = {};
    for (int64_t j = width - 1; j >= 0; --j) {
      sum += read(piece + j);
      store(scratch + j * kLanes<T>, sum);
    }
    const int64_t stop = piece + width < count ? width : count - piece;
    Vec<T> front = {};
    for (int64_t j = 0; j < stop; ++j) {
      write(piece + j, load(scratch + j * kLanes<T>) + front);
      front += read(piece + width + j);
    }
  }
}

template <class T>
static void average_forward(const AverageArgs<T>& a, T* scratch, int64_t begin, int64_t end) {
  const T share = T(1) / static_cast<T>(a.width);
  for (int64_t n = begin; n < end; ++n) {
    along<T>(a.dim, [&](int64_t i, auto where) {
      const T* x = a.x + n * a.steps * a.dim + i;
      T* out = a.out + n * a.steps * a.dim + i;
      const auto read = [&](int64_t p) {
        const int64_t t = p - a.left;
        return get(x + (t < 0 ? 0 : t < a.steps ? t : a.steps - 1) * a.dim, where);
      };
      window_sums<T>(a.steps, a.width, scratch, read, [&](int64_t t, Vec<T> sum) {
        put(out + t * a.dim, sum * share, where);
      });
    });
  }
}

// `x` is the gradient of the output, `out` that of the input: what falls on the padding belongs to the edge steps.
template <class T>
static void average_backward(const AverageArgs<T>& a, T* scratch, int64_t begin, int64_t end) {
  const T share = T(1) / static_cast<T>(a.width);
  for (int64_t n = begin; n < end; ++n) {
    along<T>(a.dim, [&](int64_t i, auto where) {
      const T* grad = a.x + n * a.steps * a.dim + i;
      T* out = a.out + n * a.steps * a.dim + i;
      const auto read = [&](int64_t p) {
        const int64_t t = p - a.width + 1;
        return t >= 0 && t < a.steps ? get(grad + t * a.dim, where) : Vec<T>{};
      };
      Vec<T> first = {}, last = {};
      window_sums<T>(a.steps + a.width - 1, a.width, scratch, read, [&](int64_t p, Vec<T> sum) {
        const int64_t t = p - a.left;
        if (t <= 0)
          first += sum;
        else if (t >= a.steps - 1)
          last += sum;
        else
          put(out + t * a.dim, sum * share, where);
      });
      if (a.steps == 1) return put(out, (first + last) * share, where);
      put(out, first * share, where);
      put(out + (a.steps - 1) * a.dim, last * share, where);
    });
  }
}
