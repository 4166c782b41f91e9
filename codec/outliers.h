// SPDX-License-Identifier: Apache-2.0
// Values that are kept exactly, aside from the quantizer: NaN and infinities one by one (their bits survive and their
// neighbours never see them), attention sinks as whole tokens.
//
//   varint count, then per value: varint index gap (token * channels + channel), the stored element's bits
//   varint count, then per token: varint token gap; then the tokens' stored rows
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/bytes.h"
#include "formats/kv_tensor.h"
#include "formats/result.h"

namespace kvpack {

struct ExactValues {
  std::vector<uint32_t> index;  // ascending, token * channels + channel
  Bytes bits;                   // [value][element bytes]
};

// Finds NaN and infinities in `rows` (loaded from `view`'s tokens), replaces them by zero, and keeps their stored bits.
// For quantized types there are no such bits of one value: returns false if any value is not finite.
bool take_non_finite(const KvView& view, uint32_t first, std::span<float> rows, ExactValues& exact);

void write_exact_values(const ExactValues& exact, ByteWriter& out);
Result<ExactValues> read_exact_values(ByteReader& in, DType dtype, uint64_t values);

struct ExactTokens {
  std::vector<uint32_t> token;  // ascending, within the chunk
  Bytes rows;                   // [token][packed_row_bytes]
};
void write_exact_tokens(const ExactTokens& exact, ByteWriter& out);
Result<ExactTokens> read_exact_tokens(ByteReader& in, uint32_t tokens, uint64_t row_bytes);

// Puts both into decoded rows, converting if `rows` has another type than the source's.
void restore_exact_values(const ExactValues& exact, DType source, const MutableKvView& rows);
void restore_exact_tokens(const ExactTokens& exact, DType source, uint32_t source_hadamard_block,
                          const MutableKvView& rows);

// Attention sinks of one token set: tokens whose K and V norms lie far off the median in most planes, found by the
// data. `norms` [plane][token]. At most kMaxSinks, ascending.
inline constexpr uint32_t kMaxSinks = 16;
std::vector<uint32_t> find_sinks(const std::vector<std::vector<float>>& norms);

}  // namespace kvpack
