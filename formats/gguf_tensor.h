// SPDX-License-Identifier: Apache-2.0
// The weights of a GGUF, a few rows at a time, as f32. Types: f32, f16, bf16, ggml's blocks of 32 (q4_0 to q8_0,
// iq4_nl) and the K-quants, super-blocks of 256 (q2_K to q6_K); layouts as in ggml's dequantize_row_* (ggml-quants.c,
// MIT).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"

namespace kvpack {

// A tensor of up to two dimensions: `rows` of `columns` values that lie together.
struct GgufMatrix {
  uint64_t rows = 0;
  uint64_t columns = 0;
  uint32_t type = 0;    // ggml type id
  uint64_t offset = 0;  // in the file
  uint64_t row_bytes = 0;
};

// Errors: unsupported (no such tensor, a type that is not read, more dimensions), corrupt (rows that are no whole
// blocks, overflow), truncated (data beyond the end of the file).
Result<GgufMatrix> find_gguf_matrix(const ByteSource& source, const Gguf& gguf, std::string_view name);

// Rows [first, first + count), [row][column]. May be called by several threads at once if the source may.
Result<std::vector<float>> read_gguf_rows(ByteSource& source, const GgufMatrix& matrix, uint64_t first, uint64_t count);

}  // namespace kvpack
