// SPDX-License-Identifier: Apache-2.0
#include "codec/encode_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "codec/low_rank.h"
#include "codec/plane_parameters.h"

namespace kvpack {

Status check_encode_options(const KvFile& file, const EncodeOptions& options) {
  const int targets = options.bits_per_value.has_value() + options.ratio.has_value() + options.max_error.has_value();
  if (targets > 1) return invalid_argument("only one of bits, ratio and max-error can be asked for");
  for (const auto& target : {options.bits_per_value, options.ratio, options.max_error}) {
    if (target && !(*target > 0 && std::isfinite(*target))) {
      return invalid_argument(fmt::format("bits, ratio and max-error must be positive numbers, not {}", *target));
    }
  }
  if (options.chunk_tokens < 1 || options.chunk_tokens > kMaxChunkTokens) {
    return invalid_argument(fmt::format("chunk tokens must be 1..{}, not {}", kMaxChunkTokens, options.chunk_tokens));
  }
  if (options.levels && (*options.levels < 1 || *options.levels > kMaxLevels)) {
    return invalid_argument(fmt::format("levels must be 1..{}, not {}", kMaxLevels, *options.levels));
  }
  if (options.low_rank > kMaxLowRank) return invalid_argument(fmt::format("low rank must be 0..{}", kMaxLowRank));
  if (!options.sinks.empty() && options.sinks.size() != file.tensor.token_sets.size()) {
    return invalid_argument(
        fmt::format("sinks of {} token sets, the file has {}", options.sinks.size(), file.tensor.token_sets.size()));
  }
  for (size_t s = 0; s < options.sinks.size(); ++s) {
    const auto tokens = static_cast<uint32_t>(file.tensor.token_sets[s].positions.size());
    const auto& sinks = options.sinks[s];
    const bool ascending = std::adjacent_find(sinks.begin(), sinks.end(), std::greater_equal<>()) == sinks.end();
    if (!ascending || (!sinks.empty() && sinks.back() >= tokens)) {
      return invalid_argument(fmt::format("the sinks of token set {} are no ascending tokens below {}", s, tokens));
    }
  }
  if (options.token_weights.empty()) return {};
  if (options.token_weights.size() != file.tensor.planes.size()) {
    return invalid_argument(fmt::format("token weights for {} planes, the file has {}", options.token_weights.size(),
                                        file.tensor.planes.size()));
  }
  for (size_t p = 0; p < options.token_weights.size(); ++p) {
    const KvView& view = file.tensor.planes[p].view;
    const size_t expected = size_t{view.tokens} * view.kv_heads;
    if (!options.token_weights[p].empty() && options.token_weights[p].size() != expected) {
      return invalid_argument(
          fmt::format("plane {} has {} token weights, {} expected", p, options.token_weights[p].size(), expected));
    }
  }
  return {};
}

}  // namespace kvpack
