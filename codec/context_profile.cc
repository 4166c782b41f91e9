// SPDX-License-Identifier: Apache-2.0
#include "codec/context_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/profile_train.h"
#include "codec/row_values.h"
#include "codec/sampled_forward.h"

namespace kvpack {
namespace {

constexpr uint32_t kLeastTokens = 64;
constexpr uint32_t kTokensPerQuery = 8;

// Where a layer's planes lie in the file.
struct LayerPlanePair {
  const KvPlane* key = nullptr;
  const KvPlane* value = nullptr;
};

class Context {
 public:
  Context(const KvFile& file, const ModelAttention& attention) : file_(file), attention_(attention) {}

  // Tokens 0..n-1 of the context, whose caches hold what its last `queries` tokens see.
  Result<uint32_t> choose_window(uint32_t most_tokens);
  Result<CachedLayer> cached(size_t index, uint32_t tokens) const;

 private:
  const TokenSet& set_of(size_t index) const { return file_.tensor.token_sets[planes_[index].key->token_set]; }

  const KvFile& file_;
  const ModelAttention& attention_;
  std::vector<LayerPlanePair> planes_;  // [attention index]
};

Result<uint32_t> Context::choose_window(uint32_t most_tokens) {
  if (file_.tokens.empty()) return unsupported("the file names no token ids");
  const auto all = static_cast<uint32_t>(file_.tokens.size());
  uint32_t end = all;
  bool whole_only = false;
  for (const AttentionLayer& layer : attention_.layers) {
    LayerPlanePair pair;
    for (const KvPlane& plane : file_.tensor.planes) {
      if (plane.layer != layer.layer) continue;
      const KvPlane*& slot = plane.side == Side::kKey ? pair.key : pair.value;
      if (slot != nullptr) return unsupported("the cache holds several streams");
      slot = &plane;
    }
    if (pair.key == nullptr || pair.value == nullptr)
      return unsupported(fmt::format("layer {} is not in the cache", layer.layer));
    if (pair.key->view.kv_heads != layer.kv_heads || pair.key->view.head_dim != layer.key_dim ||
        pair.value->view.kv_heads != layer.kv_heads || pair.value->view.head_dim != layer.value_dim ||
        pair.value->token_set != pair.key->token_set) {
      return unsupported(fmt::format("layer {}: the cache has other shapes than the model", layer.layer));
    }
    planes_.push_back(pair);
    const auto& positions = set_of(planes_.size() - 1).positions;
    if (positions.empty() || positions.back() - positions.front() + 1 != static_cast<int32_t>(positions.size())) {
      return unsupported("the cache's positions have gaps");
    }
    const auto last = static_cast<uint32_t>(positions.back()) + 1;
    if (last > all) return unsupported("the cache holds more positions than the file names token ids");
    end = std::min(end, last);
    if (positions.front() != 0) {
      if (layer.sliding_window == 0) return unsupported("the cache does not begin at position 0");
      whole_only = true;
    }
  }
  if (end > most_tokens) {
    if (whole_only) return unsupported(fmt::format("{} tokens with sliding windows", end));
    end = most_tokens;
  }
  if (end < kLeastTokens) return unsupported(fmt::format("{} tokens are too few", end));
  return end;
}

Result<CachedLayer> Context::cached(size_t index, uint32_t tokens) const {
  const LayerPlanePair& planes = planes_[index];
  CachedLayer layer;
  layer.first = static_cast<uint32_t>(set_of(index).positions.front());
  if (tokens <= layer.first) return unsupported("a layer's cache begins too late");
  layer.tokens = tokens - layer.first;
  layer.key.resize(size_t{layer.tokens} * planes.key->view.channels());
  layer.value.resize(size_t{layer.tokens} * planes.value->view.channels());
  load_rows(planes.key->view, 0, layer.tokens, layer.key.data());
  load_rows(planes.value->view, 0, layer.tokens, layer.value.data());
  return layer;
}

uint32_t queries_of(const ContextProfileOptions& options, uint32_t tokens) {
  return std::max(1u, std::min(options.queries, tokens / kTokensPerQuery));
}

// The last of the context's first `tokens` tokens go through the model; `visit` sees every layer.
Status take_last_tokens(const KvFile& file, const ModelWeights& weights, const ModelAttention& attention,
                        const Context& context, uint32_t tokens, const ContextProfileOptions& options,
                        const std::function<Status(size_t index, const LayerWindow& window)>& visit) {
  SampledForward run;
  run.tokens = std::span(file.tokens).first(tokens);
  run.queries = queries_of(options, tokens);
  run.threads = options.threads;
  run.cached = [&](size_t index) { return context.cached(index, tokens); };
  run.visit = [&](size_t index, const LayerWindow& window) -> Status {
    KVPACK_RETURN_IF_ERROR(visit(index, window));
    if (options.progress) options.progress(index + 1, attention.layers.size(), "measuring");
    return {};
  };
  return run_sampled_forward(weights, attention, run);
}

}  // namespace

Result<Profile> profile_of_context(const KvFile& file, const ModelFacts& facts, ByteSource& model,
                                   const ContextProfileOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(const ModelWeights weights, ModelWeights::open(model, options.threads));
  KVPACK_ASSIGN_OR_RETURN(ModelAttention attention, read_attention_layers(weights, facts, options.threads));
  Context context(file, attention);
  KVPACK_ASSIGN_OR_RETURN(const uint32_t tokens, context.choose_window(options.window_tokens));
  ProfileTrainOptions train;
  train.threads = options.threads;
  ProfileTrainer trainer(attention.layers, train);
  KVPACK_RETURN_IF_ERROR(take_last_tokens(
      file, weights, attention, context, tokens, options, [&](size_t index, const LayerWindow& window) -> Status {
        KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const auto output, trainer.add(index, window));
        return {};
      }));
  KVPACK_ASSIGN_OR_RETURN(Profile profile, trainer.finish());
  profile.model_name = facts.name;
  profile.model_architecture = facts.architecture;
  profile.model_fingerprint = facts.fingerprint;
  profile.method = fmt::format("one context: {} of its first {} tokens taken through the model",
                               queries_of(options, tokens), tokens);
  return profile;
}

