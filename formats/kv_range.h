// SPDX-License-Identifier: Apache-2.0
// Parts of a context as state files of their own: some tokens of a state cut out, with the positions that they had, and
// put beside those of another. For engines that give and take a sequence whole.
#pragma once

#include <cstdint>
#include <memory>

#include "formats/kv_file.h"

namespace kvpack {

// Tokens of a context by their positions, [begin, end).
struct TokenRange {
  uint32_t begin = 0;
  uint32_t end = UINT32_MAX;
  bool operator==(const TokenRange&) const = default;
};

// The positions of a file's tokens. Errors: unsupported where they are no range (gaps, several token sets, recurrent
// state, no token ids); invalid_argument without tokens.
Result<TokenRange> range_of(const KvFile& file);

// The state with the tokens of `range` alone. Errors: as of range_of(), invalid_argument for tokens that it lacks.
Result<Bytes> cut_range(std::shared_ptr<const FileBytes> state, TokenRange range);

// `state`, with the tokens of `part` at their positions: in place of the same tokens, or behind the last. Errors: as of
// range_of(); unsupported for a prompt-cache session; invalid_argument where planes or types differ, where other tokens
// stand, or a gap would be left.
Result<Bytes> join_range(std::shared_ptr<const FileBytes> state, std::shared_ptr<const FileBytes> part);

}  // namespace kvpack
