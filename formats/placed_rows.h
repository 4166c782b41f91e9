// SPDX-License-Identifier: Apache-2.0
// Some tokens of a plane, written to their places in a file that is not in memory. The tokens are first laid out in a
// small buffer in the file's own order of dimensions, so that runs of bytes there are runs of bytes in the file:
//
//   rows        [token][kv_head][head_dim]    one run per run of consecutive rows
//   by head     [kv_head][token][head_dim]    one per head (safetensors, npy)
//   transposed  [kv_head][head_dim][token]    one per channel (llama.cpp's V without flash attention)
#pragma once

#include "formats/byte_io.h"
#include "formats/kv_tensor.h"

namespace kvpack {

class PlacedRows {
 public:
  // `plane`: its strides and rows (its data is not used); `offset` of its data in the file.
  PlacedRows(const MutableKvView& plane, uint64_t offset);

  // Whether a token's bytes come in runs as above; an array in Fortran order has them one by one, and write() and
  // view() are not for it.
  bool in_runs() const { return in_runs_; }
  // `count` tokens in `buffer`, which grows as needed.
  MutableKvView view(uint32_t count, Bytes& buffer) const;
  // Tokens [first, first + count) from such a buffer to the file.
  Status write(uint32_t first, uint32_t count, ByteSpan buffer, PlacedSink& sink) const;

 private:
  MutableKvView plane_;
  uint64_t offset_;
  uint64_t token_bytes_ = 0;  // of one token in one run
  bool heads_apart_ = false;  // heads, channels lie further apart than tokens
  bool channels_apart_ = false;
  bool in_runs_ = false;
};

}  // namespace kvpack
