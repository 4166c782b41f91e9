// SPDX-License-Identifier: Apache-2.0
#include "codec/profile_train.h"

#include <fmt/format.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/profile_basis.h"
#include "codec/rope.h"

namespace kvpack {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr double kLeastWeight = 1e-30;      // of a token, before its logarithm
constexpr double kLeastSensitivity = 1e-9;  // of a head, relative to the model's mean

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
    std::iota(positions.begin(), positions.end(), 0);
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
    for (Side side : {Side::kKey, Side::kValue}) {
      sums.mean[static_cast<int>(side)].resize(size_t{layer.kv_heads} * dim_of(layer, side));
    }
    for (uint32_t head = 0; head < layer.kv_heads; ++head) {
      HeadSums head_sums{{}, {}, TokenWeightFit(layer.key_dim, layer.sliding_window == 0)};
      for (Side side : {Side::kKey, Side::kValue}) {
        const size_t size = size_t{dim_of(layer, side)} * dim_of(layer, side);
        head_sums.sensitivity[static_cast<int>(side)].resize(size);
        head_sums.covariance[static_cast<int>(side)].resize(size);
      }
      sums.heads.push_back(std::move(head_sums));
    }
    sums_.push_back(std::move(sums));
  }
}

void ProfileTrainer::add_statistics(size_t index, Side side, std::span<const float> values, uint32_t tokens) {
  const AttentionLayer& layer = layers_[index];
  const uint32_t dim = dim_of(layer, side);
  const uint32_t channels = layer.kv_heads * dim;
  const uint32_t counted = tokens - kSinkTokens;
  const Eigen::Map<const Matrix> all(values.data(), tokens, channels);
  const Eigen::RowVectorXf mean =
      (all.bottomRows(counted).cast<double>().colwise().sum() / static_cast<double>(counted)).cast<float>();
  Eigen::Map<Eigen::RowVectorXf>(sums_[index].mean[static_cast<int>(side)].data(), channels) += mean;
  for (uint32_t head = 0; head < layer.kv_heads; ++head) {
    const auto columns = Eigen::seqN(Eigen::Index{head} * dim, dim);
    const Matrix centred = all.bottomRows(counted)(Eigen::all, columns).rowwise() - mean(columns);
    Eigen::Map<Matrix>(sums_[index].heads[head].covariance[static_cast<int>(side)].data(), dim, dim) +=
        centred.transpose() * centred / static_cast<float>(counted);
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
  add_statistics(index, Side::kKey, keys, prefix);
  add_statistics(index, Side::kValue, window.value.first(size_t{prefix} * layer.kv_heads * layer.value_dim), prefix);
  add_token_weights(index, keys, prefix, found);
  sums.cached_tokens += cached;
  ++sums.windows;
  return std::move(found.output);
}

ProfilePlane ProfileTrainer::make_plane(size_t index, Side side, double unit) const {
  const AttentionLayer& layer = layers_[index];
  const LayerSums& sums = sums_[index];
  const int s = static_cast<int>(side);
  const uint32_t dim = dim_of(layer, side);
  ProfilePlane plane;
  plane.layer = layer.layer;
  plane.side = side;
  plane.kv_heads = layer.kv_heads;
  plane.head_dim = dim;
  for (float sum : sums.mean[s]) plane.mean.push_back(sum / static_cast<float>(sums.windows));
  const double gain = unit * (side == Side::kKey ? options_.key_gain : 1) / sums.windows;
  for (const HeadSums& head : sums.heads) {
    std::vector<float> sensitivity = head.sensitivity[s];
    std::vector<float> covariance = head.covariance[s];
    for (float& value : sensitivity) value = static_cast<float>(value * gain);
    for (float& value : covariance) value /= static_cast<float>(sums.windows);
    double variance = 0;
    for (uint32_t d = 0; d < dim; ++d) variance += static_cast<double>(covariance[size_t{d} * dim + d]) / dim;
    ProfileBasis basis = make_profile_basis(sensitivity, covariance, dim,
                                            side == Side::kKey ? options_.key_regulariser : options_.value_regulariser,
                                            kLeastSensitivity / std::max(variance, 1e-12));
    plane.basis.push_back(std::move(basis.rows));
    plane.deviation.insert(plane.deviation.end(), basis.deviation.begin(), basis.deviation.end());
    plane.sensitivity.push_back(basis.sensitivity);
  }
  return plane;
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
