// SPDX-License-Identifier: Apache-2.0
// What nesting costs, and how near the coder comes to its ideal.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/archive_codec.h"

namespace kvpack::cli {

struct LevelCost {
  uint64_t nested_bytes = 0;  // the archive up to and including this level
  uint64_t alone_bytes = 0;   // an archive with the same step and no other level

  double overhead() const { return static_cast<double>(nested_bytes) / static_cast<double>(alone_bytes) - 1; }
};

struct LayeringReport {
  std::vector<LevelCost> levels;
  uint64_t tile_bytes = 0;   // of all quantized tiles of the finest level's archive, coded alone
  double entropy_bytes = 0;  // order 0 of their symbols, per component of a tile
};

// `options`, of a named quality, are those that gave `report`. Encodes every level once more, alone.
Result<LayeringReport> measure_layering(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options,
                                        const EncodeReport& report);

}  // namespace kvpack::cli
