// SPDX-License-Identifier: Apache-2.0
// A GGUF seen as a model: its keys under the architecture's prefix. Shared by model_gguf.cc and model_gguf_rope.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/architectures.h"
#include "formats/gguf.h"
#include "formats/model_facts.h"

namespace kvpack {

struct GgufModel {
  ByteSource& source;
  Gguf gguf;
  std::string name;  // general.architecture
  Architecture architecture;
  uint32_t layers = 0;
  uint32_t trunk_layers = 0;  // without the prediction layers at the end

  std::string key(std::string_view suffix) const { return name + "." + std::string(suffix); }
  // A value per layer, given as one number or as an array; whole numbers up to `limit`.
  Result<std::optional<std::vector<uint32_t>>> find_per_layer(std::string_view suffix, uint64_t limit) const;
  Result<std::optional<uint32_t>> find_u32(std::string_view suffix, uint64_t limit) const;
};

// Fills facts.ropes, the layers' rope index, multi_section_rope and note; facts.layers holds everything else.
Status add_gguf_ropes(const GgufModel& model, ModelFacts& facts);

}  // namespace kvpack
