// SPDX-License-Identifier: Apache-2.0
// Token classes: an octave of step per (head, token). A salient token is quantized with step x 2^-class (MiKV, arXiv
// 2402.18096, and ZipCache, arXiv 2405.14256, give salient tokens more bits; here the step carries it).
//
// Within a chunk a head's tokens are sorted by class, most salient first (ties in token order): groups of 32 lanes.
// The first group's tokens keep a class each; every later group takes the rounded mean of its tokens. The classes imply
// the order, so nothing else is stored.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr int kMinTokenClass = -4;
inline constexpr int kMaxTokenClass = 3;

// How one head's tokens of a chunk are laid out in lanes.
struct LaneOrder {
  std::vector<uint32_t> token;      // [slot] token of the chunk, slot = group * 32 + lane
  std::vector<int8_t> token_class;  // [slot] the class whose step applies
};

// `classes` [token] of one head; empty: all zero, in token order.
LaneOrder lane_order(std::span<const int8_t> classes, uint32_t tokens);

// Classes from relative weights (larger: more salient): round(1/2 * 1/2 log2(weight / mean)), clamped. Weights that are
// not positive and finite count as the smallest class.
std::vector<int8_t> classes_from_weights(std::span<const float> weights);

// [head][token] to and from bytes: one flag byte, then 3 bits each.
void write_token_classes(std::span<const int8_t> classes, ByteWriter& out);
Result<std::vector<int8_t>> read_token_classes(ByteReader& in, uint64_t count);

// step x 2^-class.
inline float step_of_class(float step, int token_class) {
  return token_class >= 0 ? step / static_cast<float>(1 << token_class) : step * static_cast<float>(1 << -token_class);
}

}  // namespace kvpack
