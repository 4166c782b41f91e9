// SPDX-License-Identifier: Apache-2.0
#include "codec/layer_planes.h"

#include <map>

namespace kvpack {

std::vector<LayerPlanes> layers_of_chunk(const std::vector<PlaneShape>& planes, uint32_t first, uint32_t count) {
  std::vector<LayerPlanes> layers;
  std::map<uint32_t, size_t> index_of_layer;
  for (uint32_t p = first; p < first + count; ++p) {
    const auto [at, added] = index_of_layer.try_emplace(planes[p].layer, layers.size());
    if (added) layers.emplace_back();
    std::vector<uint32_t>& of_layer = layers[at->second].planes;
    of_layer.insert(planes[p].side == Side::kKey ? of_layer.begin() : of_layer.end(), p);
  }
  return layers;
}

bool can_follow(const PlaneShape& key, const PlaneShape& value) {
  return key.side == Side::kKey && value.side == Side::kValue && key.layer == value.layer &&
         key.kv_heads == value.kv_heads;
}

}  // namespace kvpack
