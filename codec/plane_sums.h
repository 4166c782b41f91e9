// SPDX-License-Identifier: Apache-2.0
// Means and covariances of one plane, averaged over several texts. Each text's own mean is taken out of its covariance:
// what differs between texts is told once per context, what differs between tokens is not.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvpack {

class PlaneSums {
 public:
  PlaneSums(uint32_t kv_heads, uint32_t head_dim);

  uint32_t kv_heads() const { return kv_heads_; }
  uint32_t head_dim() const { return head_dim_; }
  uint32_t texts() const { return texts_; }

  // One text's rows [token][kv_head][head_dim]: finite, RoPE undone, at least one.
  void add(std::span<const float> rows);

  // Over what was added, which is something.
  std::vector<float> mean() const;                     // [channel]
  std::vector<float> covariance(uint32_t head) const;  // [head_dim][head_dim]

 private:
  uint32_t kv_heads_;
  uint32_t head_dim_;
  uint32_t texts_ = 0;
  std::vector<float> mean_;
  std::vector<float> covariance_;  // [kv_head][head_dim][head_dim]
};

}  // namespace kvpack
