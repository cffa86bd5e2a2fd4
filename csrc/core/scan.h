// Selective state-space scan in [batch, steps, dim]: h = exp(Δ a) h + Δ u b, y = c · h + skip · u, y · silu(z).
// Included inside a namespace, see isa_body.h.
//
// Vectors run over channels; the states of a channel are registers (STATES of 8 or 16; 0 means any number, in memory).
// Forward keeps the state at the start of every chunk of steps but the first; backward computes a chunk again, then walks it in reverse.

// 2^x: the decay rates are multiplied by log2(e) once instead of at every step.
static inline Vec<double> vexp2(Vec<double> x) {
  return by_lane<double>(x, [](double v) { return __builtin_exp2(v); });
}

static inline Vec<float> vexp2(Vec<float> x) {
  const float kRound = 12582912.0f;
  x = x < -126.0f ? splat(-126.0f) : x;  // NaN compares false twice and stays NaN
  x = x > 128.0f ? splat(128.0f) : x;    // 2^128 is infinite
  const Vec<float> shifted = x + kRound;
  const Vec<float> r = x - (shifted - kRound);
  Vec<float> p = splat(1.540353e-4f);
  p = p * r + 1.333356e-3f;
  p = p * r + 9.618129e-3f;
  p = p * r + 5.550411e-2f;
  p = p * r + 2.402265e-1f;
  p = p * r + 6.931472e-1f;
  p = p * r + 1.0f;
  return p * (Vec<float>)(((Bits<float>)shifted - 0x4B400000 + 127) << 23);
}

constexpr double kLog2E = 1.4426950408889634;

template <class T>
struct ScanStep {
  Vec<T> u, delta, drive, opened;  // opened: the derivative of delta by its raw value
};

template <class T, class Where>
static inline ScanStep<T> scan_step(const ScanArgs<T>& a, int64_t row, int64_t d, Where where) {
  ScanStep<T> s;
  s.u = get(a.u + row * a.u_stride + d, where);
  s.delta = get(a.delta + row * a.delta_stride + d, where);
  if (a.delta_bias) s.delta += get(a.delta_bias + d, where);
  s.opened = splat(T(1));
  if (a.softplus) {
    s.opened = vsigmoid<T>(s.delta);
    s.delta = vsoftplus<T>(s.delta);
  }
  s.drive = s.delta * s.u;
  return s;
}

template <class T, int64_t STATES, class Where>
static inline __attribute__((always_inline)) void scan_channels(
    const ScanArgs<T>& a, int64_t n, int64_t group, int64_t d, T* memory, Where where) {
  const int64_t states = STATES ? STATES : a.states;
  Vec<T> local[STATES ? STATES : 1];
  const auto state = [&](int64_t s) -> Vec<T> { return STATES ? local[STATES ? s : 0] : load(memory + s * kLanes<T>); };
  const auto keep = [&](int64_t s, Vec<T> h) {
    if constexpr (STATES != 0)
      local[s] = h;
    else
      store(memory + s * kLanes<T>, h);
  };
  for (int64_t s = 0; s < states; ++s) keep(s, Vec<T>{});
  const Vec<T> skip = a.skip ? get(a.skip + d, where) : Vec<T>{};
  for (int64_t t = 0; t < a.steps; ++t) {
    if (a.chunks && t > 0 && t % kScanChunk == 0) {
      T* to = a.chunks + (n * a.kept_count() + t / kScanChunk - 1) * states * a.dim + d;
      for (int64_t s = 0; s < states; ++s) put(to + s * a.dim, state(s), where);
    }
    const int64_t row = n * a.steps + t;
    const ScanStep<T> step = scan_step(a, row, d, where);
    const T* b = a.b + (row * a.groups + group) * a.b_stride;
    const T* c = a.c + (row * a.groups + group) * a.c_stride;
    Vec<T> y = step.u * skip;
    const Vec<T> scaled = step.delta * T(kLog2E);
#pragma GCC unroll 16
    for (int64_t s = 0; s < states; ++s) {
      const Vec<T> h = vexp2(scaled * get(a.a + s * a.dim + d, where)) * state(s) + step.drive * b[s];
      keep(s, h);
      y += h * c[s];
    }
    if (a.z) {
      const Vec<T> z = get(a.z + row * a.z_stride + d, where);
      y *= z * vsigmoid<T>(z);
    }
    put(a.out + row * a.dim + d, y, where);
  }
  for (int64_t s = 0; s < states; ++s) put(a.last + (n * states + s) * a.dim + d, state(s), where);
}

