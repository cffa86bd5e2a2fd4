// What the CUDA files share: torch's stable interface, checks and the launch of a sum.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>
#include <vector>

#include "device.cuh"

namespace foreblocks::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline cudaStream_t stream_of(const Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Calls f with a null pointer of the tensor's element type.
template <class F>
auto by_dtype(const char* operation, const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return f(static_cast<float*>(nullptr));
    case ScalarType::Double: return f(static_cast<double*>(nullptr));
    default: STD_TORCH_CHECK(false, operation, " needs float32 or float64 tensors.");
  }
}

inline void check_same(const char* operation, const char* name, const Tensor& x, const Tensor& like) {
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type(), operation, ": ", name, " has another dtype.");
  STD_TORCH_CHECK(x.is_cuda() && x.get_device_index() == like.get_device_index(), operation, ": ", name, " is on another device.");
}

inline Tensor packed(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

inline Tensor nothing(const Tensor& like) { return torch::stable::new_empty(like, {0}); }

template <class T>
const T* in(const Tensor& x) {
  return static_cast<const T*>(x.data_ptr());
}

template <class T>
T* out(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

template <class T>
void sum_over_parts(const Tensor& from, int64_t outer, const Tensor& to, cudaStream_t stream) {
  const int64_t inner = to.numel();
  if (inner == 0) return;
  sum_outer<T><<<parts(inner, 256), 256, 0, stream>>>(in<T>(from), outer, inner, out<T>(to));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace foreblocks::cuda
