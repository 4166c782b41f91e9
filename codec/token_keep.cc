// SPDX-License-Identifier: Apache-2.0
#include "codec/token_keep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/outliers.h"
#include "codec/plane_statistics.h"

namespace kvpack {
namespace {

// The `count` tokens with the highest `scores`, of which the later one wins a tie; `forced` ones first.
std::vector<bool> top_of(std::span<const double> scores, const std::vector<bool>& forced, size_t count) {
  std::vector<uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    if (forced[a] != forced[b]) return bool{forced[a]};
    return scores[a] != scores[b] ? scores[a] > scores[b] : a > b;
  });
  std::vector<bool> top = forced;
  for (size_t i = 0; i < count; ++i) top[order[i]] = true;
  return top;
}

// One head's scores with the sum 1, sinks left out: they would outweigh all others.
std::vector<double> shares_of_head(const std::vector<float>& scores, uint32_t heads, uint32_t head,
                                   const std::vector<bool>& forced) {
  std::vector<double> shares(forced.size());
  double sum = 0;
  for (size_t t = 0; t < shares.size(); ++t) {
    shares[t] = forced[t] ? 0.0 : double{scores[t * heads + head]};
    sum += shares[t];
  }
  for (double& share : shares) share = sum > 0 ? share / sum : 0;
  return shares;
}

}  // namespace

std::vector<std::vector<uint32_t>> attention_sinks(const KvTensor& tensor) {
  std::vector<std::vector<uint32_t>> sinks;
  for (uint32_t s = 0; s < tensor.token_sets.size(); ++s) {
    std::vector<std::vector<float>> norms;
    for (const KvPlane& plane : tensor.planes) {
      if (plane.token_set == s) norms.push_back(token_norms(plane.view));
    }
    sinks.push_back(find_sinks(norms));
  }
  return sinks;
}

std::vector<std::vector<bool>> always_kept_tokens(const KvTensor& tensor) {
  const std::vector<std::vector<uint32_t>> sinks = attention_sinks(tensor);
  std::vector<std::vector<bool>> kept;
  for (size_t s = 0; s < sinks.size(); ++s) {
    kept.emplace_back(tensor.token_sets[s].positions.size(), false);
    for (const uint32_t sink : sinks[s]) kept.back()[sink] = true;
    if (!kept.back().empty()) kept.back().back() = true;
  }
  return kept;
}

Result<TokenScores> keep_top_tokens(const KvTensor& tensor, const TokenScores& scores, double share, bool per_head) {
  if (!(share > 0 && share <= 1)) return invalid_argument(fmt::format("a share of {} of the tokens", share));
  const std::vector<std::vector<bool>> forced = always_kept_tokens(tensor);
  std::vector<std::vector<double>> sums;  // [token set][token]
  for (const TokenSet& set : tensor.token_sets) sums.emplace_back(set.positions.size(), 0.0);
  TokenScores keep;
  for (const std::vector<float>& of_plane : scores) keep.emplace_back(of_plane.size(), 0.0f);
  const auto count_of = [&](uint32_t set) {
    return static_cast<size_t>(std::ceil(share * static_cast<double>(sums[set].size())));
  };
  for (uint32_t p = 0; p < tensor.planes.size(); ++p) {
    const KvPlane& plane = tensor.planes[p];
    const uint32_t heads = plane.view.kv_heads;
    for (uint32_t head = 0; head < heads; ++head) {
      const uint32_t set = plane.token_set;
      const std::vector<double> shares = shares_of_head(scores[p], heads, head, forced[set]);
      const bool counts = plane.side == Side::kKey;
      for (size_t t = 0; counts && t < shares.size(); ++t) sums[set][t] += shares[t];
      if (!per_head) continue;
      const std::vector<bool> top = top_of(shares, forced[set], count_of(set));
      for (size_t t = 0; t < top.size(); ++t) keep[p][t * heads + head] = top[t] ? 1.0f : 0.0f;
    }
  }
  for (uint32_t p = 0; p < tensor.planes.size() && !per_head; ++p) {
    const KvPlane& plane = tensor.planes[p];
    const std::vector<bool> top = top_of(sums[plane.token_set], forced[plane.token_set], count_of(plane.token_set));
    for (size_t i = 0; i < keep[p].size(); ++i) keep[p][i] = top[i / plane.view.kv_heads] ? 1.0f : 0.0f;
  }
  return keep;
}

}  // namespace kvpack
