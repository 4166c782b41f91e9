// SPDX-License-Identifier: Apache-2.0
// One zstd frame (RFC 8878) with a declared content size, and nothing after it.
#pragma once

#include <cstdint>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint32_t kMaxZstdWindowLog = 27;  // 128 MiB, what zstd itself accepts unless told otherwise

// One frame that says its content size, without a checksum of its own.
Result<Bytes> zstd_compress(ByteSpan raw);

// The content of one frame, which must be exactly `raw_bytes` long by its header and in fact. Memory grows with what is
// decoded, never beyond `raw_bytes` and the window. Errors: corrupt, limit (window above 2^27 bytes), truncated.
Result<Bytes> zstd_decompress(ByteSpan frame, uint64_t raw_bytes);

}  // namespace kvpack
