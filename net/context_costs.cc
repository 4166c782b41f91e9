// SPDX-License-Identifier: Apache-2.0
#include "net/context_costs.h"

#include <limits>
#include <numeric>

namespace kvpack {

uint64_t ContextCosts::level_bytes(uint32_t level) const {
  return std::accumulate(bytes[level].begin(), bytes[level].end(), uint64_t{0});
}

uint64_t ContextCosts::total_bytes() const {
  uint64_t total = 0;
  for (uint32_t level = 0; level < levels(); ++level) total += level_bytes(level);
  return total;
}

uint64_t ContextCosts::chunk_bytes(uint32_t chunk, uint32_t levels_wanted) const {
  uint64_t total = 0;
  for (uint32_t level = 0; level < levels_wanted; ++level) total += bytes[level][chunk];
  return total;
}

uint64_t ContextCosts::total_tokens() const { return std::accumulate(tokens.begin(), tokens.end(), uint64_t{0}); }

double ContextCosts::distortion_left(uint32_t chunk, uint32_t levels_held) const {
  return levels_held == 0 ? std::numeric_limits<double>::infinity() : distortion[levels_held - 1][chunk];
}

ContextCosts context_costs(const Directory& directory) {
  ContextCosts costs;
  const auto chunks = static_cast<uint32_t>(directory.chunks.size());
  costs.recomputable = directory.shape.token_sets.size() == 1;
  for (const ChunkShape& chunk : directory.chunks) {
    costs.tokens.push_back(chunk.tokens);
    for (uint32_t plane = chunk.first_plane; plane < chunk.first_plane + chunk.planes; ++plane) {
      const PlaneShape& shape = directory.shape.planes[plane];
      const uint64_t values = uint64_t{chunk.tokens} * shape.channels();
      costs.raw_bytes += values * dtype_block_bytes(shape.dtype) / dtype_block_values(shape.dtype);
    }
  }
  for (uint32_t level = 0; level < directory.levels; ++level) {
    std::vector<uint64_t>& bytes = costs.bytes.emplace_back();
    std::vector<double>& distortion = costs.distortion.emplace_back();
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      bytes.push_back(directory.block(level, chunk).bytes);
      distortion.push_back(static_cast<double>(directory.block(level, chunk).distortion));
    }
  }
  if (!directory.sections.empty()) {
    const SectionEntry& last = directory.sections.back();
    costs.opening_bytes = last.offset + last.stored_bytes;
  }
  return costs;
}

}  // namespace kvpack
