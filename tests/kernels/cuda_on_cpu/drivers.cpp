// The kernels of csrc/cuda with plain C interfaces, launched as the .cu files launch them.
#include "cuda/mixed_sum.cuh"
#include "cuda/scan_backward.cuh"
#include "cuda/scan_forward.cuh"

using namespace foreblocks::cuda;

template <class T>
void joined(const T* parts_of, int64_t outer, int64_t inner, T* to) {
  launch(dim3(parts(inner, 256)), 256, 0, [=] { sum_outer<T>(parts_of, outer, inner, to); });
}

template <class T>
ScanArgs<T> scan_args(T** t, const int64_t* sizes) {
  ScanArgs<T> s{};
  s.u = t[0], s.delta = t[1], s.a = t[2], s.b = t[3], s.c = t[4], s.skip = t[5], s.z = t[6], s.bias = t[7];
  s.batch = sizes[0], s.steps = sizes[1];
  s.dim = sizes[2], s.states = sizes[3], s.groups = sizes[4], s.softplus = sizes[5];
  s.u_stride = s.delta_stride = s.z_stride = s.dim;
  s.b_stride = s.c_stride = s.states;
  s.lanes = 1;
  while (s.lanes * kOwn < s.states) s.lanes *= 2;
  return s;
}

template <class T>
void scan(T** t, const int64_t* sizes) {
  ScanArgs<T> s = scan_args(t, sizes);
  s.out = t[8], s.last = t[9], s.chunks = t[10];
  launch(s.grid(), kScanThreads, sizeof(T) * forward_values(s.channels(), s.lanes * kOwn), [&] { scan_forward_kernel(s); });
  if (t[11] == nullptr) return;
  s.grad = t[11], s.by_u = t[12], s.by_delta = t[13], s.by_z = t[18];
  const int64_t side = s.batch * s.steps * s.groups * s.states;
  std::vector<T> a(s.batch * s.dim * s.states, NAN), b(s.tiles() * side, NAN), c(s.tiles() * side, NAN);
  std::vector<T> skip(s.batch * s.dim, NAN), bias(s.batch * s.dim, NAN);
  s.by_a = a.data(), s.by_b = b.data(), s.by_c = c.data(), s.by_skip = skip.data(), s.by_bias = bias.data();
  launch(s.grid(), kScanThreads, sizeof(T) * backward_values(s.channels(), s.lanes * kOwn), [&] { scan_backward_kernel(s); });
  joined(s.by_a, s.batch, s.dim * s.states, t[14]);
  joined(s.by_b, s.tiles(), side, t[15]);
  joined(s.by_c, s.tiles(), side, t[16]);
  if (s.skip) joined(s.by_skip, s.batch, s.dim, t[17]);
  if (s.bias) joined(s.by_bias, s.batch, s.dim, t[19]);
}

extern "C" void scan_float(float** t, const int64_t* sizes) { scan(t, sizes); }
extern "C" void scan_double(double** t, const int64_t* sizes) { scan(t, sizes); }

// xs: count tensors; grads: count, null where not wanted.
extern "C" void mixed_sum_float(
    float** xs, const float* weights, int64_t count, bool normalize, int64_t total, float* to, double* squares,
    const float* grad, float** grads, float* by_weights) {
  const int64_t blocks = parts(total, kTile);
  std::vector<float> partial(count * blocks, NAN);
  std::vector<double> dots(count, NAN);
  Addresses<const float> x{};
  Addresses<float> g{};
  for (int64_t k = 0; k < count; ++k) x.at[k] = xs[k], g.at[k] = grads[k];
  const dim3 grid(blocks);
  launch(grid, kThreads, 0, [&] { mix<float>(x, weights, count, normalize, total, to, partial.data()); });
  launch(dim3(count), kThreads, 0, [&] { join<float>(partial.data(), blocks, total, squares); });
  launch(grid, kThreads, 0, [&] { mix_backward<float>(grad, x, g, weights, count, normalize, total, partial.data()); });
  launch(dim3(count), kThreads, 0, [&] { join<float>(partial.data(), blocks, 1.0, dots.data()); });
  launch(dim3(1), kThreads, 0, [&] { weight_grads<float>(dots.data(), weights, count, normalize, by_weights); });
}
