// SPDX-License-Identifier: Apache-2.0
// The shape section: RoPE tables, token positions, planes (FORMAT.md, "Shape section"). Pure, like archive_layout.h.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/archive_layout.h"

namespace kvpack {

// What FORMAT.md demands of a shape: `limit` above version 1's limits, `corrupt` where it contradicts itself.
Status validate_shape(const ArchiveShape& shape);

// Of a valid shape.
std::vector<TokenSetCounts> token_set_counts(const ArchiveShape& shape);
uint64_t shape_values(const ArchiveShape& shape);

// No shape section with these counts is longer.
uint64_t max_shape_bytes(const std::vector<TokenSetCounts>& token_sets);
Bytes encode_shape(const ArchiveShape& shape);
// Validated, and checked against the directory's counts.
Result<ArchiveShape> decode_shape(ByteSpan section, const DirectoryTables& tables);

}  // namespace kvpack
