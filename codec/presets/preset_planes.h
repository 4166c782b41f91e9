// SPDX-License-Identifier: Apache-2.0
// What all recipes share: planes as f32 rows with RoPE undone where a recipe wants that, and back.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "codec/presets/preset.h"

namespace kvpack {

// One plane while a recipe works on it.
struct PresetPlane {
  const KvPlane* plane = nullptr;
  const Rope* rope = nullptr;          // that was undone; null: none
  std::span<const int32_t> positions;  // [token]
  uint32_t layers = 1;                 // of the file, counted up to the highest index
  std::vector<float> rows;             // [token][channel]; a recipe leaves here what a decoder would get

  uint32_t tokens() const { return plane->view.tokens; }
  uint32_t heads() const { return plane->view.kv_heads; }
  uint32_t head_dim() const { return plane->view.head_dim; }
  uint32_t channels() const { return plane->view.channels(); }
  bool is_key() const { return plane->side == Side::kKey; }
};

// A result with the file's token sets and shapes, values zero: f32, f16 and bf16 as they are, quantized types as f16.
PresetResult empty_result(const KvTensor& source);

// Values that are not finite count as zero.
PresetPlane load_plane(const PresetInput& input, size_t plane, bool undo_rope);
// Redoes what load_plane undid.
void store_plane(const PresetPlane& plane, size_t index, PresetResult& result);

// Every plane on its own: `recipe` changes the rows and returns how many bits they take.
using PlaneRecipe = std::function<uint64_t(PresetPlane&)>;
Result<PresetResult> run_per_plane(const PresetInput& input, bool undo_rope, const PlaneRecipe& recipe);

}  // namespace kvpack
