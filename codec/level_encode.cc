// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "codec/class_choice.h"
#include "codec/class_code.h"
#include "codec/entropy_tables.h"
#include "codec/level_code.h"
#include "codec/quantizer.h"
#include "codec/rans.h"

namespace kvpack {
namespace {

ComponentHistogram histogram_of(const QuantizedTile& tile, uint32_t component) {
  ComponentHistogram histogram;
  const auto values = tile.values(component);
  const std::vector<int8_t>& classes = tile.order[tile.head[component]].token_class;
  for (uint32_t slot = 0; slot < tile.tokens;) {
    uint32_t end = slot + 1;
    while (end < tile.tokens && classes[end] == classes[slot]) ++end;
    histogram.add(values.subspan(slot, end - slot), classes[slot]);
    slot = end;
  }
  return histogram;
}

struct ChosenClass {
  uint8_t class_byte = kDeadClass;
  uint32_t first_level = 0;  // where it comes to life
};

ChosenClass choose_class(const QuantizedTile& tile, uint32_t component, const PlaneParameters& parameters) {
  const uint32_t levels = parameters.levels;
  const ComponentHistogram histogram = histogram_of(tile, component);
  if (histogram.all_zero()) return {kDeadClass, levels};
  const uint8_t reference = parameters.classes[tile.head[component]][tile.index[component]];
  ChosenClass chosen;
  while (histogram.all_zero_at(static_cast<int>(chosen.first_level), static_cast<int>(levels))) ++chosen.first_level;
  chosen.class_byte = histogram.best_class(parameters.scale_offset, static_cast<int>(levels), reference).first;
  return chosen;
}

void put_symbol(RansEncoder& rans, ByteWriter& escapes, int lane, const SymbolModel& model, int32_t symbol) {
  const SymbolTable& table = symbol_table(model.shape, model.scale);
  const int index = symbol >= -kMaxSymbol && symbol <= kMaxSymbol ? symbol + kMaxSymbol : kEscapeIndex;
  if (index != kEscapeIndex && table.cumulative[index + 1] > table.cumulative[index]) {
    rans.put(lane, table.cumulative[index], table.cumulative[index + 1] - table.cumulative[index]);
    return;
  }
  rans.put(lane, table.cumulative[kEscapeIndex], table.cumulative[16] - table.cumulative[kEscapeIndex]);
  escapes.write_signed_varint(symbol);
}

void put_digit(RansEncoder& rans, int lane, const SymbolModel& model, int k, int32_t parent, int32_t digit) {
  const uint8_t* frequency = kDigitFrequencies[model.shape][model.digit_scale(k)][parent != 0];
  const int index = (parent < 0 ? -digit : digit) + 1;
  uint32_t start = 0;
  for (int i = 0; i < index; ++i) start += frequency[i];
  rans.put(lane, start, frequency[index]);
}

// q's ancestor `generations` levels up.
int32_t ancestor_of(int32_t q, int generations) {
  for (int i = 0; i < generations; ++i) q = parent_of(q);
  return q;
}

// Codes one component's lanes [first, end) for one level. `rungs` are the levels between this one and the finest.
void put_group(const QuantizedTile& tile, uint32_t component, uint8_t class_byte, uint32_t first, uint32_t level,
               int rungs, int scale_offset, RansEncoder& rans, ByteWriter& escapes) {
  const auto values = tile.values(component);
  const std::vector<int8_t>& classes = tile.order[tile.head[component]].token_class;
  const uint32_t end = std::min(tile.tokens, first + kLanes);
  int deepest = 0;
  for (uint32_t slot = first; slot < end; ++slot) {
    const SymbolModel model = symbol_model(class_byte, scale_offset, classes[slot]);
    const int lane = static_cast<int>(slot - first);
    if (level == 0) {
      put_symbol(rans, escapes, lane, model, ancestor_of(values[slot], rungs + model.depth));
      deepest = std::max(deepest, model.depth);
    } else {
      const int32_t q = ancestor_of(values[slot], rungs);
      put_digit(rans, lane, model, model.depth + static_cast<int>(level), parent_of(q), digit_of(q));
    }
  }
  for (int k = 1; k <= deepest; ++k) {
    for (uint32_t slot = first; slot < end; ++slot) {
      const SymbolModel model = symbol_model(class_byte, scale_offset, classes[slot]);
      if (model.depth < k) continue;
      const int32_t q = ancestor_of(values[slot], rungs + model.depth - k);
      put_digit(rans, static_cast<int>(slot - first), model, k, parent_of(q), digit_of(q));
    }
  }
}

Bytes encode_level(const QuantizedTile& tile, const std::vector<ChosenClass>& chosen, uint32_t level,
                   const PlaneParameters& parameters) {
  ClassWriter classes;
  for (uint32_t c = 0; c < tile.components(); ++c) {
    if (level > chosen[c].first_level) continue;
    const uint8_t reference = parameters.classes[tile.head[c]][tile.index[c]];
    classes.put(level == chosen[c].first_level ? chosen[c].class_byte : kDeadClass, reference);
  }
  RansEncoder rans;
  ByteWriter escapes;
  const int rungs = static_cast<int>(parameters.levels - 1 - level);
  for (uint32_t first = 0; first < tile.tokens; first += kLanes) {
    for (uint32_t c = 0; c < tile.components(); ++c) {
      if (chosen[c].first_level > level) continue;
      put_group(tile, c, chosen[c].class_byte, first, level, rungs, parameters.scale_offset, rans, escapes);
    }
  }
  ByteWriter body;
  const Bytes class_codes = classes.finish();
  body.write_varint(class_codes.size());
  body.write_bytes(class_codes);
  if (level == 0) {
    body.write_varint(escapes.size());
    body.write_bytes(escapes.bytes());
  }
  if (!rans.empty()) body.write_bytes(rans.finish(static_cast<int>(std::min<uint32_t>(tile.tokens, kLanes))));
  return body.take();
}

}  // namespace

std::vector<Bytes> encode_levels(QuantizedTile& tile, const PlaneParameters& parameters) {
  std::vector<ChosenClass> chosen;
  for (uint32_t c = 0; c < tile.components(); ++c) chosen.push_back(choose_class(tile, c, parameters));
  std::vector<Bytes> bodies;
  for (uint32_t level = 0; level < parameters.levels; ++level) {
    bodies.push_back(encode_level(tile, chosen, level, parameters));
  }
  return bodies;
}

}  // namespace kvpack
