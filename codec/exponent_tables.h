// SPDX-License-Identifier: Apache-2.0
// What the encoder of exponents (exponents.h) chooses for a tile: references, tables, and who uses which.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace kvpack {

inline constexpr uint8_t kDepths = 15;  // exponents below a reference that a table has room for; then the escape

using DepthCounts = std::array<uint32_t, 16>;
using Frequencies = std::array<uint8_t, 16>;  // sum 256; the last one is not 0

inline uint8_t mantissa_index(int bits) { return static_cast<uint8_t>(bits == 7 ? 15 : bits); }

struct ChannelModel {
  uint8_t reference = 0;
  uint8_t table = 0;
  uint8_t coded = kDepths;  // depths below this one have a place in the table
  DepthCounts depths{};     // below the reference; the last counts escapes
};

// One per channel, of top bytes as encode_exponents() takes them; no tables yet.
std::vector<ChannelModel> count_channels(std::span<const uint8_t> tops, int mantissa_bits, uint32_t tokens,
                                         uint32_t channels);
// Clusters of channels that share a table: sets `table` and `coded` of each.
std::vector<Frequencies> choose_tables(std::vector<ChannelModel>& models);
// Of f16: how often each of the top three bits comes.
Frequencies mantissas_of(std::span<const uint8_t> tops, int mantissa_bits);

}  // namespace kvpack
