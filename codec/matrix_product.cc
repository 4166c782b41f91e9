// SPDX-License-Identifier: Apache-2.0
#include "codec/matrix_product.h"

#include <vector>

#include "codec/kernels.h"
#include "codec/matrix_tile.h"

namespace kvpack {
namespace {

MatrixProductFn product_of(std::string_view isa) {
#if defined(__x86_64__)
  if (isa == "avx512") return matrix_product_avx512;
  if (isa == "avx2") return matrix_product_avx2;
#endif
  (void)isa;
  return matrix_product_scalar;
}

}  // namespace

void matrix_product_scalar(const float* a, size_t rows, const float* packed, size_t columns, size_t depth, float* c,
                           size_t c_stride) {
  product_tiles<16, 3>(a, rows, packed, columns, depth, c, c_stride);
}

void matrix_product(const float* a, size_t rows, const float* b, size_t columns, size_t depth, float* c,
                    size_t c_stride) {
  static const MatrixProductFn kProduct = product_of(kernels().name);
  const size_t blocks = (columns + kProductColumns - 1) / kProductColumns;
  std::vector<float> packed(blocks * depth * kProductColumns);
  for (size_t column = 0; column < columns; ++column) {
    float* to = packed.data() + column / kProductColumns * depth * kProductColumns + column % kProductColumns;
    for (size_t d = 0; d < depth; ++d) to[d * kProductColumns] = b[column * depth + d];
  }
  kProduct(a, rows, packed.data(), columns, depth, c, c_stride);
}

}  // namespace kvpack
