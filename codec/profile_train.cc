// SPDX-License-Identifier: Apache-2.0
#include "codec/profile_train.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/profile_basis.h"
#include "codec/rope.h"

namespace kvpack {
namespace {

constexpr double kLeastWeight = 1e-30;  // of a token, before its logarithm

uint32_t dim_of(const AttentionLayer& layer, Side side) { return side == Side::kKey ? layer.key_dim : layer.value_dim; }

Status check_window(const AttentionLayer& layer, const LayerWindow& window) {
  const auto where = [&](std::string_view what) { return fmt::format("layer {}: {}", layer.layer, what); };
  if (window.queries == 0 || window.tokens <= window.queries + kSinkTokens) {
    return invalid_argument(
        where(fmt::format("{} tokens, {} of them queries: too few", window.tokens, window.queries)));
  }
  const size_t tokens = window.tokens;
  const bool sizes_fit = window.query.size() == size_t{window.queries} * layer.query_heads * layer.key_dim &&
                         window.key.size() == tokens * layer.kv_heads * layer.key_dim &&
                         window.value.size() == tokens * layer.kv_heads * layer.value_dim;
  if (!sizes_fit) {
    return invalid_argument(where(fmt::format("{} query, {} key, {} value numbers do not fit the layer's heads",
                                              window.query.size(), window.key.size(), window.value.size())));
  }
  if (!(window.stream_power > 0) || !std::isfinite(window.stream_power)) {
    return invalid_argument(where("the residual stream has no norm"));
  }
  for (const auto values : {window.query, window.key, window.value}) {
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
      return invalid_argument(where("a query, key or value is not finite"));
    }
  }
  return {};
}

// Keys of the prefix with RoPE undone.
std::vector<float> unrotated_keys(const AttentionLayer& layer, const LayerWindow& window) {
  const size_t count = size_t{window.prefix()} * layer.kv_heads * layer.key_dim;
  std::vector<float> keys(window.key.begin(), window.key.begin() + static_cast<ptrdiff_t>(count));
  if (layer.rope) {
    std::vector<int32_t> positions(window.prefix());
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(window.first_position));
    RopeRotation(*layer.rope, positions).undo(keys, layer.kv_heads, layer.key_dim);
  }
  return keys;
}

// ln of each weight, less their mean.
std::vector<double> centred_logs(const std::vector<double>& weights, uint32_t first) {
  std::vector<double> logs;
  for (size_t t = first; t < weights.size(); ++t) logs.push_back(std::log(weights[t] + kLeastWeight));
  const double mean = std::accumulate(logs.begin(), logs.end(), 0.0) / static_cast<double>(logs.size());
  for (double& log : logs) log -= mean;
  return logs;
}

}  // namespace

ProfileTrainer::ProfileTrainer(std::vector<AttentionLayer> layers, const ProfileTrainOptions& options)
    : layers_(std::move(layers)), options_(options) {
  for (const AttentionLayer& layer : layers_) {
    LayerSums sums;
    for (Side side : {Side::kKey, Side::kValue}) sums.statistics.emplace_back(layer.kv_heads, dim_of(layer, side));
    for (uint32_t head = 0; head < layer.kv_heads; ++head) {
      HeadSums head_sums{{}, TokenWeightFit(layer.key_dim, layer.sliding_window == 0)};
      for (Side side : {Side::kKey, Side::kValue}) {
        head_sums.sensitivity[static_cast<int>(side)].resize(size_t{dim_of(layer, side)} * dim_of(layer, side));
      }
      sums.heads.push_back(std::move(head_sums));
    }
    sums_.push_back(std::move(sums));
  }
}

