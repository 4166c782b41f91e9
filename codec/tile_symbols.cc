// SPDX-License-Identifier: Apache-2.0
#include "codec/tile_symbols.h"

#include <fmt/format.h>

#include <algorithm>

#include "codec/class_code.h"
#include "codec/entropy_codes.h"
#include "codec/kernels.h"

namespace kvpack {
namespace {

// 7 digits after a symbol of +-7 stay within 16 bits: 7 * 3^7 + (3^7 - 1) / 2 = 16402.
constexpr int kMostDigits = 7;

int32_t power_of_3(int exponent) {
  int32_t power = 1;
  for (int i = 0; i < exponent; ++i) power *= 3;
  return power;
}

// With d digits after it, an escape's placeholder is the only symbol that reaches above 7 * 3^d + (3^d - 1) / 2.
int32_t largest_symbol_with(const SymbolModel& model) {
  const int32_t power = power_of_3(model.depth);
  return kMaxSymbol * power + power / 2;
}

}  // namespace

bool GroupClasses::operator==(const GroupClasses& other) const {
  if (uniform != other.uniform || runs.count != other.runs.count) return false;
  for (uint32_t run = 0; run < runs.count; ++run) {
    if (runs.mask[run] != other.runs.mask[run] || token_class[run] != other.token_class[run]) return false;
  }
  return true;
}

GroupClasses group_classes(const LaneOrder& order, uint32_t first) {
  GroupClasses classes;
  const uint32_t end = std::min<uint32_t>(first + kLanes, static_cast<uint32_t>(order.token_class.size()));
  const int8_t* of_slot = &order.token_class[first];
  int different = 0;
  for (uint32_t lane = 1; lane < end - first; ++lane) different |= of_slot[lane] ^ of_slot[0];
  if (different == 0 && end - first == kLanes) {
    classes.uniform = true;
    classes.runs = {1, {kAllLanes}};
    classes.token_class[0] = of_slot[0];
    return classes;
  }
  for (uint32_t slot = first; slot < end; ++slot) {
    const int8_t token_class = order.token_class[slot];
    uint32_t run = 0;
    while (run < classes.runs.count && classes.token_class[run] != token_class) ++run;
    if (run == classes.runs.count) classes.token_class[classes.runs.count++] = token_class;
    classes.runs.mask[run] |= 1u << (slot - first);
  }
  return classes;
}

Status TileSymbols::read_classes(ByteReader& in, uint32_t level) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("class bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan codes, in.take(bytes, "class codes"));
  ClassReader classes(codes);
  for (size_t c = 0; c < class_of_.size(); ++c) {
    if (class_of_[c] != kDeadClass) continue;
    const uint8_t reference = parameters_->classes[head_of_[c]][index_of_[c]];
    if (classes.take_reference()) {
      class_of_[c] = reference;
    } else {
      KVPACK_ASSIGN_OR_RETURN(class_of_[c], classes.next(reference));
    }
    if (class_of_[c] == kDeadClass) continue;
    first_level_[c] = static_cast<uint8_t>(level);
    if (level > 0) late_.push_back(static_cast<uint32_t>(c));
  }
  return classes.finish();
}

Status TileSymbols::open(std::span<const ByteSpan> bodies, const PlaneParameters& parameters, const PlaneShape& shape,
                         std::span<const LaneOrder> order, uint32_t tokens) {
  parameters_ = &parameters;
  order_ = order;
  tokens_ = tokens;
  levels_ = static_cast<uint32_t>(bodies.size());
  wide_ = false;
  head_of_.clear();
  index_of_.clear();
  head_begin_.clear();
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    head_begin_.push_back(static_cast<uint32_t>(head_of_.size()));
    for (uint32_t k = 0; k < parameters.components(head, shape.head_dim); ++k) {
      head_of_.push_back(head);
      index_of_.push_back(k);
    }
  }
  head_begin_.push_back(static_cast<uint32_t>(head_of_.size()));
  models_.resize(head_of_.size() * kTokenClasses);
  models_of_.assign(shape.kv_heads, 0);
  class_of_.assign(head_of_.size(), kDeadClass);
  first_level_.assign(head_of_.size(), 0);
  late_.clear();
  most_.assign(head_of_.size(), INT16_MAX);
  above_.resize(head_of_.size());
  values_.assign(head_of_.size() * kLanes, 0);
  heads_.assign(shape.kv_heads, {});
  escapes_ = ByteReader(ByteSpan());
  for (uint32_t level = 0; level < levels_; ++level) {
    ByteReader in(bodies[level]);
    KVPACK_RETURN_IF_ERROR(read_classes(in, level));
    if (level == 0) {
      KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("escape bytes"));
      KVPACK_ASSIGN_OR_RETURN(ByteSpan escapes, in.take(bytes, "escapes"));
      escapes_ = ByteReader(escapes);
    }
    level_[level].coded =
        std::any_of(class_of_.begin(), class_of_.end(), [](uint8_t class_byte) { return class_byte != kDeadClass; });
    if (!level_[level].coded) {
      if (!in.at_end()) return corrupt("a level without living components has symbols");
      continue;
    }
    KVPACK_ASSIGN_OR_RETURN(ByteSpan stream, in.take(in.remaining(), "rANS stream"));
    KVPACK_RETURN_IF_ERROR(level_[level].rans.open(stream, std::min<uint32_t>(tokens, kLanes)));
  }
  int deepest = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    const std::vector<int8_t>& classes = order_[head].token_class;
    const int largest = *std::max_element(classes.begin(), classes.end());
    uint8_t widest = kDeadClass;  // scales rise with the class byte
    for (uint32_t c = head_begin_[head]; c < head_begin_[head + 1]; ++c) widest = std::max(widest, class_of_[c]);
    if (widest != kDeadClass) {
      deepest = std::max(deepest, symbol_model(widest, parameters.scale_offset, largest).depth);
    }
  }
  wide_ = deepest + static_cast<int>(levels_) - 1 > kMostDigits;
  return {};
}

