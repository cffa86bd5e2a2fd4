// The sums of saliency scores over a whole list of weights.
#pragma once

#include "mixed_sum.h"

namespace foreblocks {

// [K, 4] float64: Σ|w·g|, Σ w·g, Σ g², Σ|g| of each pair.
inline Tensor saliency(std::vector<Tensor> weights, std::vector<Tensor> grads) {
  STD_TORCH_CHECK(!weights.empty() && weights.size() == grads.size(), "saliency: weights and grads differ in length, or are empty.");
  const int64_t count = static_cast<int64_t>(weights.size());
  for (int64_t k = 0; k < count; ++k) {
    check_same("saliency", "weights", weights[k], weights[0]);
    check_same("saliency", "grads", grads[k], weights[0]);
    STD_TORCH_CHECK(weights[k].numel() == grads[k].numel(), "saliency: a gradient has another size than its weight.");
    weights[k] = packed(weights[k]);
    grads[k] = packed(grads[k]);
  }
  Tensor result = blank(weights[0], {count, 4}, ScalarType::Double);
  return by_storage("saliency", weights[0], [&](auto* null) {
    using S = std::remove_pointer_t<decltype(null)>;
    using T = Compute<S>;
    struct Block {
      int64_t tensor, begin, end;
    };
    std::vector<Block> blocks;
    for (int64_t k = 0; k < count; ++k)
      for (int64_t at = 0; at < weights[k].numel(); at += kBlock)
        blocks.push_back({k, at, std::min(at + kBlock, weights[k].numel())});
    std::vector<double> partial(4 * blocks.size());
    // Small tensors are many: sixteen blocks at a time.
    for_blocks(static_cast<int64_t>(blocks.size()), 16, [&](int64_t, int64_t first, int64_t last) {
      Space<T> w_space, g_space;
      for (int64_t i = first; i < last; ++i) {
        const Block& b = blocks[i];
        const Source<S> w(weights[b.tensor]), g(grads[b.tensor]);
        for_parts<S>(b.begin, b.end, [&](int64_t at, int64_t size) {
          double sums[4];
          active().of<T>().saliency(w.at(at, size, w_space), g.at(at, size, g_space), sums, 0, size);
          for (int64_t k = 0; k < 4; ++k) partial[4 * i + k] += sums[k];
        });
      }
    });
    double* sums = out<double>(result);
    std::fill_n(sums, 4 * count, 0.0);
    for (size_t i = 0; i < blocks.size(); ++i)
      for (int64_t k = 0; k < 4; ++k) sums[4 * blocks[i].tensor + k] += partial[4 * i + k];
    return result;
  });
}

}  // namespace foreblocks
