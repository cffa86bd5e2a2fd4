// The body of every instruction set: csrc/isa_*.cpp set the compiler's target, open a namespace and include this.
// All names are local to that namespace; only the table leaves it.

#include "simd.h"
#include "mixed_sum.h"

template <class T>
static constexpr Kernels<T> kernels() {
  Kernels<T> k{};
  k.mixed_sum = mixed_sum<T>;
  k.square_sums = square_sums<T>;
  k.mixed_dots = mixed_dots<T>;
  k.scaled_copies = scaled_copies<T>;
  return k;
}

static constexpr Table kTable{ISA_NAME, kernels<float>(), kernels<double>()};