// Calls f(first channel, Whole or Part, number of the vector) for the channels of a group.
template <class T, class F>
static inline __attribute__((always_inline)) void group_channels(const ScanArgs<T>& a, int64_t group, const F& f) {
  const int64_t width = a.dim / a.groups, first = group * width, per_group = (width + kLanes<T> - 1) / kLanes<T>;
  along<T>(width, [&](int64_t i, auto where) { f(first + i, where, group * per_group + i / kLanes<T>); });
}

template <class T, int64_t STATES>
static void scan_samples(const ScanArgs<T>& a, T* memory, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    for (int64_t group = 0; group < a.groups; ++group)
      group_channels<T>(a, group, [&](int64_t d, auto where, int64_t) {
        scan_channels<T, STATES>(a, n, group, d, memory, where);
      });
}

// Where the backward pass keeps what it needs of one chunk; all of it vectors.
template <class T>
struct ScanMemory {
  T *decay, *before;  // [chunk, states]: of the channels at hand
  T *by_b, *by_c;     // [chunk, states]: sums over the channels of a group, lane by lane
  T* carry;           // [vectors of channels, states]: gradient of the state at the end of the chunk
  T* y;               // [chunk]: output before the gate

  ScanMemory(T* space, int64_t chunk, int64_t states) {
    const int64_t each = chunk * states * kLanes<T>;
    decay = space;
    before = space + each;
    by_b = space + 2 * each;
    by_c = space + 3 * each;
    y = space + 4 * each;
    carry = y + chunk * kLanes<T>;
  }
};

template <class T, class Where>
static inline void scan_again(
    const ScanArgs<T>& a, const ScanMemory<T>& m, int64_t n, int64_t chunk, int64_t group, int64_t d, Where where) {
  const T* start = chunk ? a.chunks + (n * a.kept_count() + chunk - 1) * a.states * a.dim + d : nullptr;
  const int64_t first = chunk * kScanChunk, count = a.chunk_steps(chunk);
  for (int64_t s = 0; s < a.states; ++s) store(m.before + s * kLanes<T>, start ? get(start + s * a.dim, where) : Vec<T>{});
  for (int64_t t = 0; t < count; ++t) {
    const int64_t row = n * a.steps + first + t;
    const ScanStep<T> step = scan_step(a, row, d, where);
    const T* b = a.b + (row * a.groups + group) * a.b_stride;
    const T* c = a.c + (row * a.groups + group) * a.c_stride;
    Vec<T> y = a.skip ? step.u * get(a.skip + d, where) : Vec<T>{};
    const Vec<T> scaled = step.delta * T(kLog2E);
    T* decay = m.decay + t * a.states * kLanes<T>;
    const T* before = m.before + t * a.states * kLanes<T>;
    T* after = m.before + (t + 1) * a.states * kLanes<T>;
    for (int64_t s = 0; s < a.states; ++s) {
      const Vec<T> kept = vexp2(scaled * get(a.a + s * a.dim + d, where));
      const Vec<T> h = kept * load(before + s * kLanes<T>) + step.drive * b[s];
      store(decay + s * kLanes<T>, kept);
      if (t + 1 < count) store(after + s * kLanes<T>, h);
      if (a.z) y += h * c[s];
    }
    if (a.z) store(m.y + t * kLanes<T>, y);
  }
}

