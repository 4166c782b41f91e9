// SPDX-License-Identifier: Apache-2.0
#include "codec/token_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "codec/rope.h"
#include "codec/row_values.h"
#include "codec/token_classes.h"

namespace kvpack {
namespace {

// What a token's position adds, by the weights from dim + 1 on.
struct PositionTerms {
  double log_distance;
  double log_position;
  double fraction;
};

float log_weight(const float* key, uint32_t dim, const PositionTerms& terms, const float* weights) {
  constexpr uint32_t kChains = 8;
  float products[kChains] = {};
  float sizes[kChains] = {};
  uint32_t d = 0;
  for (; d + kChains <= dim; d += kChains) {
    for (uint32_t k = 0; k < kChains; ++k) {
      products[k] += key[d + k] * weights[d + k];
      sizes[k] += key[d + k] * key[d + k];
    }
  }
  for (; d < dim; ++d) {
    products[0] += key[d] * weights[d];
    sizes[0] += key[d] * key[d];
  }
  double sum = double{weights[dim + 4]};
  double squares = 0;
  for (uint32_t k = 0; k < kChains; ++k) {
    sum += double{products[k]};
    squares += double{sizes[k]};
  }
  sum += std::sqrt(squares) * double{weights[dim]};
  sum += terms.log_distance * double{weights[dim + 1]};
  sum += terms.log_position * double{weights[dim + 2]};
  sum += terms.fraction * double{weights[dim + 3]};
  return static_cast<float>(sum);
}

}  // namespace

void predict_log_weights(const KvView& keys, const Rope* rope, std::span<const int32_t> positions,
                         uint32_t context_tokens, const TokenWeightModel& model, uint32_t block,
                         std::span<float> log_weights) {
  const uint32_t dim = keys.head_dim;
  const uint32_t first = block * kWeightTokens;
  if (first >= keys.tokens) return;
  const uint32_t count = std::min(kWeightTokens, keys.tokens - first);
  thread_local std::vector<float> rows;
  rows.resize(size_t{count} * keys.channels());
  load_rows(keys, first, count, rows.data());
  if (!all_finite(rows.data(), rows.size())) {
    for (float& value : rows) value = std::isfinite(value) ? value : 0.0f;
  }
  if (rope != nullptr) cached_rotation(*rope, positions.subspan(first, count)).undo(rows, keys.kv_heads, dim);
  for (uint32_t t = 0; t < count; ++t) {
    const double position = std::max(0, positions[first + t]);
    const PositionTerms terms{std::log(std::max(1.0, context_tokens - position)), std::log(position + 1),
                              position / context_tokens};
    for (uint32_t head = 0; head < keys.kv_heads; ++head) {
      log_weights[size_t{head} * keys.tokens + first + t] =
          log_weight(&rows[size_t{t} * keys.channels() + size_t{head} * dim], dim, terms,
                     &model.weights[size_t{head} * (dim + 5)]);
    }
  }
}

std::vector<float> predict_log_weights(const KvView& keys, const Rope* rope, std::span<const int32_t> positions,
                                       uint32_t context_tokens, const TokenWeightModel& model) {
  std::vector<float> log_weights(size_t{keys.kv_heads} * keys.tokens);
  for (uint32_t block = 0; block * kWeightTokens < keys.tokens; ++block) {
    predict_log_weights(keys, rope, positions, context_tokens, model, block, log_weights);
  }
  return log_weights;
}

std::vector<int8_t> classes_of_plane(std::span<const float> log_weights, uint32_t kv_heads,
                                     std::span<const uint32_t> sinks) {
  const size_t tokens = log_weights.size() / kv_heads;
  std::vector<int8_t> classes;
  classes.reserve(log_weights.size());
  for (uint32_t head = 0; head < kv_heads; ++head) {
    const auto of_head = log_weights.subspan(head * tokens, tokens);
    std::vector<float> counted(of_head.begin(), of_head.end());
    for (const uint32_t sink : sinks) counted[sink] = -std::numeric_limits<float>::infinity();
    std::vector<int8_t> of_this = classes_from_log_weights(counted);
    for (const uint32_t sink : sinks) of_this[sink] = 0;
    classes.insert(classes.end(), of_this.begin(), of_this.end());
  }
  return classes;
}

}  // namespace kvpack
