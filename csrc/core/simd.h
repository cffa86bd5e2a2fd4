// Vectors of the current instruction set. Included inside a namespace, once for each set: no include guard, no
// system header. VECTOR_BYTES is 16, 32 or 64.

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t bits __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t bits __attribute__((vector_size(VECTOR_BYTES)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
using Bits = typename VectorOf<T>::bits;
template <class T>
inline constexpr int64_t kLanes = VECTOR_BYTES / sizeof(T);

template <class T>
static inline Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
static inline void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// The first `count` lanes from memory, zeros behind them.
template <class T>
static inline Vec<T> load_part(const T* p, int64_t count) {
  T lanes[kLanes<T>] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}

template <class T>
static inline void store_part(T* p, Vec<T> v, int64_t count) {
  T lanes[kLanes<T>];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

template <class T>
static inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// A whole vector, or the first lanes of one at the end of a row.
struct Whole {};
struct Part {
  int64_t count;
};
template <class T>
static inline Vec<T> get(const T* p, Whole) {
  return load(p);
}
template <class T>
static inline Vec<T> get(const T* p, Part part) {
  return load_part(p, part.count);
}
template <class T>
static inline void put(T* p, Vec<T> v, Whole) {
  store(p, v);
}
template <class T>
static inline void put(T* p, Vec<T> v, Part part) {
  store_part(p, v, part.count);
}

// Calls f(first lane, Whole or Part) along a row.
template <class T, class F>
static inline __attribute__((always_inline)) void along(int64_t dim, const F& f) {
  int64_t i = 0;
  for (; i + kLanes<T> <= dim; i += kLanes<T>) f(i, Whole{});
  if (i < dim) f(i, Part{dim - i});
}

// Sum of the lanes by halves, in every lane: a fixed order, so the same bits each time.
template <class T>
static inline Vec<T> lane_sums(Vec<T> v) {
  Bits<T> order;
#pragma GCC unroll 4
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) order[i] = i ^ half;
    v += __builtin_shuffle(v, order);
  }
  return v;
}

template <class T>
static inline T lane_sum(Vec<T> v) {
  return lane_sums<T>(v)[0];
}
