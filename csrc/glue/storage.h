// Tensors whose elements S may be narrower than the type T in which the kernels compute: blocks of them are widened on
// the way in and narrowed on the way out. For float and double all of this is an address.
#pragma once

#include <memory>

#include "common.h"

namespace foreblocks {

template <class S>
inline constexpr bool kHalf = std::is_same_v<S, BFloat16> || std::is_same_v<S, Float16>;
template <class S>
using Compute = std::conditional_t<kHalf<S>, float, S>;

template <class S>
const Conversion<S>& conversion() {
  if constexpr (std::is_same_v<S, BFloat16>)
    return active().bf16;
  else
    return active().f16;
}

// Calls f with a null pointer of the tensor's element type, half precision among them.
template <class F>
auto by_storage(const char* operation, const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::BFloat16: return f(static_cast<BFloat16*>(nullptr));
    case ScalarType::Half: return f(static_cast<Float16*>(nullptr));
    default: return by_dtype(operation, x, f);
  }
}

// The dtype of what is computed but not stored in half precision.
inline ScalarType compute_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Memory of one block, not set to zero.
template <class T>
class Space {
 public:
  T* room(int64_t count) {
    if (count > size_) {
      memory_.reset(new T[count]);
      size_ = count;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<T[]> memory_;
  int64_t size_ = 0;
};

// Rows of the last dimension at one stride, without a copy where the layout allows it (a half of a chunk, say).
template <class S>
class Rows {
 public:
  using T = Compute<S>;
  Rows() = default;
  explicit Rows(const std::optional<Tensor>& given) {
    if (!given) return;
    const Tensor& x = *given;
    const int64_t last = x.dim() - 1;
    stride_ = dim_ = x.size(last);
    bool even = x.size(last) == 1 || x.stride(last) == 1;
    int64_t next = -1, found = stride_;  // the stride of a dimension of size 1 means nothing
    for (int64_t d = last - 1; d >= 0 && even; --d) {
      if (x.size(d) == 1) continue;
      if (next < 0) found = x.stride(d);
      even = next < 0 || x.stride(d) == next;
      next = x.stride(d) * x.size(d);
    }
    const bool as_is = even && !x.is_contiguous();
    kept_ = as_is ? x : packed(x);
    if (as_is) stride_ = found;
    data_ = in<S>(*kept_);
  }

  // Elements from one row to the next of what `at` returns.
  int64_t stride() const { return kHalf<S> ? dim_ : stride_; }

  // Rows [first, first + count), null if there is no tensor; `space` is theirs until its next use.
  const T* at(int64_t first, int64_t count, Space<T>& space) const {
    if (!data_) return nullptr;
    const S* from = data_ + first * stride_;
    if constexpr (kHalf<S>) {
      T* to = space.room(count * dim_);
      if (stride_ == dim_)
        conversion<S>().widen(from, to, count * dim_);
      else
        for (int64_t row = 0; row < count; ++row) conversion<S>().widen(from + row * stride_, to + row * dim_, dim_);
      return to;
    } else {
      return from;
    }
  }

 private:
  std::optional<Tensor> kept_;
  const S* data_ = nullptr;
  int64_t stride_ = 0, dim_ = 0;
};

// A contiguous tensor, or none, read by elements.
template <class S>
class Source {
 public:
  using T = Compute<S>;
  Source() = default;
  explicit Source(const Tensor& x) : data_(in<S>(x)) {}

  const T* at(int64_t first, int64_t count, Space<T>& space) const {
    if (!data_) return nullptr;
    if constexpr (kHalf<S>) {
      T* to = space.room(count);
      conversion<S>().widen(data_ + first, to, count);
      return to;
    } else {
      return data_ + first;
    }
  }

 private:
  const S* data_ = nullptr;
};

// All of a small tensor, or null.
template <class S>
class Values {
 public:
  using T = Compute<S>;
  Values() = default;
  explicit Values(const std::optional<Tensor>& given) {
    if (!given) return;
    kept_ = packed(*given);
    if constexpr (kHalf<S>) {
      wide_.resize(kept_->numel());
      conversion<S>().widen(in<S>(*kept_), wide_.data(), kept_->numel());
    }
  }

  const T* data() const {
    if (!kept_) return nullptr;
    if constexpr (kHalf<S>)
      return wide_.data();
    else
      return in<S>(*kept_);
  }

 private:
  std::optional<Tensor> kept_;
  std::vector<T> wide_;
};

// A contiguous result, or none: at() is where a kernel writes, done() brings it home.
template <class S>
class Sink {
 public:
  using T = Compute<S>;
  Sink() = default;
  explicit Sink(const Tensor& result) : data_(out<S>(result)) {}

  T* at(int64_t first, int64_t count, Space<T>& space) const {
    if (!data_) return nullptr;
    if constexpr (kHalf<S>)
      return space.room(count);
    else
      return data_ + first;
  }

  void done(int64_t first, int64_t count, const T* from) const {
    if constexpr (kHalf<S>)
      if (data_) conversion<S>().narrow(from, data_ + first, count);
  }

 private:
  S* data_ = nullptr;
};

// A new tensor of these values.
template <class S>
Tensor tensor_of(const Tensor& like, const Compute<S>* from, std::initializer_list<int64_t> sizes) {
  Tensor result = blank(like, sizes);
  const int64_t count = result.numel();
  if constexpr (kHalf<S>)
    conversion<S>().narrow(from, out<S>(result), count);
  else
    std::copy_n(from, count, out<S>(result));
  return result;
}

}  // namespace foreblocks
