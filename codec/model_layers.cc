// SPDX-License-Identifier: Apache-2.0
#include "codec/model_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "codec/rope.h"

namespace kvpack {
namespace {

void normalise(std::span<float> row, std::span<const float> weight, float epsilon) {
  double power = 0;
  for (const float value : row) power += double{value} * double{value};
  const auto factor = static_cast<float>(1 / std::sqrt(power / static_cast<double>(row.size()) + double{epsilon}));
  for (size_t i = 0; i < row.size(); ++i) row[i] *= factor * weight[i];
}

Status add_rows(const Rows& rows, std::string_view what, Rows& stream) {
  if (rows.width != stream.width) return unsupported(std::string(what) + " of another width than the stream");
  for (size_t i = 0; i < stream.values.size(); ++i) stream.values[i] += rows.values[i];
  return {};
}

}  // namespace

ModelLayers::ModelLayers(const ModelWeights& weights, const ModelAttention& attention)
    : weights_(&weights), attention_(&attention) {
  gelu_ = weights.architecture().starts_with("gemma");
  scaled_embedding_ = gelu_;
}

double median_power(const Rows& rows) {
  std::vector<double> powers;
  for (size_t i = 0; i < rows.count(); ++i) {
    double power = 0;
    for (const float value : rows.row(i)) power += double{value} * double{value};
    powers.push_back(power);
  }
  const auto middle = powers.begin() + static_cast<ptrdiff_t>(powers.size() / 2);
  std::nth_element(powers.begin(), middle, powers.end());
  return *middle;
}

// A copy of `rows`, every part of `width` values normalised.
Result<Rows> ModelLayers::normed(uint32_t layer, std::string_view tensor, Rows rows) const {
  KVPACK_ASSIGN_OR_RETURN(const std::vector<float> weight, weights_->vector_of(layer, tensor));
  if (weight.empty() || rows.width % weight.size() != 0) {
    return unsupported(
        fmt::format("layer {}: {} has {} values, {} expected", layer, tensor, weight.size(), rows.width));
  }
  for (size_t first = 0; first < rows.values.size(); first += weight.size()) {
    normalise(std::span(rows.values).subspan(first, weight.size()), weight, weights_->norm_epsilon());
  }
  return rows;
}

Result<Rows> ModelLayers::embed(std::span<const int32_t> tokens) const {
  KVPACK_ASSIGN_OR_RETURN(Rows stream, weights_->embed(tokens));
  if (scaled_embedding_) {
    const float scale = std::sqrt(static_cast<float>(stream.width));
    for (float& value : stream.values) value *= scale;
  }
  return stream;
}

Result<Rows> ModelLayers::attention_input(size_t index, const Rows& stream) const {
  return normed(layer_of(index), "attn_norm", stream);
}

Result<Rows> ModelLayers::rotated_heads(size_t index, std::string_view tensor, const Rows& input,
                                        std::span<const int32_t> positions) const {
  const AttentionLayer& layer = attention_->layers[index];
  KVPACK_ASSIGN_OR_RETURN(Rows rows, weights_->project(layer.layer, tensor, input));
  if (rows.width % layer.key_dim != 0) {
    return unsupported(
        fmt::format("layer {}: {} gives {} values for heads of {}", layer.layer, tensor, rows.width, layer.key_dim));
  }
  const std::string norm = std::string(tensor) + "_norm";
  if (weights_->has(layer.layer, norm)) {
    KVPACK_ASSIGN_OR_RETURN(rows, normed(layer.layer, norm, std::move(rows)));
  }
  if (layer.rope) RopeRotation(*layer.rope, positions).redo(rows.values, rows.width / layer.key_dim, layer.key_dim);
  return rows;
}

Result<Rows> ModelLayers::values(size_t index, const Rows& input) const {
  return weights_->project(layer_of(index), "attn_v", input);
}

Status ModelLayers::add_attention(size_t index, const Rows& output, Rows& stream, double* power) const {
  KVPACK_ASSIGN_OR_RETURN(Rows projected, weights_->project(layer_of(index), "attn_output", output));
  if (power != nullptr) *power = median_power(projected);
  if (attention_->normed[index]) {
    KVPACK_ASSIGN_OR_RETURN(projected, normed(layer_of(index), "post_attention_norm", std::move(projected)));
  }
  return add_rows(projected, "an output projection", stream);
}

// gate(x) * up(x), before the projection down.
Result<Rows> ModelLayers::gated(uint32_t layer, const Rows& input) const {
  if (!weights_->has(layer, "ffn_up") || !weights_->has(layer, "ffn_down")) {
    return unsupported(fmt::format("layer {}: no gated feed-forward net (experts?)", layer));
  }
  KVPACK_ASSIGN_OR_RETURN(Rows up, weights_->project(layer, "ffn_up", input));
  Rows gate;
  if (weights_->has(layer, "ffn_gate")) {
    KVPACK_ASSIGN_OR_RETURN(gate, weights_->project(layer, "ffn_gate", input));
  } else {  // both in one, the gate first
    Rows half;
    half.width = gate.width = up.width / 2;
    for (size_t i = 0; i < up.count(); ++i) {
      const auto row = up.row(i);
      gate.values.insert(gate.values.end(), row.begin(), row.begin() + gate.width);
      half.values.insert(half.values.end(), row.begin() + gate.width, row.begin() + 2 * gate.width);
    }
    up = std::move(half);
  }
  if (gate.values.size() != up.values.size()) return unsupported("a feed-forward net of two widths");
  for (size_t i = 0; i < up.values.size(); ++i) {
    const float x = gate.values[i];
    constexpr float kRootTwoOverPi = 0.7978845608f;
    up.values[i] *=
        gelu_ ? 0.5f * x * (1 + std::tanh(kRootTwoOverPi * (x + 0.044715f * x * x * x))) : x / (1 + std::exp(-x));
  }
  return up;
}

Status ModelLayers::add_feed_forward(size_t index, Rows& stream) const {
  const uint32_t layer = layer_of(index);
  const bool own_norm = weights_->has(layer, "ffn_norm");
  KVPACK_ASSIGN_OR_RETURN(const Rows input, normed(layer, own_norm ? "ffn_norm" : "post_attention_norm", stream));
  KVPACK_ASSIGN_OR_RETURN(const Rows inner, gated(layer, input));
  KVPACK_ASSIGN_OR_RETURN(Rows down, weights_->project(layer, "ffn_down", inner));
  if (weights_->has(layer, "post_ffw_norm")) {
    KVPACK_ASSIGN_OR_RETURN(down, normed(layer, "post_ffw_norm", std::move(down)));
  }
  return add_rows(down, "a feed-forward net", stream);
}

}  // namespace kvpack