void TileSymbols::prepare_models(uint32_t head, const GroupClasses& group) {
  for (uint32_t run = 0; run < group.runs.count; ++run) {
    const int token_class = group.token_class[run];
    const uint8_t bit = static_cast<uint8_t>(1u << (token_class - kMinTokenClass));
    if ((models_of_[head] & bit) != 0) continue;
    models_of_[head] |= bit;
    for (uint32_t c = head_begin_[head]; c < head_begin_[head + 1]; ++c) {
      models_[size_t{c} * kTokenClasses + static_cast<size_t>(token_class - kMinTokenClass)] =
          symbol_model(class_of_[c], parameters_->scale_offset, token_class);
    }
  }
}

void TileSymbols::add_digits(uint32_t level, uint32_t component, int k, bool within_level_0) {
  const EntropyCodes& codes = entropy_codes();
  const GroupClasses& group = heads_[head_of_[component]];
  int16_t* values = &values_[size_t{component} * kLanes];
  const auto code_of = [&](const SymbolModel& of) {
    return &codes.digits[of.shape][of.digit_scale(within_level_0 ? k : of.depth + k)];
  };
  if (group.uniform) {
    level_[level].steps.push_back({StepKind::kDigit, code_of(model(component, group.token_class[0])), nullptr, values});
    return;
  }
  MixedCodes& mixed = mixed_.emplace_back();
  for (uint32_t run = 0; run < group.runs.count; ++run) {
    const SymbolModel& of = model(component, group.token_class[run]);
    if (within_level_0 && of.depth < k) continue;
    mixed.code[mixed.runs.count] = code_of(of);
    mixed.runs.mask[mixed.runs.count++] = group.runs.mask[run];
  }
  level_[level].steps.push_back({StepKind::kDigit, mixed.code.data(), &mixed.runs, values});
}

void TileSymbols::add_steps(uint32_t level, uint32_t component) {
  if (level > 0) {
    add_digits(level, component, static_cast<int>(level), false);
    return;
  }
  const EntropyCodes& codes = entropy_codes();
  const GroupClasses& group = heads_[head_of_[component]];
  int16_t* values = &values_[size_t{component} * kLanes];
  int deepest = 0;
  int32_t most = INT16_MAX;
  if (group.uniform) {
    const SymbolModel& of = model(component, group.token_class[0]);
    deepest = of.depth;
    most = largest_symbol_with(of);
    level_[0].steps.push_back({StepKind::kSymbol, &codes.symbols[of.shape][of.scale], nullptr, values});
  } else {
    MixedCodes& mixed = mixed_.emplace_back();
    mixed.runs = group.runs;
    for (uint32_t run = 0; run < group.runs.count; ++run) {
      const SymbolModel& of = model(component, group.token_class[run]);
      mixed.code[run] = &codes.symbols[of.shape][of.scale];
      deepest = std::max(deepest, of.depth);
      most = std::min(most, largest_symbol_with(of));
    }
    level_[0].steps.push_back({StepKind::kSymbol, mixed.code.data(), &mixed.runs, values});
  }
  most_[component] = static_cast<int16_t>(most);
  for (int k = 1; k <= deepest; ++k) add_digits(0, component, k, true);
}

