// Tensors as rows of their last dimension.
#pragma once

#include "common.h"

namespace foreblocks {

// Rows of the last dimension at one stride, without a copy where the layout allows it (a half of a chunk, say).
template <class T>
const T* rows(const std::optional<Tensor>& given, Tensor& keep, int64_t& stride) {
  if (!given) return nullptr;
  const Tensor& x = *given;
  const int64_t last = x.dim() - 1;
  stride = x.size(last);
  bool even = x.size(last) == 1 || x.stride(last) == 1;
  int64_t next = 0, found = stride;  // the stride of a dimension of size 1 means nothing
  for (int64_t d = last - 1; d >= 0 && even; --d) {
    if (x.size(d) == 1) continue;
    if (next == 0) found = x.stride(d);
    even = next == 0 || x.stride(d) == next;
    next = x.stride(d) * x.size(d);
  }
  const bool as_is = even && !x.is_contiguous();
  keep = as_is ? x : packed(x);
  if (as_is) stride = found;
  return in<T>(keep);
}

template <class T>
const T* whole(const std::optional<Tensor>& given, Tensor& keep) {
  if (!given) return nullptr;
  keep = packed(*given);
  return in<T>(keep);
}

}  // namespace foreblocks
