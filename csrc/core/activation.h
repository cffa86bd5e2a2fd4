// An activation behind a product, on rows that still lie in the first cache. Included inside a namespace, see isa_body.h.

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
