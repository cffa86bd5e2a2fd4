// Softmax attention and its gradients. Included inside a namespace, see isa_body.h.
//
// A lane is a query (or, where the gradients of keys and values are made, a key), so a softmax is a row of vectors and
// needs no sum across lanes. Series are turned into panels for this: `width` vectors for each kLanes steps, zeros behind
// the last step and the last feature. A number of the other side is read where it lies in its panel, into all lanes.

// Features that are worked on together; widths are padded to a multiple of the smaller one.
constexpr int64_t kAttentionWide = 8, kAttentionNarrow = 4;

static constexpr int64_t attention_padded(int64_t width) {
  return (width + kAttentionNarrow - 1) / kAttentionNarrow * kAttentionNarrow;
}

template <class T>
static constexpr int64_t panel_count(int64_t steps) {
  return (steps + kLanes<T> - 1) / kLanes<T>;
}

// Calls f(first feature, Kind<features>) for the groups of a padded width.
template <class F>
static inline __attribute__((always_inline)) void for_features(int64_t padded, const F& f) {
  int64_t e = 0;
  for (; e + kAttentionWide <= padded; e += kAttentionWide) f(e, Kind<kAttentionWide>{});
  if (e < padded) f(e, Kind<kAttentionNarrow>{});
}

// Turns feature i and feature i + half of every step by the step's angle, or back with sign = -1.
template <class T>
static void turn_panels(T* panels, int64_t count, int64_t padded, int64_t half, const T* turns, T sign) {
  for (int64_t p = 0; p < count; ++p)
    for (int64_t i = 0; i < half; ++i) {
      T* a = panels + (p * padded + i) * kLanes<T>;
      T* b = a + half * kLanes<T>;
      const T* angle = turns + (p * half + i) * 2 * kLanes<T>;
      const Vec<T> x = load(a), y = load(b), cosine = load(angle), sine = load(angle + kLanes<T>) * sign;
      store(a, x * cosine - y * sine);
      store(b, y * cosine + x * sine);
    }
}

// Cosines and sines of rotary position embedding as panels: of step t and pair i the angle t · base^(-i / half).
template <class T>
static void attention_turns(int64_t steps, int64_t half, T* to) {
  for (int64_t i = 0; i < half; ++i) {
    const double rate = __builtin_pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
    for (int64_t t = 0; t < panel_count<T>(steps) * kLanes<T>; ++t) {
      T* at = to + (t / kLanes<T> * half + i) * 2 * kLanes<T> + t % kLanes<T>;
      at[0] = static_cast<T>(__builtin_cos(static_cast<double>(t) * rate));
      at[kLanes<T>] = static_cast<T>(__builtin_sin(static_cast<double>(t) * rate));
    }
  }
}

template <class T>
static void to_panels(const T* x, int64_t stride, int64_t steps, int64_t width, T factor, T* to) {
  const int64_t padded = attention_padded(width);
  for (int64_t t = 0; t < steps; t += kLanes<T>, to += padded * kLanes<T>) {
    const int64_t lanes = steps - t < kLanes<T> ? steps - t : kLanes<T>;
    if (lanes < kLanes<T> || width < padded)
      for (int64_t e = 0; e < padded; ++e) store(to + e * kLanes<T>, Vec<T>{});
    for (int64_t l = 0; l < lanes; ++l) {
      const T* from = x + (t + l) * stride;
      for (int64_t e = 0; e < width; ++e) to[e * kLanes<T> + l] = from[e] * factor;
    }
  }
}

// One panel, of which the first `lanes` steps are kept.
template <class T>
static void from_panel(const T* panel, int64_t lanes, int64_t width, T factor, T* to, int64_t stride) {
  for (int64_t l = 0; l < lanes; ++l)
    for (int64_t e = 0; e < width; ++e) to[l * stride + e] = panel[e * kLanes<T> + l] * factor;
}

template <class T>
static inline const T* in_panel(const T* panels, int64_t padded, int64_t step) {
  return panels + step / kLanes<T> * padded * kLanes<T> + step % kLanes<T>;
}

