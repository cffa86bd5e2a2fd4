// Small matrix products whose right side and result are rows of features. Included inside a namespace, see isa_body.h.
//
// A is read one number at a time, so it may have any strides: a weight, its
// transpose, or a series seen through a window, without a copy. The block of C stays in registers.

#if VECTOR_BYTES == 64
constexpr int64_t kBlockRows = 12;  // 24 of 32 registers
#else
constexpr int64_t kBlockRows = 6;  // 12 of 16
#endif

template <class T, int64_t ROWS, int64_t VECTORS, class Where>
static inline __attribute__((always_inline)) void product_block(const Product<T>& p, int64_t m, int64_t n, Where where) {
  Vec<T> sums[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int64_t r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int64_t v = 0; v < VECTORS; ++v)
      sums[r][v] = p.add         ? get(p.c + (m + r) * p.c_row + n + v * kLanes<T>, where)
                   : p.by_column ? get(p.by_column + n + v * kLanes<T>, where)
                   : p.by_row    ? splat(p.by_row[m + r])
                                 : Vec<T>{};
  for (int64_t tap = 0; tap < p.taps; ++tap) {
    const T* a = p.a + m * p.a_row + tap * p.a_tap;
    const T* b = p.b + n + tap * p.b_tap;
    for (int64_t k = 0; k < p.inner; ++k, a += p.a_step, b += p.b_row) {
      Vec<T> right[VECTORS];
#pragma GCC unroll 2
      for (int64_t v = 0; v < VECTORS; ++v) right[v] = get(b + v * kLanes<T>, where);
#pragma GCC unroll 16
      for (int64_t r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int64_t v = 0; v < VECTORS; ++v) sums[r][v] += right[v] * a[r * p.a_row];
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int64_t v = 0; v < VECTORS; ++v) put(p.c + (m + r) * p.c_row + n + v * kLanes<T>, sums[r][v], where);
}

template <class T, int64_t VECTORS, class Where>
static void product_columns(const Product<T>& p, int64_t n, Where where) {
  int64_t m = 0;
  for (; m + kBlockRows <= p.rows; m += kBlockRows) product_block<T, kBlockRows, VECTORS>(p, m, n, where);
  for (; m + 4 <= p.rows; m += 4) product_block<T, 4, VECTORS>(p, m, n, where);
  for (; m < p.rows; ++m) product_block<T, 1, VECTORS>(p, m, n, where);
}

// [rows, columns] as [columns, rows], in tiles that stay in the first cache.
template <class T>
static void transpose(const T* from, int64_t rows, int64_t columns, T* to) {
  constexpr int64_t kSide = 16;
  for (int64_t i = 0; i < rows; i += kSide)
    for (int64_t j = 0; j < columns; j += kSide)
      for (int64_t c = j; c < (columns < j + kSide ? columns : j + kSide); ++c)
        for (int64_t r = i; r < (rows < i + kSide ? rows : i + kSide); ++r) to[c * rows + r] = from[r * columns + c];
}

template <class T>
static void product(const Product<T>& p) {
  int64_t n = 0;
  for (; n + 2 * kLanes<T> <= p.columns; n += 2 * kLanes<T>) product_columns<T, 2>(p, n, Whole{});
  for (; n + kLanes<T> <= p.columns; n += kLanes<T>) product_columns<T, 1>(p, n, Whole{});
  if (n < p.columns) product_columns<T, 1>(p, n, Part{p.columns - n});
}
