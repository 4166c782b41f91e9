// SPDX-License-Identifier: Apache-2.0
// Which tokens of a context that was put together from chunks are recomputed. Pure: scores in, tokens out.
//
//   hkvd   those whose keys and values deviate most from what the whole context makes of them, seen on an early layer
//          and narrowed from layer to layer (CacheBlend, arXiv 2405.16444)
//   query  those that the query attends to (InfoFlow KV), and a few first ones of every chunk, which mislead every
//   query epic   the first tokens of every chunk but the first, which took themselves for the beginning (EPIC, arXiv
//   2410.15332)
//
// Tokens of the first chunk had their whole context when they were cached, and are never chosen.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "formats/result.h"

namespace kvpack {

enum class BlendSelect : uint8_t { kHkvd, kQuery, kEpic };
std::string_view blend_select_name(BlendSelect select);
Result<BlendSelect> blend_select_from_name(std::string_view name);  // invalid_argument

// Where chunks lie in a context: chunk c holds tokens begin[c] to begin[c + 1] - 1; the last entry is the end.
using ChunkBounds = std::vector<uint32_t>;

// Up to `count` of `candidates` (ascending), those of the highest scores above 0; ties to the earlier. `score`: of
// each candidate. Returns them in ascending order.
std::vector<uint32_t> highest_tokens(std::span<const uint32_t> candidates, std::span<const float> score, size_t count);

// The first tokens of every chunk but the first, evenly, `count` in all or all there are; ascending.
std::vector<uint32_t> first_tokens(const ChunkBounds& chunks, size_t count);

// kQuery's `count` tokens behind the first chunk, ascending: up to kFirstOfChunk first ones of each chunk, but no more
// than half of `count` in all, then those of the highest scores. `score`: of every token of the chunks.
inline constexpr size_t kFirstOfChunk = 8;
std::vector<uint32_t> attended_tokens(const ChunkBounds& chunks, std::span<const float> score, size_t count);

// [layer] how many tokens go on, from `check` on to the last of `layers`: a line from 1.25 to .75 of `count`, so that
// `count` is the mean. Layers before `check` hold UINT32_MAX (all).
std::vector<uint32_t> narrowing(uint32_t count, size_t check, size_t layers);

// [row] how far keys and values lie from the cached ones of the same tokens: squared, the two sides each relative to
// the mean power of the fresh ones. `cached_key` [token][channel] and `cached_value` hold all tokens, `key` and `value`
// those of `tokens`.
std::vector<float> token_deviations(std::span<const uint32_t> tokens, std::span<const float> key,
                                    std::span<const float> value, std::span<const float> cached_key,
                                    std::span<const float> cached_value);

// Squared deviations less what a lossy copy deviates by without any need. Layer 0's keys and values depend on the token
// alone, so a deviation there, `noise`, is the copy's error. How much larger that error is on the layer of `deviation`,
// the first chunk's tokens tell (`gauge`, which have no need): the ratio of the sums, and half as much again to be
// sure. All [token].
std::vector<float> above_noise(std::span<const float> deviation, std::span<const float> noise,
                               const std::vector<bool>& gauge);

// The share of `tokens` that can be recomputed in `seconds` (while something else goes on), 0 to 1.
double hidden_ratio(double seconds, uint64_t tokens, double seconds_per_token);

}  // namespace kvpack
