// SPDX-License-Identifier: Apache-2.0
#include "codec/matrix_product.h"

#if defined(__x86_64__)
#include "codec/matrix_tile.h"

namespace kvpack {

void matrix_product_avx2(const float* a, size_t rows, const float* packed, size_t columns, size_t depth, float* c,
                         size_t c_stride) {
  product_tiles<32, 6>(a, rows, packed, columns, depth, c, c_stride);
}

}  // namespace kvpack
#endif
