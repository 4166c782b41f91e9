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
  uint64_t tile_bytes = 0;    // of the latter, all quantized tiles
  double entropy_bytes = 0;   // order 0 of their symbols, per component of a tile

  double overhead() const { return static_cast<double>(nested_bytes) / static_cast<double>(alone_bytes) - 1; }
};

// `options`, of a named quality, are those that gave `report`. Encodes every level once more, alone.
Result<std::vector<LevelCost>> measure_layering(const KvFile& file, const ModelFacts* facts,
                                                const EncodeOptions& options, const EncodeReport& report);

}  // namespace kvpack::cli
