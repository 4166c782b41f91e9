// SPDX-License-Identifier: Apache-2.0
#include "codec/byte_transpose.h"

#include <cstring>

namespace kvpack {
namespace {

// 16 rows of 16 bytes, transposed in place: interleaving row i with row i + 8 four times turns the matrix over.
void transpose_16x16(uint8_t (&rows)[16][16]) {
  using Row = uint8_t __attribute__((vector_size(16)));
  Row a[16], b[16];
  std::memcpy(a, rows, sizeof a);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      b[2 * i + 1] =
          __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(a, b, sizeof a);
  }
  std::memcpy(rows, a, sizeof a);
}

}  // namespace

void transpose_bytes(const uint8_t* from, size_t height, size_t width, size_t from_stride, uint8_t* to,
                     size_t to_stride) {
  const size_t whole_height = height / 16 * 16;
  const size_t whole_width = width / 16 * 16;
  for (size_t y = 0; y < whole_height; y += 16) {
    for (size_t x = 0; x < whole_width; x += 16) {
      uint8_t rows[16][16];
      for (size_t i = 0; i < 16; ++i) std::memcpy(rows[i], from + (y + i) * from_stride + x, 16);
      transpose_16x16(rows);
      for (size_t i = 0; i < 16; ++i) std::memcpy(to + (x + i) * to_stride + y, rows[i], 16);
    }
  }
  for (size_t y = 0; y < height; ++y) {
    for (size_t x = y < whole_height ? whole_width : 0; x < width; ++x)
      to[x * to_stride + y] = from[y * from_stride + x];
  }
}

}  // namespace kvpack
