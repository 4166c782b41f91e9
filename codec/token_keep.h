// SPDX-License-Identifier: Apache-2.0
// Which tokens a context keeps.
#pragma once

#include <vector>

#include "codec/token_scores.h"

namespace kvpack {

// [token set] attention sinks, ascending.
std::vector<std::vector<uint32_t>> attention_sinks(const KvTensor& tensor);

// [token set][token]: attention sinks, and the last token, from whose position an engine goes on.
std::vector<std::vector<bool>> always_kept_tokens(const KvTensor& tensor);

// The mask (0 or 1) that keeps a share (above 0, up to 1) of each token set's tokens, rounded up, sinks and last token
// included: those with the highest sums of scores over layers and heads, each head's scores counting alike; or, with
// `per_head`, each head's own. Ties: the later token. Errors: invalid_argument.
Result<TokenScores> keep_top_tokens(const KvTensor& tensor, const TokenScores& scores, double share, bool per_head);

}  // namespace kvpack
