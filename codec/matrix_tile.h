// SPDX-License-Identifier: Apache-2.0
// The loop that every matrix_product_*.cc compiles for its ISA: a tile of `Rows` rows and kProductColumns columns stays
// in registers while the sums run over the depth. Vectors are the compiler's own (GCC, Clang).
#pragma once

#include <algorithm>
#include <cstring>

#include "codec/matrix_product.h"

namespace kvpack {
namespace {

template <size_t Bytes>
struct VectorOf {
  typedef float type __attribute__((vector_size(Bytes)));
};

// Rows of one tile. `packed`: [depth][kProductColumns].
template <size_t Bytes, size_t Rows>
inline void product_tile(const float* a, const float* packed, size_t columns, size_t depth, float* c, size_t c_stride) {
  using Vector = typename VectorOf<Bytes>::type;
  constexpr size_t kLanes = Bytes / sizeof(float);
  constexpr size_t kVectors = kProductColumns / kLanes;
  Vector sums[Rows][kVectors] = {};
  for (size_t d = 0; d < depth; ++d) {
    Vector b[kVectors];
    for (size_t v = 0; v < kVectors; ++v) std::memcpy(&b[v], packed + d * kProductColumns + v * kLanes, Bytes);
    for (size_t r = 0; r < Rows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] += a[r * depth + d] * b[v];
    }
  }
  for (size_t r = 0; r < Rows; ++r) {
    float row[kProductColumns];  // so that the sums need no address, and stay in registers
    for (size_t v = 0; v < kVectors; ++v) {
      const Vector sum = sums[r][v];
      std::memcpy(row + v * kLanes, &sum, Bytes);
    }
    std::memcpy(c + r * c_stride, row, columns * sizeof(float));
  }
}

template <size_t Bytes, size_t Rows>
inline void product_tiles(const float* a, size_t rows, const float* packed, size_t columns, size_t depth, float* c,
                          size_t c_stride) {
  for (size_t first = 0; first < columns; first += kProductColumns) {
    const size_t these = std::min(kProductColumns, columns - first);
    const float* block = packed + first * depth;
    size_t row = 0;
    for (; row + Rows <= rows; row += Rows) {
      product_tile<Bytes, Rows>(a + row * depth, block, these, depth, c + row * c_stride + first, c_stride);
    }
    for (; row < rows; ++row) {
      product_tile<Bytes, 1>(a + row * depth, block, these, depth, c + row * c_stride + first, c_stride);
    }
  }
}

}  // namespace
}  // namespace kvpack
