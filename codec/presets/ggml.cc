// SPDX-License-Identifier: Apache-2.0
// llama.cpp's own quantized caches (--cache-type-k/v, v0.5.0): ggml blocks of 32 values with one f16 scale; values are
// rotated by a Hadamard matrix first, as llama.cpp does for heads whose size is a multiple of 64
// (src/llama-kv-cache.cpp). The blocks' bytes.
#include "codec/presets/preset_planes.h"
#include "codec/transform.h"

namespace kvpack {
namespace {

// llama.cpp's blocks: 64 channels of V; of K the largest power of two from 64 on that divides the head.
uint32_t rotation_of(const PresetPlane& plane) {
  if (plane.head_dim() % 64 != 0) return 0;
  return plane.is_key() ? hadamard_block_of(plane.head_dim()) : 64;
}

uint64_t code_plane(PresetPlane& plane, DType type) {
  const uint32_t block_values = dtype_block_values(type);
  if (plane.channels() % block_values != 0) return uint64_t{plane.tokens()} * plane.channels() * 16;  // stays f16
  const auto shape = make_row_view<std::byte>(nullptr, type, plane.tokens(), plane.heads(), plane.head_dim());
  Bytes stored(shape.token_stride * plane.tokens());
  auto view = make_row_view(stored.data(), type, plane.tokens(), plane.heads(), plane.head_dim());
  view.hadamard_block = rotation_of(plane);
  store_values(view, 0, plane.tokens(), plane.rows.data());
  load_values(view, 0, plane.tokens(), plane.rows.data());
  return stored.size() * 8;
}

}  // namespace

void add_ggml(std::vector<Preset>& all) {
  for (const DType type : {DType::kQ8_0, DType::kQ5_0, DType::kQ4_0}) {
    all.push_back(
        {std::string(dtype_name(type)), "ggml", "llama.cpp's quantized cache", [type](const PresetInput& input) {
           return run_per_plane(input, false, [type](PresetPlane& plane) { return code_plane(plane, type); });
         }});
  }
}

}  // namespace kvpack
