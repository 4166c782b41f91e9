// SPDX-License-Identifier: Apache-2.0
// ModelFacts from a GGUF's metadata: shapes and windows per layer here, rotations in model_gguf_rope.cc.
#include "formats/model_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "formats/architectures.h"
#include "formats/model_sources.h"

namespace kvpack {

Result<std::optional<std::vector<uint32_t>>> GgufModel::find_per_layer(std::string_view suffix, uint64_t limit) const {
  const std::string full_key = key(suffix);
  KVPACK_ASSIGN_OR_RETURN(auto numbers, gguf.find_numbers(full_key));
  if (!numbers) return std::optional<std::vector<uint32_t>>();
  if (numbers->size() == 1 && layers > 1) numbers->resize(layers, numbers->front());
  if (numbers->size() < layers) {
    return corrupt(fmt::format("GGUF key '{}': {} values for {} layers", full_key, numbers->size(), layers));
  }
  std::vector<uint32_t> values;
  for (uint32_t layer = 0; layer < layers; ++layer) {
    const double number = (*numbers)[layer];
    if (!(number >= 0) || number > static_cast<double>(limit) || number != std::floor(number)) {
      return corrupt(fmt::format("GGUF key '{}': {} for layer {}, expected 0 to {}", full_key, number, layer, limit));
    }
    values.push_back(static_cast<uint32_t>(number));
  }
  return std::optional(std::move(values));
}

Result<std::optional<uint32_t>> GgufModel::find_u32(std::string_view suffix, uint64_t limit) const {
  KVPACK_ASSIGN_OR_RETURN(auto value, gguf.find_uint(key(suffix)));
  if (!value) return std::optional<uint32_t>();
  KVPACK_ASSIGN_OR_RETURN(uint32_t narrow, bounded(*value, 0, limit, fmt::format("GGUF key '{}'", key(suffix))));
  return std::optional(narrow);
}

namespace {

constexpr uint64_t kMaxHeads = 1 << 16;

struct HeadDims {
  uint32_t key = 0;
  uint32_t value = 0;
};

// Head sizes of full or ("_swa") sliding layers.
Result<HeadDims> read_head_dims(const GgufModel& model, uint32_t heads, std::string_view suffix, HeadDims otherwise) {
  HeadDims dims = otherwise;
  if (suffix.empty() && heads > 0) {
    KVPACK_ASSIGN_OR_RETURN(auto embedding, model.gguf.find_uint(model.key("embedding_length")));
    if (embedding && *embedding / heads <= kMaxHeadDim)
      dims.key = dims.value = static_cast<uint32_t>(*embedding / heads);
  }
  KVPACK_ASSIGN_OR_RETURN(auto key, model.find_u32(fmt::format("attention.key_length{}", suffix), kMaxHeadDim));
  KVPACK_ASSIGN_OR_RETURN(auto value, model.find_u32(fmt::format("attention.value_length{}", suffix), kMaxHeadDim));
  return HeadDims{key.value_or(dims.key), value.value_or(dims.value)};
}

// Which layers slide, and by how much.
Status read_sliding(const GgufModel& model, ModelFacts& facts) {
  const SlidingRule* rule = model.architecture.sliding;
  if (rule == nullptr || (rule->only_with_layers > 0 && rule->only_with_layers != model.trunk_layers)) return {};
  KVPACK_ASSIGN_OR_RETURN(auto window, model.find_u32("attention.sliding_window", INT32_MAX));
  const uint32_t tokens = window.value_or(rule->default_window);
  if (tokens == 0) return {};
  facts.sliding_window = model.name == "llama4" ? rule->default_window : tokens;  // llama.cpp: chunks of 8192, always
  const std::string pattern_key = model.key("attention.sliding_window_pattern");
  KVPACK_ASSIGN_OR_RETURN(auto pattern, model.gguf.find_numbers(pattern_key));
  if (pattern && pattern->size() > 1) {
    if (pattern->size() < model.layers) {
      return corrupt(fmt::format("GGUF key '{}': {} values for {} layers", pattern_key, pattern->size(), model.layers));
    }
    for (uint32_t layer = 0; layer < model.layers; ++layer) facts.layers[layer].sliding = (*pattern)[layer] != 0;
    return {};
  }
  uint32_t period = rule->period;
  if (pattern && pattern->size() == 1) {
    KVPACK_ASSIGN_OR_RETURN(auto given, model.find_u32("attention.sliding_window_pattern", INT32_MAX));
    period = given.value_or(period);
  }
  if (period == SlidingRule::kListedOnly) return corrupt(fmt::format("GGUF key '{}' is missing", pattern_key));
  for (uint32_t layer = 0; layer < model.trunk_layers; ++layer) {
    const uint32_t full = period == 0 ? 0 : (rule->full_first ? 0 : period - 1);
    facts.layers[layer].sliding = period == 0 || layer % period != full;
  }
  return {};
}

// Layers that hold recurrent state: listed, every n-th not, or those without KV heads.
Status read_recurrent(const GgufModel& model, ModelFacts& facts) {
  const Architecture& architecture = model.architecture;
  KVPACK_ASSIGN_OR_RETURN(auto listed, model.find_per_layer("attention.recurrent_layers", 1));
  KVPACK_ASSIGN_OR_RETURN(auto interval, model.find_u32("full_attention_interval", kMaxLayers));
  KVPACK_ASSIGN_OR_RETURN(auto feed_forward, model.find_per_layer("feed_forward_length", UINT32_MAX));
  const uint32_t every = interval.value_or(architecture.full_attention_interval);
  const bool skips_feed_forward = model.name.starts_with("nemotron_h");
  for (uint32_t index = 0; index < model.trunk_layers; ++index) {
    LayerFacts& layer = facts.layers[index];
    if (architecture.recurrent) {
      layer.recurrent = true;
    } else if (architecture.full_attention_interval > 0) {
      if (every == 0) return corrupt(fmt::format("GGUF key '{}': 0", model.key("full_attention_interval")));
      layer.recurrent = listed ? (*listed)[index] != 0 : (index + 1) % every != 0;
      if (layer.recurrent) layer.kv_heads = 0;
    } else if (architecture.hybrid && layer.kv_heads == 0) {
      layer.recurrent = !(skips_feed_forward && feed_forward && (*feed_forward)[index] != 0);
    }
  }
  return {};
}

// Layers at the end that reuse the KV of earlier ones, and prediction layers outside the trunk, have none of their own.
Status drop_layers_without_kv(const GgufModel& model, ModelFacts& facts) {
  uint32_t with_kv = model.trunk_layers;
  if (model.name == "gemma3n") with_kv = std::min(with_kv, 20u);
  if (model.name == "gemma4") {
    KVPACK_ASSIGN_OR_RETURN(auto shared, model.find_u32("attention.shared_kv_layers", model.layers));
    with_kv = std::min(with_kv, model.layers - shared.value_or(0));
  }
  for (uint32_t layer = with_kv; layer < model.layers; ++layer) facts.layers[layer].kv_heads = 0;
  for (LayerFacts& layer : facts.layers) {
    if (layer.kv_heads == 0) layer.key_dim = layer.value_dim = 0;
  }
  return {};
}

Status read_shapes(const GgufModel& model, ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(auto heads, model.find_per_layer("attention.head_count", kMaxHeads));
  KVPACK_ASSIGN_OR_RETURN(auto kv_heads, model.find_per_layer("attention.head_count_kv", kMaxKvHeads));
  KVPACK_ASSIGN_OR_RETURN(auto latent_key, model.find_u32("attention.key_length_mla", kMaxHeadDim));
  const uint32_t most_heads = heads ? *std::max_element(heads->begin(), heads->end()) : 0;
  KVPACK_ASSIGN_OR_RETURN(HeadDims full, read_head_dims(model, most_heads, "", {}));
  KVPACK_ASSIGN_OR_RETURN(HeadDims sliding, read_head_dims(model, 0, "_swa", full));
  const bool latent = latent_key.value_or(0) > 0;
  for (uint32_t index = 0; index < model.layers; ++index) {
    LayerFacts& layer = facts.layers[index];
    layer.kv_heads = kv_heads ? (*kv_heads)[index] : (heads ? (*heads)[index] : 0);
    if (layer.kv_heads > kMaxKvHeads) {
      return limit_exceeded(fmt::format("layer {}: {} KV heads, at most {}", index, layer.kv_heads, kMaxKvHeads));
    }
    const HeadDims& dims = layer.sliding ? sliding : full;
    layer.key_dim = dims.key;
    layer.value_dim = latent ? 0 : dims.value;
    if (latent && layer.kv_heads > 0) layer.kv_heads = 1;
  }
  return {};
}

Status check_shapes(const GgufModel& model, const ModelFacts& facts) {
  for (uint32_t index = 0; index < model.layers; ++index) {
    if (facts.layers[index].kv_heads > 0 && facts.layers[index].key_dim == 0) {
      return corrupt(fmt::format("layer {}: {} KV heads but no size: neither '{}' nor '{}' and '{}' are in the GGUF",
                                 index, facts.layers[index].kv_heads, model.key("attention.key_length"),
                                 model.key("embedding_length"), model.key("attention.head_count")));
    }
  }
  return {};
}

Result<GgufModel> open_model(ByteSource& source) {
  KVPACK_ASSIGN_OR_RETURN(Gguf gguf, read_gguf(source));
  KVPACK_ASSIGN_OR_RETURN(auto name, gguf.find_string("general.architecture"));
  if (!name || name->empty() || name->size() > 64) {
    return corrupt("GGUF key 'general.architecture' is missing or not a short name");
  }
  GgufModel model{source, std::move(gguf), *name, find_architecture(*name)};
  KVPACK_ASSIGN_OR_RETURN(auto layers, model.gguf.find_uint(model.key("block_count")));
  if (!layers) return corrupt(fmt::format("GGUF key '{}' is missing", model.key("block_count")));
  KVPACK_ASSIGN_OR_RETURN(model.layers,
                          bounded(*layers, 1, kMaxLayers, fmt::format("GGUF key '{}'", model.key("block_count"))));
  KVPACK_ASSIGN_OR_RETURN(auto extra, model.find_u32("nextn_predict_layers", model.layers));
  model.trunk_layers = model.layers - extra.value_or(0);
  if (model.trunk_layers == 0) model.trunk_layers = model.layers;
  return model;
}

}  // namespace

Result<ModelFacts> model_facts_from_gguf(ByteSource& source) {
  KVPACK_ASSIGN_OR_RETURN(GgufModel model, open_model(source));
  ModelFacts facts;
  facts.architecture = model.name;
  facts.fingerprint = "gguf:" + model.gguf.header_hash;
  KVPACK_ASSIGN_OR_RETURN(auto name, model.gguf.find_string("general.name"));
  facts.name = name.value_or("");
  KVPACK_ASSIGN_OR_RETURN(auto context, model.find_u32("context_length", UINT32_MAX));
  facts.context_length = context.value_or(0);
  facts.layers.resize(model.layers);
  KVPACK_RETURN_IF_ERROR(read_sliding(model, facts));
  KVPACK_RETURN_IF_ERROR(read_shapes(model, facts));
  KVPACK_RETURN_IF_ERROR(read_recurrent(model, facts));
  if (model.name == "lfm2" || model.name == "lfm2moe") {
    for (LayerFacts& layer : facts.layers) layer.sliding = layer.sliding && !layer.recurrent;
  }
  KVPACK_RETURN_IF_ERROR(drop_layers_without_kv(model, facts));
  KVPACK_RETURN_IF_ERROR(check_shapes(model, facts));
  KVPACK_RETURN_IF_ERROR(add_gguf_ropes(model, facts));
  return facts;
}

}  // namespace kvpack
