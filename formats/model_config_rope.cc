// SPDX-License-Identifier: Apache-2.0
// How a transformers model rotates its keys: rope_theta and rope_scaling, or the newer rope_parameters (one object, or
// one per layer type). Follows modeling_rope_utils.py; what it computes only at run time is left unknown, with a note.
#include <fmt/format.h>

#include <cmath>

#include "formats/model_config.h"
#include "formats/model_sources.h"
#include "formats/rope_frequencies.h"

namespace kvpack {
namespace {

struct ConfigRope {
  double base = 0;
  double rotary_share = 1;
  RopeScaling scaling;
  std::string note;       // not empty: unknown, and why
  bool sections = false;  // M-RoPE
};

Result<double> positive(const Json& object, const char* name, double otherwise) {
  KVPACK_ASSIGN_OR_RETURN(auto value, json_number(object, name));
  if (value && *value <= 0) return corrupt(fmt::format("JSON field \"{}\": {}, expected more than 0", name, *value));
  return value.value_or(otherwise);
}

Status read_yarn(const Json& rope, double context, RopeScaling& scaling) {
  scaling.kind = RopeScaling::Kind::kYarn;
  KVPACK_ASSIGN_OR_RETURN(scaling.original_context, positive(rope, "original_max_position_embeddings", context));
  if (scaling.original_context == 0) return corrupt("JSON field \"original_max_position_embeddings\" is missing");
  KVPACK_ASSIGN_OR_RETURN(scaling.factor, positive(rope, "factor", std::max(context, 1.0) / scaling.original_context));
  KVPACK_ASSIGN_OR_RETURN(scaling.beta_fast, positive(rope, "beta_fast", 32));
  KVPACK_ASSIGN_OR_RETURN(scaling.beta_slow, positive(rope, "beta_slow", 1));
  KVPACK_ASSIGN_OR_RETURN(auto whole_ramp, json_bool(rope, "truncate"));
  scaling.whole_ramp = whole_ramp.value_or(true);
  KVPACK_ASSIGN_OR_RETURN(auto weight, json_number(rope, "mscale"));
  KVPACK_ASSIGN_OR_RETURN(auto weight_all, json_number(rope, "mscale_all_dim"));
  double magnitude = yarn_magnitude(scaling.factor, 1);
  if (weight.value_or(0) != 0 && weight_all.value_or(0) != 0) {
    magnitude = yarn_magnitude(scaling.factor, *weight) / yarn_magnitude(scaling.factor, *weight_all);
  }
  KVPACK_ASSIGN_OR_RETURN(scaling.magnitude, positive(rope, "attention_factor", magnitude));
  return {};
}

Status read_llama3(const Json& rope, RopeScaling& scaling) {
  scaling.kind = RopeScaling::Kind::kLlama3;
  KVPACK_ASSIGN_OR_RETURN(scaling.factor, positive(rope, "factor", 0));
  KVPACK_ASSIGN_OR_RETURN(scaling.low_freq_factor, positive(rope, "low_freq_factor", 0));
  KVPACK_ASSIGN_OR_RETURN(scaling.high_freq_factor, positive(rope, "high_freq_factor", 0));
  KVPACK_ASSIGN_OR_RETURN(scaling.original_context, positive(rope, "original_max_position_embeddings", 0));
  if (scaling.factor == 0 || scaling.low_freq_factor == 0 || scaling.original_context == 0 ||
      scaling.high_freq_factor <= scaling.low_freq_factor) {
    return corrupt(
        "rope scaling \"llama3\": factor, low_freq_factor < high_freq_factor and "
        "original_max_position_embeddings are needed");
  }
  return {};
}

// One rope_scaling or rope_parameters object.
Status read_rope_object(const Json& rope, double context, ConfigRope& out) {
  KVPACK_ASSIGN_OR_RETURN(out.base, positive(rope, "rope_theta", out.base));
  KVPACK_ASSIGN_OR_RETURN(out.rotary_share, positive(rope, "partial_rotary_factor", out.rotary_share));
  KVPACK_ASSIGN_OR_RETURN(auto type, json_string(rope, "rope_type"));
  KVPACK_ASSIGN_OR_RETURN(auto old_type, json_string(rope, "type"));
  const std::string kind = type ? *type : old_type.value_or("default");
  if (kind == "mrope" || rope.contains("mrope_section")) {
    out.sections = true;
    out.note = "rotates by several positions per token (M-RoPE)";
  } else if (kind == "linear") {
    out.scaling.kind = RopeScaling::Kind::kLinear;
    KVPACK_ASSIGN_OR_RETURN(out.scaling.factor, positive(rope, "factor", 1));
  } else if (kind == "yarn") {
    KVPACK_RETURN_IF_ERROR(read_yarn(rope, context, out.scaling));
  } else if (kind == "llama3") {
    KVPACK_RETURN_IF_ERROR(read_llama3(rope, out.scaling));
  } else if (kind != "default") {
    out.note = fmt::format("RoPE scaling of type \"{}\" depends on the context size or is not known to kvpack", kind);
  }
  return {};
}

// The rotation of full (or sliding) layers.
Result<ConfigRope> read_rope(const Json& config, const ConfigModel& model, double context, bool sliding) {
  ConfigRope out;
  KVPACK_ASSIGN_OR_RETURN(out.base, positive(config, "rope_theta", model.base));
  KVPACK_ASSIGN_OR_RETURN(out.base, positive(config, "rotary_emb_base", out.base));  // GPT-NeoX
  KVPACK_ASSIGN_OR_RETURN(out.rotary_share, positive(config, "partial_rotary_factor", model.rotary_share));
  KVPACK_ASSIGN_OR_RETURN(out.rotary_share, positive(config, "rotary_pct", out.rotary_share));
  KVPACK_ASSIGN_OR_RETURN(const Json* rope, json_object(config, "rope_parameters"));
  if (rope != nullptr) {
    KVPACK_ASSIGN_OR_RETURN(const Json* nested, json_object(*rope, sliding ? "sliding_attention" : "full_attention"));
    if (nested != nullptr) {
      KVPACK_RETURN_IF_ERROR(read_rope_object(*nested, context, out));
      return out;
    }
  } else {
    KVPACK_ASSIGN_OR_RETURN(rope, json_object(config, "rope_scaling"));
  }
  if (sliding && model.local_base > 0) {
    KVPACK_ASSIGN_OR_RETURN(out.base, positive(config, "rope_local_base_freq", model.local_base));
  }
  if (rope != nullptr && !(sliding && model.sliding_unscaled)) {
    KVPACK_RETURN_IF_ERROR(read_rope_object(*rope, context, out));
  }
  return out;
}

// Per layer: is it left without rotation?
Result<std::vector<bool>> read_unrotated(const Json& config, const ConfigModel& model, const ModelFacts& facts) {
  std::vector<bool> unrotated(facts.layers.size());
  if (model.no_rope == ConfigNoRope::kFullIfSliding && facts.sliding_window > 0) {
    for (size_t i = 0; i < unrotated.size(); ++i) unrotated[i] = !facts.layers[i].sliding;
  }
  if (model.no_rope != ConfigNoRope::kSmolLm3) return unrotated;
  KVPACK_ASSIGN_OR_RETURN(const Json* rotated, json_array(config, "no_rope_layers"));  // 1 means: rotated
  KVPACK_ASSIGN_OR_RETURN(auto interval, json_u32(config, "no_rope_layer_interval", 1, kMaxLayers));
  if (rotated != nullptr && rotated->size() < unrotated.size()) {
    return corrupt(
        fmt::format("JSON field \"no_rope_layers\": {} entries for {} layers", rotated->size(), unrotated.size()));
  }
  for (size_t i = 0; i < unrotated.size(); ++i) {
    unrotated[i] = rotated != nullptr ? (*rotated)[i] == 0 : (i + 1) % interval.value_or(4) == 0;
  }
  return unrotated;
}

Status add_layer_rope(const ConfigModel& model, const ConfigRope& rope, LayerFacts& layer, ModelFacts& facts) {
  const double channels = std::floor(layer.key_dim * rope.rotary_share);
  if (!(channels <= layer.key_dim) || std::fmod(channels, 2) != 0 || !(rope.base > 1)) {
    return corrupt(fmt::format("RoPE of {} of {} channels with base {}", channels, layer.key_dim, rope.base));
  }
  if (channels == 0) return {};
  layer.rope = intern_rope(facts, make_rope(model.style, 0, static_cast<uint32_t>(channels), rope.base, rope.scaling));
  return {};
}

}  // namespace

Status add_config_ropes(const Json& config, const ConfigModel* model, ModelFacts& facts) {
  const double context = facts.context_length;
  const ConfigModel defaults = model != nullptr ? *model : ConfigModel{};
  KVPACK_ASSIGN_OR_RETURN(ConfigRope full, read_rope(config, defaults, context, false));
  KVPACK_ASSIGN_OR_RETURN(ConfigRope sliding, read_rope(config, defaults, context, true));
  facts.multi_section_rope = full.sections;
  if (model == nullptr && !full.sections) {
    facts.note = fmt::format("kvpack does not know how model_type \"{}\" rotates its keys", facts.architecture);
    return {};
  }
  facts.note = full.note.empty() ? sliding.note : full.note;
  if (!facts.note.empty() || model->style == RopeStyle::kNone) return {};
  KVPACK_ASSIGN_OR_RETURN(std::vector<bool> unrotated, read_unrotated(config, *model, facts));
  for (size_t i = 0; i < facts.layers.size(); ++i) {
    LayerFacts& layer = facts.layers[i];
    if (layer.kv_heads == 0 || unrotated[i]) continue;
    KVPACK_RETURN_IF_ERROR(add_layer_rope(*model, layer.sliding ? sliding : full, layer, facts));
  }
  return {};
}

}  // namespace kvpack
