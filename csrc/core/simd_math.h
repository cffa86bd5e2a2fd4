// Elementary functions on vectors. Included inside a namespace, see isa_body.h.
// float: polynomials, good to about 2 units in the last place, since the vector loops of libm need -ffast-math.
// double: lane by lane through libm; it is there for derivative checks, not for speed.

static inline float root(float x) { return __builtin_sqrtf(x); }
static inline double root(double x) { return __builtin_sqrt(x); }

template <class T, class F>
static inline Vec<T> by_lane(Vec<T> x, const F& f) {
  T lanes[kLanes<T>];
  store(lanes, x);
  for (int64_t i = 0; i < kLanes<T>; ++i) lanes[i] = f(lanes[i]);
  return load(lanes);
}

static inline Vec<double> vexp(Vec<double> x) {
  return by_lane<double>(x, [](double v) { return __builtin_exp(v); });
}

static inline Vec<float> vexp(Vec<float> x) {
  // x = n ln 2 + r: n by adding a constant so large that the sum has no fraction bits left.
  const float kRound = 12582912.0f;
  const Vec<float> shifted = x * 1.44269504088896341f + kRound;
  const Vec<float> n = shifted - kRound;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Bits<float> exponent = ((Bits<float>)shifted - 0x4B400000 + 127) << 23;
  const Vec<float> result = p * (Vec<float>)exponent;
  // NaN compares false twice and stays NaN.
  const Vec<float> low = x < -87.0f ? splat(0.0f) : result;
  return x > 88.0f ? splat(__builtin_inff()) : low;
}

// log(1 + e) for e in [0, 1].
static inline Vec<double> vlog1p_unit(Vec<double> e) {
  return by_lane<double>(e, [](double v) { return __builtin_log1p(v); });
}

static inline Vec<float> vlog1p_unit(Vec<float> e) {
  const Vec<float> s = e / (e + 2.0f), q = s * s;  // 2 artanh(s), s at most 1/3
  Vec<float> p = splat(1.0f / 13.0f);
  p = p * q + 1.0f / 11.0f;
  p = p * q + 1.0f / 9.0f;
  p = p * q + 1.0f / 7.0f;
  p = p * q + 1.0f / 5.0f;
  p = p * q + 1.0f / 3.0f;
  return 2.0f * (s + s * q * p);
}

template <class T>
static inline Vec<T> vabs(Vec<T> x) {
  return x < T(0) ? -x : x;
}

template <class T>
static inline Vec<T> vsigmoid(Vec<T> x) {
  return T(1) / (T(1) + vexp(-x));
}

template <class T>
static inline Vec<T> vsoftplus(Vec<T> x) {
  const Vec<T> tail = vlog1p_unit(vexp(-vabs<T>(x)));
  return (x > T(0) ? x : (x < T(0) ? splat(T(0)) : x)) + tail;
}

// Φ(x) of the normal distribution; `density` gets e^(-x²/2).
static inline Vec<double> vnormal(Vec<double> x, Vec<double>& density) {
  density = vexp(x * x * -0.5);
  return by_lane<double>(x, [](double v) { return 0.5 * __builtin_erfc(-0.70710678118654752 * v); });
}

static inline Vec<float> vnormal(Vec<float> x, Vec<float>& density) {
  // Abramowitz and Stegun 7.1.26, absolute error 1.5e-7; its exponential is the density.
  density = vexp(x * x * -0.5f);
  const Vec<float> t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * vabs<float>(x));
  Vec<float> p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec<float> tail = 0.5f * p * t * density;
  return x < 0.0f ? tail : 1.0f - tail;
}

// The kind is the same for a whole call, so the branch costs nothing; as a template argument it would multiply the code.
template <class T>
static inline Vec<T> activate(int64_t kind, Vec<T> x) {
  if (kind == kNone) return x;
  if (kind == kRelu) return x <= T(0) ? splat(T(0)) : x;
  if (kind == kSilu) return x * vsigmoid<T>(x);
  Vec<T> density;
  return x * vnormal(x, density);
}

// Value and derivative.
template <class T>
static inline Vec<T> activate(int64_t kind, Vec<T> x, Vec<T>& slope) {
  slope = splat(T(1));
  if (kind == kNone) return x;
  if (kind == kRelu) {
    slope = x <= T(0) ? splat(T(0)) : slope;
    return x <= T(0) ? splat(T(0)) : x;
  }
  if (kind == kSilu) {
    const Vec<T> s = vsigmoid<T>(x);
    slope = s * (T(1) + x * (T(1) - s));
    return x * s;
  }
  Vec<T> density;
  const Vec<T> share = vnormal(x, density);
  slope = share + x * density * T(0.39894228040143268);
  return x * share;
}
