// SPDX-License-Identifier: Apache-2.0
// What transformers knows of a model_type without config.json saying so. Shared by model_config.cc (shapes, windows)
// and model_config_rope.cc (rotations). Caches of transformers hold keys in transformers' channel order: rotations
// are NEOX (rotate_half) for the llama family too, and NORM only where the model itself interleaves.
#pragma once

#include <cstdint>
#include <string_view>

#include "formats/json_text.h"
#include "formats/model_facts.h"

namespace kvpack {

enum class ConfigSliding : uint8_t { kNone, kAll, kQwen, kPeriod };
enum class ConfigNoRope : uint8_t { kNever, kFullIfSliding, kSmolLm3 };

struct ConfigModel {
  std::string_view model_type;
  RopeStyle style = RopeStyle::kNeox;
  double rotary_share = 1;  // of a head's channels
  ConfigSliding sliding = ConfigSliding::kNone;
  uint32_t sliding_period = 0;  // kPeriod: layer % period == period - 1 is full
  uint32_t default_window = 0;
  bool sliding_unscaled = false;  // sliding layers ignore rope_scaling
  double local_base = 0;          // base of sliding layers; 0: the full layers'
  double base = 10000;
  uint32_t heads = 0;  // defaults that config.json may leave out; 0: it may not
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t linear_period = 0;  // > 0: of so many layers the last has attention, the others recurrent state
  ConfigNoRope no_rope = ConfigNoRope::kNever;
};

// Null if kvpack does not know the model_type.
const ConfigModel* find_config_model(std::string_view model_type);

// Fills facts.ropes, the layers' rope index, multi_section_rope and note. `model` may be null.
Status add_config_ropes(const Json& config, const ConfigModel* model, ModelFacts& facts);

}  // namespace kvpack