void TileSymbols::prepare_group(uint32_t group) {
  bool same = group > 0;
  for (size_t head = 0; head < heads_.size(); ++head) {
    const GroupClasses classes = group_classes(order_[head], group * kLanes);
    same = same && classes == heads_[head];
    heads_[head] = classes;
    prepare_models(static_cast<uint32_t>(head), classes);
  }
  // Digits refine what stands there: components that only later levels code start at zero in every group.
  for (const uint32_t c : late_) std::fill_n(&values_[size_t{c} * kLanes], kLanes, int16_t{0});
  if (same) return;
  mixed_.clear();
  mixed_.reserve(class_of_.size() * (kMostDigits + 1 + levels_));  // steps point into it
  for (uint32_t level = 0; level < levels_; ++level) {
    level_[level].steps.clear();
    for (uint32_t c = 0; c < class_of_.size(); ++c) {
      if (class_of_[c] != kDeadClass && first_level_[c] <= level) add_steps(level, c);
    }
  }
}

Status TileSymbols::patch_escapes() {
  kernels().rows_above(values_.data(), most_.size(), most_.data(), above_.data());
  for (uint32_t c = 0; c < class_of_.size(); ++c) {
    if (above_[c] == 0) continue;
    int16_t* values = &values_[size_t{c} * kLanes];
    const GroupClasses& group = heads_[head_of_[c]];
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      if (values[lane] <= most_[c]) continue;
      uint32_t run = 0;
      while (run < group.runs.count && ((group.runs.mask[run] >> lane) & 1u) == 0) ++run;
      if (run == group.runs.count) continue;
      const SymbolModel& of = model(c, group.token_class[run]);
      if (values[lane] <= largest_symbol_with(of)) continue;
      const int depth = of.depth;
      const int32_t power = power_of_3(depth);
      KVPACK_ASSIGN_OR_RETURN(int32_t symbol, read_escape(escapes_, depth + static_cast<int>(parameters_->levels) - 1));
      const int32_t digits = values[lane] - kEscapeSymbol * power;
      const int64_t value = int64_t{symbol} * power + (symbol < 0 ? -digits : digits);
      const int64_t finest = power_of_3(static_cast<int>(levels_) - 1);
      if ((std::abs(value) + 1) * finest > INT16_MAX) {
        wide_ = true;
        return {};
      }
      values[lane] = static_cast<int16_t>(value);
    }
  }
  return {};
}

Status TileSymbols::decode_group(uint32_t group) {
  TileSymbols* const tiles[] = {this};
  return std::move(decode_group_of(tiles, group)[0]);
}

std::array<Status, kMostStreams> TileSymbols::decode_group_of(std::span<TileSymbols* const> tiles, uint32_t group) {
  std::array<Status, kMostStreams> status;
  uint32_t levels = 0;
  for (TileSymbols* tile : tiles) {
    tile->prepare_group(group);
    levels = std::max(levels, tile->levels_);
  }
  for (uint32_t n = 0; n < levels; ++n) {
    std::array<RansWork, kMostStreams> work;
    std::array<size_t, kMostStreams> tile_of;
    size_t coded = 0;
    for (size_t i = 0; i < tiles.size(); ++i) {
      if (n >= tiles[i]->levels_ || !tiles[i]->level_[n].coded) continue;
      tile_of[coded] = i;
      work[coded++] = {&tiles[i]->level_[n].rans, tiles[i]->level_[n].steps};
    }
    const uint32_t escaped = kernels().decode_together(std::span(work).first(coded));
    for (size_t s = 0; s < coded; ++s) {
      TileSymbols& tile = *tiles[tile_of[s]];
      if (((escaped >> s) & 1u) != 0 && !tile.wide_) status[tile_of[s]] = tile.patch_escapes();
    }
  }
  return status;
}

Status TileSymbols::finish() const {
  for (uint32_t level = 0; level < levels_; ++level) {
    if (level_[level].coded) KVPACK_RETURN_IF_ERROR(level_[level].rans.finish());
  }
  if (!escapes_.at_end()) return corrupt("bytes left over after a level's symbols");
  return {};
}

}  // namespace kvpack
