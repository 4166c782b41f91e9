// SPDX-License-Identifier: Apache-2.0
#include "formats/kv_planes.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "formats/architectures.h"

namespace kvpack {

Status match_facts(const ModelFacts* facts, KvPlane& plane) {
  if (facts == nullptr) return {};
  if (plane.layer >= facts->layers.size()) {
    return invalid_argument(
        fmt::format("the file has layer {}, the model only {} layers", plane.layer, facts->layers.size()));
  }
  const LayerFacts& layer = facts->layers[plane.layer];
  const uint32_t head_dim = plane.side == Side::kKey ? layer.key_dim : layer.value_dim;
  if (plane.view.kv_heads != layer.kv_heads || plane.view.head_dim != head_dim) {
    return invalid_argument(fmt::format("layer {} {}: the file has {} heads of {}, the model {} of {}", plane.layer,
                                        side_name(plane.side), plane.view.kv_heads, plane.view.head_dim, layer.kv_heads,
                                        head_dim));
  }
  if (plane.side == Side::kKey) plane.rope = layer.rope;
  return {};
}

std::optional<ModelFacts> transformers_facts(const KvReadOptions& options) {
  if (options.facts == nullptr) return std::nullopt;
  ModelFacts facts = with_transformers_layout(*options.facts);
  if (facts.ropes == options.facts->ropes) return std::nullopt;
  return facts;
}

void copy_plane(const KvView& from, const MutableKvView& to) {
  constexpr uint32_t kTokensAtOnce = 256;
  const bool same = from.dtype == to.dtype && from.hadamard_block == to.hadamard_block;
  Bytes raw(same ? kTokensAtOnce * from.packed_row_bytes() : 0);
  std::vector<float> values(same ? 0 : uint64_t{kTokensAtOnce} * from.channels());
  for (uint32_t first = 0; first < from.tokens; first += kTokensAtOnce) {
    const uint32_t count = std::min(kTokensAtOnce, from.tokens - first);
    if (same) {
      load_raw(from, first, count, raw.data());
      store_raw(to, first, count, raw.data());
    } else {
      load_values(from, first, count, values.data());
      store_values(to, first, count, values.data());
    }
  }
}

DType plain_dtype(DType stored) { return dtype_is_quantized(stored) ? DType::kF16 : stored; }

Result<std::shared_ptr<Bytes>> allocate_file(uint64_t bytes) {
  if (bytes > kMaxRebuiltFileBytes) {
    return limit_exceeded(fmt::format("the file would have {} bytes, at most {}", bytes, kMaxRebuiltFileBytes));
  }
  try {
    return std::make_shared<Bytes>(bytes);
  } catch (const std::bad_alloc&) {
    return limit_exceeded(fmt::format("not enough memory for a file of {} bytes", bytes));
  }
}

}  // namespace kvpack
