// SPDX-License-Identifier: Apache-2.0
// What an encode tells of itself: tiles added up, then sizes.
#pragma once

#include <span>
#include <vector>

#include "codec/archive_codec.h"
#include "codec/tile.h"

namespace kvpack {

// Counts and errors of all tiles, [chunk][plane of the chunk], added up in that order. Unless nothing was measured,
// their distortions are of all `levels`.
void report_tiles(const std::vector<std::vector<EncodedTile>>& tiles, uint32_t levels, Measuring measuring,
                  EncodeReport& report);
void report_sizes(const KvFile& file, const ArchiveSizes& sizes, EncodeReport& report);

}  // namespace kvpack
