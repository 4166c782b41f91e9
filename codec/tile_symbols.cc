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
  class_steps_.resize(size_t{shape.kv_heads} * kTokenClasses);
  for (ClassSteps& steps : class_steps_) steps.made = false;
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
  live_.clear();
  live_begin_.clear();
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    live_begin_.push_back(static_cast<uint32_t>(live_.size()));
    for (uint32_t c = head_begin_[head]; c < head_begin_[head + 1]; ++c) {
      if (class_of_[c] != kDeadClass) live_.push_back(c);
    }
  }
  live_begin_.push_back(static_cast<uint32_t>(live_.size()));
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

TileSymbols::ClassSteps& TileSymbols::class_steps(uint32_t head, int token_class) {
  ClassSteps& steps = class_steps_[head * kTokenClasses + static_cast<size_t>(token_class - kMinTokenClass)];
  if (!steps.made) make_class_steps(head, token_class, steps);
  return steps;
}

void TileSymbols::make_class_steps(uint32_t head, int token_class, ClassSteps& into) {
  const EntropyCodes& codes = entropy_codes();
  const std::span<const uint32_t> components = live(head);
  into.made = true;
  into.begin.clear();
  into.most.clear();
  into.of_level[0].clear(components.size() * (kMostDigits + 1));
  for (uint32_t level = 1; level < levels_; ++level) into.of_level[level].clear(components.size());
  for (const uint32_t c : components) {
    into.begin.push_back(static_cast<uint32_t>(into.of_level[0].count));
    int16_t* values = &values_[size_t{c} * kLanes];
    const SymbolModel model = symbol_model(class_of_[c], parameters_->scale_offset, token_class);
    const auto add_digit = [&](uint32_t level, int digit) {
      const DigitCode* code = &codes.digits[model.shape][model.digit_scale(digit)];
      into.of_level[level].add({StepKind::kDigit, code, nullptr, values});
    };
    const bool in_base = first_level_[c] == 0;
    into.most.push_back(in_base ? static_cast<int16_t>(largest_symbol_with(model)) : int16_t{INT16_MAX});
    if (in_base) {
      into.of_level[0].add({StepKind::kSymbol, &codes.symbols[model.shape][model.scale], nullptr, values});
      for (int k = 1; k <= model.depth; ++k) add_digit(0, k);
    }
    for (uint32_t level = std::max<uint32_t>(1, first_level_[c]); level < levels_; ++level) {
      add_digit(level, model.depth + static_cast<int>(level));
    }
  }
  into.begin.push_back(static_cast<uint32_t>(into.of_level[0].count));
}

void TileSymbols::add_uniform(uint32_t head, const ClassSteps& steps) {
  for (uint32_t level = 0; level < levels_; ++level) {
    StepList& all = level_[level].steps;
    const auto of_level = steps.of_level[level].steps();
    std::copy(of_level.begin(), of_level.end(), all.room.begin() + static_cast<std::ptrdiff_t>(all.count));
    all.count += of_level.size();
  }
  const auto components = live(head);
  for (size_t i = 0; i < components.size(); ++i) most_[components[i]] = steps.most[i];
}

// Lanes of several classes: step by step, each class's code for its lanes.
void TileSymbols::add_mixed(uint32_t head, const GroupClasses& group) {
  const uint32_t runs = group.runs.count;
  std::array<const ClassSteps*, 8> of_run{};
  for (uint32_t run = 0; run < runs; ++run) of_run[run] = &class_steps(head, group.token_class[run]);
  const auto components = live(head);
  for (size_t i = 0; i < components.size(); ++i) {
    uint32_t most_steps = 0;
    uint32_t fewest_steps = UINT32_MAX;
    int16_t most = INT16_MAX;
    for (uint32_t run = 0; run < runs; ++run) {
      const uint32_t steps = of_run[run]->begin[i + 1] - of_run[run]->begin[i];
      most_steps = std::max(most_steps, steps);
      fewest_steps = std::min(fewest_steps, steps);
      most = std::min(most, of_run[run]->most[i]);
    }
    most_[components[i]] = most;
    for (uint32_t k = 0; k < most_steps; ++k) {
      LaneCodes& codes = mixed_codes_.emplace_back();
      const LaneRuns* of_lanes = &heads_[head].runs;
      LaneRuns* some = k < fewest_steps ? nullptr : &mixed_runs_.emplace_back();
      if (some != nullptr) of_lanes = some;
      RansStep step;
      uint32_t taking_part = 0;
      for (uint32_t run = 0; run < runs; ++run) {
        const uint32_t at = of_run[run]->begin[i] + k;
        if (at >= of_run[run]->begin[i + 1]) continue;
        step = of_run[run]->of_level[0].room[at];
        codes[taking_part] = step.code;
        if (some != nullptr) some->mask[some->count++] = group.runs.mask[run];
        ++taking_part;
      }
      level_[0].steps.add({step.kind, codes.data(), of_lanes, step.values});
    }
  }
  for (uint32_t level = 1; level < levels_; ++level) {
    for (size_t i = 0; i < of_run[0]->of_level[level].count; ++i) {
      LaneCodes& codes = mixed_codes_.emplace_back();
      for (uint32_t run = 0; run < runs; ++run) codes[run] = of_run[run]->of_level[level].room[i].code;
      const RansStep& like = of_run[0]->of_level[level].room[i];
      level_[level].steps.add({like.kind, codes.data(), &heads_[head].runs, like.values});
    }
  }
}

void TileSymbols::prepare_group(uint32_t group) {
  bool same = group > 0;
  for (size_t head = 0; head < heads_.size(); ++head) {
    const GroupClasses classes = group_classes(order_[head], group * kLanes);
    same = same && classes == heads_[head];
    heads_[head] = classes;
  }
  // Digits refine what stands there: components that only later levels code start at zero in every group.
  for (const uint32_t c : late_) std::fill_n(&values_[size_t{c} * kLanes], kLanes, int16_t{0});
  if (same) return;
  // Steps point into these two.
  mixed_codes_.clear();
  mixed_codes_.reserve(live_.size() * (kMostDigits + 1 + levels_));
  mixed_runs_.clear();
  mixed_runs_.reserve(live_.size() * kMostDigits);
  level_[0].steps.clear(live_.size() * (kMostDigits + 1));
  for (uint32_t level = 1; level < levels_; ++level) level_[level].steps.clear(live_.size());
  for (uint32_t head = 0; head < heads_.size(); ++head) {
    if (heads_[head].uniform) {
      add_uniform(head, class_steps(head, heads_[head].token_class[0]));
    } else {
      add_mixed(head, heads_[head]);
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
      const SymbolModel of = symbol_model(class_of_[c], parameters_->scale_offset, group.token_class[run]);
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
      work[coded++] = {&tiles[i]->level_[n].rans, tiles[i]->level_[n].steps.steps()};
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
