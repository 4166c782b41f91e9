// SPDX-License-Identifier: Apache-2.0
#include "net/engine/blend_refinement.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "net/refinement_order.h"

namespace kvpack {
namespace {

// All archives' chunks as those of one context, their distortion weighted.
ContextCosts weighted_costs(std::span<const ContextCosts> archives, std::span<const std::vector<double>> scores) {
  ContextCosts all;
  uint32_t levels = 1;
  for (const ContextCosts& archive : archives) levels = std::max(levels, archive.levels());
  all.bytes.resize(levels);
  all.distortion.resize(levels);
  for (size_t a = 0; a < archives.size(); ++a) {
    const ContextCosts& archive = archives[a];
    for (uint32_t chunk = 0; chunk < archive.chunks(); ++chunk) {
      all.tokens.push_back(archive.tokens[chunk]);
      for (uint32_t level = 0; level < levels; ++level) {
        // Levels that an archive does not have cost nothing and remove nothing.
        const bool has = level < archive.levels();
        all.bytes[level].push_back(has ? archive.bytes[level][chunk] : 0);
        all.distortion[level].push_back(scores[a][chunk] *
                                        archive.distortion[has ? level : archive.levels() - 1][chunk]);
      }
    }
  }
  return all;
}

}  // namespace

std::vector<double> chunk_scores(std::span<const ChunkShape> chunks, uint32_t skipped, std::span<const float> score) {
  std::vector<double> means;
  for (const ChunkShape& chunk : chunks) {
    const uint32_t begin = std::max(chunk.first_token, skipped);
    const uint32_t end = chunk.first_token + chunk.tokens;
    assert(end <= skipped + score.size());
    double sum = 0;
    for (uint32_t token = begin; token < end; ++token) sum += std::sqrt(double{score[token - skipped]});
    means.push_back(end > begin ? sum / chunk.tokens : 0);
  }
  return means;
}

std::vector<ChunkLevels> choose_levels(std::span<const ContextCosts> archives,
                                       std::span<const std::vector<double>> scores, double share) {
  const ContextCosts all = weighted_costs(archives, scores);
  uint64_t refinement_bytes = 0;
  for (uint32_t level = 1; level < all.levels(); ++level) refinement_bytes += all.level_bytes(level);
  const auto budget = static_cast<uint64_t>(std::floor(share * static_cast<double>(refinement_bytes)));
  ChunkLevels levels(all.chunks(), 1);
  uint64_t used = 0;
  for (const Refinement& next : refinement_order(all, levels, 0)) {
    // One that is too large leaves room for smaller ones, but not for the levels behind it.
    if (levels[next.chunk] != next.level || used + next.bytes > budget) continue;
    used += next.bytes;
    ++levels[next.chunk];
  }
  std::vector<ChunkLevels> chosen;
  auto from = levels.begin();
  for (const ContextCosts& archive : archives) {
    ChunkLevels& own = chosen.emplace_back(from, from + archive.chunks());
    for (uint8_t& count : own) count = static_cast<uint8_t>(std::min<uint32_t>(count, archive.levels()));
    from += archive.chunks();
  }
  return chosen;
}

std::vector<RangeStep> steps_between(const ChunkLevels& held, const ChunkLevels& wanted) {
  std::vector<Refinement> missing;
  for (uint32_t chunk = 0; chunk < wanted.size(); ++chunk) {
    for (uint32_t level = held[chunk]; level < wanted[chunk]; ++level) missing.push_back({level, chunk, 0, 0});
  }
  return coalesce(std::move(missing));
}

uint64_t bytes_at(const ContextCosts& costs, const ChunkLevels& levels) {
  uint64_t bytes = 0;
  for (uint32_t chunk = 0; chunk < costs.chunks(); ++chunk) bytes += costs.chunk_bytes(chunk, levels[chunk]);
  return bytes;
}

Result<KvTensor> decode_at(const ArchiveReader& reader, const ChunkLevels& levels, DecodeOptions options,
                           std::vector<int32_t>* tokens) {
  options.level.reset();
  uint32_t next = 0;
  options.next_step = [&]() -> std::optional<DecodeStep> {
    if (next == levels.size()) return std::nullopt;
    const uint32_t chunk = next++;
    return DecodeStep{chunk, levels[chunk]};
  };
  return decode_tensor(reader, options, tokens);
}

}  // namespace kvpack
