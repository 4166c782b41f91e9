// SPDX-License-Identifier: Apache-2.0
// ModelFacts from a transformers config.json: shapes and windows per layer here, rotations in model_config_rope.cc.
#include "formats/model_config.h"

#include <fmt/format.h>

#include <array>

#include "formats/checksum.h"
#include "formats/model_sources.h"

namespace kvpack {
namespace {

constexpr auto kModels = std::to_array<ConfigModel>({
    {.model_type = "apertus"},
    {.model_type = "arcee"},
    {.model_type = "bitnet"},
    {.model_type = "cohere", .style = RopeStyle::kNorm},
    {.model_type = "cohere2",
     .style = RopeStyle::kNorm,
     .sliding = ConfigSliding::kPeriod,
     .sliding_period = 4,
     .default_window = 4096,
     .no_rope = ConfigNoRope::kFullIfSliding},
    {.model_type = "dots1"},
    {.model_type = "ernie4_5", .style = RopeStyle::kNorm},
    {.model_type = "exaone4",
     .sliding = ConfigSliding::kPeriod,
     .sliding_period = 4,
     .no_rope = ConfigNoRope::kFullIfSliding},
    {.model_type = "gemma", .head_dim = 256},
    {.model_type = "gemma2",
     .sliding = ConfigSliding::kPeriod,
     .sliding_period = 2,
     .default_window = 4096,
     .head_dim = 256},
    {.model_type = "gemma3_text",
     .sliding = ConfigSliding::kPeriod,
     .sliding_period = 6,
     .default_window = 4096,
     .sliding_unscaled = true,
     .local_base = 10000,
     .base = 1000000,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 256},
    {.model_type = "glm", .style = RopeStyle::kNorm, .rotary_share = 0.5},
    {.model_type = "glm4", .style = RopeStyle::kNorm, .rotary_share = 0.5},
    {.model_type = "glm4_moe", .rotary_share = 0.5},
    {.model_type = "gpt2", .style = RopeStyle::kNone},
    {.model_type = "gpt_neox", .rotary_share = 0.25},
    {.model_type = "gpt_oss",
     .sliding = ConfigSliding::kPeriod,
     .sliding_period = 2,
     .default_window = 128,
     .base = 150000,
     .head_dim = 64},
    {.model_type = "granite"},
    {.model_type = "granitemoe"},
    {.model_type = "helium", .style = RopeStyle::kNorm},
    {.model_type = "hunyuan_v1_dense"},
    {.model_type = "lfm2", .base = 1000000},
    {.model_type = "llama"},
    {.model_type = "ministral", .sliding = ConfigSliding::kAll},
    {.model_type = "mistral", .sliding = ConfigSliding::kAll},
    {.model_type = "mixtral", .sliding = ConfigSliding::kAll},
    {.model_type = "nemotron", .rotary_share = 0.5},
    {.model_type = "olmo"},
    {.model_type = "olmo2"},
    {.model_type = "olmo3",
     .sliding = ConfigSliding::kPeriod,
     .sliding_period = 4,
     .default_window = 4096,
     .sliding_unscaled = true},
    {.model_type = "olmoe"},
    {.model_type = "opt", .style = RopeStyle::kNone},
    {.model_type = "persimmon", .rotary_share = 0.5},
    {.model_type = "phi", .rotary_share = 0.5},
    {.model_type = "phi3", .sliding = ConfigSliding::kAll},
    {.model_type = "qwen2", .sliding = ConfigSliding::kQwen},
    {.model_type = "qwen2_moe", .sliding = ConfigSliding::kQwen},
    {.model_type = "qwen3", .sliding = ConfigSliding::kQwen, .head_dim = 128},
    {.model_type = "qwen3_moe", .sliding = ConfigSliding::kQwen},
    {.model_type = "qwen3_next", .rotary_share = 0.25, .head_dim = 256, .linear_period = 4},
    {.model_type = "seed_oss", .head_dim = 128},
    {.model_type = "smollm3", .base = 2000000, .no_rope = ConfigNoRope::kSmolLm3},
    {.model_type = "stablelm", .rotary_share = 0.25},
    {.model_type = "starcoder2", .sliding = ConfigSliding::kAll},
});

// The first of several names for one number (GPT-2's config has its own).
Result<std::optional<uint32_t>> first_u32(const Json& config, std::initializer_list<const char*> names,
                                          uint64_t limit) {
  for (const char* name : names) {
    KVPACK_ASSIGN_OR_RETURN(auto value, json_u32(config, name, 0, limit));
    if (value) return value;
  }
  return std::optional<uint32_t>();
}

Error missing(std::string_view name) { return corrupt(fmt::format("JSON field \"{}\" is missing", name)); }

Status read_shapes(const Json& config, const ConfigModel& model, ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(auto heads, first_u32(config, {"num_attention_heads", "n_head"}, 1 << 16));
  KVPACK_ASSIGN_OR_RETURN(auto kv_heads, json_u32(config, "num_key_value_heads", 1, kMaxKvHeads));
  KVPACK_ASSIGN_OR_RETURN(auto head_dim, json_u32(config, "head_dim", 1, kMaxHeadDim));
  KVPACK_ASSIGN_OR_RETURN(auto hidden, first_u32(config, {"hidden_size", "n_embd"}, UINT32_MAX));
  const uint32_t all_heads = heads.value_or(model.heads);
  if (all_heads == 0) return missing("num_attention_heads");
  LayerFacts layer;
  layer.kv_heads = kv_heads.value_or(model.kv_heads > 0 && !heads ? model.kv_heads : all_heads);
  layer.key_dim = head_dim.value_or(model.head_dim > 0 ? model.head_dim : hidden.value_or(0) / all_heads);
  if (layer.kv_heads > kMaxKvHeads || layer.key_dim > kMaxHeadDim) {
    return limit_exceeded(
        fmt::format("{} KV heads of {}, at most {} of {}", layer.kv_heads, layer.key_dim, kMaxKvHeads, kMaxHeadDim));
  }
  if (layer.key_dim == 0) return missing("head_dim\" or \"hidden_size");
  layer.value_dim = layer.key_dim;
  std::fill(facts.layers.begin(), facts.layers.end(), layer);
  return {};
}

// Heads of DeepSeek's caches in transformers: the keys and values after decompression.
Status read_latent_shapes(const Json& config, ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(auto rank, json_u32(config, "kv_lora_rank", 0, UINT32_MAX));
  KVPACK_ASSIGN_OR_RETURN(auto plain, json_u32(config, "qk_nope_head_dim", 0, kMaxHeadDim / 2));
  KVPACK_ASSIGN_OR_RETURN(auto rotated, json_u32(config, "qk_rope_head_dim", 0, kMaxHeadDim / 2));
  KVPACK_ASSIGN_OR_RETURN(auto value, json_u32(config, "v_head_dim", 0, kMaxHeadDim));
  if (!rank || !plain || !rotated || !value || *plain + *rotated == 0) return {};
  for (LayerFacts& layer : facts.layers) {
    layer.key_dim = *plain + *rotated;
    layer.value_dim = *value;
  }
  return {};
}

Status read_layer_types(const Json& types, ModelFacts& facts) {
  if (types.size() < facts.layers.size()) {
    return corrupt(
        fmt::format("JSON field \"layer_types\": {} entries for {} layers", types.size(), facts.layers.size()));
  }
  for (size_t i = 0; i < facts.layers.size(); ++i) {
    if (!types[i].is_string()) return corrupt("JSON field \"layer_types\": expected strings");
    const std::string& type = types[i].get_ref<const std::string&>();
    LayerFacts& layer = facts.layers[i];
    layer.sliding = type == "sliding_attention" || type == "chunked_attention";
    layer.recurrent = !layer.sliding && type != "full_attention";
    if (layer.recurrent) layer.kv_heads = layer.key_dim = layer.value_dim = 0;
  }
  return {};
}

Status read_default_sliding(const Json& config, const ConfigModel& model, ModelFacts& facts) {
  uint32_t first = 0;
  uint32_t period = 0;  // 0: all layers from `first` slide
  if (model.sliding == ConfigSliding::kNone) return {};
  if (model.sliding == ConfigSliding::kQwen) {
    KVPACK_ASSIGN_OR_RETURN(auto from, json_u32(config, "max_window_layers", 0, UINT32_MAX));
    first = from.value_or(28);
  }
  if (model.sliding == ConfigSliding::kPeriod) {
    const auto given = config.find("sliding_window_pattern");
    if (given != config.end() && given->is_string()) {  // EXAONE 4: "LLLG"
      period = static_cast<uint32_t>(std::min<size_t>(given->get_ref<const std::string&>().size(), kMaxLayers));
    } else {
      KVPACK_ASSIGN_OR_RETURN(auto number, json_u32(config, "sliding_window_pattern", 1, kMaxLayers));
      period = number.value_or(model.sliding_period);
    }
  }
  for (uint32_t i = first; i < facts.layers.size(); ++i) {
    facts.layers[i].sliding = period == 0 || i % period != period - 1;
  }
  return {};
}

Status read_layer_kinds(const Json& config, const ConfigModel& model, ModelFacts& facts) {
  const bool window_is_null = config.contains("sliding_window") && config["sliding_window"].is_null();
  KVPACK_ASSIGN_OR_RETURN(auto window, json_u32(config, "sliding_window", 0, INT32_MAX));
  KVPACK_ASSIGN_OR_RETURN(auto use_window, json_bool(config, "use_sliding_window"));
  const bool used = use_window.value_or(model.sliding != ConfigSliding::kQwen) && !window_is_null;
  const uint32_t tokens = used ? window.value_or(model.default_window) : 0;
  KVPACK_ASSIGN_OR_RETURN(const Json* types, json_array(config, "layer_types"));
  if (types != nullptr) {
    KVPACK_RETURN_IF_ERROR(read_layer_types(*types, facts));
  } else if (model.linear_period > 0) {
    for (uint32_t i = 0; i < facts.layers.size(); ++i) {
      if (i % model.linear_period != model.linear_period - 1) facts.layers[i] = {.recurrent = true};
    }
  } else if (tokens > 0) {
    KVPACK_RETURN_IF_ERROR(read_default_sliding(config, model, facts));
  }
  for (LayerFacts& layer : facts.layers) {
    layer.sliding = layer.sliding && tokens > 0;
    if (layer.sliding) facts.sliding_window = tokens;
  }
  return {};
}

// The part of a config that describes the language model; vision models nest it.
Result<const Json*> find_text_config(const Json& config) {
  KVPACK_ASSIGN_OR_RETURN(const Json* text, json_object(config, "text_config"));
  return text != nullptr && !config.contains("num_hidden_layers") ? text : &config;
}

}  // namespace

const ConfigModel* find_config_model(std::string_view model_type) {
  for (const ConfigModel& model : kModels) {
    if (model.model_type == model_type) return &model;
  }
  return nullptr;
}

Result<ModelFacts> model_facts_from_config(std::string_view text) {
  KVPACK_ASSIGN_OR_RETURN(Json whole, parse_json(text, kMaxModelJsonBytes));
  if (!whole.is_object()) return corrupt("config.json: expected an object");
  KVPACK_ASSIGN_OR_RETURN(const Json* config, find_text_config(whole));
  ModelFacts facts;
  facts.fingerprint = "config:" + xxh3_128_hex(as_byte_span(dump_json(whole)));
  KVPACK_ASSIGN_OR_RETURN(auto outer_type, json_string(whole, "model_type"));
  KVPACK_ASSIGN_OR_RETURN(auto inner_type, json_string(*config, "model_type"));
  if (!outer_type && !inner_type) return missing("model_type");
  facts.architecture = inner_type ? *inner_type : *outer_type;
  if (facts.architecture == "gemma3") facts.architecture = "gemma3_text";  // an inner config without its own type
  KVPACK_ASSIGN_OR_RETURN(auto name, json_string(whole, "_name_or_path"));
  facts.name = name.value_or("");
  KVPACK_ASSIGN_OR_RETURN(auto context, first_u32(*config, {"max_position_embeddings", "n_positions"}, UINT32_MAX));
  facts.context_length = context.value_or(0);
  KVPACK_ASSIGN_OR_RETURN(auto layers, first_u32(*config, {"num_hidden_layers", "n_layer"}, kMaxLayers));
  if (!layers || *layers == 0) return missing("num_hidden_layers");
  facts.layers.resize(*layers);
  const ConfigModel* model = find_config_model(facts.architecture);
  const ConfigModel defaults = model != nullptr ? *model : ConfigModel{};
  KVPACK_RETURN_IF_ERROR(read_shapes(*config, defaults, facts));
  KVPACK_RETURN_IF_ERROR(read_latent_shapes(*config, facts));
  KVPACK_RETURN_IF_ERROR(read_layer_kinds(*config, defaults, facts));
  KVPACK_RETURN_IF_ERROR(add_config_ropes(*config, model, facts));
  return facts;
}

}  // namespace kvpack
