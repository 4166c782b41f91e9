// SPDX-License-Identifier: Apache-2.0
// Rows times a block of a weight matrix, as a model's layers need it: C = A B^T, where A's and B's rows lie in memory
// one behind the other. Built for the widest vectors that the machine has: elsewhere the compiler may assume no more
// than its target's least, and a layer takes four to eight times as long. Which ISA runs follows kernels(); the sums'
// order, and so their last bits, may differ between them.
#pragma once

#include <cstddef>

namespace kvpack {

// c[i * c_stride + j] = sum over d of a[i * depth + d] * b[j * depth + d]; i < rows, j < columns.
void matrix_product(const float* a, size_t rows, const float* b, size_t columns, size_t depth, float* c,
                    size_t c_stride);

// One per ISA: `packed` is b, [block of kProductColumns][depth][kProductColumns], zeros where b ends.
inline constexpr size_t kProductColumns = 16;
using MatrixProductFn = void (*)(const float* a, size_t rows, const float* packed, size_t columns, size_t depth,
                                 float* c, size_t c_stride);
void matrix_product_scalar(const float* a, size_t rows, const float* packed, size_t columns, size_t depth, float* c,
                           size_t c_stride);
#if defined(__x86_64__)
void matrix_product_avx2(const float* a, size_t rows, const float* packed, size_t columns, size_t depth, float* c,
                         size_t c_stride);
void matrix_product_avx512(const float* a, size_t rows, const float* packed, size_t columns, size_t depth, float* c,
                           size_t c_stride);
#endif

}  // namespace kvpack
