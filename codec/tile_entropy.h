// SPDX-License-Identifier: Apache-2.0
// How near the entropy coder comes to its ideal: an archive's coded tiles beside the order-0 entropy of their symbols.
#pragma once

#include <cstdint>

#include "codec/profile.h"
#include "formats/archive.h"

namespace kvpack {

struct TileEntropy {
  uint64_t tiles = 0;        // that could be measured: quantized, values within 16 bits
  uint64_t tile_bytes = 0;   // all of theirs, side information included
  double entropy_bytes = 0;  // of the quantized values, per component of a tile, under their own histogram
};

// Of an archive of one level. `profile` is the one that it names, or null. Errors: invalid_argument (several levels),
// corrupt, truncated.
Result<TileEntropy> measure_tile_entropy(const ArchiveReader& reader, const Profile* profile);

}  // namespace kvpack
