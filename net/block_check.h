// SPDX-License-Identifier: Apache-2.0
// Whether bytes are the block that a directory names: its index, then every tile, against their checksums. Wherever the
// bytes come from (network, cache, an interrupted fetch), they pass here before anything uses them.
#pragma once

#include "formats/archive.h"

namespace kvpack {

// Errors: corrupt, with level and chunk.
Status check_block(const Directory& directory, uint32_t level, uint32_t chunk, ByteSpan block);

}  // namespace kvpack
