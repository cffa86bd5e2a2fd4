// Activations by themselves: behind a product, on rows that still lie in the first cache, and as a gate. Included inside a namespace, see isa_body.h.

// to[i] = activation(from[i]); both may be the same.
template <class T>
static void activation_forward(int64_t kind, const T* from, T* to, int64_t count) {
  with_activation(kind, [&](auto constant) {
    along<T>(count, [&](int64_t i, auto where) {
      put(to + i, activate<T>(decltype(constant)::value, get(from + i, where)), where);
    });
  });
}

// to[i] = grad[i] · slope(kept[i]), where ReLU may have kept its result instead of its input.
template <class T>
static void activation_backward(int64_t kind, const T* grad, const T* kept, T* to, int64_t count) {
  with_activation(kind, [&](auto constant) {
    along<T>(count, [&](int64_t i, auto where) {
      const Vec<T> g = get(grad + i, where), v = get(kept + i, where);
      // Chosen, not multiplied: where nothing passes, an infinite gradient is zero too.
      const bool relu = decltype(constant)::value == kRelu;
      put(to + i, relu ? (v <= T(0) ? Vec<T>{} : g) : g * activation_slope<T>(decltype(constant)::value, v), where);
    });
  });
}

// Rows of two halves side by side, [gate, value], each `width` wide: out = activation(gate) · value.
template <class T>
static void gated_forward(int64_t kind, const T* x, T* out, int64_t width, int64_t rows) {
  with_activation(kind, [&](auto constant) {
    for (int64_t r = 0; r < rows; ++r) {
      const T *gate = x + 2 * r * width, *value = gate + width;
      along<T>(width, [&](int64_t i, auto where) {
        put(out + r * width + i, activate<T>(decltype(constant)::value, get(gate + i, where)) * get(value + i, where), where);
      });
    }
  });
}

template <class T>
static void gated_backward(int64_t kind, const T* grad, const T* x, T* to, int64_t width, int64_t rows) {
  with_activation(kind, [&](auto constant) {
    for (int64_t r = 0; r < rows; ++r) {
      const T *gate = x + 2 * r * width, *value = gate + width;
      T *to_gate = to + 2 * r * width, *to_value = to_gate + width;
      along<T>(width, [&](int64_t i, auto where) {
        const Vec<T> g = get(grad + r * width + i, where), a = get(gate + i, where), through = g * get(value + i, where);
        const bool relu = decltype(constant)::value == kRelu;
        const Vec<T> back = relu ? (a <= T(0) ? Vec<T>{} : through) : through * activation_slope<T>(decltype(constant)::value, a);
        put(to_gate + i, back, where);
        put(to_value + i, g * activate<T>(decltype(constant)::value, a), where);
      });
    }
  });
}
