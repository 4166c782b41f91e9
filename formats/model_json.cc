// SPDX-License-Identifier: Apache-2.0
// kvpack's model.json: ModelFacts as text, exactly.
//
//   {"kvpack_model": 1, "architecture": "llama", "name": "...", "fingerprint": "gguf:...",
//    "context_length": 2048, "sliding_window": 0, "multi_section_rope": false, "note": "",
//    "ropes":  [{"style": "norm", "first_channel": 0, "base": 10000, "magnitude": 1, "inv_freq": [1, 0.74989...]}],
//    "layers": [{"count": 4, "kv_heads": 2, "key_dim": 64, "value_dim": 64, "rope": 0,
//                "sliding": false, "recurrent": false}]}
//
// A layer entry stands for `count` equal layers in a row. Numbers are printed so that they read back to the same
// double. Only the first two fields and "layers" are required.
#include <fmt/format.h>

#include <array>

#include "formats/json_text.h"
#include "formats/model_facts.h"
#include "formats/model_sources.h"

namespace kvpack {
namespace {

constexpr uint32_t kVersion = 1;
constexpr std::array<std::string_view, 3> kStyleNames = {"none", "norm", "neox"};

bool same_layer(const LayerFacts& a, const LayerFacts& b) {
  return a.kv_heads == b.kv_heads && a.key_dim == b.key_dim && a.value_dim == b.value_dim && a.rope == b.rope &&
         a.sliding == b.sliding && a.recurrent == b.recurrent;
}

Json layers_to_json(const ModelFacts& facts) {
  Json entries = Json::array();
  for (size_t i = 0; i < facts.layers.size();) {
    const LayerFacts& layer = facts.layers[i];
    size_t end = i + 1;
    while (end < facts.layers.size() && same_layer(facts.layers[end], layer)) ++end;
    entries.push_back({{"count", end - i},
                       {"kv_heads", layer.kv_heads},
                       {"key_dim", layer.key_dim},
                       {"value_dim", layer.value_dim},
                       {"rope", layer.rope},
                       {"sliding", layer.sliding},
                       {"recurrent", layer.recurrent}});
    i = end;
  }
  return entries;
}

Result<Rope> rope_from_json(const Json& json) {
  if (!json.is_object()) return corrupt("JSON field \"ropes\": expected objects");
  Rope rope;
  KVPACK_ASSIGN_OR_RETURN(auto style, json_string(json, "style"));
  const auto known = std::find(kStyleNames.begin(), kStyleNames.end(), style.value_or(""));
  if (known == kStyleNames.end()) return corrupt("JSON field \"style\": expected \"none\", \"norm\" or \"neox\"");
  rope.style = static_cast<RopeStyle>(known - kStyleNames.begin());
  KVPACK_ASSIGN_OR_RETURN(auto first_channel, json_u32(json, "first_channel", 0, kMaxHeadDim));
  KVPACK_ASSIGN_OR_RETURN(auto base, json_number(json, "base"));
  KVPACK_ASSIGN_OR_RETURN(auto magnitude, json_number(json, "magnitude"));
  rope.first_channel = first_channel.value_or(0);
  rope.base = base.value_or(0);
  rope.magnitude = magnitude.value_or(1);
  if (!(rope.magnitude > 0)) return corrupt(fmt::format("JSON field \"magnitude\": {}", rope.magnitude));
  KVPACK_ASSIGN_OR_RETURN(const Json* frequencies, json_array(json, "inv_freq"));
  if (frequencies == nullptr || frequencies->size() > kMaxHeadDim / 2) {
    return corrupt(fmt::format("JSON field \"inv_freq\": expected an array of at most {} numbers", kMaxHeadDim / 2));
  }
  for (const Json& frequency : *frequencies) {
    if (!frequency.is_number()) return corrupt("JSON field \"inv_freq\": expected numbers");
    rope.inv_freq.push_back(frequency.get<double>());
  }
  return rope;
}

Result<LayerFacts> layer_from_json(const Json& json, const ModelFacts& facts) {
  LayerFacts layer;
  KVPACK_ASSIGN_OR_RETURN(auto kv_heads, json_u32(json, "kv_heads", 0, kMaxKvHeads));
  KVPACK_ASSIGN_OR_RETURN(auto key_dim, json_u32(json, "key_dim", 0, kMaxHeadDim));
  KVPACK_ASSIGN_OR_RETURN(auto value_dim, json_u32(json, "value_dim", 0, kMaxHeadDim));
  KVPACK_ASSIGN_OR_RETURN(auto rope, json_number(json, "rope"));
  KVPACK_ASSIGN_OR_RETURN(auto sliding, json_bool(json, "sliding"));
  KVPACK_ASSIGN_OR_RETURN(auto recurrent, json_bool(json, "recurrent"));
  layer.kv_heads = kv_heads.value_or(0);
  layer.key_dim = key_dim.value_or(0);
  layer.value_dim = value_dim.value_or(0);
  layer.sliding = sliding.value_or(false);
  layer.recurrent = recurrent.value_or(false);
  if (layer.kv_heads > 0 && layer.key_dim == 0) return corrupt("JSON field \"key_dim\": 0 in a layer with KV heads");
  const double index = rope.value_or(-1);
  if (index == -1) return layer;
  if (!(index >= 0) || index >= static_cast<double>(facts.ropes.size()) || index != static_cast<int32_t>(index)) {
    return corrupt(fmt::format("JSON field \"rope\": {}, there are {} ropes", index, facts.ropes.size()));
  }
  layer.rope = static_cast<int32_t>(index);
  const Rope& rotation = facts.ropes[layer.rope];
  if (uint64_t{rotation.first_channel} + rotation.dims() > layer.key_dim) {
    return corrupt(fmt::format("JSON layer: rope {} rotates channels {} to {} of a key of {}", layer.rope,
                               rotation.first_channel, rotation.first_channel + rotation.dims(), layer.key_dim));
  }
  return layer;
}

Status layers_from_json(const Json& json, ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(const Json* entries, json_array(json, "layers"));
  if (entries == nullptr || entries->empty()) return corrupt("JSON field \"layers\": expected a list of layers");
  for (const Json& entry : *entries) {
    if (!entry.is_object()) return corrupt("JSON field \"layers\": expected objects");
    KVPACK_ASSIGN_OR_RETURN(auto count, json_u32(entry, "count", 1, kMaxLayers));
    KVPACK_ASSIGN_OR_RETURN(LayerFacts layer, layer_from_json(entry, facts));
    const uint32_t repeat = count.value_or(1);
    if (facts.layers.size() + repeat > kMaxLayers) {
      return limit_exceeded(fmt::format("JSON field \"layers\": more than {} layers", kMaxLayers));
    }
    facts.layers.insert(facts.layers.end(), repeat, layer);
  }
  return {};
}

Status ropes_from_json(const Json& json, ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(const Json* entries, json_array(json, "ropes"));
  if (entries == nullptr) return {};
  if (entries->size() > kMaxLayers) {
    return limit_exceeded(fmt::format("JSON field \"ropes\": more than {} ropes", kMaxLayers));
  }
  for (const Json& entry : *entries) {
    KVPACK_ASSIGN_OR_RETURN(Rope rope, rope_from_json(entry));
    facts.ropes.push_back(std::move(rope));
  }
  return {};
}

}  // namespace

std::string model_facts_to_json(const ModelFacts& facts) {
  Json ropes = Json::array();
  for (const Rope& rope : facts.ropes) {
    ropes.push_back({{"style", kStyleNames[static_cast<size_t>(rope.style)]},
                     {"first_channel", rope.first_channel},
                     {"base", rope.base},
                     {"magnitude", rope.magnitude},
                     {"inv_freq", rope.inv_freq}});
  }
  const Json json = {{"kvpack_model", kVersion},
                     {"architecture", facts.architecture},
                     {"name", facts.name},
                     {"fingerprint", facts.fingerprint},
                     {"context_length", facts.context_length},
                     {"sliding_window", facts.sliding_window},
                     {"multi_section_rope", facts.multi_section_rope},
                     {"note", facts.note},
                     {"ropes", std::move(ropes)},
                     {"layers", layers_to_json(facts)}};
  return dump_json(json) + "\n";
}

Result<ModelFacts> model_facts_from_json(std::string_view text) {
  KVPACK_ASSIGN_OR_RETURN(Json json, parse_json(text, kMaxModelJsonBytes));
  if (!json.is_object() || !json.contains("kvpack_model")) return corrupt("JSON field \"kvpack_model\" is missing");
  KVPACK_ASSIGN_OR_RETURN(auto version, json_u32(json, "kvpack_model", 0, UINT32_MAX));
  if (version != kVersion) {
    return unsupported(
        fmt::format("JSON field \"kvpack_model\": version {}, only {} is read", version.value_or(0), kVersion));
  }
  ModelFacts facts;
  KVPACK_ASSIGN_OR_RETURN(auto architecture, json_string(json, "architecture"));
  if (!architecture) return corrupt("JSON field \"architecture\" is missing");
  KVPACK_ASSIGN_OR_RETURN(auto name, json_string(json, "name"));
  KVPACK_ASSIGN_OR_RETURN(auto fingerprint, json_string(json, "fingerprint"));
  KVPACK_ASSIGN_OR_RETURN(auto note, json_string(json, "note"));
  KVPACK_ASSIGN_OR_RETURN(auto context, json_u32(json, "context_length", 0, UINT32_MAX));
  KVPACK_ASSIGN_OR_RETURN(auto window, json_u32(json, "sliding_window", 0, UINT32_MAX));
  KVPACK_ASSIGN_OR_RETURN(auto sections, json_bool(json, "multi_section_rope"));
  facts.architecture = std::move(*architecture);
  facts.name = name.value_or("");
  facts.fingerprint = fingerprint.value_or("");
  facts.note = note.value_or("");
  facts.context_length = context.value_or(0);
  facts.sliding_window = window.value_or(0);
  facts.multi_section_rope = sections.value_or(false);
  KVPACK_RETURN_IF_ERROR(ropes_from_json(json, facts));
  KVPACK_RETURN_IF_ERROR(layers_from_json(json, facts));
  return facts;
}

}  // namespace kvpack
