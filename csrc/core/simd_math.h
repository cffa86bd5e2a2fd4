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

// exp(x) for x up to 88; exactly 0 below -87.
static inline Vec<double> vexp_low(Vec<double> x) { return vexp(x); }

static inline Vec<float> vexp_low(Vec<float> x) {
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
  return x < -87.0f ? splat(0.0f) : result;  // NaN compares false and stays NaN
}

static inline Vec<float> vexp(Vec<float> x) {
  const Vec<float> low = vexp_low(x);
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

// Φ(x), the distribution function of the normal distribution, and the slope of x·Φ(x), which is Φ(x) + x·φ(x).
// float: 1/2 + x·P(x²)/Q(x²) with P and Q of degree 5, fitted for the least largest error; no exponential. Absolute
// error 1.7e-7 and 3.4e-7 in float arithmetic, where 6e-8 is the spacing of floats below 1.
static inline Vec<double> vnormal(Vec<double> x) {
  return by_lane<double>(x, [](double v) { return 0.5 * __builtin_erfc(-0.70710678118654752 * v); });
}

static inline Vec<double> vgelu_slope(Vec<double> x) {
  return vnormal(x) + x * vexp(x * x * -0.5) * 0.39894228040143268;
}

// Not min and max: NaN compares false and stays NaN.
static inline Vec<float> clamped(Vec<float> x, float end) {
  const Vec<float> below = x > end ? splat(end) : x;
  return below < -end ? splat(-end) : below;
}

// 1/2 + v·P(v²)/Q(v²), the coefficients from the highest power down.
static inline __attribute__((always_inline)) Vec<float> half_plus_odd_quotient(
    Vec<float> v, const float (&above)[6], const float (&below)[6]) {
  const Vec<float> z = v * v;
  Vec<float> p = splat(above[0]), q = splat(below[0]);
  for (int i = 1; i < 6; ++i) {
    p = p * z + above[i];
    q = q * z + below[i];
  }
  return v * p / q + 0.5f;
}

static inline Vec<float> vnormal(Vec<float> x) {
  const Vec<float> half_plus = half_plus_odd_quotient(
      clamped(x, 5.5f),
      {2.2749340e-8f, 6.3521306e-6f, 1.6882693e-4f, 4.6772682e-3f, 3.3852763e-2f, 3.9894223e-1f},
      {1.19750416e-6f, 7.3647928e-5f, 1.88445195e-3f, 2.8645940e-2f, 2.5152221e-1f, 1.0f});
  // Exactly 0 far below, since x·Φ(x) may multiply it by any number.
  return x < -5.5f ? splat(0.0f) : half_plus;
}

static inline Vec<float> vgelu_slope(Vec<float> x) {
  return half_plus_odd_quotient(
      clamped(x, 6.0f),
      {1.9088523e-7f, 3.5850582e-5f, 2.4183704e-5f, 1.4209175e-2f, -3.0743470e-2f, 7.9788452e-1f},
      {8.8874822e-6f, 1.9351974e-4f, 3.5287617e-3f, 4.1064691e-2f, 2.9480565e-1f, 1.0f});
}

// The activations by their code. Called with a constant, all but one of the branches fall away.
template <class T>
static inline __attribute__((always_inline)) Vec<T> activate(int64_t kind, Vec<T> x) {
  if (kind == kNone) return x;
  if (kind == kRelu) return x <= T(0) ? splat(T(0)) : x;
  if (kind == kSilu) return x * vsigmoid<T>(x);
  return x * vnormal(x);
}

template <class T>
static inline __attribute__((always_inline)) Vec<T> activation_slope(int64_t kind, Vec<T> x) {
  if (kind == kNone) return splat(T(1));
  if (kind == kRelu) return x <= T(0) ? splat(T(0)) : splat(T(1));
  if (kind == kGelu) return vgelu_slope(x);
  const Vec<T> s = vsigmoid<T>(x);
  return s * (T(1) + x * (T(1) - s));
}

template <int64_t KIND>
struct Kind {
  static constexpr int64_t value = KIND;
};

// Calls f(Kind) with the code as a constant: the loop inside is compiled once for each activation.
template <class F>
static inline __attribute__((always_inline)) void with_activation(int64_t kind, const F& f) {
  switch (kind) {
    case kRelu: return f(Kind<kRelu>{});
    case kGelu: return f(Kind<kGelu>{});
    case kSilu: return f(Kind<kSilu>{});
    default: return f(Kind<kNone>{});
  }
}