// to[s] = Σ_e others[s, e] · mine[e] for s in [low, high): a vector of products for each step of the other side.
template <class T>
static void panel_products(const T* mine, const T* others, int64_t padded, int64_t low, int64_t high, T* to) {
  for_features(padded, [&](int64_t first, auto features) {
    constexpr int64_t E = decltype(features)::value;
    Vec<T> x[E];
#pragma GCC unroll 8
    for (int64_t e = 0; e < E; ++e) x[e] = load(mine + (first + e) * kLanes<T>);
    for (int64_t s = low; s < high; ++s) {
      const T* from = in_panel(others, padded, s) + first * kLanes<T>;
      Vec<T> even = first ? load(to + s * kLanes<T>) : Vec<T>{}, odd{};
#pragma GCC unroll 8
      for (int64_t e = 0; e < E; e += 2) {
        even += x[e] * from[e * kLanes<T>];
        odd += x[e + 1] * from[(e + 1) * kLanes<T>];
      }
      store(to + s * kLanes<T>, even + odd);
    }
  });
}

// to[e] = Σ_s others[s, e] · weights[s] for s in [low, high).
template <class T>
static void panel_mixture(const T* weights, const T* others, int64_t padded, int64_t low, int64_t high, T* to) {
  for_features(padded, [&](int64_t first, auto features) {
    constexpr int64_t E = decltype(features)::value;
    Vec<T> sums[E] = {};
    for (int64_t s = low; s < high; ++s) {
      const Vec<T> weight = load(weights + s * kLanes<T>);
      const T* from = in_panel(others, padded, s) + first * kLanes<T>;
#pragma GCC unroll 8
      for (int64_t e = 0; e < E; ++e) sums[e] += weight * from[e * kLanes<T>];
    }
#pragma GCC unroll 8
    for (int64_t e = 0; e < E; ++e) store(to + (first + e) * kLanes<T>, sums[e]);
  });
}

// Steps [low, high) of the other side that any lane of a panel may see.
struct Seen {
  int64_t low, high;
};

template <class T>
static Seen seen_by_queries(const AttentionArgs<T>& a, int64_t query) {
  if (!a.first) return {0, a.keys};
  Seen seen{a.keys, 0};
  for (int64_t t = query; t < query + kLanes<T> && t < a.queries; ++t) {
    const int64_t first = static_cast<int64_t>(a.first[t]), last = static_cast<int64_t>(a.last[t]);
    if (first < last && first < seen.low) seen.low = first;
    if (first < last && last > seen.high) seen.high = last;
  }
  return seen;
}

template <class T>
static Seen seeing_keys(const AttentionArgs<T>& a, int64_t key) {
  if (!a.first) return {0, a.queries};
  Seen seen{a.queries, 0};
  for (int64_t t = 0; t < a.queries; ++t) {
    if (a.first[t] >= static_cast<T>(key + kLanes<T>) || a.last[t] <= static_cast<T>(key)) continue;
    if (t < seen.low) seen.low = t;
    seen.high = t + 1;
  }
  return seen;
}

// The scores of a panel of queries, minus infinity where a key is hidden.
template <class T>
static void query_scores(const AttentionArgs<T>& a, const T* queries, const T* keys, int64_t query, Seen seen, T* scores) {
  panel_products(queries, keys, attention_padded(a.width), seen.low, seen.high, scores);
  if (!a.first) return;
  const Vec<T> first = load(a.first + query), last = load(a.last + query);
  for (int64_t s = seen.low; s < seen.high; ++s) {
    const Vec<T> key = splat(static_cast<T>(s));
    T* at = scores + s * kLanes<T>;
    store(at, (key >= first) & (key < last) ? load(at) : splat(-static_cast<T>(__builtin_inff())));
  }
}

// Values that the passes over one head share, in scratch; without scratch only how many vectors they are.
template <class T>
struct AttentionRoom {
  T *queries, *keys, *values, *grads, *scores, *slopes, *sums, *corrections;
  int64_t vectors = 0;

