// SPDX-License-Identifier: Apache-2.0
#include "codec/token_merge.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace kvpack {
namespace {

// Keys less their mean, scaled to length 1; a key that is not finite is left as it is, and no cosine with it counts.
std::vector<float> directions_of(const HeadRows& keys, uint32_t tokens) {
  std::vector<double> mean(keys.dim);
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t d = 0; d < keys.dim; ++d) mean[d] += std::isfinite(keys.of(t)[d]) ? double{keys.of(t)[d]} : 0.0;
  }
  std::vector<float> directions(size_t{tokens} * keys.dim);
  for (uint32_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (uint32_t d = 0; d < keys.dim; ++d) {
      const double centred = double{keys.of(t)[d]} - mean[d] / tokens;
      directions[size_t{t} * keys.dim + d] = static_cast<float>(centred);
      squares += centred * centred;
    }
    const auto scale = static_cast<float>(squares > 0 ? 1 / std::sqrt(squares) : 0.0);
    for (uint32_t d = 0; d < keys.dim; ++d) directions[size_t{t} * keys.dim + d] *= scale;
  }
  return directions;
}

struct Neighbour {
  uint32_t token = 0;
  float cosine = 0;
};

// The most similar of `kept`'s tokens around index `at` (the first kept token after the dropped one).
std::optional<Neighbour> nearest(std::span<const float> directions, uint32_t dim, std::span<const uint32_t> kept,
                                 size_t at, uint32_t dropped) {
  std::optional<Neighbour> best;
  const size_t end = std::min(kept.size(), at + kMergeReach);
  for (size_t i = at > kMergeReach ? at - kMergeReach : 0; i < end; ++i) {
    const float* a = &directions[size_t{dropped} * dim];
    const float* b = &directions[size_t{kept[i]} * dim];
    float cosine = 0;
    for (uint32_t d = 0; d < dim; ++d) cosine += a[d] * b[d];
    if (cosine > (best ? best->cosine : kMergeCosine)) best = Neighbour{kept[i], cosine};
  }
  return best;
}

struct Share {
  uint32_t token = 0;
  float weight = 0;
};

// The row of `token` becomes its mean with `shares`; dropped rows never change.
void average(const HeadRows& side, uint32_t token, float own_weight, std::span<const Share> shares) {
  if (side.rows.empty()) return;
  float total = own_weight;
  for (const Share& share : shares) total += share.weight;
  for (uint32_t d = 0; d < side.dim; ++d) {
    float sum = own_weight * side.of(token)[d];
    for (const Share& share : shares) sum += share.weight * side.of(share.token)[d];
    side.of(token)[d] = sum / total;
  }
}

}  // namespace

std::vector<uint32_t> merge_dropped_tokens(const HeadRows& keys, const HeadRows& values,
                                           std::span<const TokenFate> fate, std::span<const float> scores) {
  const auto tokens = static_cast<uint32_t>(fate.size());
  const std::vector<float> directions = directions_of(keys, tokens);
  const auto score = [&](uint32_t token) { return scores.empty() ? 1.0f : scores[token]; };
  std::vector<uint32_t> kept;
  for (uint32_t t = 0; t < tokens; ++t) {
    if (fate[t] == TokenFate::kKept) kept.push_back(t);
  }
  std::vector<std::vector<Share>> shares(tokens);
  size_t next_kept = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    while (next_kept < kept.size() && kept[next_kept] < t) ++next_kept;
    if (fate[t] != TokenFate::kDropped || !(score(t) > 0)) continue;
    const auto to = nearest(directions, keys.dim, kept, next_kept, t);
    if (to) shares[to->token].push_back({t, score(t) * to->cosine});
  }
  std::vector<uint32_t> changed;
  for (const uint32_t t : kept) {
    if (shares[t].empty()) continue;
    average(keys, t, score(t), shares[t]);
    average(values, t, score(t), shares[t]);
    changed.push_back(t);
  }
  return changed;
}

}  // namespace kvpack
