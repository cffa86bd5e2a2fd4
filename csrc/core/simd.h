// Vectors of the current instruction set. Included inside a namespace, once for each set: no include guard, no
// system header. VECTOR_BYTES is 16, 32 or 64.

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(VECTOR_BYTES)));
  typedef float loose __attribute__((vector_size(VECTOR_BYTES), aligned(4)));
  typedef int32_t bits __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
  typedef double loose __attribute__((vector_size(VECTOR_BYTES), aligned(8)));
  typedef int64_t bits __attribute__((vector_size(VECTOR_BYTES)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
using Bits = typename VectorOf<T>::bits;
template <class T>
inline constexpr int64_t kLanes = VECTOR_BYTES / sizeof(T);

// Through a vector type of the alignment of T and not through memcpy: a store then cannot have changed the arguments of
// the kernel, which would have to be read again after each.
template <class T>
static inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::loose*>(p);
}

template <class T>
static inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorOf<T>::loose*>(p) = v;
}

// All bits of the first `count` lanes.
template <class T>
static inline Bits<T> first_lanes(int64_t count) {
  Bits<T> lane;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane < static_cast<std::remove_reference_t<decltype(lane[0])>>(count);
}

// load_part: the first `count` lanes from memory, zeros behind them. store_part: only those lanes.
#if VECTOR_BYTES == 64
static inline Vec<float> load_part(const float* p, int64_t count) {
  return __builtin_ia32_loadups512_mask(p, Vec<float>{}, static_cast<uint16_t>((1 << count) - 1));
}
static inline Vec<double> load_part(const double* p, int64_t count) {
  return __builtin_ia32_loadupd512_mask(p, Vec<double>{}, static_cast<uint8_t>((1 << count) - 1));
}
static inline void store_part(float* p, Vec<float> v, int64_t count) {
  __builtin_ia32_storeups512_mask(p, v, static_cast<uint16_t>((1 << count) - 1));
}
static inline void store_part(double* p, Vec<double> v, int64_t count) {
  __builtin_ia32_storeupd512_mask(p, v, static_cast<uint8_t>((1 << count) - 1));
}
#elif VECTOR_BYTES == 32
static inline Vec<float> load_part(const float* p, int64_t count) {
  return __builtin_ia32_maskloadps256(reinterpret_cast<const Vec<float>*>(p), first_lanes<float>(count));
}
static inline Vec<double> load_part(const double* p, int64_t count) {
  typedef long long mask __attribute__((vector_size(32)));
  return __builtin_ia32_maskloadpd256(reinterpret_cast<const Vec<double>*>(p), (mask)first_lanes<double>(count));
}
static inline void store_part(float* p, Vec<float> v, int64_t count) {
  __builtin_ia32_maskstoreps256(reinterpret_cast<Vec<float>*>(p), first_lanes<float>(count), v);
}
static inline void store_part(double* p, Vec<double> v, int64_t count) {
  typedef long long mask __attribute__((vector_size(32)));
  __builtin_ia32_maskstorepd256(reinterpret_cast<Vec<double>*>(p), (mask)first_lanes<double>(count), v);
}
#else
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
#endif

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

// Zeros behind the end of the row.
template <class T>
static inline Vec<T> inside(Vec<T> v, Whole) {
  return v;
}
template <class T>
static inline Vec<T> inside(Vec<T> v, Part part) {
  return first_lanes<T>(part.count) ? v : Vec<T>{};
}

// Calls f(first lane, Whole or Part) along a row.
template <class T, class F>
static inline __attribute__((always_inline)) void along(int64_t dim, const F& f) {
  int64_t i = 0;
  for (; i + kLanes<T> <= dim; i += kLanes<T>) f(i, Whole{});
  if (i < dim) f(i, Part{dim - i});
}

// Lane i ^ 1, i ^ 2, i ^ 4, i ^ 8 for every i. Constant data: built in the function, it is built again at each call.
template <class T>
struct LaneOrders {
  alignas(VECTOR_BYTES) std::remove_reference_t<decltype(Bits<T>{}[0])> lanes[4][kLanes<T>];

  constexpr LaneOrders() : lanes{} {
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < kLanes<T>; ++i) lanes[k][i] = i ^ (1 << k);
  }
};
template <class T>
inline constexpr LaneOrders<T> kLaneOrders{};

// Sum of the lanes by halves, in every lane: a fixed order, so the same bits each time.
template <class T>
static inline __attribute__((always_inline)) Vec<T> lane_sums(Vec<T> v) {
#pragma GCC unroll 4
  for (int k = 3; k >= 0; --k)
    if ((1 << k) < kLanes<T>)
      v += __builtin_shuffle(v, *reinterpret_cast<const Bits<T>*>(kLaneOrders<T>.lanes[k]));
  return v;
}

template <class T>
static inline T lane_sum(Vec<T> v) {
  return lane_sums<T>(v)[0];
}
