// SPDX-License-Identifier: Apache-2.0
// How a GGUF's keys are rotated. llama.cpp's rules (v0.5.0: llama_model_base::load_hparams, the constructor of
// llama_context for YaRN, rope_yarn of ggml): what no rule covers is left unknown, with a note that says why.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "formats/model_gguf.h"
#include "formats/model_sources.h"
#include "formats/rope_frequencies.h"

namespace kvpack {
namespace {

struct ScalingOrNote {
  RopeScaling scaling;
  std::string note;  // not empty: unknown, and why
};

Result<double> read_factor(const GgufModel& model) {
  for (std::string_view suffix : {"rope.scaling.factor", "rope.scale_linear"}) {
    KVPACK_ASSIGN_OR_RETURN(auto factor, model.gguf.find_number(model.key(suffix)));
    if (!factor) continue;
    if (*factor < 0) return corrupt(fmt::format("GGUF key '{}': {}", model.key(suffix), *factor));
    return *factor == 0 ? 1.0 : *factor;
  }
  return 1.0;
}

// The weights of the two magnitudes whose quotient YaRN uses; DeepSeek's converters wrote a tenth of them.
Result<double> read_yarn_magnitude(const GgufModel& model, double factor) {
  const bool deepseek = model.name == "deepseek2" || model.name == "deepseek32" || model.name == "mistral4";
  if (!deepseek && model.name != "mistral3") return yarn_magnitude(factor, 1);
  KVPACK_ASSIGN_OR_RETURN(auto log_weight, model.gguf.find_number(model.key("rope.scaling.yarn_log_multiplier")));
  if (!log_weight || *log_weight == 0) return yarn_magnitude(factor, 1);
  const double all = deepseek ? *log_weight / 0.1 : *log_weight;
  const bool same = model.name == "deepseek2" && std::abs(all - 1) > 1e-6;
  return yarn_magnitude(factor, same ? all : 1) / yarn_magnitude(factor, all);
}

Status read_yarn(const GgufModel& model, const ModelFacts& facts, RopeScaling& scaling) {
  scaling.kind = RopeScaling::Kind::kYarn;
  KVPACK_ASSIGN_OR_RETURN(auto original, model.find_u32("rope.scaling.original_context_length", UINT32_MAX));
  scaling.original_context = original.value_or(facts.context_length);
  if (scaling.original_context == 0) scaling.original_context = facts.context_length;
  if (scaling.original_context == 0) {
    return corrupt("YaRN scaling without an original context length or a context length");
  }
  KVPACK_ASSIGN_OR_RETURN(double magnitude, read_yarn_magnitude(model, scaling.factor));
  scaling.magnitude *= magnitude;
  if (model.name != "mistral3") return {};  // others: 32 and 1, whatever the file says
  KVPACK_ASSIGN_OR_RETURN(auto fast, model.gguf.find_number(model.key("rope.scaling.yarn_beta_fast")));
  KVPACK_ASSIGN_OR_RETURN(auto slow, model.gguf.find_number(model.key("rope.scaling.yarn_beta_slow")));
  scaling.beta_fast = fast.value_or(scaling.beta_fast);
  scaling.beta_slow = slow.value_or(scaling.beta_slow);
  if (scaling.beta_fast <= 0 || scaling.beta_slow <= 0) return corrupt("YaRN scaling with a beta of 0 or below");
  return {};
}

Result<ScalingOrNote> read_scaling(const GgufModel& model, const ModelFacts& facts) {
  ScalingOrNote result;
  RopeScaling& scaling = result.scaling;
  KVPACK_ASSIGN_OR_RETURN(scaling.factor, read_factor(model));
  KVPACK_ASSIGN_OR_RETURN(auto attention_factor, model.gguf.find_number(model.key("rope.scaling.attn_factor")));
  scaling.magnitude = attention_factor.value_or(1);
  KVPACK_ASSIGN_OR_RETURN(auto alpha, model.gguf.find_number(model.key("rope.scaling.alpha")));
  if (alpha.value_or(0) != 0) result.note = "RoPE scaling by 'alpha' is not known to kvpack";
  KVPACK_ASSIGN_OR_RETURN(auto type, model.gguf.find_string(model.key("rope.scaling.type")));
  const std::string kind = type.value_or("linear");
  if (kind == "yarn") {
    KVPACK_RETURN_IF_ERROR(read_yarn(model, facts, scaling));
  } else if (kind == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
  } else if (kind != "none" && kind != "longrope") {
    result.note = fmt::format("RoPE scaling of type '{}' is not known to kvpack", kind);
  }
  if (model.name != "falcon-h1") {  // it has the tensor, and llama.cpp does not use it
    KVPACK_ASSIGN_OR_RETURN(scaling.factors, read_gguf_f32(model.source, model.gguf, "rope_freqs.weight", kMaxHeadDim));
  }
  if (scaling.factors.empty() && model.gguf.tensors.contains("rope_factors_long.weight")) {
    result.note = "longrope: the rotation depends on the context size that the cache was made with";
  } else if (kind == "longrope") {
    scaling.kind = RopeScaling::Kind::kLinear;  // llama.cpp: without factor tensors only the scale is left
  }
  for (float factor : scaling.factors) {
    if (!(factor > 0) || !std::isfinite(factor)) {
      return corrupt(fmt::format("GGUF tensor 'rope_freqs.weight': a factor of {}", factor));
    }
  }
  if (!(scaling.magnitude > 0)) return corrupt(fmt::format("RoPE magnitude {}", scaling.magnitude));
  return result;
}

RopeScaling sliding_scaling(const RopeScaling& full, const Architecture& architecture, const std::string& name,
                            double attention_factor) {
  const SlidingScale rule = architecture.sliding->scale;
  RopeScaling scaling = full;
  if (rule != SlidingScale::kSame) {
    scaling.kind = RopeScaling::Kind::kNone;
    scaling.magnitude = rule == SlidingScale::kPlain ? 1 : attention_factor;
  }
  if (name == "gemma4") scaling.factors.clear();  // its factors are the full layers'
  return scaling;
}

bool layer_is_unrotated(NoRope rule, uint32_t layer, const ModelFacts& facts, bool finetuned) {
  const bool any_slides = facts.sliding_window > 0;
  switch (rule) {
    case NoRope::kNever:
      return false;
    case NoRope::kFullLayers:
      return any_slides && !facts.layers[layer].sliding;
    case NoRope::kEveryFourth:
      return layer % 4 == 3;
    case NoRope::kEveryFourthIfSliding:
      return any_slides && layer % 4 == 3;
    case NoRope::kFirstOfFourIfSliding:
      return any_slides && layer % 4 == 0;
    case NoRope::kUnlessMarkedFinetuned:
      return !finetuned;
  }
  return false;
}

struct RopeKeys {
  double base = 10000;
  double sliding_base = 0;  // 0: the full layers'
  std::optional<uint32_t> dims;
  std::optional<uint32_t> sliding_dims;
  bool finetuned = true;
};

Result<RopeKeys> read_rope_keys(const GgufModel& model) {
  RopeKeys keys;
  KVPACK_ASSIGN_OR_RETURN(auto base, model.gguf.find_number(model.key("rope.freq_base")));
  KVPACK_ASSIGN_OR_RETURN(auto sliding_base, model.gguf.find_number(model.key("rope.freq_base_swa")));
  KVPACK_ASSIGN_OR_RETURN(keys.dims, model.find_u32("rope.dimension_count", kMaxHeadDim));
  KVPACK_ASSIGN_OR_RETURN(keys.sliding_dims, model.find_u32("rope.dimension_count_swa", kMaxHeadDim));
  keys.base = base.value_or(10000);
  const SlidingRule* rule = model.architecture.sliding;
  if (rule != nullptr && rule->scale != SlidingScale::kPlain) {
    keys.sliding_base = sliding_base.value_or(rule->base > 0 ? rule->base : keys.base);
  }
  if (keys.sliding_base == 0) keys.sliding_base = keys.base;
  for (double value : {keys.base, keys.sliding_base}) {
    if (!(value > 1)) return corrupt(fmt::format("RoPE base {}, expected a number above 1", value));
  }
  const auto finetuned = model.gguf.values.find(model.key("rope.scaling.finetuned"));
  if (finetuned != model.gguf.values.end()) {
    const bool* flag = std::get_if<bool>(&finetuned->second);
    if (flag == nullptr) return corrupt(fmt::format("GGUF key '{}': expected a boolean", finetuned->first));
    keys.finetuned = *flag;
  }
  return keys;
}

Status add_layer_rope(const GgufModel& model, const RopeKeys& keys, const RopeScaling& scaling, uint32_t index,
                      ModelFacts& facts) {
  LayerFacts& layer = facts.layers[index];
  if (layer.kv_heads == 0 || layer_is_unrotated(model.architecture.no_rope, index, facts, keys.finetuned)) return {};
  const uint32_t full_dims = keys.dims.value_or(layer.key_dim);
  const uint32_t dims = layer.sliding ? keys.sliding_dims.value_or(full_dims) : full_dims;
  if (dims == 0) return {};
  if (dims % 2 != 0 || dims > layer.key_dim) {
    return corrupt(fmt::format("layer {}: {} rotated channels of a head of {}", index, dims, layer.key_dim));
  }
  if (!scaling.factors.empty() && scaling.factors.size() < dims / 2) {
    return corrupt(fmt::format("GGUF tensor 'rope_freqs.weight': {} factors for {} pairs of channels",
                               scaling.factors.size(), dims / 2));
  }
  const RopeStyle style = model.architecture.rope == RopeKind::kNorm ? RopeStyle::kNorm : RopeStyle::kNeox;
  const uint32_t first = model.architecture.rope_at_tail ? layer.key_dim - dims : 0;
  const double base = layer.sliding ? keys.sliding_base : keys.base;
  layer.rope = intern_rope(facts, make_rope(style, first, dims, base, scaling));
  return {};
}

// Why the architecture as such leaves the rotation unknown; empty if it does not.
Result<std::string> unknown_style(const GgufModel& model, ModelFacts& facts) {
  bool sections = model.architecture.rope == RopeKind::kSections;
  if (model.name == "glm4" || model.name == "glm4moe") {
    KVPACK_ASSIGN_OR_RETURN(auto given, model.gguf.find_numbers(model.key("rope.dimension_sections")));
    sections = given && std::any_of(given->begin(), given->end(), [](double section) { return section != 0; });
  }
  facts.multi_section_rope = sections;
  if (sections) return fmt::format("architecture '{}' rotates by several positions per token (M-RoPE)", model.name);
  if (model.architecture.rope == RopeKind::kUnknown) {
    return fmt::format("kvpack does not know how architecture '{}' rotates its keys", model.name);
  }
  return std::string();
}

}  // namespace

Status add_gguf_ropes(const GgufModel& model, ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(facts.note, unknown_style(model, facts));
  if (!facts.note.empty() || model.architecture.rope == RopeKind::kNone) return {};
  KVPACK_ASSIGN_OR_RETURN(ScalingOrNote full, read_scaling(model, facts));
  facts.note = full.note;
  if (!facts.note.empty()) return {};
  KVPACK_ASSIGN_OR_RETURN(RopeKeys keys, read_rope_keys(model));
  KVPACK_ASSIGN_OR_RETURN(auto attention_factor, model.gguf.find_number(model.key("rope.scaling.attn_factor")));
  RopeScaling sliding;
  if (model.architecture.sliding != nullptr) {
    sliding = sliding_scaling(full.scaling, model.architecture, model.name, attention_factor.value_or(1));
  }
  for (uint32_t index = 0; index < model.layers; ++index) {
    const RopeScaling& scaling = facts.layers[index].sliding ? sliding : full.scaling;
    KVPACK_RETURN_IF_ERROR(add_layer_rope(model, keys, scaling, index, facts));
  }
  return {};
}

}  // namespace kvpack
