// SPDX-License-Identifier: Apache-2.0
// XXH3 checksums and fingerprints (xxhash, https://xxhash.com).
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "formats/bytes.h"

namespace kvpack {

// XXH3-64 of `bytes`, seed 0.
uint64_t xxh3_64(ByteSpan bytes);

// XXH3-128 of `bytes`, seed 0, most significant byte first.
std::array<std::byte, 16> xxh3_128(ByteSpan bytes);

// XXH3-128 of `bytes`, seed 0, as 32 lower-case hexadecimal digits, most significant first.
std::string xxh3_128_hex(ByteSpan bytes);

}  // namespace kvpack
