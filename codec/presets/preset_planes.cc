// SPDX-License-Identifier: Apache-2.0
#include "codec/presets/preset_planes.h"

#include <algorithm>
#include <cmath>

#include "codec/parallel.h"
#include "codec/rope.h"

namespace kvpack {
namespace {

DType stored_type(DType source) { return dtype_is_quantized(source) ? DType::kF16 : source; }

}  // namespace

PresetResult empty_result(const KvTensor& source) {
  PresetResult result;
  result.tensor.token_sets = source.token_sets;
  for (TokenSet& set : result.tensor.token_sets) set.row_of_token.clear();
  uint64_t total = 0;
  for (const KvPlane& plane : source.planes) {
    total += plane.view.tokens * uint64_t{plane.view.channels()} * dtype_block_bytes(stored_type(plane.view.dtype));
  }
  const auto storage = std::make_shared<const FileBytes>(Bytes(total));
  const std::byte* at = storage->data();
  for (const KvPlane& plane : source.planes) {
    KvPlane copy = plane;
    copy.view =
        make_row_view(at, stored_type(plane.view.dtype), plane.view.tokens, plane.view.kv_heads, plane.view.head_dim);
    at += copy.view.token_stride * copy.view.tokens;
    result.tensor.planes.push_back(copy);
  }
  result.tensor.storage = storage;
  return result;
}

PresetPlane load_plane(const PresetInput& input, size_t plane, bool undo_rope) {
  PresetPlane loaded;
  loaded.plane = &input.file.tensor.planes[plane];
  loaded.positions = input.file.tensor.token_sets[loaded.plane->token_set].positions;
  for (const KvPlane& other : input.file.tensor.planes) loaded.layers = std::max(loaded.layers, other.layer + 1);
  const ModelFacts* facts = input.file.facts ? &*input.file.facts : input.facts;
  if (undo_rope && facts != nullptr && loaded.plane->rope >= 0) {
    loaded.rope = &facts->ropes[static_cast<size_t>(loaded.plane->rope)];
  }
  const KvView& view = loaded.plane->view;
  loaded.rows.resize(size_t{view.tokens} * view.channels());
  load_values(view, 0, view.tokens, loaded.rows.data());
  for (float& value : loaded.rows) value = std::isfinite(value) ? value : 0.0f;
  if (loaded.rope != nullptr) {
    RopeRotation(*loaded.rope, loaded.positions).undo(loaded.rows, view.kv_heads, view.head_dim);
  }
  return loaded;
}

void store_plane(const PresetPlane& plane, size_t index, PresetResult& result) {
  const KvView& view = result.tensor.planes[index].view;
  std::vector<float> rotated;
  const std::vector<float>* rows = &plane.rows;
  if (plane.rope != nullptr) {
    rotated = plane.rows;
    RopeRotation(*plane.rope, plane.positions).redo(rotated, view.kv_heads, view.head_dim);
    rows = &rotated;
  }
  // The storage was made by empty_result and is still ours alone.
  auto* data = const_cast<std::byte*>(view.data);
  store_values(make_row_view(data, view.dtype, view.tokens, view.kv_heads, view.head_dim), 0, view.tokens,
               rows->data());
}

Result<PresetResult> run_per_plane(const PresetInput& input, bool undo_rope, const PlaneRecipe& recipe) {
  PresetResult result = empty_result(input.file.tensor);
  std::vector<uint64_t> bytes(result.tensor.planes.size());
  parallel_for(bytes.size(), input.threads, [&](uint64_t p) {
    PresetPlane plane = load_plane(input, p, undo_rope);
    bytes[p] = (recipe(plane) + 7) / 8;
    store_plane(plane, p, result);
  });
  for (const uint64_t of_plane : bytes) result.bytes += of_plane;
  return result;
}

}  // namespace kvpack
