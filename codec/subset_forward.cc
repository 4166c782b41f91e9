// SPDX-License-Identifier: Apache-2.0
#include "codec/subset_forward.h"

#include <fmt/format.h>

#include <algorithm>

#include "codec/model_layers.h"
#include "codec/scattered_attention.h"

namespace kvpack {
namespace {

class Pass {
 public:
  Pass(const ModelWeights& weights, const ModelAttention& attention, const SubsetForward& run)
      : layers_(weights, attention), attention_(attention), run_(run), tokens_(run.subset) {}

  Result<uint64_t> run() {
    std::vector<int32_t> ids;
    for (const uint32_t token : tokens_) ids.push_back(run_.tokens[token]);
    KVPACK_ASSIGN_OR_RETURN(stream_, layers_.embed(ids));
    const size_t layers = std::min(run_.layers, attention_.layers.size());
    for (size_t index = 0; index < layers && !tokens_.empty(); ++index) {
      if (attention_.layers[index].layer != index) return unsupported("layers without attention");
      // What the last layer's attention gives only the next token is predicted from.
      const bool last = index + 1 == layers;
      KVPACK_RETURN_IF_ERROR(attend(index, last && !run_.attended));
      computed_ += tokens_.size();
      if (!last) KVPACK_RETURN_IF_ERROR(layers_.add_feed_forward(index, stream_));
    }
    return computed_;
  }

 private:
  Status attend(size_t index, bool cache_only);
  Status check_shapes(const AttentionLayer& layer, const Rows& key, const Rows& value, const CachedLayer& cached) const;
  void keep(const std::vector<uint32_t>& chosen, Rows& input);
  std::vector<int32_t> positions() const { return {tokens_.begin(), tokens_.end()}; }

  const ModelLayers layers_;
  const ModelAttention& attention_;
  const SubsetForward& run_;
  std::vector<uint32_t> tokens_;  // those still under way
  Rows stream_;
  uint64_t computed_ = 0;
};

Status Pass::check_shapes(const AttentionLayer& layer, const Rows& key, const Rows& value,
                          const CachedLayer& cached) const {
  const size_t n = run_.tokens.size();
  if (key.width == layer.kv_heads * layer.key_dim && value.width == layer.kv_heads * layer.value_dim &&
      cached.first == 0 && cached.tokens == n && cached.key.size() == n * key.width &&
      cached.value.size() == n * value.width) {
    return {};
  }
  return unsupported(fmt::format("layer {}: projections of other shapes than the cache's", layer.layer));
}

template <typename Row>
void put_rows(std::span<const uint32_t> tokens, const Row& fresh, std::vector<float>& cached) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto row = fresh.row(i);
    std::copy(row.begin(), row.end(), cached.begin() + static_cast<ptrdiff_t>(tokens[i] * row.size()));
  }
}

// The stream's and the input's rows of `chosen`, a part of tokens_.
void Pass::keep(const std::vector<uint32_t>& chosen, Rows& input) {
  size_t to = 0;
  for (size_t from = 0; from < tokens_.size() && to < chosen.size(); ++from) {
    if (tokens_[from] != chosen[to]) continue;
    for (Rows* rows : {&stream_, &input}) std::ranges::copy(rows->row(from), rows->row(to).begin());
    ++to;
  }
  for (Rows* rows : {&stream_, &input}) rows->values.resize(to * rows->width);
  tokens_ = chosen;
}

Status Pass::attend(size_t index, bool cache_only) {
  const AttentionLayer& layer = attention_.layers[index];
  KVPACK_ASSIGN_OR_RETURN(Rows input, layers_.attention_input(index, stream_));
  KVPACK_ASSIGN_OR_RETURN(const Rows key, layers_.rotated_heads(index, "attn_k", input, positions()));
  KVPACK_ASSIGN_OR_RETURN(const Rows value, layers_.values(index, input));
  KVPACK_ASSIGN_OR_RETURN(CachedLayer cached, run_.cached(index));
  KVPACK_RETURN_IF_ERROR(check_shapes(layer, key, value, cached));
  const std::vector<uint32_t> all = tokens_;
  const FreshLayer fresh{index, all, key.values, value.values, cached};
  if (run_.narrow) {
    KVPACK_ASSIGN_OR_RETURN(const std::vector<uint32_t> chosen, run_.narrow(fresh));
    keep(chosen, input);
  }
  if (run_.store) KVPACK_RETURN_IF_ERROR(run_.store(fresh));
  if (cache_only || tokens_.empty()) return {};

  put_rows(all, key, cached.key);
  put_rows(all, value, cached.value);
  KVPACK_ASSIGN_OR_RETURN(const Rows query, layers_.rotated_heads(index, "attn_q", input, positions()));
  if (query.width != layer.query_heads * layer.key_dim) {
    return unsupported(fmt::format("layer {}: queries of {} values", layer.layer, query.width));
  }
  std::vector<float> received;
  Rows output;
  output.width = layer.query_heads * layer.value_dim;
  output.values = scattered_attention(layer, tokens_, query.values, cached.key, cached.value, run_.threads,
                                      run_.attended ? &received : nullptr);
  if (run_.attended) run_.attended(index, received);
  return layers_.add_attention(index, output, stream_, nullptr);
}

}  // namespace

Result<uint64_t> run_subset_forward(const ModelWeights& weights, const ModelAttention& attention,
                                    const SubsetForward& run) {
  return Pass(weights, attention, run).run();
}

}  // namespace kvpack
