// SPDX-License-Identifier: Apache-2.0
// The values in a sequence file that the engine wrote with f16 caches and flash attention, found without kvpack's own
// reader: what the tests say about kvpack must not rest on the code under test. Also what llama.cpp's own quantized
// caches would keep of these values, with ggml's own quantizer.
//
//   u32 'ggsq', u32 3, u32 n_words, i32[n_words]       then KV blocks up to the end of the file, each:
//   u32 1, u32 cells, {i32 pos, u32 1, i32 seq}[cells], u32 0 (V in rows), u32 n_layer,
//   {i32 type, u64 row_bytes, cells x row_bytes}[n_layer] for K, the same for V
// (llama.cpp v0.5.0, src/llama-kv-cache.cpp, state_write; models without extra position words)
#pragma once

#include <cstdint>
#include <vector>

#include "formats/bytes.h"
#include "formats/kv_tensor.h"

namespace kvpack::engine {

struct StatePlane {
  Side side = Side::kKey;
  uint64_t offset = 0;     // of the first value in the file
  uint32_t tokens = 0;     // rows
  uint32_t row_bytes = 0;  // f16: 2 x channels

  uint64_t bytes() const { return uint64_t{tokens} * row_bytes; }
  uint32_t channels() const { return row_bytes / 2; }
};

// Errors: unsupported for anything but the layout above.
Result<std::vector<StatePlane>> find_planes(ByteSpan state);

uint64_t count_values(const std::vector<StatePlane>& planes);

// sqrt(sum (a - b)^2 / sum a^2) over all values of two files of the same layout.
double relative_l2_error(const std::vector<StatePlane>& planes, ByteSpan reference, ByteSpan test);

struct QuantizedState {
  Bytes restored;           // the same f16 file with the values that remain
  uint64_t file_bytes = 0;  // of the file that a cache of this type would give
};
// Rotates (as llama.cpp does before quantizing), quantizes, and goes back to f16.
QuantizedState through_quantized_cache(const std::vector<StatePlane>& planes, ByteSpan state, DType type,
                                       uint32_t key_head_dim);

}  // namespace kvpack::engine
