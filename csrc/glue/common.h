// What the glue of every operation needs: torch's stable interface, dtype choice, blocks of work.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../core/table.h"

namespace foreblocks {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements of one block. Fixed, and never a function of the number of threads: each block has its own partial sums,
// which are added up in order, so results have the same bits for any number of threads.
constexpr int64_t kBlock = 16384;

inline int64_t block_count(int64_t total, int64_t size) { return (total + size - 1) / size; }

// Calls f(block, begin, end) for the blocks of [0, total).
template <class F>
void for_blocks(int64_t total, int64_t size, const F& f) {
  const int64_t blocks = block_count(total, size);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block)
      f(block, block * size, std::min(total, (block + 1) * size));
  });
}

// Adds up partial sums of `each` values, block after block.
template <class T>
std::vector<T> join_blocks_of(const std::vector<T>& partial, int64_t each) {
  std::vector<T> total(each, T(0));
  for (size_t first = 0; first < partial.size(); first += each)
    for (int64_t i = 0; i < each; ++i) total[i] += partial[first + i];
  return total;
}

// Room for vectors of any instruction set, at the start of a cache line.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t vectors) : space_((vectors + 1) * 64) {}
  T* data() {
    const auto address = reinterpret_cast<uintptr_t>(space_.data());
    return reinterpret_cast<T*>((address + 63) / 64 * 64);
  }

 private:
  std::vector<char> space_;
};

// The same, with a value of make() for each thread: memory that its blocks use one after the other.
template <class Make, class F>
void for_blocks_with(int64_t total, int64_t size, const Make& make, const F& f) {
  torch::stable::parallel_for(0, block_count(total, size), 1, [&](int64_t first, int64_t last) {
    auto memory = make();
    for (int64_t block = first; block < last; ++block)
      f(memory, block, block * size, std::min(total, (block + 1) * size));
  });
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
  STD_TORCH_CHECK(x.is_cpu(), operation, ": ", name, " is not on the CPU.");
}

inline Tensor packed(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

// A tensor like another, not set to anything. torch::stable::new_empty looks its operator up by name at every call,
// which takes longer than the memory; this is the same function by its address.
inline Tensor blank(
    const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes, std::optional<ScalarType> dtype = std::nullopt) {
  int32_t code = 0;
  if (dtype) code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(
      like.get(), sizes.data(), static_cast<int64_t>(sizes.size()), dtype ? &code : nullptr, nullptr, nullptr, 0, nullptr,
      &made));
  return Tensor(made);
}

inline Tensor nothing(const Tensor& like) { return blank(like, {0}); }

template <class T>
const T* in(const Tensor& x) {
  return static_cast<const T*>(x.data_ptr());
}

template <class T>
T* out(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

}  // namespace foreblocks
