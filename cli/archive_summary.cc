// SPDX-License-Identifier: Apache-2.0
#include "cli/archive_summary.h"

#include "cli/quantities.h"

namespace kvpack::cli {
namespace {

PlaneSummary summarize_plane(const PlaneShape& plane, const ArchiveShape& shape) {
  PlaneSummary summary;
  summary.shape = plane;
  summary.tokens = static_cast<uint32_t>(shape.token_sets[plane.token_set].positions.size());
  summary.values = uint64_t{summary.tokens} * plane.channels();
  return summary;
}

Status add_tile_sizes(const ArchiveReader& reader, std::vector<PlaneSummary>& planes) {
  const Directory& directory = reader.directory();
  for (PlaneSummary& plane : planes) {
    plane.level_bytes.assign(directory.levels, 0);
    plane.level_distortion.assign(directory.levels, 0);
  }
  for (uint32_t level = 0; level < directory.levels; ++level) {
    for (uint32_t chunk = 0; chunk < directory.chunks.size(); ++chunk) {
      KVPACK_ASSIGN_OR_RETURN(const std::vector<TileEntry> tiles, reader.tile_index(level, chunk));
      for (size_t i = 0; i < tiles.size(); ++i) {
        PlaneSummary& plane = planes[directory.chunks[chunk].first_plane + i];
        plane.level_bytes[level] += tiles[i].bytes;
        plane.level_distortion[level] += double{tiles[i].distortion};
      }
    }
  }
  return {};
}

std::vector<LevelSummary> summarize_levels(const Directory& directory, const ArchiveIdentity& identity,
                                           uint64_t values) {
  std::vector<LevelSummary> levels;
  for (uint32_t level = 0; level < directory.levels; ++level) {
    LevelSummary summary;
    summary.bytes = directory.level_bytes(level);
    if (!directory.chunks.empty()) {
      const BlockEntry& last = directory.block(level, static_cast<uint32_t>(directory.chunks.size() - 1));
      summary.cumulative_bytes = last.offset + last.bytes;
    }
    summary.bits_per_value = per(8.0 * static_cast<double>(summary.cumulative_bytes), static_cast<double>(values));
    if (level < identity.level_errors.size()) summary.relative_error = identity.level_errors[level];
    levels.push_back(summary);
  }
  return levels;
}

}  // namespace

Result<ArchiveSummary> summarize_archive(const ArchiveReader& reader, bool with_tile_indexes) {
  ArchiveSummary summary;
  KVPACK_ASSIGN_OR_RETURN(summary.identity, read_identity(reader));
  for (const PlaneShape& plane : reader.shape().planes) {
    summary.planes.push_back(summarize_plane(plane, reader.shape()));
    const uint64_t values = summary.planes.back().values;
    summary.values += values;
    summary.value_bytes += values / dtype_block_values(plane.dtype) * dtype_block_bytes(plane.dtype);
  }
  if (with_tile_indexes) KVPACK_RETURN_IF_ERROR(add_tile_sizes(reader, summary.planes));
  summary.levels = summarize_levels(reader.directory(), summary.identity, summary.values);
  summary.guard_cell = guard_cell_offer(reader, summary.identity);
  return summary;
}

}  // namespace kvpack::cli
