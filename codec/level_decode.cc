// SPDX-License-Identifier: Apache-2.0
// Levels read one lane at a time, for values of any size. tile_symbols.h reads nearly all tiles; this is its fallback
// and its reference.
#include <fmt/format.h>

#include <algorithm>

#include "codec/class_code.h"
#include "codec/entropy_codes.h"
#include "codec/level_code.h"
#include "codec/quantizer.h"
#include "codec/rans.h"

namespace kvpack {
namespace {

// The largest |symbol| that `digits` refinements cannot carry out of 32 bits.
int64_t largest_symbol(int digits) {
  int64_t power = 1;
  for (int i = 0; i < digits; ++i) power *= 3;
  return (int64_t{INT32_MAX} - power / 2) / power;
}

uint32_t slot_of(const RansReader& rans, int lane) { return rans.state[lane] & 0xffu; }

void advance(RansReader& rans, int lane, uint32_t start, uint32_t frequency) {
  uint32_t state = frequency * (rans.state[lane] >> 8u) + slot_of(rans, lane) - start;
  if (state < kRansLow) {
    if (rans.next > rans.safe_end) rans.refill();
    state = (state << 8) | *rans.next++;
  }
  rans.state[lane] = static_cast<uint16_t>(state);
}

Result<int32_t> take_symbol(RansReader& rans, ByteReader& escapes, int lane, const SymbolModel& model, int digits) {
  const uint8_t* frequency = kSymbolFrequencies[model.shape][model.scale];
  const uint32_t slot = slot_of(rans, lane);
  uint32_t start = 0;
  int index = 0;
  while (slot >= start + frequency[index]) start += frequency[index++];
  advance(rans, lane, start, frequency[index]);
  if (index != kEscapeIndex) return index - kMaxSymbol;
  return read_escape(escapes, digits);
}

int32_t take_digit(RansReader& rans, int lane, const SymbolModel& model, int k, int32_t parent) {
  const uint8_t* frequency = kDigitFrequencies[model.shape][model.digit_scale(k)][parent != 0];
  const uint32_t slot = slot_of(rans, lane);
  uint32_t start = 0;
  int index = 0;
  while (slot >= start + frequency[index]) start += frequency[index++];
  advance(rans, lane, start, frequency[index]);
  const int32_t digit = index - 1;
  return parent < 0 ? -digit : digit;
}

Status take_group(QuantizedTile& tile, uint32_t component, uint32_t first, uint32_t level,
                  const PlaneParameters& parameters, RansReader& rans, ByteReader& escapes) {
  auto values = tile.values(component);
  const std::vector<int8_t>& classes = tile.order[tile.head[component]].token_class;
  const uint8_t class_byte = tile.class_of[component];
  const uint32_t end = std::min(tile.tokens, first + kLanes);
  int deepest = 0;
  for (uint32_t slot = first; slot < end; ++slot) {
    const SymbolModel model = symbol_model(class_byte, parameters.scale_offset, classes[slot]);
    const int lane = static_cast<int>(slot - first);
    if (level == 0) {
      const int digits = model.depth + static_cast<int>(parameters.levels) - 1;
      KVPACK_ASSIGN_OR_RETURN(values[slot], take_symbol(rans, escapes, lane, model, digits));
      deepest = std::max(deepest, model.depth);
    } else {
      const int32_t parent = values[slot];
      values[slot] = refine(parent, take_digit(rans, lane, model, model.depth + static_cast<int>(level), parent));
    }
  }
  for (int k = 1; k <= deepest; ++k) {
    for (uint32_t slot = first; slot < end; ++slot) {
      const SymbolModel model = symbol_model(class_byte, parameters.scale_offset, classes[slot]);
      if (model.depth < k) continue;
      values[slot] = refine(values[slot], take_digit(rans, static_cast<int>(slot - first), model, k, values[slot]));
    }
  }
  return {};
}

// Class codes of the components that are still dead.
Status take_classes(ByteReader& in, const PlaneParameters& parameters, QuantizedTile& tile) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("class bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan codes, in.take(bytes, "class codes"));
  ClassReader classes(codes);
  for (uint32_t c = 0; c < tile.components(); ++c) {
    if (tile.class_of[c] != kDeadClass) continue;
    KVPACK_ASSIGN_OR_RETURN(tile.class_of[c], classes.next(parameters.classes[tile.head[c]][tile.index[c]]));
  }
  return classes.finish();
}

}  // namespace

Result<int32_t> read_escape(ByteReader& escapes, int digits) {
  KVPACK_ASSIGN_OR_RETURN(int64_t symbol, escapes.read_signed_varint("escape"));
  const int64_t bound = largest_symbol(digits);
  if (symbol > bound || symbol < -bound) return corrupt(fmt::format("escape {} is beyond {}", symbol, bound));
  if (symbol == 0) return corrupt("an escape is 0, which needs none");
  return static_cast<int32_t>(symbol);
}

QuantizedTile make_quantized_tile(const PlaneParameters& parameters, const PlaneShape& shape, uint32_t tokens,
                                  std::span<const int8_t> token_classes) {
  QuantizedTile tile;
  tile.tokens = tokens;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    tile.order.push_back(lane_order(
        token_classes.empty() ? token_classes : token_classes.subspan(size_t{head} * tokens, tokens), tokens));
    for (uint32_t k = 0; k < parameters.components(head, shape.head_dim); ++k) {
      tile.head.push_back(head);
      tile.index.push_back(k);
    }
  }
  tile.q.assign(size_t{tile.components()} * tokens, 0);
  tile.class_of.assign(tile.components(), kDeadClass);
  return tile;
}

Status decode_level(ByteReader& in, uint32_t level, const PlaneParameters& parameters, QuantizedTile& tile) {
  KVPACK_RETURN_IF_ERROR(take_classes(in, parameters, tile));
  ByteSpan escape_bytes;
  if (level == 0) {
    KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("escape bytes"));
    KVPACK_ASSIGN_OR_RETURN(escape_bytes, in.take(bytes, "escapes"));
  }
  ByteReader escapes(escape_bytes);
  const bool any_alive = std::any_of(tile.class_of.begin(), tile.class_of.end(),
                                     [](uint8_t class_byte) { return class_byte != kDeadClass; });
  if (any_alive) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan stream, in.take(in.remaining(), "rANS stream"));
    RansReader rans;
    KVPACK_RETURN_IF_ERROR(rans.open(stream, std::min<uint32_t>(tile.tokens, kLanes)));
    for (uint32_t first = 0; first < tile.tokens; first += kLanes) {
      for (uint32_t c = 0; c < tile.components(); ++c) {
        if (tile.class_of[c] == kDeadClass) continue;
        KVPACK_RETURN_IF_ERROR(take_group(tile, c, first, level, parameters, rans, escapes));
      }
    }
    KVPACK_RETURN_IF_ERROR(rans.finish());
  }
  if (!escapes.at_end() || !in.at_end()) return corrupt("bytes left over after a level's symbols");
  return {};
}

}  // namespace kvpack
