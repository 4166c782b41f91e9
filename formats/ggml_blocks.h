// SPDX-License-Identifier: Apache-2.0
// ggml's block-quantized types as llama.cpp stores them in quantized KV caches, and its Hadamard rotation.
// Layouts and rounding follow ggml's reference (quantize_row_*_ref, dequantize_row_*): see ggml_blocks.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/kv_tensor.h"

namespace kvpack {

// `count` values (a multiple of 32) from their blocks.
void dequantize_blocks(DType dtype, const std::byte* blocks, uint32_t count, float* out);
// The same bits as ggml's reference quantizer gives for these values.
void quantize_blocks(DType dtype, const float* values, uint32_t count, std::byte* blocks);

// In place: every `block` consecutive values (a power of two that divides `count`) times the orthonormal
// Sylvester-Hadamard matrix. Its own inverse.
void rotate_hadamard(float* values, uint32_t count, uint32_t block);

}  // namespace kvpack
