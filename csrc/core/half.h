// Half precision is for what is stored: blocks of it are widened to float, in which the kernels compute, and narrowed
// again. Included inside a namespace, see isa_body.h.

typedef uint16_t Halves __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(VECTOR_BYTES)));

static inline Vec<float> widened(BFloat16, Halves x) { return (Vec<float>)(__builtin_convertvector(x, Words) << 16); }

// To the nearest, ties to the even one.
static inline Halves narrowed(BFloat16, Vec<float> x) {
  const Words bits = (Words)x, rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return __builtin_convertvector(x == x ? rounded : Words{} + 0x7FC0u, Halves);
}

#if VECTOR_BYTES == 64
static inline Vec<float> widened(Float16, Halves x) {
  typedef short Lanes __attribute__((vector_size(32)));
  return __builtin_ia32_vcvtph2ps512_mask((Lanes)x, Vec<float>{}, -1, 4);
}

static inline Halves narrowed(Float16, Vec<float> x) {
  typedef short Lanes __attribute__((vector_size(32)));
  return (Halves)__builtin_ia32_vcvtps2ph512_mask(x, 0, Lanes{}, -1);
}
#elif VECTOR_BYTES == 32
static inline Vec<float> widened(Float16, Halves x) {
  typedef short Lanes __attribute__((vector_size(16)));
  return __builtin_ia32_vcvtph2ps256((Lanes)x);
}

static inline Halves narrowed(Float16, Vec<float> x) { return (Halves)__builtin_ia32_vcvtps2ph256(x, 0); }
#else
static inline Vec<float> widened(Float16, Halves x) {
  const Words word = __builtin_convertvector(x, Words), sign = (word & 0x8000u) << 16, rest = (word & 0x7FFFu) << 13;
  // The exponent's bias goes from 15 to 127; a product does so for denormal numbers too.
  const Words body = (Words)((Vec<float>)rest * 0x1p112f);
  return (Vec<float>)(sign | (rest >= 0x0F800000u ? body | 0x7F800000u : body));
}

static inline Halves narrowed(Float16, Vec<float> x) {
  const Words bits = (Words)x, sign = (bits >> 16) & 0x8000u, rest = bits & 0x7FFFFFFFu;
  const Words normal = (rest - (112u << 23) + 0xFFFu + ((rest >> 13) & 1u)) >> 13;
  // Below 2^-14 a half is a multiple of 2^-24, the last bit of a float next to 0.5: the sum rounds to it.
  const Words small = (Words)((Vec<float>)rest + 0.5f) - 0x3F000000u;
  const Words large = rest > 0x7F800000u ? Words{} + 0x7E00u : Words{} + 0x7C00u;
  const Words body = rest < 0x38800000u ? small : rest >= 0x47800000u ? large : normal;
  return __builtin_convertvector(sign | body, Halves);
}
#endif

template <class S>
static void widen(const S* from, float* to, int64_t count) {
  Halves lanes = {};
  int64_t i = 0;
  for (; i + kLanes<float> <= count; i += kLanes<float>) {
    __builtin_memcpy(&lanes, from + i, sizeof(lanes));
    store(to + i, widened(S{}, lanes));
  }
  if (i == count) return;
  __builtin_memcpy(&lanes, from + i, (count - i) * sizeof(S));
  store_part(to + i, widened(S{}, lanes), count - i);
}

template <class S>
static void narrow(const float* from, S* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<float> <= count; i += kLanes<float>) {
    const Halves lanes = narrowed(S{}, load(from + i));
    __builtin_memcpy(to + i, &lanes, sizeof(lanes));
  }
  if (i == count) return;
  const Halves lanes = narrowed(S{}, load_part(from + i, count - i));
  __builtin_memcpy(to + i, &lanes, (count - i) * sizeof(S));
}