  AttentionRoom(const AttentionArgs<T>& a, T* scratch) {
    const int64_t padded = attention_padded(a.width), by_query = panel_count<T>(a.queries), by_key = panel_count<T>(a.keys);
    const int64_t longest = a.queries > a.keys ? a.queries : a.keys;
    const auto take = [&](int64_t count) {
      T* at = scratch ? scratch + vectors * kLanes<T> : nullptr;
      vectors += count;
      return at;
    };
    queries = take(by_query * padded);
    keys = take(by_key * padded);
    values = take(by_key * padded);
    scores = take(longest);
    sums = take(padded);
    if (!a.grad) return;
    grads = take(by_query * padded);
    slopes = take(longest);
    corrections = take(by_query);
  }
};

template <class T>
static int64_t attention_vectors(const AttentionArgs<T>& a) {
  return AttentionRoom<T>(a, nullptr).vectors;
}

template <class T>
static void attention_panels(const AttentionArgs<T>& a, const AttentionRoom<T>& room, int64_t sample, int64_t head) {
  const int64_t at = head * a.width, padded = attention_padded(a.width);
  to_panels(a.q + sample * a.q_sample + at, a.q_step, a.queries, a.width, static_cast<T>(a.scale), room.queries);
  to_panels(a.k + sample * a.k_sample + at, a.k_step, a.keys, a.width, T(1), room.keys);
  to_panels(a.v + sample * a.v_sample + at, a.v_step, a.keys, a.width, T(1), room.values);
  if (!a.turns) return;
  turn_panels(room.queries, panel_count<T>(a.queries), padded, a.width / 2, a.turns, T(1));
  turn_panels(room.keys, panel_count<T>(a.keys), padded, a.width / 2, a.turns, T(1));
}

// Samples × heads [begin, end). `stats` gets the largest score of each query and 1 / Σ exp(score - largest).
template <class T>
static void attention_forward(const AttentionArgs<T>& a, T* scratch, int64_t begin, int64_t end) {
  const AttentionRoom<T> room(a, scratch);
  const int64_t padded = attention_padded(a.width), dim = a.heads * a.width;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t sample = item / a.heads, head = item % a.heads;
    attention_panels(a, room, sample, head);
    for (int64_t t = 0; t < a.queries; t += kLanes<T>) {
      const int64_t lanes = a.queries - t < kLanes<T> ? a.queries - t : kLanes<T>;
      const Seen seen = seen_by_queries(a, t);
      query_scores(a, room.queries + t * padded, room.keys, t, seen, room.scores);
      Vec<T> largest = splat(-static_cast<T>(__builtin_inff())), total{};
      for (int64_t s = seen.low; s < seen.high; ++s) {
        const Vec<T> score = load(room.scores + s * kLanes<T>);
        largest = score > largest ? score : largest;
      }
      for (int64_t s = seen.low; s < seen.high; ++s) {
        const Vec<T> power = vexp_low(load(room.scores + s * kLanes<T>) - largest);
        store(room.scores + s * kLanes<T>, power);
        total += power;
      }
      const Vec<T> share = T(1) / total;
      panel_mixture(room.scores, room.values, padded, seen.low, seen.high, room.sums);
      for (int64_t e = 0; e < a.width; ++e) store(room.sums + e * kLanes<T>, load(room.sums + e * kLanes<T>) * share);
      from_panel(room.sums, lanes, a.width, T(1), a.out + (sample * a.queries + t) * dim + head * a.width, dim);
      T* stats = a.stats + item * 2 * a.queries + t;
      along<T>(lanes, [&](int64_t, auto where) {
        put(stats, largest, where);
        put(stats + a.queries, share, where);
      });
    }
  }
}