namespace {

// What a measurement cannot tell apart from nothing, relative to the head's mean.
constexpr double kLeastScore = 1e-3;

// How a head's scores fall with the distance from whoever asks: [distance - 1] the mean logarithm around it.
std::vector<double> recency_of(std::span<const double> logs) {
  std::vector<double> sums(logs.size() + 1, 0.0);  // [n] of the n nearest
  for (size_t n = 0; n < logs.size(); ++n) sums[n + 1] = sums[n] + logs[logs.size() - 1 - n];
  std::vector<double> recency(logs.size());
  for (size_t n = 0; n < logs.size(); ++n) {
    const size_t begin = (n + 1) * 2 / 3;
    const size_t end = std::min(logs.size(), (n + 1) * 3 / 2 + 1);
    recency[n] = (sums[end] - sums[begin]) / static_cast<double>(end - begin);
  }
  return recency;
}

// One head's scores of all `tokens` of the context, from what its prefix got: keys and values to equal parts, relative
// to their means. What comes after the context asks from further on than its last tokens did, so everything moves
// away by so much; the asking tokens themselves get what others got at their distance.
std::vector<float> scores_of_head(const HeadSensitivity& head, const LayerWindow& window, uint32_t tokens) {
  std::vector<float> scores(tokens, 1.0f);
  const uint32_t measured = window.prefix() - kSinkTokens;
  const auto mean_of = [](const std::vector<double>& weights) {
    const double sum = std::accumulate(weights.begin() + kSinkTokens, weights.end(), 0.0);
    return sum / static_cast<double>(weights.size() - kSinkTokens);
  };
  const double key_mean = mean_of(head.key_weight);
  const double value_mean = mean_of(head.value_weight);
  if (!(key_mean > 0) || !(value_mean > 0)) return scores;
  std::vector<double> logs(measured);  // [token after the sinks]
  for (uint32_t t = 0; t < measured; ++t) {
    const double key = head.key_weight[kSinkTokens + t] / key_mean + kLeastScore;
    const double value = head.value_weight[kSinkTokens + t] / value_mean + kLeastScore;
    logs[t] = 0.5 * (std::log(key) + std::log(value));
  }
  const std::vector<double> recency = recency_of(logs);
  const uint32_t first = window.first_position + kSinkTokens;
  const uint32_t all = measured + window.queries;
  for (uint32_t t = 0; t < all; ++t) {
    const double expected = recency[std::min(all - t, measured) - 1];
    const double log = t < measured ? logs[t] - recency[measured - t - 1] + expected : expected;
    scores[first + t] = static_cast<float>(std::exp(log));
  }
  return scores;
}

}  // namespace

Result<MeasuredTokenScores> measure_token_scores(const KvFile& file, const ModelFacts& facts, ByteSource& model,
                                                 const ContextProfileOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(const ModelWeights weights, ModelWeights::open(model, options.threads));
  KVPACK_ASSIGN_OR_RETURN(const ModelAttention attention, read_attention_layers(weights, facts, options.threads));
  Context context(file, attention);
  KVPACK_ASSIGN_OR_RETURN(const uint32_t tokens, context.choose_window(options.window_tokens));
  uint32_t kv_heads = 0;
  uint64_t all = 0;
  for (const AttentionLayer& layer : attention.layers) kv_heads = std::max(kv_heads, layer.kv_heads);
  for (const TokenSet& set : file.tensor.token_sets) all = std::max<uint64_t>(all, set.positions.size());
  if (all < tokens) return unsupported("the cache's positions have gaps");
  MeasuredTokenScores scores;
  scores.shape = {attention.layers.size(), kv_heads, all};
  scores.values.assign(attention.layers.size() * kv_heads * all, 1.0f);
  SensitivityOptions sensitivity;
  sensitivity.threads = options.threads;
  KVPACK_RETURN_IF_ERROR(take_last_tokens(
      file, weights, attention, context, tokens, options, [&](size_t index, const LayerWindow& window) -> Status {
        if (window.prefix() <= kSinkTokens) return unsupported("a window without a prefix");
        const LayerSensitivity found = attention_sensitivity(attention.layers[index], window, sensitivity);
        for (size_t head = 0; head < found.heads.size(); ++head) {
          const std::vector<float> of_head = scores_of_head(found.heads[head], window, tokens);
          std::copy(of_head.begin(), of_head.end(),
                    scores.values.begin() + static_cast<ptrdiff_t>((index * kv_heads + head) * all));
        }
        return {};
      }));
  return scores;
}

}  // namespace kvpack
