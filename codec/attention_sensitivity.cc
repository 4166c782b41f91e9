// SPDX-License-Identifier: Apache-2.0
#include "codec/attention_sensitivity.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "codec/parallel.h"
#include "codec/rope.h"

namespace kvpack {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rows = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;
constexpr float kLeastPrefixShare = 1e-3f;

// Rows of one head in [token][head][dim].
Rows head_rows(std::span<const float> values, uint32_t tokens, uint32_t heads, uint32_t head, uint32_t dim) {
  return Rows(values.data() + size_t{head} * dim, tokens, dim, Eigen::OuterStride<>(Eigen::Index{heads} * dim));
}

// Attention of the queries to all tokens: [query][token], rows add up to 1.
Matrix attention(const AttentionLayer& layer, const LayerWindow& window, const Rows& query, const Rows& key) {
  Matrix scores = (query * key.transpose()) * layer.score_scale;
  for (uint32_t i = 0; i < window.queries; ++i) {
    const uint32_t position = window.prefix() + i;
    const uint32_t last = position + 1;
    const uint32_t first = layer.sliding_window > 0 && last > layer.sliding_window ? last - layer.sliding_window : 0;
    auto row = scores.row(i);
    auto seen = row.segment(first, last - first);
    const float largest = seen.maxCoeff();
    seen = (seen.array() - largest).exp().matrix();
    seen /= seen.sum();
    row.head(first).setZero();
    row.tail(window.tokens - last).setZero();
  }
  return scores;
}

// A number in [0, 1) from a seed and a place (splitmix64), so that threads draw the same whatever their order.
double uniform(uint64_t seed, uint64_t place) {
  uint64_t z = seed + (place + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

struct Draws {
  std::vector<int32_t> tokens;  // [query][draw]
  std::vector<float> weights;   // [query]: what a draw stands for
};

// Tokens in proportion to `cost` [query][token], spread evenly over it from one random start per query.
Draws draw_tokens(const Matrix& cost, uint32_t draws, uint64_t seed, uint64_t place) {
  Draws drawn;
  const auto prefix = static_cast<uint32_t>(cost.cols());
  for (Eigen::Index i = 0; i < cost.rows(); ++i) {
    double total = 0;
    for (uint32_t t = kSinkTokens; t < prefix; ++t) total += static_cast<double>(cost(i, t));
    drawn.weights.push_back(static_cast<float>(total / draws));
    const double start = uniform(seed, place + static_cast<uint64_t>(i));
    uint32_t token = kSinkTokens;
    double passed = static_cast<double>(cost(i, token));
    for (uint32_t j = 0; j < draws; ++j) {
      const double wanted = (j + start) / draws * total;
      while (passed <= wanted && token + 1 < prefix) passed += static_cast<double>(cost(i, ++token));
      drawn.tokens.push_back(static_cast<int32_t>(token));
    }
  }
  return drawn;
}

// Queries rotated back to the drawn tokens, [query, draw][key_dim].
Matrix rotate_back(const AttentionLayer& layer, uint32_t first_position, const Rows& query, const Draws& drawn,
                   uint32_t draws) {
  Matrix rotated(query.rows() * draws, query.cols());
  for (Eigen::Index i = 0; i < rotated.rows(); ++i) rotated.row(i) = query.row(i / draws);
  if (layer.rope) {
    std::vector<int32_t> positions = drawn.tokens;
    for (int32_t& position : positions) position += static_cast<int32_t>(first_position);
    const RopeRotation rotation(*layer.rope, positions);
    rotation.undo({rotated.data(), static_cast<size_t>(rotated.size())}, 1, layer.key_dim);
  }
  for (Eigen::Index i = 0; i < rotated.rows(); ++i) {
    rotated.row(i) *= std::sqrt(drawn.weights[static_cast<size_t>(i / draws)]);
  }
  return rotated;
}

// What one query head has to do with its KV head, as matrices.
struct HeadView {
  uint32_t prefix;
  uint32_t first_position;
  Rows query, key, value;
  Matrix passed_on;  // W^T W / r

  HeadView(const AttentionLayer& layer, const LayerWindow& window, uint32_t query_head)
      : prefix(window.prefix()),
        first_position(window.first_position),
        query(head_rows(window.query, window.queries, layer.query_heads, query_head, layer.key_dim)),
        key(head_rows(window.key, window.tokens, layer.kv_heads, query_head / layer.group(), layer.key_dim)),
        value(head_rows(window.value, window.tokens, layer.kv_heads, query_head / layer.group(), layer.value_dim)),
        passed_on(
            Eigen::Map<const Matrix>(layer.output_gram.data() + size_t{query_head} * layer.value_dim * layer.value_dim,
                                     layer.value_dim, layer.value_dim) *
            static_cast<float>(1 / window.stream_power)) {}
};

// Values: F and weights from the squared shares [query][prefix token].
void add_value_side(const HeadView& head, const Matrix& squared, HeadSensitivity& found) {
  const Eigen::VectorXf token_share = squared.colwise().sum();
  const double mean_diagonal = static_cast<double>(head.passed_on.diagonal().mean());
  for (uint32_t t = 0; t < head.prefix; ++t) {
    found.value_weight.push_back(static_cast<double>(token_share[t]) * mean_diagonal);
  }
  const Matrix sum = head.passed_on * token_share.tail(head.prefix - kSinkTokens).sum();
  found.value.assign(sum.data(), sum.data() + sum.size());
}

// a^2 (v - o)^T M (v - o) s^2 of every query and prefix token, `mean` being o of the prefix, [query][value_dim].
Matrix key_cost(const HeadView& head, const Matrix& squared, const Matrix& mean, float score_scale) {
  const auto value = head.value.topRows(head.prefix);
  const Matrix value_passed = value * head.passed_on;
  const Eigen::VectorXf value_power = (value_passed.cwiseProduct(value)).rowwise().sum();
  const Eigen::VectorXf mean_power = ((mean * head.passed_on).cwiseProduct(mean)).rowwise().sum();
  Matrix cost = -2 * (mean * value_passed.transpose());
  cost.rowwise() += value_power.transpose();
  cost.colwise() += mean_power;
  return cost.cwiseMax(0.0f).cwiseProduct(squared) * (score_scale * score_scale);
}

// Keys: weights from all costs, F from a sample of them.
void add_key_side(const AttentionLayer& layer, const HeadView& head, const Matrix& cost, uint32_t query_head,
                  const SensitivityOptions& options, HeadSensitivity& found) {
  const Eigen::VectorXf query_power = head.query.rowwise().squaredNorm() / static_cast<float>(layer.key_dim);
  const Eigen::VectorXf weight = cost.transpose() * query_power;
  for (uint32_t t = 0; t < head.prefix; ++t) found.key_weight.push_back(static_cast<double>(weight[t]));
  const uint64_t place = (uint64_t{layer.layer} << 40) + (uint64_t{query_head} << 24);
  const Draws drawn = draw_tokens(cost, options.draws, options.seed, place);
  const Matrix rotated = rotate_back(layer, head.first_position, head.query, drawn, options.draws);
  const Matrix sum = rotated.transpose() * rotated;
  found.key.assign(sum.data(), sum.data() + sum.size());
}

// One query head's rows in [query][query_head][value_dim].
Eigen::Map<Matrix, 0, Eigen::OuterStride<>> output_rows(const AttentionLayer& layer, const LayerWindow& window,
                                                        uint32_t query_head, float* output) {
  return {output + size_t{query_head} * layer.value_dim, window.queries, layer.value_dim,
          Eigen::OuterStride<>(Eigen::Index{layer.query_heads} * layer.value_dim)};
}

// One query head's share of its KV head's sums. `output`: [query][query_head][value_dim], this head's part is filled.
HeadSensitivity query_head_sensitivity(const AttentionLayer& layer, const LayerWindow& window,
                                       const SensitivityOptions& options, uint32_t query_head, float* output) {
  const HeadView head(layer, window, query_head);
  const Matrix all = attention(layer, window, head.query, head.key);
  const auto share = all.leftCols(head.prefix);
  Matrix mean = share * head.value.topRows(head.prefix);
  output_rows(layer, window, query_head, output) =
      mean + all.rightCols(window.queries) * head.value.bottomRows(window.queries);
  const Eigen::VectorXf shares = share.rowwise().sum().cwiseMax(kLeastPrefixShare);
  mean = mean.array().colwise() / shares.array();
  const Matrix squared = share.array().square();

  HeadSensitivity found;
  add_value_side(head, squared, found);
  add_key_side(layer, head, key_cost(head, squared, mean, layer.score_scale), query_head, options, found);
  return found;
}

template <typename T>
void add_to(std::vector<T>& sum, const std::vector<T>& part) {
  if (sum.empty()) sum.resize(part.size());
  for (size_t i = 0; i < part.size(); ++i) sum[i] += part[i];
}

}  // namespace

LayerSensitivity attention_sensitivity(const AttentionLayer& layer, const LayerWindow& window,
                                       const SensitivityOptions& options) {
  assert(window.queries > 0 && window.tokens > window.queries + kSinkTokens);
  LayerSensitivity found;
  found.heads.resize(layer.kv_heads);
  found.output.resize(size_t{window.queries} * layer.query_heads * layer.value_dim);
  std::vector<HeadSensitivity> parts(layer.query_heads);
  parallel_for(layer.query_heads, options.threads, [&](uint64_t head) {
    parts[head] = query_head_sensitivity(layer, window, options, static_cast<uint32_t>(head), found.output.data());
  });
  for (uint32_t head = 0; head < layer.query_heads; ++head) {
    HeadSensitivity& sum = found.heads[head / layer.group()];
    add_to(sum.key, parts[head].key);
    add_to(sum.value, parts[head].value);
    add_to(sum.key_weight, parts[head].key_weight);
    add_to(sum.value_weight, parts[head].value_weight);
  }
  return found;
}

std::vector<float> attention_output(const AttentionLayer& layer, const LayerWindow& window, unsigned threads) {
  std::vector<float> output(size_t{window.queries} * layer.query_heads * layer.value_dim);
  parallel_for(layer.query_heads, threads, [&](uint64_t at) {
    const auto query_head = static_cast<uint32_t>(at);
    const uint32_t kv_head = query_head / layer.group();
    const Rows query = head_rows(window.query, window.queries, layer.query_heads, query_head, layer.key_dim);
    const Rows key = head_rows(window.key, window.tokens, layer.kv_heads, kv_head, layer.key_dim);
    const Rows value = head_rows(window.value, window.tokens, layer.kv_heads, kv_head, layer.value_dim);
    output_rows(layer, window, query_head, output.data()) = attention(layer, window, query, key) * value;
  });
  return output;
}

}  // namespace kvpack
