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

// Classes from the logarithms of token weights (larger: more salient): u = alpha / 2 log2(weight), minus
// 1/2 log2(mean of 4^u) so that the average token's step stays, rounded and clamped. alpha is 1/2 because a predicted
// weight is uncertain. Weights that are not finite get the smallest class.
std::vector<int8_t> classes_from_log_weights(std::span<const float> log_weights);

// Token classes of one tile, [kv_head][token]:
//   u8 source: 0 none (all zero), 1 follow, 2 as in the key tile of the same layer and chunk
//   if 1: per head i8 center, u8 scale; varint bytes; a rANS stream of 8 lanes, head by head, token i on lane i mod 8,
//         class - center by the Gaussian symbol table of that scale
enum class TokenClassSource : uint8_t { kNone = 0, kOwn = 1, kKeyTile = 2 };

struct TileTokenClasses {
  TokenClassSource source = TokenClassSource::kNone;
  std::vector<int8_t> classes;  // kOwn only
};
void write_token_classes(TokenClassSource source, std::span<const int8_t> classes, uint32_t kv_heads, ByteWriter& out);
Result<TileTokenClasses> read_token_classes(ByteReader& in, uint32_t kv_heads, uint32_t tokens);

// step x 2^-class.
inline float step_of_class(float step, int token_class) {
  return token_class >= 0 ? step / static_cast<float>(1 << token_class) : step * static_cast<float>(1 << -token_class);
}

}  // namespace kvpack
