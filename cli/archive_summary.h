// SPDX-License-Identifier: Apache-2.0
// What `inspect` shows, gathered from an archive's directory, identity and tile indexes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/guard_cell.h"
#include "codec/archive_codec.h"

namespace kvpack::cli {

struct LevelSummary {
  uint64_t bytes = 0;
  uint64_t cumulative_bytes = 0;  // the archive up to the level's end
  double bits_per_value = 0;      // 8 x cumulative / values
  double relative_error = 0;
};

struct PlaneSummary {
  PlaneShape shape;
  uint32_t tokens = 0;
  uint64_t values = 0;
  std::vector<uint64_t> level_bytes;     // tiles only
  std::vector<double> level_distortion;  // in the codec's units
};

struct ArchiveSummary {
  ArchiveIdentity identity;
  uint64_t values = 0;
  uint64_t value_bytes = 0;  // as stored in the source
  std::vector<LevelSummary> levels;
  std::vector<PlaneSummary> planes;  // level_bytes empty unless asked for
  GuardCellOffer guard_cell;
};

// `with_tile_indexes` reads the index of every block, for the planes' bytes.
Result<ArchiveSummary> summarize_archive(const ArchiveReader& reader, bool with_tile_indexes);

}  // namespace kvpack::cli