// The gradient of the queries, and of each query Σ_s share · slope, by which the softmax corrects every slope.
template <class T>
static void attention_query_grads(const AttentionArgs<T>& a, const AttentionRoom<T>& room, int64_t sample, int64_t head) {
  const int64_t padded = attention_padded(a.width), dim = a.heads * a.width;
  const T* stats = a.stats + (sample * a.heads + head) * 2 * a.queries;
  for (int64_t t = 0; t < a.queries; t += kLanes<T>) {
    const int64_t lanes = a.queries - t < kLanes<T> ? a.queries - t : kLanes<T>;
    const Seen seen = seen_by_queries(a, t);
    query_scores(a, room.queries + t * padded, room.keys, t, seen, room.scores);
    panel_products(room.grads + t * padded, room.values, padded, seen.low, seen.high, room.slopes);
    Vec<T> largest{}, share{}, correction{};
    along<T>(lanes, [&](int64_t, auto where) {
      largest = get(stats + t, where);
      share = get(stats + a.queries + t, where);
    });
    for (int64_t s = seen.low; s < seen.high; ++s) {
      const Vec<T> weight = vexp_low(load(room.scores + s * kLanes<T>) - largest) * share;
      store(room.scores + s * kLanes<T>, weight);
      correction += weight * load(room.slopes + s * kLanes<T>);
    }
    store(room.corrections + t, correction);
    for (int64_t s = seen.low; s < seen.high; ++s) {
      T* at = room.scores + s * kLanes<T>;
      store(at, load(at) * (load(room.slopes + s * kLanes<T>) - correction));
    }
    if (!a.grad_q) continue;
    panel_mixture(room.scores, room.keys, padded, seen.low, seen.high, room.sums);
    if (a.turns) turn_panels(room.sums, 1, padded, a.width / 2, a.turns + t * (a.width / 2) * 2, T(-1));
    T* to = a.grad_q + (sample * a.queries + t) * dim + head * a.width;
    from_panel(room.sums, lanes, a.width, static_cast<T>(a.scale), to, dim);
  }
}

// The gradients of keys and values: a lane is a key, and the scores are made a second time.
template <class T>
static void attention_key_grads(const AttentionArgs<T>& a, const AttentionRoom<T>& room, int64_t sample, int64_t head) {
  const int64_t padded = attention_padded(a.width), dim = a.heads * a.width;
  const T* stats = a.stats + (sample * a.heads + head) * 2 * a.queries;
  for (int64_t key = 0; key < a.keys; key += kLanes<T>) {
    const int64_t lanes = a.keys - key < kLanes<T> ? a.keys - key : kLanes<T>;
    const Seen seen = seeing_keys(a, key);
    panel_products(room.keys + key * padded, room.queries, padded, seen.low, seen.high, room.scores);
    panel_products(room.values + key * padded, room.grads, padded, seen.low, seen.high, room.slopes);
    Vec<T> lane;
    for (int64_t l = 0; l < kLanes<T>; ++l) lane[l] = static_cast<T>(key + l);
    for (int64_t t = seen.low; t < seen.high; ++t) {
      // The score of a hidden key may be far above the largest one: what the exponential makes of it is thrown away.
      T* score = room.scores + t * kLanes<T>;
      T* slope = room.slopes + t * kLanes<T>;
      Vec<T> weight = vexp_low(load(score) - stats[t]) * stats[a.queries + t];
      if (a.first) weight = (lane >= a.first[t]) & (lane < a.last[t]) ? weight : Vec<T>{};
      store(score, weight);
      store(slope, weight * (load(slope) - room.corrections[t]));
    }
    T* to_k = a.grad_k + (sample * a.keys + key) * dim + head * a.width;
    T* to_v = a.grad_v + (sample * a.keys + key) * dim + head * a.width;
    panel_mixture(room.scores, room.grads, padded, seen.low, seen.high, room.sums);
    from_panel(room.sums, lanes, a.width, T(1), to_v, dim);
    panel_mixture(room.slopes, room.queries, padded, seen.low, seen.high, room.sums);
    if (a.turns) turn_panels(room.sums, 1, padded, a.width / 2, a.turns + key * (a.width / 2) * 2, T(-1));
    from_panel(room.sums, lanes, a.width, T(1), to_k, dim);
  }
}

template <class T>
static void attention_backward(const AttentionArgs<T>& a, T* scratch, int64_t begin, int64_t end) {
  const AttentionRoom<T> room(a, scratch);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t sample = item / a.heads, head = item % a.heads;
    attention_panels(a, room, sample, head);
    const T* grad = a.grad + sample * a.queries * a.heads * a.width + head * a.width;
    to_panels(grad, a.heads * a.width, a.queries, a.width, T(1), room.grads);
    attention_query_grads(a, room, sample, head);
    if (a.grad_k) attention_key_grads(a, room, sample, head);
  }
}
