// SPDX-License-Identifier: Apache-2.0
#include "codec/attention_layers.h"

#include <fmt/format.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "codec/parallel.h"

namespace kvpack {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// W^T W of each head's columns, W being [width][query_head][value_dim].
std::vector<float> head_grams(const Rows& weights, uint32_t value_dim, unsigned threads) {
  const uint32_t heads = weights.width / value_dim;
  const size_t size = size_t{value_dim} * value_dim;
  std::vector<float> grams(heads * size);
  const Eigen::Map<const Matrix> all(weights.values.data(), static_cast<Eigen::Index>(weights.count()), weights.width);
  parallel_for(heads, threads, [&](uint64_t head) {
    const auto part = all.middleCols(static_cast<Eigen::Index>(head) * value_dim, value_dim);
    Eigen::Map<Matrix>(grams.data() + head * size, value_dim, value_dim) = part.transpose() * part;
  });
  return grams;
}

Result<bool> apply_norm(const ModelWeights& weights, uint32_t layer, Rows& projection) {
  if (!norms_attention_result(weights.architecture())) return false;
  KVPACK_ASSIGN_OR_RETURN(const std::vector<float> norm, weights.vector_of(layer, "post_attention_norm"));
  if (norm.empty()) return false;
  if (norm.size() != projection.count()) {
    return corrupt(fmt::format("layer {}: a norm of {} values for {} rows of the output projection", layer, norm.size(),
                               projection.count()));
  }
  for (size_t i = 0; i < norm.size(); ++i) {
    for (float& value : projection.row(i)) value *= norm[i];
  }
  return true;
}

}  // namespace

bool norms_attention_result(std::string_view architecture) {
  constexpr std::string_view kNames[] = {"gemma2", "gemma3", "exaone4", "glm4", "olmo2", "afmoe", "plamo2", "plamo3"};
  return std::find(std::begin(kNames), std::end(kNames), architecture) != std::end(kNames);
}

Result<ModelAttention> read_attention_layers(const ModelWeights& weights, const ModelFacts& facts, unsigned threads) {
  KVPACK_ASSIGN_OR_RETURN(const auto scale, weights.find_number("attention.scale"));
  KVPACK_ASSIGN_OR_RETURN(const auto cap, weights.find_number("attn_logit_softcapping"));
  if (cap.value_or(0) > 0) return unsupported("an attention whose scores are capped");
  ModelAttention attention;
  for (uint32_t index = 0; index < facts.layers.size(); ++index) {
    const LayerFacts& fact = facts.layers[index];
    if (fact.kv_heads == 0) continue;
    if (fact.value_dim == 0) return unsupported(fmt::format("layer {}: a cache of keys only (MLA)", index));
    KVPACK_ASSIGN_OR_RETURN(Rows projection, weights.matrix_of(index, "attn_output"));
    if (projection.width % fact.value_dim != 0) {
      return corrupt(fmt::format("layer {}: an output projection of {} columns for heads of {}", index,
                                 projection.width, fact.value_dim));
    }
    AttentionLayer layer;
    layer.layer = index;
    layer.query_heads = projection.width / fact.value_dim;
    layer.kv_heads = fact.kv_heads;
    layer.key_dim = fact.key_dim;
    layer.value_dim = fact.value_dim;
    if (layer.query_heads % layer.kv_heads != 0) {
      return unsupported(
          fmt::format("layer {}: {} query heads for {} KV heads", index, layer.query_heads, layer.kv_heads));
    }
    if (fact.rope >= 0) layer.rope = facts.ropes[static_cast<size_t>(fact.rope)];
    if (fact.sliding) layer.sliding_window = facts.sliding_window;
    layer.score_scale = static_cast<float>(scale.value_or(0) > 0 ? *scale : 1 / std::sqrt(double{1} * fact.key_dim));
    KVPACK_ASSIGN_OR_RETURN(const bool normed, apply_norm(weights, index, projection));
    layer.output_gram = head_grams(projection, fact.value_dim, threads);
    attention.layers.push_back(std::move(layer));
    attention.normed.push_back(normed);
  }
  if (attention.layers.empty()) return unsupported("the model has no attention layers");
  return attention;
}

}  // namespace kvpack