void ProfileTrainer::add_token_weights(size_t index, const std::vector<float>& keys, uint32_t tokens,
                                       const LayerSensitivity& found) {
  const AttentionLayer& layer = layers_[index];
  // Tokens that some query still sees.
  uint32_t first = kSinkTokens;
  if (layer.sliding_window > 0 && tokens > layer.sliding_window) {
    first = std::max(first, tokens - layer.sliding_window + 1);
  }
  if (first + 1 >= tokens) return;
  std::vector<float> rows;
  for (uint32_t head = 0; head < layer.kv_heads; ++head) {
    rows.clear();
    for (uint32_t t = first; t < tokens; ++t) {
      const float* key = keys.data() + (size_t{t} * layer.kv_heads + head) * layer.key_dim;
      rows.insert(rows.end(), key, key + layer.key_dim);
    }
    std::vector<double> logs = centred_logs(found.heads[head].key_weight, first);
    const std::vector<double> value_logs = centred_logs(found.heads[head].value_weight, first);
    for (size_t t = 0; t < logs.size(); ++t) logs[t] = (logs[t] + value_logs[t]) / 2;
    sums_[index].heads[head].token_weights.add(rows, first, tokens, logs);
  }
}

Result<std::vector<float>> ProfileTrainer::add(size_t index, const LayerWindow& window) {
  const AttentionLayer& layer = layers_[index];
  KVPACK_RETURN_IF_ERROR(check_window(layer, window));
  LayerSums& sums = sums_[index];
  SensitivityOptions options;
  options.draws = options_.draws;
  options.seed = options_.seed + sums.windows;
  options.threads = options_.threads;
  LayerSensitivity found = attention_sensitivity(layer, window, options);

  const uint32_t prefix = window.prefix();
  const uint32_t cached = layer.sliding_window > 0 ? std::min(layer.sliding_window, prefix) : prefix;
  const float share = 1 / (static_cast<float>(cached) * static_cast<float>(window.queries));
  for (uint32_t head = 0; head < layer.kv_heads; ++head) {
    for (Side side : {Side::kKey, Side::kValue}) {
      const auto& part = side == Side::kKey ? found.heads[head].key : found.heads[head].value;
      auto& sum = sums.heads[head].sensitivity[static_cast<int>(side)];
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i] * share;
    }
  }
  const std::vector<float> keys = unrotated_keys(layer, window);
  const size_t value_row = size_t{layer.kv_heads} * layer.value_dim;
  sums.statistics[0].add(std::span(keys).subspan(kSinkTokens * size_t{layer.kv_heads} * layer.key_dim));
  sums.statistics[1].add(window.value.subspan(kSinkTokens * value_row, (prefix - kSinkTokens) * value_row));
  add_token_weights(index, keys, prefix, found);
  sums.cached_tokens += cached;
  ++sums.windows;
  return std::move(found.output);
}

ProfilePlane ProfileTrainer::make_plane(size_t index, Side side, double unit) const {
  const LayerSums& sums = sums_[index];
  const int s = static_cast<int>(side);
  const double gain = unit * (side == Side::kKey ? options_.key_gain : 1) / sums.windows;
  std::vector<std::vector<float>> sensitivity;
  for (const HeadSums& head : sums.heads) {
    sensitivity.push_back(head.sensitivity[s]);
    for (float& value : sensitivity.back()) value = static_cast<float>(value * gain);
  }
  return make_profile_plane(layers_[index].layer, side, sums.statistics[static_cast<size_t>(s)], sensitivity,
                            side == Side::kKey ? options_.key_regulariser : options_.value_regulariser);
}

Result<Profile> ProfileTrainer::finish() const {
  double values = 0;  // in a cache of the windows' length
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (sums_[i].windows == 0) return invalid_argument(fmt::format("layer {}: no text", layers_[i].layer));
    values +=
        sums_[i].cached_tokens / sums_[i].windows * layers_[i].kv_heads * (layers_[i].key_dim + layers_[i].value_dim);
  }
  Profile profile;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const AttentionLayer& layer = layers_[i];
    profile.planes.push_back(make_plane(i, Side::kKey, values));
    profile.planes.push_back(make_plane(i, Side::kValue, values));
    TokenWeightModel model;
    model.layer = layer.layer;
    model.kv_heads = layer.kv_heads;
    model.head_dim = layer.key_dim;
    for (const HeadSums& head : sums_[i].heads) {
      const std::vector<float> weights = head.token_weights.solve(options_.ridge);
      model.weights.insert(model.weights.end(), weights.begin(), weights.end());
    }
    profile.token_weights.push_back(std::move(model));
  }
  return profile;
}

}  // namespace kvpack
