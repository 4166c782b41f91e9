// SPDX-License-Identifier: Apache-2.0
// Bytes of a matrix, turned over.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvpack {

// [row][column] of `height` rows, `from_stride` bytes apart, to [column][row], `to_stride` bytes apart.
void transpose_bytes(const uint8_t* from, size_t height, size_t width, size_t from_stride, uint8_t* to,
                     size_t to_stride);

}  // namespace kvpack