template <class T, class Where>
static inline void scan_reverse(
    const ScanArgs<T>& a, const ScanMemory<T>& m, T* sums, int64_t n, int64_t chunk, int64_t group, int64_t d,
    T* carry, Where where) {
  T *by_skip = sums + a.states * a.dim + d, *by_bias = by_skip + a.dim;
  const Vec<T> skip = a.skip ? get(a.skip + d, where) : Vec<T>{};
  Vec<T> sum_skip = {}, sum_bias = {};
  for (int64_t t = a.chunk_steps(chunk) - 1; t >= 0; --t) {
    const int64_t row = n * a.steps + chunk * kScanChunk + t;
    const ScanStep<T> step = scan_step(a, row, d, where);
    const T* b = a.b + (row * a.groups + group) * a.b_stride;
    const T* c = a.c + (row * a.groups + group) * a.c_stride;
    Vec<T> g = get(a.grad + row * a.dim + d, where);
    if (a.z) {
      const Vec<T> z = get(a.z + row * a.z_stride + d, where), open = vsigmoid<T>(z);
      const Vec<T> slope = open * (T(1) + z * (T(1) - open));
      put(a.grad_z + row * a.dim + d, g * load(m.y + t * kLanes<T>) * slope, where);
      g *= z * open;
    }
    sum_skip += g * step.u;
    Vec<T> by_drive = {}, by_delta = {};
    const int64_t at = t * a.states * kLanes<T>;
    for (int64_t s = 0; s < a.states; ++s) {
      const int64_t lane = at + s * kLanes<T>;
      const Vec<T> kept = load(m.decay + lane) * load(m.before + lane);
      const Vec<T> toward = load(carry + s * kLanes<T>) + g * c[s];
      store(m.by_c + lane, load(m.by_c + lane) + g * (kept + step.drive * b[s]));
      store(m.by_b + lane, load(m.by_b + lane) + toward * step.drive);
      by_drive += toward * b[s];
      const Vec<T> by_rate = toward * kept;
      by_delta += by_rate * get(a.a + s * a.dim + d, where);
      put(sums + s * a.dim + d, get(sums + s * a.dim + d, where) + by_rate * step.delta, where);
      store(carry + s * kLanes<T>, toward * load(m.decay + lane));
    }
    by_delta = (by_delta + by_drive * step.u) * step.opened;
    sum_bias += by_delta;
    put(a.grad_u + row * a.dim + d, g * skip + by_drive * step.delta, where);
    put(a.grad_delta + row * a.dim + d, by_delta, where);
  }
  put(by_skip, get(by_skip, where) + sum_skip, where);
  put(by_bias, get(by_bias, where) + sum_bias, where);
}

// Adds to `sums`, [states + 2, dim]: the gradients of a, skip and delta_bias.
template <class T>
static void scan_backward(const ScanArgs<T>& a, T* sums, T* space, int64_t begin, int64_t end) {
  const ScanMemory<T> m(space, a.longest_chunk(), a.states);
  const int64_t carried = a.states * kLanes<T>, vectors = a.groups * ((a.dim / a.groups + kLanes<T> - 1) / kLanes<T>);
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t i = 0; i < vectors * carried; ++i) m.carry[i] = 0;
    for (int64_t chunk = a.chunk_count() - 1; chunk >= 0; --chunk) {
      const int64_t count = a.chunk_steps(chunk);
      for (int64_t group = 0; group < a.groups; ++group) {
        for (int64_t i = 0; i < count * carried; ++i) m.by_b[i] = m.by_c[i] = 0;
        group_channels<T>(a, group, [&](int64_t d, auto where, int64_t vector) {
          scan_again(a, m, n, chunk, group, d, where);
          scan_reverse(a, m, sums, n, chunk, group, d, m.carry + vector * carried, where);
        });
        for (int64_t t = 0; t < count; ++t) {
          const int64_t row = ((n * a.steps + chunk * kScanChunk + t) * a.groups + group) * a.states;
          for (int64_t s = 0; s < a.states; ++s) {
            a.grad_b[row + s] = lane_sum<T>(load(m.by_b + t * carried + s * kLanes<T>));
            a.grad_c[row + s] = lane_sum<T>(load(m.by_c + t * carried + s * kLanes<T>));
          }
        }
      }
    }
  }
}

template <class T>
static void scan_forward(const ScanArgs<T>& a, T* memory, int64_t begin, int64_t end) {
  if constexpr (sizeof(T) == 4) {
    if (a.states == 8) return scan_samples<T, 8>(a, memory, begin, end);
    if (a.states == 16) return scan_samples<T, 16>(a, memory, begin, end);
  }
  scan_samples<T, 0>(a, memory, begin, end);
}
