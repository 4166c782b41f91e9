// SPDX-License-Identifier: Apache-2.0
#include "codec/context_profile.h"

#include <fmt/format.h>

#include <algorithm>

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
  SampledForward run;
  run.tokens = std::span(file.tokens).first(tokens);
  run.queries = std::max(1u, std::min(options.queries, tokens / kTokensPerQuery));
  run.threads = options.threads;
  run.cached = [&](size_t index) { return context.cached(index, tokens); };
  run.visit = [&](size_t index, const LayerWindow& window) -> Status {
    KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const auto output, trainer.add(index, window));
    if (options.progress) options.progress(index + 1, attention.layers.size(), "measuring");
    return {};
  };
  KVPACK_RETURN_IF_ERROR(run_sampled_forward(weights, attention, run));
  KVPACK_ASSIGN_OR_RETURN(Profile profile, trainer.finish());
  profile.model_name = facts.name;
  profile.model_architecture = facts.architecture;
  profile.model_fingerprint = facts.fingerprint;
  profile.method = fmt::format("one context: {} of its first {} tokens taken through the model", run.queries, tokens);
  return profile;
}

}  // namespace kvpack
