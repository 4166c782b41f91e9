// SPDX-License-Identifier: Apache-2.0
#include "codec/sampled_forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/rope.h"

namespace kvpack {
namespace {

// Keys and values may differ from the cached ones by what quantized arithmetic does to them on the way, not by more.
constexpr double kMostCacheError = 0.25;

void normalise(std::span<float> row, std::span<const float> weight, float epsilon) {
  double power = 0;
  for (const float value : row) power += double{value} * double{value};
  const auto factor = static_cast<float>(1 / std::sqrt(power / static_cast<double>(row.size()) + double{epsilon}));
  for (size_t i = 0; i < row.size(); ++i) row[i] *= factor * weight[i];
}

class Pass {
 public:
  Pass(const ModelWeights& weights, const ModelAttention& attention, const SampledForward& run)
      : weights_(weights), attention_(attention), run_(run) {
    positions_.resize(run.queries);
    std::iota(positions_.begin(), positions_.end(), static_cast<int32_t>(run.tokens.size() - run.queries));
    const std::string& name = weights.architecture();
    gelu_ = name.starts_with("gemma");
    scaled_embedding_ = gelu_;
  }

  Status run() {
    KVPACK_ASSIGN_OR_RETURN(stream_, weights_.embed(run_.tokens.last(run_.queries)));
    if (scaled_embedding_) {
      const float scale = std::sqrt(static_cast<float>(stream_.width));
      for (float& value : stream_.values) value *= scale;
    }
    for (size_t index = 0; index < attention_.layers.size(); ++index) {
      if (attention_.layers[index].layer != index) return unsupported("layers without attention");
      KVPACK_RETURN_IF_ERROR(attend(index));
      if (index + 1 < attention_.layers.size()) KVPACK_RETURN_IF_ERROR(feed_forward(static_cast<uint32_t>(index)));
    }
    return {};
  }

 private:
  // A copy of `rows`, every part of `width` values normalised.
  Result<Rows> normed(uint32_t layer, std::string_view tensor, Rows rows) const {
    KVPACK_ASSIGN_OR_RETURN(const std::vector<float> weight, weights_.vector_of(layer, tensor));
    if (weight.empty() || rows.width % weight.size() != 0) {
      return unsupported(
          fmt::format("layer {}: {} has {} values, {} expected", layer, tensor, weight.size(), rows.width));
    }
    for (size_t first = 0; first < rows.values.size(); first += weight.size()) {
      normalise(std::span(rows.values).subspan(first, weight.size()), weight, weights_.norm_epsilon());
    }
    return rows;
  }
  // Queries or keys, rotated.
  Result<Rows> heads_of(const AttentionLayer& layer, std::string_view tensor, const Rows& input) const {
    KVPACK_ASSIGN_OR_RETURN(Rows rows, weights_.project(layer.layer, tensor, input));
    if (rows.width % layer.key_dim != 0) {
      return unsupported(
          fmt::format("layer {}: {} gives {} values for heads of {}", layer.layer, tensor, rows.width, layer.key_dim));
    }
    const std::string norm = std::string(tensor) + "_norm";
    if (weights_.has(layer.layer, norm)) {
      KVPACK_ASSIGN_OR_RETURN(rows, normed(layer.layer, norm, std::move(rows)));
    }
    if (layer.rope) {
      RopeRotation(*layer.rope, positions_).redo(rows.values, rows.width / layer.key_dim, layer.key_dim);
    }
    return rows;
  }
  Status attend(size_t index);
  Status check(const AttentionLayer& layer, std::string_view what, const Rows& computed,
               std::span<const float> cached) const;
  Status feed_forward(uint32_t layer);
  void add_to_stream(const Rows& rows) {
    for (size_t i = 0; i < stream_.values.size(); ++i) stream_.values[i] += rows.values[i];
  }
  double median_power(const Rows& rows) const;

