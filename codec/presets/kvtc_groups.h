// SPDX-License-Identifier: Apache-2.0
// KVTC's quantizer (kvtc.cc): consecutive components in groups of 1 to 1,024 with so many bits each, chosen by dynamic
// programming, packed, compressed.
#pragma once

#include <Eigen/Dense>
#include <cstdint>
#include <vector>

namespace kvpack {

struct KvtcComponents {
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> values;  // [token][component], variance falling
  std::vector<float> deviation;                                                  // [component]
};

struct KvtcGroup {
  uint32_t size = 0;    // components; one alone is an f16
  int bits = 0;         // each
  bool floats = false;  // 8-bit floats, without a scale; else levels from the group's minimum to its maximum
};

// The groups, from the first component on, with the least squared error that take at most `budget_bits` per token
// before compression. Components after the last group are dropped.
std::vector<KvtcGroup> choose_kvtc_groups(const KvtcComponents& all, double budget_bits, unsigned threads);

// Makes of the values what a decoder gets; bytes.
uint64_t code_kvtc_groups(KvtcComponents& all, const std::vector<KvtcGroup>& groups, unsigned threads);

}  // namespace kvpack
