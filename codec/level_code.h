// SPDX-License-Identifier: Apache-2.0
// Quantized components to level bodies and back: the entropy-coded part of a tile.
//
// A body: varint class_bytes, class codes (class_code.h) of all components that no lower level has brought to life;
//         level 0 only: varint escape_bytes, one signed varint per escape; then one rANS stream (rans.h).
// Coding order, the same in every level: groups of 32 slots; in each, components by head; in each, the 32 lanes'
// symbol, then (level 0) the lanes' digits of depth 1, 2, ...; a refinement level has one digit per lane.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/plane_parameters.h"
#include "codec/token_classes.h"

namespace kvpack {

// One tile's components in slot order.
struct QuantizedTile {
  uint32_t tokens = 0;
  std::vector<LaneOrder> order;   // [kv_head]
  std::vector<uint32_t> head;     // [component] over all heads
  std::vector<uint32_t> index;    // [component] within its head
  std::vector<int32_t> q;         // [component][slot], at the finest coded level
  std::vector<uint8_t> class_of;  // [component], kDeadClass until a level brings it to life

  uint32_t components() const { return static_cast<uint32_t>(head.size()); }
  std::span<int32_t> values(uint32_t component) { return {&q[size_t{component} * tokens], tokens}; }
  std::span<const int32_t> values(uint32_t component) const { return {&q[size_t{component} * tokens], tokens}; }
};

// An all-zero tile for these parameters; `token_classes` [kv_head][token] or empty.
QuantizedTile make_quantized_tile(const PlaneParameters& parameters, const PlaneShape& shape, uint32_t tokens,
                                  std::span<const int8_t> token_classes);

// All levels' bodies of a tile whose q is at the finest level.
std::vector<Bytes> encode_levels(QuantizedTile& tile, const PlaneParameters& parameters);

// The next escape, which `digits` digits will refine.
Result<int32_t> read_escape(ByteReader& escapes, int digits);

// Reads the body of `level`; q, which holds the level below, becomes this level's.
Status decode_level(ByteReader& in, uint32_t level, const PlaneParameters& parameters, QuantizedTile& tile);

}  // namespace kvpack
