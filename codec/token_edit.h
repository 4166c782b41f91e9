// SPDX-License-Identifier: Apache-2.0
// The values of kept tokens as a selection changes them: what dropped tokens merge into, and what stands for the values
// that a head dropped (token_selection.h says which).
#pragma once

#include <span>
#include <vector>

#include "codec/token_selection.h"

namespace kvpack {

// What is kept of `tensor`.
struct KeptTokens {
  const TokenScores& keep;                    // not 0: kept by that head
  std::vector<std::vector<bool>> forced;      // [token set][token]
  std::vector<std::vector<uint32_t>> tokens;  // [token set] kept by any head, ascending
};

// Writes the changed heads of changed tokens into `out` [plane], whose rows are the kept tokens' stored ones.
void edit_kept_tokens(const KvTensor& tensor, const ModelFacts* facts, const KeptTokens& kept,
                      const SelectOptions& options, std::span<const MutableKvView> out);

}  // namespace kvpack
