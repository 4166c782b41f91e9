// SPDX-License-Identifier: Apache-2.0
// Which planes of a chunk belong together: a layer's value tile may take its token classes from the layer's key tile, so
// both sides handle a layer's planes in one go, keys first.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/archive.h"

namespace kvpack {

struct LayerPlanes {
  std::vector<uint32_t> planes;  // indices into the shape's planes, the key first
};

// The planes [first, first + count) of one token set, by layer, in the order of their first plane.
std::vector<LayerPlanes> layers_of_chunk(const std::vector<PlaneShape>& planes, uint32_t first, uint32_t count);

// Whether a value plane can take its token classes from this key plane.
bool can_follow(const PlaneShape& key, const PlaneShape& value);

}  // namespace kvpack
