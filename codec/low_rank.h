// SPDX-License-Identifier: Apache-2.0
// The low-rank part of a tile (GEAR, arXiv 2403.05527): rows [token][channel] ~ tokens [token][rank] x channels
// [rank][channel], both stored as f16 and subtracted before the transform, so that only the residual is quantized.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

struct LowRankFactors {
  uint32_t rank = 0;
  std::vector<uint16_t> tokens;    // f16 [token][rank]
  std::vector<uint16_t> channels;  // f16 [rank][channel]
};

// The best factors in the least-squares sense (truncated SVD), rounded to f16.
LowRankFactors fit_low_rank(std::span<const float> rows, uint32_t tokens, uint32_t channels, uint32_t rank);

void write_low_rank(const LowRankFactors& factors, ByteWriter& out);
Result<LowRankFactors> read_low_rank(ByteReader& in, uint32_t tokens, uint32_t channels, uint32_t rank);

// rows += sign * tokens x channels.
void add_low_rank(const LowRankFactors& factors, float sign, std::span<float> rows, uint32_t channels);

}  // namespace kvpack
