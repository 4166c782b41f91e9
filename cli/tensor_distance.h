// SPDX-License-Identifier: Apache-2.0
// The distance between two KvTensors, plane by plane, over the positions that both hold.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/kv_tensor.h"

namespace kvpack::cli {

// Sums over pairs of values (a, b); a value that is not finite counts only if the two differ in their bits.
struct Distance {
  uint64_t values = 0;
  uint64_t differing = 0;   // pairs with a != b
  uint64_t non_finite = 0;  // pairs that differ and are not both finite: not in the sums below
  double max_abs_error = 0;
  double squared_error = 0;
  double squared_a = 0;
  double squared_b = 0;
  double product = 0;

  void add(float a, float b);
  Distance& operator+=(const Distance& other);
  double relative_l2() const;  // |a - b| / |a|
  double cosine() const;       // of a and b as long vectors; 1 for two zero vectors
};

struct PlaneDistance {
  uint32_t layer = 0;
  Side side = Side::kKey;
  uint32_t stream = 0;
  uint32_t tokens = 0;         // compared
  uint32_t tokens_only_a = 0;  // at positions that the other does not hold
  uint32_t tokens_only_b = 0;
  Distance distance;
};

// Errors: invalid_argument (layers or widths differ, or no position is in both; both numbers named).
Result<std::vector<PlaneDistance>> distance_between(const KvTensor& a, const KvTensor& b);

}  // namespace kvpack::cli
