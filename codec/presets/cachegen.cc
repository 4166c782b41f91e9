// SPDX-License-Identifier: Apache-2.0
// CacheGen (Liu et al., SIGCOMM 2024, arXiv 2310.07240; LMCache's cachegen serde): each token of a plane is scaled by
// its largest magnitude over all heads and rounded to an odd number of bins; an arithmetic coder with a static table
// per (layer, channel). As shipped the tables are made anew for every 256 tokens, 33 cumulative counts of 16 bits each,
// and travel with them; "free": one table per channel for the whole context that costs nothing. (Its deltas to anchor
// tokens are described in the paper and not in the released coder.)
//
// Bins: "32/16" is LMCache's setting for every model (keys: 32 in the first 10 of 32 layers, then 16; values: 32 in the
// first 2 layers, then 16), by shares of the layers; "32/16/12" by layer thirds, keys and values alike; 32 and 64
// everywhere.
//
// Bits of the coded symbols: the exact code length of the static tables, rounded up to bytes per 256 tokens.
#include <cmath>

#include "codec/presets/group_quantizer.h"
#include "codec/presets/preset_planes.h"

namespace kvpack {
namespace {

constexpr uint32_t kChunkTokens = 256;
constexpr uint32_t kTableEntries = 33;
constexpr uint64_t kEntryBits = 16;

// q [token][channel] of one plane, from 0 to 2 * most.
struct Symbols {
  std::vector<uint8_t> q;
  int most = 0;
};

Symbols quantize_tokens(PresetPlane& plane, uint32_t bins) {
  Symbols symbols;
  symbols.most = static_cast<int>(bins / 2) - 1;
  symbols.q.resize(plane.rows.size());
  const auto most = static_cast<float>(symbols.most);
  const uint32_t channels = plane.channels();
  for (uint32_t t = 0; t < plane.tokens(); ++t) {
    float* row = &plane.rows[size_t{t} * channels];
    float largest = 0;
    for (uint32_t c = 0; c < channels; ++c) largest = std::max(largest, std::fabs(row[c]));
    const float scale = f16_above(largest / most);
    for (uint32_t c = 0; c < channels; ++c) {
      const float q = scale > 0 ? std::floor(row[c] / scale + 0.5f) : 0.0f;
      symbols.q[size_t{t} * channels + c] = static_cast<uint8_t>(static_cast<int>(q) + symbols.most);
      row[c] = q * scale;
    }
  }
  return symbols;
}

// Code length of tokens [first, first + count) with a table of their own per channel.
double code_bits(const Symbols& symbols, uint32_t channels, uint32_t first, uint32_t count) {
  double bits = 0;
  std::vector<uint32_t> counts(static_cast<size_t>(2 * symbols.most + 1));
  for (uint32_t c = 0; c < channels; ++c) {
    std::fill(counts.begin(), counts.end(), 0u);
    for (uint32_t t = first; t < first + count; ++t) ++counts[symbols.q[size_t{t} * channels + c]];
    for (const uint32_t n : counts) {
      if (n > 0) bits += n * std::log2(static_cast<double>(count) / n);
    }
  }
  return bits;
}

uint64_t whole_bytes(double bits) { return 8 * static_cast<uint64_t>(std::ceil(bits / 8)); }

// Of one plane.
using BinsRule = uint32_t (*)(const PresetPlane&);

uint32_t bins_of_thirds(const PresetPlane& plane) {
  const uint32_t third = plane.plane->layer * 3 / plane.layers;
  return third == 0 ? 32 : third == 1 ? 16 : 12;
}

uint32_t bins_as_released(const PresetPlane& plane) {
  const uint32_t of_32 = plane.is_key() ? 10 : 2;
  return plane.plane->layer * 32 < of_32 * plane.layers ? 32 : 16;
}

uint32_t bins_32(const PresetPlane&) { return 32; }
uint32_t bins_64(const PresetPlane&) { return 64; }

uint64_t code_plane(PresetPlane& plane, BinsRule bins, bool free_tables) {
  const Symbols symbols = quantize_tokens(plane, bins(plane));
  uint64_t bits = uint64_t{plane.tokens()} * 16;  // scales
  if (free_tables) return bits + whole_bytes(code_bits(symbols, plane.channels(), 0, plane.tokens()));
  const uint64_t table = std::max<uint64_t>(kTableEntries, static_cast<uint64_t>(2 * symbols.most + 2)) * kEntryBits;
  for (uint32_t first = 0; first < plane.tokens(); first += kChunkTokens) {
    const uint32_t count = std::min(kChunkTokens, plane.tokens() - first);
    bits += whole_bytes(code_bits(symbols, plane.channels(), first, count)) + plane.channels() * table;
  }
  return bits;
}

void add(std::vector<Preset>& all, const std::string& suffix, const std::string& bins_name, BinsRule bins,
         bool free_tables) {
  const std::string family = free_tables ? "cachegen-free" : "cachegen";
  all.push_back(
      {family + suffix, family, bins_name + " bins, " + (free_tables ? "tables free" : "tables per 256 tokens counted"),
       [bins, free_tables](const PresetInput& input) {
         return run_per_plane(input, false,
                              [bins, free_tables](PresetPlane& plane) { return code_plane(plane, bins, free_tables); });
       }});
}

}  // namespace

void add_cachegen(std::vector<Preset>& all) {
  for (const bool free_tables : {false, true}) {
    add(all, "", "32/16/12", bins_of_thirds, free_tables);
    add(all, "-lmcache", "32/16", bins_as_released, free_tables);
    add(all, "-32", "32", bins_32, free_tables);
    add(all, "-64", "64", bins_64, free_tables);
  }
}

}  // namespace kvpack
