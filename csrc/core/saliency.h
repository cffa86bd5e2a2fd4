// Sums over a weight and its gradient. Included inside a namespace, see isa_body.h.

// sums: Σ|w·g|, Σ w·g, Σ g², Σ|g| of [begin, end). Tiles are summed in T, tiles among each other in double.
template <class T>
static void saliency(const T* w, const T* g, double* sums, int64_t begin, int64_t end) {
  for (int k = 0; k < 4; ++k) sums[k] = 0.0;
  for (int64_t at = begin; at < end; at += kTile) {
    const int64_t stop = at + kTile < end ? at + kTile : end;
    Vec<T> total[4] = {};
    along<T>(stop - at, [&](int64_t i, auto where) {
      const Vec<T> slope = get(g + at + i, where), product = get(w + at + i, where) * slope;
      total[0] += vabs<T>(product);
      total[1] += product;
      total[2] += slope * slope;
      total[3] += vabs<T>(slope);
    });
    for (int k = 0; k < 4; ++k) sums[k] += static_cast<double>(lane_sum<T>(total[k]));
  }
}
