// SPDX-License-Identifier: Apache-2.0
#include "codec/token_scores.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "codec/token_weights.h"

namespace kvpack {
namespace {

struct ContextShape {
  std::vector<uint32_t> layers;  // ascending
  uint32_t kv_heads = 0;         // of the layer with the most
  uint32_t longest = 0;          // the token set with the most tokens
};

Result<ContextShape> context_shape(const KvTensor& tensor) {
  if (tensor.planes.empty()) return invalid_argument("the context has no KV that scores could be for");
  ContextShape shape;
  std::set<uint32_t> layers;
  for (const KvPlane& plane : tensor.planes) {
    layers.insert(plane.layer);
    shape.kv_heads = std::max(shape.kv_heads, plane.view.kv_heads);
  }
  shape.layers.assign(layers.begin(), layers.end());
  for (uint32_t s = 0; s < tensor.token_sets.size(); ++s) {
    if (tensor.token_sets[s].stream != tensor.token_sets[0].stream) {
      return invalid_argument("scores and masks are for one sequence; the file holds several");
    }
    if (tensor.token_sets[s].positions.size() > tensor.token_sets[shape.longest].positions.size()) shape.longest = s;
  }
  return shape;
}

Status check_values(std::span<const uint64_t> shape, std::span<const float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && values[i] >= 0) continue;
    const size_t tokens = shape.back();
    const std::string place =
        shape.size() == 1 ? fmt::format("[{}]", i)
                          : fmt::format("[{}][{}][{}]", i / tokens / shape[1], i / tokens % shape[1], i % tokens);
    return invalid_argument(fmt::format("{} at {}: scores are finite numbers, 0 or larger", values[i], place));
  }
  return {};
}

// [token of the set] -> token of the longest set.
Result<std::vector<uint32_t>> tokens_in_longest(const TokenSet& set, const TokenSet& longest) {
  std::vector<uint32_t> tokens;
  size_t at = 0;
  for (const int32_t position : set.positions) {
    while (at < longest.positions.size() && longest.positions[at] < position) ++at;
    if (at == longest.positions.size() || longest.positions[at] != position) {
      return invalid_argument(fmt::format("position {} is not among those of the longest layers", position));
    }
    tokens.push_back(static_cast<uint32_t>(at++));
  }
  return tokens;
}

}  // namespace

Result<TokenScores> spread_token_scores(std::span<const uint64_t> shape, std::span<const float> values,
                                        const KvTensor& tensor) {
  KVPACK_ASSIGN_OR_RETURN(const ContextShape context, context_shape(tensor));
  const TokenSet& longest = tensor.token_sets[context.longest];
  const std::vector<uint64_t> full = {context.layers.size(), context.kv_heads, longest.positions.size()};
  const bool alike = shape.size() == 1 && shape[0] == full[2];
  if (!alike && !std::equal(shape.begin(), shape.end(), full.begin(), full.end())) {
    return invalid_argument(fmt::format("shape ({}), expected ({}) as [layer][kv_head][token] or ({}) as [token]",
                                        fmt::join(shape, ", "), fmt::join(full, ", "), full[2]));
  }
  KVPACK_RETURN_IF_ERROR(check_values(shape, values));
  TokenScores scores;
  for (const KvPlane& plane : tensor.planes) {
    KVPACK_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens,
                            tokens_in_longest(tensor.token_sets[plane.token_set], longest));
    const auto layer = static_cast<uint64_t>(
        std::lower_bound(context.layers.begin(), context.layers.end(), plane.layer) - context.layers.begin());
    const uint32_t heads = plane.view.kv_heads;
    std::vector<float> of_plane(tokens.size() * heads);
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (uint32_t head = 0; head < heads; ++head) {
        const uint64_t row = alike ? 0 : layer * full[1] + head;
        of_plane[t * heads + head] = values[row * full[2] + tokens[t]];
      }
    }
    scores.push_back(std::move(of_plane));
  }
  return scores;
}

Result<TokenScores> predict_token_scores(const KvTensor& tensor, const ModelFacts& facts, const Profile& profile) {
  int32_t last = 0;
  for (const TokenSet& set : tensor.token_sets) {
    for (const int32_t position : set.positions) last = std::max(last, position);
  }
  TokenScores scores;
  bool any = false;
  for (const KvPlane& plane : tensor.planes) {
    const uint32_t tokens = plane.view.tokens;
    const uint32_t heads = plane.view.kv_heads;
    scores.emplace_back(size_t{tokens} * heads, 0.0f);
    const TokenWeightModel* model = plane.side == Side::kKey ? profile.token_model(plane.layer) : nullptr;
    if (model == nullptr || model->kv_heads != heads || model->head_dim != plane.view.head_dim) continue;
    any = true;
    const Rope* rope = plane.rope >= 0 ? &facts.ropes[static_cast<size_t>(plane.rope)] : nullptr;
    const std::vector<float> logs = predict_log_weights(plane.view, rope, tensor.token_sets[plane.token_set].positions,
                                                        static_cast<uint32_t>(last) + 1, *model);
    for (uint32_t head = 0; head < heads; ++head) {
      const auto of_head = logs.begin() + static_cast<ptrdiff_t>(size_t{head} * tokens);
      const float largest = tokens == 0 ? 0 : *std::max_element(of_head, of_head + tokens);
      for (uint32_t t = 0; t < tokens; ++t) scores.back()[size_t{t} * heads + head] = std::exp(of_head[t] - largest);
    }
  }
  if (!any) return invalid_argument("the profile has no token weights for this context; give --saliency");
  for (uint32_t p = 0; p < tensor.planes.size(); ++p) {
    const uint32_t key = key_plane_of(tensor, p);
    if (tensor.planes[key].view.kv_heads == tensor.planes[p].view.kv_heads) scores[p] = scores[key];
  }
  return scores;
}

uint32_t key_plane_of(const KvTensor& tensor, uint32_t plane) {
  const KvPlane& of = tensor.planes[plane];
  for (uint32_t p = 0; p < tensor.planes.size(); ++p) {
    const KvPlane& candidate = tensor.planes[p];
    if (candidate.side == Side::kKey && candidate.layer == of.layer && candidate.token_set == of.token_set) return p;
  }
  return plane;
}

}  // namespace kvpack
