// SPDX-License-Identifier: Apache-2.0
// What a context costs to bring: bytes and distortion per chunk and level, as an archive's directory has them. All that
// planner, policies and simulator know of an archive.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/archive.h"

namespace kvpack {

struct ContextCosts {
  uint64_t opening_bytes = 0;                   // header, directory and sections: needed before anything else
  std::vector<uint32_t> tokens;                 // [chunk]
  std::vector<std::vector<uint64_t>> bytes;     // [level][chunk]
  std::vector<std::vector<double>> distortion;  // [level][chunk] left when the chunk is decoded up to that level
  bool recomputable = true;                     // chunk order is prompt order, so the front can be recomputed
  uint64_t raw_bytes = 0;                       // of the values, uncompressed

  uint32_t levels() const { return static_cast<uint32_t>(bytes.size()); }
  uint32_t chunks() const { return static_cast<uint32_t>(tokens.size()); }
  uint64_t level_bytes(uint32_t level) const;
  uint64_t total_bytes() const;                                        // of all levels, without the opening
  uint64_t chunk_bytes(uint32_t chunk, uint32_t levels_wanted) const;  // levels 0 to levels_wanted - 1
  uint64_t total_tokens() const;
  // What is left of a chunk with its first `levels_held` levels; 0 levels: nothing is known of it, infinity.
  double distortion_left(uint32_t chunk, uint32_t levels_held) const;
};

// Recomputable only with one token set: several (sliding windows, several streams) overlap in the prompt.
ContextCosts context_costs(const Directory& directory);

}  // namespace kvpack