  const ModelWeights& weights_;
  const ModelAttention& attention_;
  const SampledForward& run_;
  std::vector<int32_t> positions_;
  bool gelu_ = false;
  bool scaled_embedding_ = false;
  Rows stream_;
};

double Pass::median_power(const Rows& rows) const {
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

Status Pass::check(const AttentionLayer& layer, std::string_view what, const Rows& computed,
                   std::span<const float> cached) const {
  double error = 0;
  double power = 0;
  for (size_t i = 0; i < computed.values.size(); ++i) {
    const double difference = double{computed.values[i]} - double{cached[i]};
    error += difference * difference;
    power += double{cached[i]} * double{cached[i]};
  }
  if (error <= kMostCacheError * kMostCacheError * power) return {};
  return unsupported(
      fmt::format("layer {}: {} computed from the model's weights differ from the cached ones by {:.2f} of "
                  "their norm: another model, or an architecture that is not understood",
                  layer.layer, what, power > 0 ? std::sqrt(error / power) : 1.0));
}

Status Pass::attend(size_t index) {
  const AttentionLayer& layer = attention_.layers[index];
  KVPACK_ASSIGN_OR_RETURN(const Rows input, normed(layer.layer, "attn_norm", stream_));
  KVPACK_ASSIGN_OR_RETURN(const Rows query, heads_of(layer, "attn_q", input));
  KVPACK_ASSIGN_OR_RETURN(const Rows key, heads_of(layer, "attn_k", input));
  KVPACK_ASSIGN_OR_RETURN(const Rows value, weights_.project(layer.layer, "attn_v", input));
  KVPACK_ASSIGN_OR_RETURN(const CachedLayer cached, run_.cached(index));
  if (query.width != layer.query_heads * layer.key_dim || key.width != layer.kv_heads * layer.key_dim ||
      value.width != layer.kv_heads * layer.value_dim || cached.tokens < run_.queries) {
    return unsupported(fmt::format("layer {}: projections of other shapes than the cache's", layer.layer));
  }
  KVPACK_RETURN_IF_ERROR(check(layer, "keys", key, std::span(cached.key).last(key.values.size())));
  KVPACK_RETURN_IF_ERROR(check(layer, "values", value, std::span(cached.value).last(value.values.size())));

  LayerWindow window;
  window.first_position = cached.first;
  window.tokens = cached.tokens;
  window.queries = run_.queries;
  window.query = query.values;
  window.key = cached.key;
  window.value = cached.value;
  Rows output;
  output.width = layer.query_heads * layer.value_dim;
  output.values = attention_output(layer, window, run_.threads);
  KVPACK_ASSIGN_OR_RETURN(Rows projected, weights_.project(layer.layer, "attn_output", output));
  if (projected.width != stream_.width) return unsupported("an output projection of another width than the stream");
  const double before_norm = median_power(projected);
  if (attention_.normed[index]) {
    KVPACK_ASSIGN_OR_RETURN(projected, normed(layer.layer, "post_attention_norm", std::move(projected)));
  }
  add_to_stream(projected);
  window.stream_power = median_power(stream_);
  // A norm turns the projection's result of power p into one of power `width` (times its weights).
  if (attention_.normed[index]) window.stream_power *= before_norm / stream_.width;
  return run_.visit(index, window);
}

Status Pass::feed_forward(uint32_t layer) {
  const bool own_norm = weights_.has(layer, "ffn_norm");
  KVPACK_ASSIGN_OR_RETURN(const Rows input, normed(layer, own_norm ? "ffn_norm" : "post_attention_norm", stream_));
  if (!weights_.has(layer, "ffn_up") || !weights_.has(layer, "ffn_down")) {
    return unsupported(fmt::format("layer {}: no gated feed-forward net (experts?)", layer));
  }
  KVPACK_ASSIGN_OR_RETURN(Rows up, weights_.project(layer, "ffn_up", input));
  Rows gate;
  if (weights_.has(layer, "ffn_gate")) {
    KVPACK_ASSIGN_OR_RETURN(gate, weights_.project(layer, "ffn_gate", input));
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
  KVPACK_ASSIGN_OR_RETURN(Rows down, weights_.project(layer, "ffn_down", up));
  if (down.width != stream_.width) return unsupported("a feed-forward net of another width than the stream");
  if (weights_.has(layer, "post_ffw_norm")) {
    KVPACK_ASSIGN_OR_RETURN(down, normed(layer, "post_ffw_norm", std::move(down)));
  }
  add_to_stream(down);
  return {};
}

}  // namespace

Status run_sampled_forward(const ModelWeights& weights, const ModelAttention& attention, const SampledForward& run) {
  return Pass(weights, attention, run).run();
}

}  // namespace kvpack
