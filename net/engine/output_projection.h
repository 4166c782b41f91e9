// SPDX-License-Identifier: Apache-2.0
// What a layer's output projection does to errors in the attention's output, from a GGUF's weights of any ggml type.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/gguf.h"

namespace kvpack::engine {

struct OutputProjection {
  uint32_t query_heads = 0;
  std::vector<float> gram;  // [query_head][value_dim][value_dim]: W^T W of the head's columns
  bool normed = false;      // the result is normalised before it is added; the norm's weights are in W, its gain is not
};

// blk.`layer`.attn_output.weight, [width][query_head][value_dim]. Errors: unsupported (no such tensor, a type that
// ggml cannot read), corrupt (a shape that does not fit), io.
Result<OutputProjection> read_output_projection(ByteSource& source, const Gguf& gguf, uint32_t layer,
                                                uint32_t value_dim, unsigned threads);

}  // namespace kvpack::engine
