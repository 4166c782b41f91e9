// SPDX-License-Identifier: Apache-2.0
#include "codec/sampled_forward.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "codec/model_layers.h"

namespace kvpack {
namespace {

// Keys and values may differ from the cached ones by what quantized arithmetic does to them on the way, not by more.
constexpr double kMostCacheError = 0.25;

class Pass {
 public:
  Pass(const ModelWeights& weights, const ModelAttention& attention, const SampledForward& run)
      : layers_(weights, attention), attention_(attention), run_(run), positions_(run.queries) {
    std::iota(positions_.begin(), positions_.end(), static_cast<int32_t>(run.tokens.size() - run.queries));
  }

  Status run() {
    KVPACK_ASSIGN_OR_RETURN(stream_, layers_.embed(run_.tokens.last(run_.queries)));
    for (size_t index = 0; index < attention_.layers.size(); ++index) {
      if (attention_.layers[index].layer != index) return unsupported("layers without attention");
      KVPACK_RETURN_IF_ERROR(attend(index));
      if (index + 1 < attention_.layers.size()) KVPACK_RETURN_IF_ERROR(layers_.add_feed_forward(index, stream_));
    }
    return {};
  }

 private:
  Status attend(size_t index);
  Status check(const AttentionLayer& layer, std::string_view what, const Rows& computed,
               std::span<const float> cached) const;

  const ModelLayers layers_;
  const ModelAttention& attention_;
  const SampledForward& run_;
  std::vector<int32_t> positions_;
  Rows stream_;
};

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
  KVPACK_ASSIGN_OR_RETURN(const Rows input, layers_.attention_input(index, stream_));
  KVPACK_ASSIGN_OR_RETURN(const Rows query, layers_.rotated_heads(index, "attn_q", input, positions_));
  KVPACK_ASSIGN_OR_RETURN(const Rows key, layers_.rotated_heads(index, "attn_k", input, positions_));
  KVPACK_ASSIGN_OR_RETURN(const Rows value, layers_.values(index, input));
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
  double before_norm = 0;
  KVPACK_RETURN_IF_ERROR(layers_.add_attention(index, output, stream_, &before_norm));
  window.stream_power = median_power(stream_);
  // A norm turns the projection's result of power p into one of power `width` (times its weights).
  if (attention_.normed[index]) window.stream_power *= before_norm / stream_.width;
  return run_.visit(index, window);
}

}  // namespace

Status run_sampled_forward(const ModelWeights& weights, const ModelAttention& attention, const SampledForward& run) {
  return Pass(weights, attention, run).run();
}

}  // namespace kvpack
